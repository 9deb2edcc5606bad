"""New characters: looks that no caption of this world can name, for a trainer to learn.

A caption can say a class and two colours, and that much of a new character is known. Its pattern, its emblem and its
two-tone headgear are not: the diffusion model has seen neither them nor a word for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

import numpy as np

from clipgeom.errors import ConfigError
from clipgeom.miniworld.canvas import PALETTE
from clipgeom.miniworld.factors import FACTORS, Scene
from clipgeom.miniworld.figures import Appearance

__all__ = ["EMBLEMS", "NEW_CHARACTERS", "PATTERNS", "NewCharacter", "character", "draw_character"]

PATTERNS = ("stripes", "dots", "checks", "halves", "sash")
EMBLEMS = ("star", "heart", "diamond", "cross")
_SECOND = ("white", "black", "cyan")  # none of the colours that a caption can say, so that the main colour stays plain


@dataclass(frozen=True, slots=True)
class NewCharacter:
    """A character with looks of its own.

    Attributes
    ----------
    name : str
    kind, body, headgear, headgear_color : str
        The class and the main looks, as values of the world's factors: what the factor readers should see.
    pattern, second : str or None
        Pattern of the body, and its colour.
    emblem, emblem_color : str or None
        Sign on the chest, and its colour.
    headgear_second : str or None
        Second colour of the headgear.
    """

    name: str
    kind: str
    body: str
    headgear: str
    headgear_color: str
    pattern: str | None = None
    second: str | None = None
    emblem: str | None = None
    emblem_color: str | None = None
    headgear_second: str | None = None

    @property
    def factors(self) -> Scene:
        """The factors that are part of the character."""
        return {
            "class": self.kind,
            "body": self.body,
            "headgear": self.headgear,
            "headgear_color": self.headgear_color,
        }

    @property
    def appearance(self) -> Appearance:
        """The looks as the renderer takes them."""
        return Appearance(
            kind=self.kind,
            body=PALETTE[self.body],
            headgear=self.headgear,
            headgear_color=PALETTE[self.headgear_color],
            pattern=self.pattern,
            second=_color(self.second),
            emblem=self.emblem,
            emblem_color=_color(self.emblem_color),
            headgear_second=_color(self.headgear_second),
        )


NEW_CHARACTERS: Mapping[str, NewCharacter] = MappingProxyType(
    {
        new.name: new
        for new in (
            NewCharacter("bramble", "dragon", "green", "crown", "purple", "stripes", "black", None, None, "white"),
            NewCharacter("comet", "robot", "blue", "pointed hat", "yellow", None, None, "star", "white", "cyan"),
            NewCharacter("dapple", "penguin", "purple", "top hat", "red", "dots", "white", None, None, "black"),
            NewCharacter("ember", "knight", "red", "horned helmet", "blue", "checks", "black", None, None, "white"),
            NewCharacter("flurry", "ghost", "yellow", "turban", "green", "dots", "cyan", None, None, "white"),
            NewCharacter("gambit", "wizard", "blue", "turban", "red", "checks", "white", None, None, "black"),
            NewCharacter("harbor", "penguin", "red", "crown", "green", "sash", "white", None, None, "black"),
            NewCharacter("ivory", "ghost", "purple", "top hat", "yellow", None, None, "heart", "white", "black"),
        )
    }
)


def character(name: str, /) -> NewCharacter:
    """One of the new characters.

    Raises
    ------
    ConfigError
        Naming the ones there are.
    """
    if name not in NEW_CHARACTERS:
        close = get_close_matches(str(name), NEW_CHARACTERS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"miniworld has no new character {name!r}{hint}; there are: {', '.join(NEW_CHARACTERS)}.")
    return NEW_CHARACTERS[name]


def draw_character(rng: np.random.Generator, /) -> NewCharacter:
    """A new character drawn at random, different from a nameable one in one thing at least."""
    pick = {name: FACTORS[name][int(rng.integers(len(FACTORS[name])))] for name in ("class", "body", "headgear")}
    headgear_color = FACTORS["headgear_color"][int(rng.integers(len(FACTORS["headgear_color"])))]
    marks = int(rng.integers(1, 8))  # which of the three: a bit each
    pattern = PATTERNS[int(rng.integers(len(PATTERNS)))] if marks & 1 else None
    emblem = EMBLEMS[int(rng.integers(len(EMBLEMS)))] if marks & 2 else None
    second, emblem_color, headgear_second = (_SECOND[int(rng.integers(len(_SECOND)))] for _ in range(3))
    return NewCharacter(
        "drawn",
        pick["class"],
        pick["body"],
        pick["headgear"],
        headgear_color,
        pattern,
        second if pattern else None,
        emblem,
        emblem_color if emblem else None,
        headgear_second if marks & 4 else None,
    )


def _color(name: str | None) -> tuple[int, int, int] | None:
    return None if name is None else PALETTE[name]
