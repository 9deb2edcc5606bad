"""Progress of long work: a bar on a terminal, otherwise a plain line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

from clipgeom._text import one_line

__all__ = ["Progress", "Quiet"]

_EVERY = 15.0  # seconds between plain lines


class Progress:
    """Counter of finished work; call it with the size of each piece."""

    def __init__(self, verb: str, unit: str, *, speaker: str = "clipgeom") -> None:
        self._verb, self._unit, self._speaker = verb, unit, speaker
        self._done = self._skipped = 0
        self._total: int | None = None
        self._bar: Any = None

    def __enter__(self) -> Self:
        self._start = self._told = time.monotonic()
        return self

    def expect(self, total: int, verb: str | None = None, unit: str | None = None) -> None:
        """Set the total and its unit, start the clock, and reset the count to zero."""
        self._verb, self._unit = verb or self._verb, unit or self._unit
        self._start = self._told = time.monotonic()
        self._total = total
        self._done = self._skipped = 0
        if self._bar is not None:
            self._bar.close()
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=f" {self._unit}", desc=self._verb, file=sys.stderr)

    def skip(self, pieces: int) -> None:
        """Count `pieces` that were done before, at no time."""
        self._skipped += pieces
        if self._bar is not None:
            self._bar.initial += pieces
            self._bar.update(pieces)

    def __call__(self, pieces: int) -> None:
        """Count `pieces` that are done."""
        self._done += pieces
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(pieces)
        elif now - self._told >= _EVERY:
            self._told = now
            self._line(now)

    def note(self, text: str) -> None:
        """Show a note to the user."""
        if self._bar is not None:
            self._bar.clear()
        print(f"{self._speaker}: {one_line(text)}", file=sys.stderr, flush=True)

    def _line(self, now: float) -> None:
        rate = self._done / (now - self._start)
        done = self._done + self._skipped
        speed = f"{rate:,.0f} a second" if rate >= 1 or rate == 0 else f"one in {1 / rate:,.0f} s"
        text = f"{self._verb} {done:,} {self._unit}, {speed}"
        if self._total is not None and rate > 0:
            text = f"{self._verb} {done:,} of {self._total:,} {self._unit}, {speed}"
            text += f", {max(0, self._total - done) / rate:,.0f} s left"
        print(text, file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


class Quiet(Progress):
    """Progress without output."""

    def __init__(self) -> None:
        super().__init__("", "")

    def expect(self, total: int, verb: str | None = None, unit: str | None = None) -> None:
        """Ignore the total."""

    def __call__(self, pieces: int) -> None:
        """Ignore `pieces`."""

    def note(self, text: str) -> None:
        """Ignore a note."""
