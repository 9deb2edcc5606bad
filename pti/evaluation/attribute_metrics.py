"""Measures of the attributes in images: rates, leakage and entropy, from the value of an attribute in each image.

Two of them are biased in small samples. The distance between two observed distributions exceeds zero even if the true
ones are equal; `Leakage` contains the level of chance. An observed entropy is too small; `entropy_ratio` corrects it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipgeom._distributions import entropy, total_variation
from clipgeom.errors import DomainError, ShapeError
from clipgeom.geometry.bootstrap import LEVEL, RESAMPLES, interval
from clipgeom.geometry.estimate import Estimate

__all__ = ["Leakage", "attribute_distribution", "attribute_rate", "entropy_ratio", "leakage"]

_PERMUTATIONS = 2000


@dataclass(frozen=True, slots=True)
class Leakage:
    """Distance of an unlearned attribute's distribution from that of the class word.

    Attributes
    ----------
    distance : Estimate
        Total variation distance between the observed shares, in 0 … 1. In trials with 30 to 200 images and 2 or 9
        values, the interval contained a true distance of zero in 93 % of cases. For other true distances it was 96 %
        to 100 %.
    chance : float
        Mean observed distance if token and class word have the same distribution.
    p_value : float
        Fraction of permutations with at least the observed distance.
    token, class_word : dict of float
        The shares of the values.
    """

    distance: Estimate
    chance: float
    p_value: float
    token: dict[str, float]
    class_word: dict[str, float]


def attribute_distribution(values: Sequence[str], vocabulary: Sequence[str], /) -> dict[str, float]:
    """Shares of the values of a vocabulary, in its order.

    Raises
    ------
    DomainError
        There are no values, or one is not in the vocabulary.
    """
    return dict(zip(vocabulary, _hot(values, vocabulary).mean(axis=0).tolist(), strict=True))


def attribute_rate(values: Sequence[str], expected: str, /) -> Estimate:
    """Fraction of images with the expected value, with Wilson's interval.

    Raises
    ------
    DomainError
        There are no values.
    """
    from scipy.stats import binomtest

    if not values:
        raise DomainError("expected at least one image, got none")
    n = len(values)
    hits = sum(value == expected for value in values)
    ci = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return Estimate(hits / n, float(ci.low), float(ci.high), n)


def leakage(
    token: Sequence[str],
    class_word: Sequence[str],
    vocabulary: Sequence[str],
    /,
    *,
    seed: int,
    groups: tuple[Sequence[str], Sequence[str]] | None = None,
) -> Leakage:
    """Total variation distance ½ Σ|p − q| between the token's and the class word's shares of an attribute's values.

    With δp and δq the errors of the shares, the error of the observed distance is at most ½ Σ|δp − δq|. The interval
    is the distance ± the 95 % quantile of this bound. It is valid near zero, where bootstrap percentiles are biased
    upward twice. The errors come from the Dirichlet distribution of the true shares given the counts (Jeffreys'
    prior). Values that were not observed therefore count too.

    Parameters
    ----------
    token, class_word : sequence of str
        Values of the attribute in the images of either.
    vocabulary : sequence of str
        The attribute's values.
    seed : int
    groups : two sequences of str, optional
        The prompt of each image; permutations then stay within a prompt. By default all images belong to one prompt.

    Raises
    ------
    DomainError
        Either side has no images, or a value is not in the vocabulary.
    ShapeError
        The numbers of images and prompts differ.
    """
    p, q = _hot(token, vocabulary), _hot(class_word, vocabulary)
    observed = float(total_variation(p.mean(axis=0), q.mean(axis=0)))
    rng = np.random.default_rng(seed)
    errors = [_plausible(rows, rng) - rows.mean(axis=0) for rows in (p, q)]
    margin = float(np.quantile(total_variation(*errors), LEVEL))
    permuted = _permuted(p, q, _labels(groups, len(p), len(q)), rng)
    reached = int((permuted >= observed - 1e-12).sum())
    return Leakage(
        distance=Estimate(observed, max(0.0, observed - margin), min(1.0, observed + margin), min(len(p), len(q))),
        chance=float(permuted.mean()),
        p_value=(1 + reached) / (1 + len(permuted)),
        token=attribute_distribution(token, vocabulary),
        class_word=attribute_distribution(class_word, vocabulary),
    )


def entropy_ratio(
    token: Sequence[str], class_word: Sequence[str], vocabulary: Sequence[str], /, *, seed: int
) -> Estimate:
    """Entropy of an attribute over the token's images, relative to the class word's.

    With k observed values, an observed entropy is too small by about (k − 1)/2n nats (Miller 1955, Madow 1948). Both
    entropies are corrected by that. The interval is centred on the estimate; its width is the spread of the ratio
    over shares sampled as in `leakage`. It contained the true ratio in 88 % (skewed shares of nine values, 50 images)
    to 100 % of trials.

    Raises
    ------
    DomainError
        All images of the class word have one value, so that their entropy is zero.
    """
    p, q = _hot(token, vocabulary), _hot(class_word, vocabulary)
    if (q.mean(axis=0) > 0).sum() < 2:
        raise DomainError("expected at least two values in the class word's images, got one, whose entropy is zero")
    value = float(entropy(p.mean(axis=0), n=len(p)) / entropy(q.mean(axis=0), n=len(q)))
    rng = np.random.default_rng(seed)
    ratios = entropy(_plausible(p, rng)) / entropy(_plausible(q, rng))
    low, high = interval(ratios + (value - ratios.mean()))
    return Estimate(value, max(0.0, low), high, min(len(p), len(q)))


def _hot(values: Sequence[str], vocabulary: Sequence[str]) -> NDArray[np.float64]:
    """One-hot encode values: one row per image, one column per value."""
    if not len(values):
        raise DomainError("expected at least one image, got none")
    places = {value: index for index, value in enumerate(vocabulary)}
    if unknown := sorted(set(values) - set(places)):
        raise DomainError(f"{unknown[0]!r} is none of the attribute's values ({', '.join(vocabulary)})")
    rows = np.zeros((len(values), len(vocabulary)))
    rows[np.arange(len(values)), [places[value] for value in values]] = 1
    return rows


def _plausible(rows: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Sample true shares given the counts, shape (resamples, values)."""
    return rng.dirichlet(rows.sum(axis=0) + 0.5, size=RESAMPLES)


def _labels(groups: tuple[Sequence[str], Sequence[str]] | None, n: int, m: int) -> NDArray[np.int64]:
    names: Iterable[str] = [*groups[0], *groups[1]] if groups is not None else [""] * (n + m)
    if groups is not None and (len(groups[0]), len(groups[1])) != (n, m):
        raise ShapeError(f"expected {n} and {m} prompts, one for each image, got {len(groups[0])} and {len(groups[1])}")
    return np.unique(list(names), return_inverse=True)[1].astype(np.int64)


def _permuted(
    p: NDArray[np.float64], q: NDArray[np.float64], labels: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Distances after random permutation of the two sides within each prompt; the sizes are kept."""
    rows = np.concatenate([p, q]).astype(np.int64)
    ours = np.arange(len(rows)) < len(p)
    dealt = np.zeros((_PERMUTATIONS, rows.shape[1]))
    for label in np.unique(labels):
        of_prompt = labels == label
        dealt += rng.multivariate_hypergeometric(
            rows[of_prompt].sum(axis=0), int((of_prompt & ours).sum()), size=_PERMUTATIONS, method="marginals"
        )
    return total_variation(dealt / len(p), (rows.sum(axis=0) - dealt) / len(q))
