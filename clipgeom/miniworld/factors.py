"""The independent factors of a scene, their values, and their random choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType

import numpy as np

from clipgeom.errors import ConfigError

__all__ = ["FACTORS", "Fixed", "Scene", "check_factor", "check_fixed", "draw_factors", "position_of"]

Scene = dict[str, str]  # one value for each factor
Fixed = Mapping[str, str | Sequence[str]]  # a factor with one allowed value, or with several

_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")

FACTORS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "class": ("knight", "wizard", "robot", "ghost", "dragon", "penguin"),
        "body": ("red", "yellow", "green", "blue", "purple"),
        "headgear": ("crown", "top hat", "pointed hat", "horned helmet", "turban"),
        "headgear_color": ("red", "yellow", "green", "blue", "purple"),
        "facing": ("left", "right"),
        "position": tuple(f"{row} {column}" for row in _ROWS for column in _COLUMNS),
        "background": ("meadow", "night", "desert", "sea", "snow", "castle"),
        "style": ("ink illustration", "pixel drawing", "flat poster", "watercolor painting"),
    }
)


def draw_factors(rng: np.random.Generator, fixed: Fixed = MappingProxyType({}), /) -> Scene:
    """Choose every factor independently and uniformly, among all values or those in `fixed`.

    Each factor uses one random number whether it is fixed or not, so that fixing one changes no other.
    """
    scene = {}
    for name, values in FACTORS.items():
        allowed = fixed.get(name, values)
        allowed = (allowed,) if isinstance(allowed, str) else tuple(allowed)
        scene[name] = allowed[int(rng.random() * len(allowed))]
    return scene


def check_factor(name: str, value: str) -> None:
    """Refuse a factor or a value that the world does not have.

    Raises
    ------
    ConfigError
        The message names the existing ones.
    """
    if name not in FACTORS:
        raise ConfigError(
            f"miniworld has no factor {name!r}{_close(name, FACTORS)}; its factors: {', '.join(FACTORS)}."
        )
    if value not in FACTORS[name]:
        known = ", ".join(map(repr, FACTORS[name]))
        raise ConfigError(f"{name} has no value {value!r}{_close(value, FACTORS[name])}; known: {known}.")


def check_fixed(fixed: Fixed, /) -> None:
    """Refuse fixed factors that the world does not have, or that leave a factor no value.

    Raises
    ------
    ConfigError
        The message names the existing ones.
    """
    for name, allowed in fixed.items():
        values = (allowed,) if isinstance(allowed, str) else tuple(allowed)
        if not values:
            raise ConfigError(f"{name} is kept to no value at all; give one or several of its values.")
        for value in values:
            check_factor(name, value)


def position_of(position: str) -> tuple[int, int]:
    """Row and column, each 0, 1 or 2, of a position."""
    row, column = position.split()
    return _ROWS.index(row), _COLUMNS.index(column)


def _close(word: object, known: Sequence[str] | Mapping[str, object]) -> str:
    match = get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""
