"""New characters, whose appearance no caption of miniworld describes, as concepts for a trainer.

A caption can mention a new character's class and two colours. Its pattern, emblem and two-tone headgear are unknown:
the diffusion model was trained neither on them nor on words for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

import numpy as np

from clipgeom.errors import ConfigError
from clipgeom.miniworld.drawing.canvas import PALETTE
from clipgeom.miniworld.drawing.figures import Appearance
from clipgeom.miniworld.factors import FACTORS, Scene

__all__ = ["EMBLEMS", "NEW_CHARACTERS", "PATTERNS", "NewCharacter", "character", "draw_character"]

PATTERNS = ("stripes", "dots", "checks", "halves", "sash")
EMBLEMS = ("star", "heart", "diamond", "cross")
_SECOND = ("white", "black", "cyan")  # none of the colours in captions, so that the main colour stays plain


@dataclass(frozen=True, slots=True)
class NewCharacter:
    """A character with its own appearance.

    Attributes
    ----------
    name : str
    kind, body, headgear, headgear_color : str
        The class and the main attributes, as values of miniworld's factors, which the attribute classifiers should
        predict.
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
        """The appearance for the renderer."""
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
    """Return one of the new characters.

    Raises
    ------
    ConfigError
        The message names the existing ones.
    """
    if name not in NEW_CHARACTERS:
        close = get_close_matches(str(name), NEW_CHARACTERS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"miniworld has no new character {name!r}{hint}; there are: {', '.join(NEW_CHARACTERS)}.")
    return NEW_CHARACTERS[name]


def draw_character(rng: np.random.Generator, /) -> NewCharacter:
    """Generate a random character that differs from every describable one in at least one attribute."""
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
