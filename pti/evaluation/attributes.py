"""What can be read in pictures of any model: attributes, their values, and how a caption would put each value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from clipgeom.errors import ConfigError

__all__ = ["VOCABULARY", "Vocabulary", "check_vocabulary", "says"]

Vocabulary = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Attribute → value → phrases. A caption is the subject, a comma, and a phrase."""

VOCABULARY: Vocabulary = MappingProxyType(
    {
        "background": {
            "plain": ("plain background", "in front of a white wall", "isolated on a blank background"),
            "indoors": ("indoors", "in a room", "inside a house"),
            "town": ("in a city street", "in a town", "in front of buildings"),
            "nature": ("in a forest", "in a meadow", "outdoors in nature"),
            "water": ("by the sea", "on a beach", "beside a lake"),
            "mountains": ("in the mountains", "in the desert", "in front of rocks"),
            "snow": ("in the snow", "in winter", "snowy landscape"),
        },
        "light": {
            "daylight": ("in daylight", "on a sunny day"),
            "night": ("at night", "in the dark", "under the night sky"),
            "sunset": ("at sunset", "at dawn, golden light"),
            "studio": ("studio lighting", "lit evenly in a studio"),
        },
        "framing": {
            "face": ("close-up portrait", "close-up of the face"),
            "half": ("upper body", "half-length portrait"),
            "whole": ("full body", "full-length view"),
            "far": ("seen from far away", "small in a wide landscape"),
        },
        "view": {
            "front": ("seen from the front", "looking at the viewer"),
            "side": ("seen from the side", "in profile"),
            "back": ("seen from behind", "back view"),
        },
        "pose": {
            "standing": ("standing", "standing still"),
            "sitting": ("sitting", "seated"),
            "lying": ("lying down", "asleep on the ground"),
            "moving": ("walking", "running", "jumping"),
        },
        "company": {
            "alone": ("alone", "the only figure in the picture"),
            "others": ("with other people", "in a crowd", "two figures side by side"),
        },
        "style": {
            "photograph": ("photograph", "photo"),
            "painting": ("oil painting", "watercolor painting"),
            "drawing": ("pencil drawing", "ink illustration", "line art"),
            "cartoon": ("cartoon", "anime illustration"),
            "render": ("3D render", "computer graphics"),
            "pixels": ("pixel art", "8-bit sprite"),
        },
    }
)


def check_vocabulary(vocabulary: Mapping[str, Mapping[str, Any]], /) -> None:
    """Refuse attributes with fewer than two values, and values that no phrase says.

    Raises
    ------
    ConfigError
        Naming the attribute and the value.
    """
    if not vocabulary:
        raise ConfigError("expected a vocabulary with at least one attribute, got none")
    for attribute, values in vocabulary.items():
        if len(values) < 2:
            raise ConfigError(
                f"the attribute {attribute!r} needs at least two values to choose from, got {len(values)}"
            )
        for value, phrases in values.items():
            if isinstance(phrases, str) or not phrases or not all(phrases):
                raise ConfigError(f"{attribute} {value!r} needs a list of phrases that say it, got {phrases!r}")


def says(prompt: str, values: Mapping[str, tuple[str, ...]], /) -> bool:
    """Whether a prompt mentions a value of an attribute, by its name or one of its phrases, as whole words."""
    words = " ".join(re.findall(r"\w+", prompt.lower()))
    said = (
        " ".join(re.findall(r"\w+", text.lower())) for value, phrases in values.items() for text in (value, *phrases)
    )
    return any(f" {text} " in f" {words} " for text in said if text)
