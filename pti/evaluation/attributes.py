"""Image attributes: their values, phrases for each value, and a classifier that predicts them from captions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from clipgeom.errors import ConfigError
from pti.evaluation.metrics import zero_shot

if TYPE_CHECKING:
    from pti.evaluation.judges import Images, TextJudge

__all__ = [
    "VOCABULARY",
    "AttributeClassifier",
    "Vocabulary",
    "ZeroShotClassifier",
    "check_vocabulary",
    "mentions",
]

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


@runtime_checkable
class AttributeClassifier(Protocol):
    """Classifier of every attribute of its vocabulary."""

    vocabulary: Vocabulary

    def classify(self, images: Images, /) -> Mapping[str, Sequence[str]]: ...  # noqa: D102


class ZeroShotClassifier:
    """Attribute classifier that uses the nearest caption embedding.

    Parameters
    ----------
    judge : TextJudge
    vocabulary : mapping
        Attribute → value → phrases; the embedding of a value is the mean of its phrases' unit embeddings.
    subject : str
        Subject of the captions: the class word.
    """

    def __init__(self, judge: TextJudge, vocabulary: Vocabulary = VOCABULARY, *, subject: str) -> None:
        check_vocabulary(vocabulary)
        self.judge, self.vocabulary = judge, vocabulary
        self._texts = {
            attribute: {
                value: _mean_direction(judge.embed_texts([f"{subject}, {phrase}" for phrase in phrases]))
                for value, phrases in values.items()
            }
            for attribute, values in vocabulary.items()
        }

    def classify(self, images: Images, /) -> dict[str, list[str]]:
        """Return the nearest value of every attribute for each image."""
        return zero_shot(self.judge.embed_images(images), self._texts)


def check_vocabulary(vocabulary: Mapping[str, Mapping[str, Any]], /) -> None:
    """Refuse attributes with fewer than two values, and values without a phrase.

    Raises
    ------
    ConfigError
        The message names the attribute and the value.
    """
    if not vocabulary:
        raise ConfigError("expected a vocabulary with at least one attribute, got none")
    for attribute, values in vocabulary.items():
        if len(values) < 2:
            raise ConfigError(f"the attribute {attribute!r} needs at least two values, got {len(values)}")
        for value, phrases in values.items():
            if isinstance(phrases, str) or not phrases or not all(phrases):
                raise ConfigError(f"{attribute} {value!r} needs a list of phrases, got {phrases!r}")


def mentions(prompt: str, values: Mapping[str, tuple[str, ...]], /) -> bool:
    """Return whether a prompt mentions a value of an attribute, by its name or one of its phrases, as whole words."""
    words = " ".join(re.findall(r"\w+", prompt.lower()))
    phrases_of_all = (
        " ".join(re.findall(r"\w+", text.lower())) for value, phrases in values.items() for text in (value, *phrases)
    )
    return any(f" {text} " in f" {words} " for text in phrases_of_all if text)


def _mean_direction(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).mean(axis=0)
    return mean
