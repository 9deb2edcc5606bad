"""The design of the check: which vectors are fitted on, which are judged, which are paired, and with what uncertainty.

The unit of observation is the caption, never the pair: a caption takes part in several pairs, and its pairs are not
independent. Rates over pairs are therefore resampled by captions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipgeom.intervals import Interval, bootstrap_means, interval

__all__ = ["PARTNERS", "Fold", "PairedRates", "halves", "nearest_pairs", "random_pairs"]

PARTNERS = 4  # pairs that each caption opens; it closes as many


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Indices of the vectors that are fitted on, and of those that are judged."""

    fitted: NDArray[np.int64]
    judged: NDArray[np.int64]


def halves(n: int, rng: np.random.Generator) -> Iterator[Fold]:
    """A random split in two, then the same with the roles exchanged, so that every vector is judged once."""
    order = rng.permutation(n)
    first, second = order[: n // 2], order[n // 2 :]
    yield Fold(first, second)
    yield Fold(second, first)


def random_pairs(n: int, partners: int = PARTNERS) -> NDArray[np.int64]:
    """Pairs (i, i + k mod n) for k = 1 … `partners`, shape (n·partners, 2); of vectors in random order."""
    partners = min(partners, (n - 1) // 2)
    start = np.arange(n)
    return np.concatenate([np.stack([start, (start + k) % n], axis=1) for k in range(1, partners + 1)])


def nearest_pairs(x: NDArray[np.float64]) -> NDArray[np.int64]:
    """Each vector and the nearest other one, shape (n, 2)."""
    squares = np.vecdot(x, x)
    nearest = np.empty(len(x), dtype=np.int64)
    step = max(1, 4_000_000 // max(1, len(x)))  # rows of the distance matrix held at once, 32 MB
    for start in range(0, len(x), step):
        distances = squares[None, :] - 2 * (x[start : start + step] @ x.T)
        distances[np.arange(len(distances)), np.arange(start, start + len(distances))] = np.inf
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
    pairs: int

    @classmethod
    def of(cls, values: NDArray[np.float64], pairs: NDArray[np.int64], *, seed: int) -> PairedRates:
        """Rates of per-pair values.

        Parameters
        ----------
        values : ndarray, shape (p, k)
            One row a pair, one column a mode; in [0, 1].
        pairs : ndarray, shape (p, 2)
            The captions of each pair.
        seed : int

        Notes
        -----
        With residuals r of the pairs, caption i moves the mean by ψᵢ = Σ_{pairs with i} r. Resampling the ψᵢ counts what
        is peculiar to a pair twice, once for either caption. The variance robust to shared members,
        (Σᵢψᵢ² − Σr²)/p² (Aronow, Samii & Assenova, Political Analysis 23, 2015), does not; the replicates are scaled to it.
        """
        p = len(pairs)
        rates = values.mean(axis=0)
        residuals = values - rates
        captions = int(pairs.max()) + 1
        influence = np.zeros((captions, values.shape[1]))
        np.add.at(influence, pairs[:, 0], residuals)
        np.add.at(influence, pairs[:, 1], residuals)
        squares, own = (influence**2).sum(axis=0), (residuals**2).sum(axis=0)
        # never less than if all pairs were independent
        robust = np.maximum(squares - own, own)
        scale = np.sqrt(np.divide(robust, squares, out=np.ones_like(squares), where=squares > 0))
        moved = bootstrap_means(influence * (captions / p), seed=seed)
        return cls(rates, rates + moved * scale, p)

    def interval(self, column: int) -> Interval:
        """95 % interval of one rate, within [0, 1].

        A rate of exactly 0 or 1 has no spread to resample: there the exact bound for that many captions' worth of pairs is
        taken, 1 − 0.025^(1/m) with m the number of pairs that share no caption.
        """
        rate = float(self.rates[column])
        if rate in (0.0, 1.0):
            reach = 1 - 0.025 ** (1 / max(1, self.pairs // (2 * PARTNERS)))
            return (0.0, reach) if rate == 0.0 else (1 - reach, 1.0)
        low, high = interval(self.replicates[:, column])
        return max(0.0, low), min(1.0, high)
