"""Confidence intervals: bootstrap for functions of means, jackknife for grouped rows, order statistics for quantiles.

Independent rows are resampled with replacement and a seed; a statistic is a function of the means of a few features.
Rows of one group (the captions of one image) are not independent. The group is then the unit, resampled or left out
as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipgeom.errors import DomainError, ShapeError
from clipgeom.geometry.groups import merge_groups

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "Features",
    "Interval",
    "Scale",
    "bootstrap_means",
    "grouped_quantile_interval",
    "grouped_share_interval",
    "interval",
    "jackknife_interval",
    "mean_intervals",
    "quantile_interval",
    "resample_groups",
]

Interval = tuple[float, float]
Codes: TypeAlias = NDArray[np.int64] | None
Scale = Literal["identity", "log", "atanh"]

LEVEL = 0.95
RESAMPLES = 2000

# Above this many rows or groups, runs of neighbouring ones are averaged first and the runs are resampled: the same
# interval for functions of means to O(1/MAX_UNITS), at a cost that no longer grows with n. A run has whole groups only.
MAX_UNITS = 10_000

_BLOCK_WEIGHTS = 2_000_000  # resampling weights in memory at once, 8 bytes each


def resample_groups(
    groups: Sequence[Hashable], /, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[NDArray[np.int64]]:
    """Indices of rows in each resample: groups with replacement, and within each its rows with replacement.

    Both levels are resampled, as by Davison & Hinkley 1997, §3.8.
    """
    return list(_resampled(tuple(groups), resamples, seed))


@lru_cache(maxsize=16)
def _resampled(groups: tuple[Hashable, ...], resamples: int, seed: int) -> list[NDArray[np.int64]]:
    """Cache the resamples: many statistics have the same groups."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero([g == name for g in groups]) for name in dict.fromkeys(groups)]
    found = []
    for _ in range(resamples):
        chosen = rng.integers(len(members), size=len(members))
        found.append(np.concatenate([rng.choice(members[i], size=len(members[i])) for i in chosen]))
    return found


def bootstrap_means(
    features: Float[NDArray[np.float64], "n k"], *, seed: int, resamples: int = RESAMPLES, codes: Codes = None
) -> Float[NDArray[np.float64], "b k"]:
    """Means of the feature columns over bootstrap resamples of the rows.

    Parameters
    ----------
    features : ndarray, shape (n, k)
        One row an observation, one column a feature.
    seed : int
        Seed of the resampling; the same seed and n select the same rows, so that differences are paired.
    resamples : int
        Number b of resamples.
    codes : ndarray, shape (n,), optional
        Number of each row's group, from `group_codes`: groups are resampled as a whole.

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
    units, weight = _units(features, codes)
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


def _units(features: NDArray[np.float64], codes: Codes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows, or means of groups, or means of consecutive ones if there are too many, with their row counts."""
    n = len(features)
    if codes is not None:
        merged = merge_groups(codes, MAX_UNITS)
        sizes = np.bincount(merged).astype(np.float64)
        return np.stack([np.bincount(merged, f) for f in features.T], axis=1) / sizes[:, None], sizes
    if n <= MAX_UNITS:
        return features, np.ones(n)
    edges = np.linspace(0, n, MAX_UNITS + 1).astype(np.int64)
    sizes = np.diff(edges).astype(np.float64)
    return np.add.reduceat(features, edges[:-1], axis=0) / sizes[:, None], sizes


def interval(samples: NDArray[np.float64], *, level: float = LEVEL) -> Interval:
    """Percentile interval of bootstrap replicates, shape (b,); a level of 0.95 leaves 2.5 % out at each end."""
    if not 0 < level < 1:
        raise DomainError(f"expected a level between 0 and 1, got {level}")
    if not np.isfinite(samples).all():  # a ratio is undefined in some resample: return the extremes
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


def mean_intervals(
    *parts: Features, seed: int, resamples: int = RESAMPLES, codes: Codes = None
) -> list[dict[str, Interval]]:
    """95 % intervals of the statistics of each part, all from one and the same set of resamples.

    Parameters
    ----------
    *parts : Features
        Features of the same n rows.
    seed, resamples, codes
        As in `bootstrap_means`.
    """
    columns = np.concatenate([part.columns for part in parts], axis=1)
    means = bootstrap_means(columns, seed=seed, resamples=resamples, codes=codes).T
    edges = np.cumsum([part.columns.shape[1] for part in parts])[:-1]
    return [
        {name: interval(function(some)) for name, function in part.statistics.items()}
        for part, some in zip(parts, np.split(means, edges), strict=True)
    ]


_NEAR_ONE = 1 - 2.0**-50  # atanh of a correlation of exactly ±1 is infinite
_SCALES: dict[Scale, tuple[Callable[..., NDArray[np.float64]], Callable[..., NDArray[np.float64]]]] = {
    "identity": (np.asarray, np.asarray),
    "log": (np.log, np.exp),
    "atanh": (lambda v: np.arctanh(np.clip(v, -_NEAR_ONE, _NEAR_ONE)), np.tanh),
}


def jackknife_interval(
    value: float, left_out: Float[NDArray[np.float64], " k"], *, scale: Scale = "identity", level: float = LEVEL
) -> Interval:
    """Interval of a statistic of grouped rows, from its values with each of k groups left out.

    Student's t with k − 1 degrees of freedom on a scale where the statistic is nearly normal: ``log`` for what is
    positive, ``atanh`` for a correlation. The jackknife's estimate of the bias (Quenouille, Biometrika 43, 1956) is
    taken off, so that the interval need not be centred on `value`. With a hundred groups this covers variances better
    than percentiles of a bootstrap, and unlike them it corrects statistics about an estimated centre.

    Where the scale is undefined (the logarithm of zero), the extremes of all values are given.
    """
    from scipy.stats import t

    forward, back = _SCALES[scale]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        center, moved = forward(np.float64(value)), forward(left_out)
        if not (np.isfinite(center) and np.isfinite(moved).all()):
            every = np.append(left_out, value)
            return float(every.min()), float(every.max())
        k = len(left_out)
        average = moved.mean()
        middle = center - (k - 1) * (average - center)
        half = t.ppf((1 + level) / 2, k - 1) * np.sqrt((k - 1) / k * np.sum((moved - average) ** 2))
        return float(back(middle - half)), float(back(middle + half))


def quantile_interval(ordered: Float[NDArray[np.float64], " n"], quantile: float, *, level: float = LEVEL) -> Interval:
    """Distribution-free interval of a population quantile, from order statistics.

    Resampling converges to this interval: the rank of the quantile among n samples is binomial
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


def grouped_quantile_interval(
    values: Float[NDArray[np.float64], " n"], codes: NDArray[np.int64], quantile: float, *, level: float = LEVEL
) -> Interval:
    """Interval of a population quantile from rows in groups.

    The share of the rows below the sample's quantile gets an interval, and its ends are read off the sample
    (Woodruff, J. Am. Stat. Assoc. 47, 1952). The interval of the share is the exact binomial one. Its number of
    independent rows follows from the variance between groups and is at most the number of rows (Korn & Graubard,
    *Survey Methodology* 24, 1998).

    Parameters
    ----------
    values : ndarray, shape (n,)
        In any order.
    codes : ndarray, shape (n,)
        Number of each row's group.
    quantile : float
        In (0, 1).
    """
    n = len(values)
    ordered = np.sort(values)
    below = values <= ordered[min(int(np.ceil(quantile * n)), n) - 1]
    low, high = _share_interval(quantile, _independent_rows(below, codes), level)
    return float(ordered[max(int(np.ceil(low * n)) - 1, 0)]), float(ordered[min(int(np.ceil(high * n)) - 1, n - 1)])


def grouped_share_interval(hits: NDArray[np.bool_], codes: NDArray[np.int64], *, level: float = LEVEL) -> Interval:
    """Interval of the share of hits among rows in groups; see `grouped_quantile_interval`."""
    return _share_interval(float(hits.mean()), _independent_rows(hits, codes), level)


def _independent_rows(hits: NDArray[np.bool_], codes: NDArray[np.int64]) -> float:
    """Independent rows whose share of hits would vary as much as that of these rows in groups, for a binomial interval."""
    from scipy.stats import t

    n, sizes = len(hits), np.unique(codes, return_counts=True)[1]
    k, share = len(sizes), float(hits.mean())
    variance = k / (k - 1) * float(np.sum(np.bincount(codes, hits - share) ** 2)) / n**2
    independent = share * (1 - share) / n
    # all or none: the variance cannot be seen, and the rows of a group count as one
    effect = max(variance / independent, 1.0) if independent > 0 else float(np.sum(sizes**2)) / n
    return n / effect * float(t.ppf(0.975, n - 1) / t.ppf(0.975, k - 1)) ** 2


def _share_interval(share: float, rows: float, level: float) -> Interval:
    """Clopper and Pearson's interval of a share; the number of rows may be fractional."""
    from scipy.stats import beta

    hits, misses, tail = share * rows, (1 - share) * rows, (1 - level) / 2
    low = float(beta.ppf(tail, hits, misses + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, misses)) if misses > 0 else 1.0
    return low, high
