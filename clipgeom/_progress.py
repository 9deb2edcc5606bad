"""Progress of long work: a bar on a terminal, a plain line now and then otherwise."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

__all__ = ["Progress"]

_EVERY = 15.0  # seconds between plain lines


class Progress:
    """Counts work done; call it with the size of each piece."""

    def __init__(self, verb: str, unit: str) -> None:
        self._verb, self._unit = verb, unit
        self._done = 0
        self._bar: Any = None

    def __enter__(self) -> Self:
        self._start = self._told = time.monotonic()
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(unit=f" {self._unit}", desc=self._verb, file=sys.stderr)
        return self

    def __call__(self, pieces: int) -> None:
        """Report that `pieces` more are done."""
        self._done += pieces
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(pieces)
        elif now - self._told >= _EVERY:
            self._told = now
            rate = self._done / (now - self._start)
            print(f"{self._verb} {self._done:,} {self._unit}, {rate:,.0f} a second", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
