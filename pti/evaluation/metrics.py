"""Measures of reconstruction, editability and diversity, from embeddings.

All intervals are 95 %. They cover the variation over sampling seeds; prompts and training images are fixed.
Resampling across prompts instead of within each can only widen an interval. Only `diversity`, with few images of each
prompt, resamples prompts too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipgeom.errors import DomainError, ShapeError
from clipgeom.geometry.bootstrap import RESAMPLES, bootstrap_means, interval
from clipgeom.geometry.estimate import Estimate

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "Comparison",
    "compare",
    "diversity",
    "image_similarity",
    "likeness_within",
    "mean_estimate",
    "text_similarity",
    "zero_shot",
]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A measure of the token's images, of the class word's for the same prompts, and their difference."""

    token: Estimate
    class_word: Estimate
    difference: Estimate


def image_similarity(
    generated: Float[NDArray[np.float64], "n d"],
    training: Float[NDArray[np.float64], "m d"],
    /,
    *,
    seed: int,
) -> Estimate:
    """Mean cosine between every generated and every training image: CLIP-I or DINO, depending on the embeddings.

    Parameters
    ----------
    generated : ndarray, shape (n, d)
    training : ndarray, shape (m, d)
        Need not be of unit length.
    seed : int

    Raises
    ------
    ShapeError
        The dimensions differ, or there are no images.
    DomainError
        A zero or non-finite embedding.
    """
    left, right = _unit(generated, "generated"), _unit(training, "training")
    _same_width(left, right)
    return mean_estimate(left @ right.mean(axis=0), seed=seed)


def text_similarity(
    images: Float[NDArray[np.float64], "n d"],
    texts: Float[NDArray[np.float64], "n d"],
    /,
    *,
    seed: int,
) -> Estimate:
    """Mean cosine between each image and its own text: CLIP-T.

    The text of a token's image is its prompt with the class word, because the judge's vocabulary lacks the token. The
    score of the class word's own images is the reference.

    Raises
    ------
    ShapeError
        The numbers of images and texts differ.
    DomainError
        A zero or non-finite embedding.
    """
    left, right = _unit(images, "images"), _unit(texts, "texts")
    _same_width(left, right)
    if len(left) != len(right):
        raise ShapeError(f"expected a text for each of {len(left)} images, got {len(right)}")
    return mean_estimate(np.einsum("nd,nd->n", left, right), seed=seed)


def mean_estimate(scores: Float[NDArray[np.float64], " n"], /, *, seed: int) -> Estimate:
    """Mean of a score per image; for a single image the interval is (−∞, ∞)."""
    if scores.ndim != 1 or not len(scores):
        raise ShapeError(f"expected a score per image, got an array of shape {scores.shape}")
    unknown = (-math.inf, math.inf)
    ci = interval(bootstrap_means(scores[:, None], seed=seed)[:, 0]) if len(scores) > 1 else unknown
    return Estimate(float(scores.mean()), *ci, len(scores))


def diversity(groups: Sequence[Float[NDArray[np.float64], "_ d"]], /, *, seed: int) -> Estimate:
    """1 − mean cosine between different images of one prompt, averaged over prompts.

    Parameters
    ----------
    groups : sequence of ndarray, shape (n, d)
        The embeddings of the images of each prompt; prompts with a single image are ignored.
    seed : int

    Returns
    -------
    Estimate
        In 0 … 2. Prompts, and images within them, are resampled; an image is never compared with itself. One prompt
        with two images cannot be resampled; its interval is 0 … 2.

    Raises
    ------
    DomainError
        No prompt has two images; a zero or non-finite embedding.
    """
    units = [_unit(group, "a prompt's images") for group in groups if len(group) > 1]
    if not units:
        raise DomainError("expected a prompt with at least two images, got none; generate more images of each prompt")
    grams = [unit @ unit.T for unit in units]
    n = sum(len(unit) for unit in units)
    value = float(np.mean([_apart(gram, np.ones((1, len(gram)))) for gram in grams]))
    if len(units) == 1 and len(units[0]) == 2:
        return Estimate(value, 0.0, 2.0, n)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(grams), size=(RESAMPLES, len(grams)))  # resampled prompts
    apart = np.zeros(chosen.shape)
    for index, gram in enumerate(grams):
        here = chosen == index
        apart[here] = _apart(gram, rng.multinomial(len(gram), np.full(len(gram), 1 / len(gram)), size=int(here.sum())))
    paired = np.isfinite(apart)  # a resample of one repeated image has no pairs
    kept = paired.any(axis=1)
    replicates = np.where(paired, apart, 0).sum(axis=1)[kept] / paired.sum(axis=1)[kept]
    return Estimate(value, *interval(replicates), n)


def likeness_within(images: Float[NDArray[np.float64], "n d"], /, *, seed: int) -> Estimate:
    """Mean cosine between different images of one set; the interval covers other images of the same kind.

    Raises
    ------
    DomainError
        There is a single image, or a zero or non-finite embedding.
    """
    apart = diversity([images], seed=seed)
    return Estimate(1 - apart.value, 1 - apart.high, 1 - apart.low, apart.n)


def zero_shot(
    images: Float[NDArray[np.float64], "n d"],
    texts: Mapping[str, Mapping[str, Float[NDArray[np.float64], " d"]]],
    /,
) -> dict[str, list[str]]:
    """Return the value with the nearest text embedding for each image and attribute.

    Parameters
    ----------
    images : ndarray, shape (n, d)
    texts : mapping of mapping of ndarray, shape (d,)
        By attribute and value.

    Returns
    -------
    dict of list of str, each of length n
    """
    units = _unit(images, "images")
    read = {}
    for attribute, vectors in texts.items():
        names = list(vectors)
        matrix = _unit(np.stack([vectors[name] for name in names]), f"texts of {attribute}")
        _same_width(units, matrix)
        read[attribute] = [names[index] for index in (units @ matrix.T).argmax(axis=1)]
    return read


def compare(token: Estimate, class_word: Estimate, /) -> Comparison:
    """Compare two estimates; the interval of the difference comes from theirs (Zou and Donner 2008).

    For rates, this is Newcombe's interval. It assumes independent estimates; common prompts make it too wide rather
    than too narrow.
    """
    value = token.value - class_word.value
    down = math.hypot(token.value - token.ci95[0], class_word.ci95[1] - class_word.value)
    up = math.hypot(token.ci95[1] - token.value, class_word.value - class_word.ci95[0])
    return Comparison(token, class_word, Estimate(value, value - down, value + up, min(token.n, class_word.n)))


def _unit(vectors: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    if vectors.ndim != 2 or not vectors.size:
        raise ShapeError(f"expected {name} as (n, d) with n ≥ 1, got {vectors.shape}")
    array = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or (norms == 0).any():
        raise DomainError(f"{name} contain a zero or non-finite embedding, which has no direction")
    return np.asarray(array / norms)


def _same_width(left: NDArray[np.float64], right: NDArray[np.float64]) -> None:
    if left.shape[1] != right.shape[1]:
        raise ShapeError(f"expected embeddings of one judge, got dimensions {left.shape[1]} and {right.shape[1]}")


def _apart(gram: NDArray[np.float64], counts: NDArray[Any]) -> NDArray[np.float64]:
    """1 − mean cosine over pairs of different images, by rows of multiplicities; NaN without pairs."""
    pairs = counts.sum(axis=1) ** 2 - (counts**2).sum(axis=1)
    total = np.einsum("bi,ij,bj->b", counts, gram, counts, optimize=True) - counts**2 @ np.diag(gram)
    return np.asarray(np.where(pairs > 0, 1 - total / np.maximum(pairs, 1), np.nan))
