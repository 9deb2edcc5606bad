"""Design of the check: split into fitted and judged vectors, pairing, and intervals.

The unit of observation is the caption, never the pair: a caption takes part in several pairs, and its pairs are not
independent. Rates over pairs are therefore resampled by captions. If captions come in groups (several of one image),
the unit is the group: it lies in one half as a whole, and no pair is made within it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipgeom.geometry.bootstrap import Codes, Interval, bootstrap_means, interval

__all__ = ["PARTNERS", "Fold", "PairedRates", "halves", "nearest_pairs", "paired_replicates", "random_pairs", "thirds"]

PARTNERS = 4  # pairs that each caption opens; it closes as many


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Indices of the fitted vectors, and of the judged ones."""

    fitted: NDArray[np.int64]
    judged: NDArray[np.int64]


def halves(n: int, rng: np.random.Generator, codes: Codes = None) -> Iterator[Fold]:
    """Split at random in two, then exchange the roles, so that every vector is judged once.

    With `codes`, the number of each vector's group, a group lies in one half as a whole. The order within a half is
    random either way.
    """
    order = rng.permutation(n)
    if codes is None:
        first, second = order[: n // 2], order[n // 2 :]
    else:
        _, sizes = np.unique(codes, return_counts=True)
        drawn = rng.permutation(len(sizes))
        # as many groups as come nearest to half of the vectors, but never none and never all
        cut = int(np.argmin(np.abs(np.cumsum(sizes[drawn])[:-1] - n / 2))) + 1
        chosen = np.isin(np.unique(codes, return_inverse=True)[1][order], drawn[:cut])
        first, second = order[chosen], order[~chosen]
    yield Fold(first, second)
    yield Fold(second, first)


def thirds(n: int, codes: Codes = None) -> list[NDArray[np.int64]]:
    """Three index lists of equal length, each group in one of them; for vectors in random order."""
    if codes is None:
        third = n // 3
        return [np.arange(start, start + third) for start in (0, third, 2 * third)]
    numbers = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(numbers[1])  # groups by their first vector
    sizes = np.bincount(numbers[2])[order]
    part = np.empty(len(sizes), dtype=np.int64)
    part[order] = np.minimum((np.cumsum(sizes) - sizes / 2) * 3 / n, 2).astype(np.int64)
    lists = [np.flatnonzero(part[numbers[2]] == third) for third in range(3)]
    least = min(map(len, lists))
    return [indices[:least] for indices in lists]


def random_pairs(n: int, partners: int = PARTNERS, codes: Codes = None) -> NDArray[np.int64]:
    """Pairs (i, i + k mod n) for k = 1 … `partners`, shape (p, 2); of vectors in random order.

    p = n·partners; with `codes` it is less by the pairs within a group.
    """
    partners = min(partners, (n - 1) // 2)
    start = np.arange(n)
    pairs = np.concatenate([np.stack([start, (start + k) % n], axis=1) for k in range(1, partners + 1)])
    return pairs if codes is None else pairs[codes[pairs[:, 0]] != codes[pairs[:, 1]]]


def nearest_pairs(x: NDArray[np.float64], codes: Codes = None) -> NDArray[np.int64]:
    """Each vector and the nearest other one, with `codes` the nearest one of another group, shape (n, 2)."""
    squares = np.vecdot(x, x)
    nearest = np.empty(len(x), dtype=np.int64)
    own = np.arange(len(x)) if codes is None else codes
    step = max(1, 4_000_000 // max(1, len(x)))  # rows of the distance matrix in memory at once, 32 MB
    for start in range(0, len(x), step):
        distances = squares[None, :] - 2 * (x[start : start + step] @ x.T)
        distances[own[start : start + step, None] == own] = np.inf
        nearest[start : start + step] = distances.argmin(axis=1)
    return np.stack([np.arange(len(x)), nearest], axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class PairedRates:
    """Mean values over pairs, for several modes at once, with replicates that resample captions.

    `replicates` has one row a resample and one column a mode; all modes share the resamples, so that differences of
    columns are paired.
    """

    rates: NDArray[np.float64]
    replicates: NDArray[np.float64]
    independent: int

    @classmethod
    def of(
        cls, values: NDArray[np.float64], pairs: NDArray[np.int64], *, seed: int, codes: Codes = None
    ) -> PairedRates:
        """Rates of per-pair values.

        Parameters
        ----------
        values : ndarray, shape (p, k)
            One row a pair, one column a mode; in [0, 1].
        pairs : ndarray, shape (p, 2)
            The captions of each pair.
        seed : int
        codes : ndarray, optional
            The group of each caption; groups are resampled as a whole.
        """
        rates = values.mean(axis=0)
        independent = len(pairs) // (2 * PARTNERS)
        if codes is not None:
            independent = min(independent, len(np.unique(codes)) // 2)
            pairs = codes[pairs]
        moved = paired_replicates(values - rates, pairs, seed=seed)
        return cls(rates, rates + moved, max(1, independent))

    def interval(self, column: int) -> Interval:
        """95 % interval of one rate, within [0, 1].

        A rate of exactly 0 or 1 has no spread to resample. The exact bound 1 − 0.025^(1/m) is used then, with m the
        number of pairs that share no caption or group.
        """
        rate = float(self.rates[column])
        if rate in (0.0, 1.0):
            reach = 1 - 0.025 ** (1 / self.independent)
            return (0.0, reach) if rate == 0.0 else (1 - reach, 1.0)
        low, high = interval(self.replicates[:, column])
        return max(0.0, low), min(1.0, high)


def paired_replicates(residuals: NDArray[np.float64], pairs: NDArray[np.int64], *, seed: int) -> NDArray[np.float64]:
    """Replicates of the mean over pairs of `residuals`, shape (p, k), whose own mean is zero.

    The members of the pairs are resampled: captions, or groups of them, where several pairs may join the same two.

    Notes
    -----
    Member i moves the mean by ψᵢ = Σ_{pairs with i} r. Resampling the ψᵢ counts the variation of a single pair twice,
    once for each member. The replicates are therefore scaled to the variance robust to shared members, (Σᵢψᵢ² −
    Σr²)/p² with r summed over the pairs of the same two. Source: Aronow, Samii & Assenova, Political Analysis 23,
    2015.
    """
    p = len(pairs)
    _, members = np.unique(pairs, return_inverse=True)
    members = np.sort(members.reshape(p, 2), axis=1)
    count = int(members.max()) + 1
    influence = np.zeros((count, residuals.shape[1]))
    np.add.at(influence, members[:, 0], residuals)
    np.add.at(influence, members[:, 1], residuals)
    _, joined = np.unique(members[:, 0] * count + members[:, 1], return_inverse=True)
    sums = np.stack([np.bincount(joined, column) for column in residuals.T], axis=1)
    squares, own = (influence**2).sum(axis=0), (sums**2).sum(axis=0)
    # never less than if all pairs were independent
    robust = np.maximum(squares - own, own)
    scale = np.sqrt(np.divide(robust, squares, out=np.ones_like(squares), where=squares > 0))
    moved: NDArray[np.float64] = bootstrap_means(influence * (count / p), seed=seed) * scale
    return moved
