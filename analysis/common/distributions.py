"""How far apart the distributions of one factor are in two samples of pictures, and whether chance explains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from clipgeom._distributions import total_variation

__all__ = ["aligned", "corrected_distance", "distance", "permuted", "significance"]

_COUNT = 9999


def aligned(a: Mapping[str, int], b: Mapping[str, int], values: Sequence[str]) -> tuple[NDArray[np.int64], ...]:
    """Both counts in the order of the factor's values."""
    return tuple(np.array([counts.get(value, 0) for value in values], dtype=np.int64) for counts in (a, b))


def distance(a: NDArray[np.int64], b: NDArray[np.int64], /) -> NDArray[np.float64]:
    """Total variation distance between the shares of counts, over the last axis."""
    return total_variation(*(counts / counts.sum(axis=-1, keepdims=True) for counts in (a, b)))


def permuted(
    a: NDArray[np.int64], b: NDArray[np.int64], /, *, count: int = _COUNT, seed: int = 0
) -> NDArray[np.float64]:
    """Distances of the same pictures dealt anew to two samples of these sizes, shape (count,)."""
    both = a + b
    dealt = np.random.default_rng(seed).multivariate_hypergeometric(both, int(a.sum()), size=count)
    return distance(dealt, both - dealt)


def significance(a: NDArray[np.int64], b: NDArray[np.int64], /, *, count: int = _COUNT, seed: int = 0) -> float:
    """Share of deals, the real one among them, whose distance is at least the real one (permutation test)."""
    found = permuted(a, b, count=count, seed=seed)
    # the same shares in another order of summing are the same distance
    return float((1 + (found >= distance(a, b) - 1e-12).sum()) / (count + 1))


def corrected_distance(a: NDArray[np.int64], b: NDArray[np.int64], /, *, count: int = 1000, seed: int = 0) -> float:
    """Total variation, corrected for chance: (d − d₀) / (1 − d₀), where d₀ is the mean distance of deals.

    Two samples of one distribution have 0 in the mean, whatever their sizes, and two that share nothing have 1. Without that, a
    factor of nine values would seem to move farther than one of two.
    """
    chance = float(permuted(a, b, count=count, seed=seed).mean())
    return (float(distance(a, b)) - chance) / (1 - chance) if chance < 1 else 0.0
