"""Bootstrap intervals for smooth functions of means, and distribution-free intervals for quantiles.

All uncertainty in clipgeom comes from here, so that every number is resampled in the same way: rows are drawn with
replacement, seeded, and a statistic is a function of the mean of a few features of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from clipgeom.errors import DomainError, ShapeError

__all__ = ["Features", "Interval", "bootstrap_means", "interval", "mean_intervals", "quantile_interval"]

Interval = tuple[float, float]

LEVEL = 0.95
RESAMPLES = 2000

# Above this many rows, runs of neighbouring rows are averaged first and the runs are resampled: the same interval for
# functions of means to O(1/MAX_UNITS), at a cost that no longer grows with n, and fair to neighbours that resemble
# each other (the five captions of one picture).
MAX_UNITS = 10_000

_BLOCK_WEIGHTS = 2_000_000  # resampling weights held in memory at once, 8 bytes each


def bootstrap_means(
    features: Float[NDArray[np.float64], "n k"], *, seed: int, resamples: int = RESAMPLES
) -> Float[NDArray[np.float64], "b k"]:
    """Means of the feature columns over bootstrap resamples of the rows.

    Parameters
    ----------
    features : ndarray, shape (n, k)
        One row an observation, one column a feature.
    seed : int
        Seed of the resampling; the same seed and n draw the same rows, so that differences are paired.
    resamples : int
        Number b of resamples.

    Returns
    -------
    ndarray, shape (b, k)

    Raises
    ------
    ShapeError
        If `features` is not a matrix with at least one row.
    """
    if features.ndim != 2 or len(features) == 0:
        raise ShapeError(f"expected features of shape (n, k) with n ≥ 1, got {features.shape}")
    units, weight = _units(features)
    n = len(units)
    rng = np.random.default_rng(seed)
    center = (weight[:, None] * units).sum(axis=0) / weight.sum()
    moved = (units - center) * weight[:, None]  # resample the deviations: no digits lost to a large mean
    out = np.empty((resamples, features.shape[1]))
    step = max(1, _BLOCK_WEIGHTS // n)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        draws = rng.integers(0, n, size=(size, n))
        draws += np.arange(size)[:, None] * n
        counts = np.bincount(draws.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        out[start : start + size] = center + (counts @ moved) / (counts @ weight)[:, None]
    return out


def _units(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows themselves, or means of runs of neighbours where there are too many rows, and the rows behind each."""
    n = len(features)
    if n <= MAX_UNITS:
        return features, np.ones(n)
    edges = np.linspace(0, n, MAX_UNITS + 1).astype(np.int64)
    sizes = np.diff(edges).astype(np.float64)
    return np.add.reduceat(features, edges[:-1], axis=0) / sizes[:, None], sizes


def interval(samples: NDArray[np.float64], *, level: float = LEVEL) -> Interval:
    """Percentile interval of bootstrap replicates, shape (b,); a level of 0.95 leaves 2.5 % out at each end."""
    if not 0 < level < 1:
        raise DomainError(f"expected a level between 0 and 1, got {level}")
    if not np.isfinite(samples).all():  # a ratio without a denominator somewhere: the extremes alone can be told
        return float(np.min(samples)), float(np.max(samples))
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Feature columns, shape (n, k), and the statistics that are functions of their means.

    Each function takes means of shape (k, b), one column a resample, and gives values of shape (b,).
    """

    columns: Float[NDArray[np.float64], "n k"]
    statistics: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]]


def mean_intervals(*groups: Features, seed: int, resamples: int = RESAMPLES) -> list[dict[str, Interval]]:
    """95 % intervals of the statistics of each group, all from one and the same set of resamples.

    Parameters
    ----------
    *groups : Features
        Features of the same n rows.
    seed, resamples : int
        As in `bootstrap_means`.
    """
    means = bootstrap_means(np.concatenate([g.columns for g in groups], axis=1), seed=seed, resamples=resamples).T
    edges = np.cumsum([g.columns.shape[1] for g in groups])[:-1]
    return [
        {name: interval(function(part)) for name, function in group.statistics.items()}
        for group, part in zip(groups, np.split(means, edges), strict=True)
    ]


def quantile_interval(ordered: Float[NDArray[np.float64], " n"], quantile: float, *, level: float = LEVEL) -> Interval:
    """Distribution-free interval of a population quantile, from order statistics.

    This is what resampling without end converges to: the rank of the quantile among n draws is binomial
    (Conover, *Practical Nonparametric Statistics*, §3.2). At the ends of a small sample it is one-sided.

    Parameters
    ----------
    ordered : ndarray, shape (n,)
        The sample in ascending order.
    quantile : float
        In [0, 1].
    """
    from scipy.stats import binom

    n = len(ordered)
    low = int(binom.ppf((1 - level) / 2, n, quantile)) - 1
    high = int(binom.ppf((1 + level) / 2, n, quantile))
    return float(ordered[max(low, 0)]), float(ordered[min(high, n - 1)])
