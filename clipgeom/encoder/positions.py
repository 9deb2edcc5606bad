"""Positions in the token sequence: EOS, content at an index, or padding at an index.

Index 0 is BOS. `eos` is the first end-of-text token, found by the tokenizer's id. An index p means the content at p:
a caption whose EOS is at or before p is left out. `padded:p` is the padding at index p of captions padded to full
length, as Stable Diffusion pads them: a population of its own, never mixed with content.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from clipgeom.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

__all__ = ["Position", "parse_positions"]

_FORM = re.compile(r"(?:(padded):)?(\d+)")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """One position: `eos`, content at an index, or padding at an index. ``str()`` returns its written form."""

    kind: Literal["eos", "content", "padded"]
    index: int = -1

    @classmethod
    def parse(cls, text: str | int, *, max_positions: int = 77) -> Position:
        """Parse ``eos``, ``5`` or ``padded:20``.

        Raises
        ------
        ConfigError
            The text has another form, or the index is beyond the encoder's last position.
        """
        written = str(text).strip().lower()
        if written == "eos":
            return cls("eos")
        match = _FORM.fullmatch(written)
        if match is None:
            raise ConfigError(f"position {text!r} is not known; use eos, an index such as 5, or padded:20")
        index = int(match[2])
        if index >= max_positions:
            raise ConfigError(f"position {index} does not exist: this encoder has positions 0 to {max_positions - 1}")
        return cls("padded" if match[1] else "content", index)

    def __str__(self) -> str:
        if self.kind == "eos":
            return "eos"
        return f"padded:{self.index}" if self.kind == "padded" else str(self.index)

    def present(self, eos: Int[NDArray[np.int64], " n"]) -> Bool[NDArray[np.bool_], " n"]:
        """Whether each caption has this position, given the index of its EOS, shape (n,)."""
        if self.kind == "eos":
            return np.ones(len(eos), dtype=bool)
        return eos < self.index if self.kind == "padded" else eos > self.index

    def rows(self, eos: Int[NDArray[np.int64], " n"]) -> Int[NDArray[np.int64], " n"]:
        """Index into the token sequence for each caption that has this position, shape (n,)."""
        return eos if self.kind == "eos" else np.full(len(eos), self.index, dtype=np.int64)


def parse_positions(texts: str | int | Iterable[str | int], *, max_positions: int = 77) -> tuple[Position, ...]:
    """Parse several positions from ``"eos,5"`` or a list, in the order given.

    Raises
    ------
    ConfigError
        None at all, an unknown one, or the same one twice.
    """
    parts: list[str | int]
    if isinstance(texts, str):
        parts = [part for part in texts.split(",") if part.strip()]
    else:
        parts = [texts] if isinstance(texts, int) else list(texts)
    positions = tuple(Position.parse(part, max_positions=max_positions) for part in parts)
    if not positions:
        raise ConfigError("expected at least one position, such as eos,5")
    if len(set(positions)) != len(positions):
        raise ConfigError(f"a position is named twice in {texts!r}")
    return positions
