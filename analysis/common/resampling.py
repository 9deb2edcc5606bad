"""Intervals over the characters and the seeds of a study, by resampling both.

SciPy's bootstrap resamples one level. Here runs of one character are alike, so characters are drawn first, then runs within each
(Davison & Hinkley 1997, §3.8), with percentile intervals: with three characters they are rough, and rather wide than narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from clipgeom.geometry.bootstrap import RESAMPLES, resample_groups
from clipgeom.geometry.estimate import Estimate

__all__ = ["bca_estimate", "estimate"]


def estimate(
    runs: Mapping[tuple[int, str], NDArray[np.float64] | float],
    /,
    statistic: Callable[[NDArray[np.float64]], float] = lambda x: float(np.mean(x)),
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """A statistic over runs with its interval.

    Parameters
    ----------
    runs : mapping
        By seed and character: a number, or an array of one shape for all.
    statistic : callable
        Of the runs stacked, shape (runs, …). Resamples of which it is no number are left out.
    resamples, seed : int
    """
    values = np.stack([np.asarray(value, dtype=np.float64) for value in runs.values()])
    found = np.array(
        [statistic(values[rows]) for rows in resample_groups([c for _, c in runs], resamples=resamples, seed=seed)]
    )
    return Estimate.from_resamples(statistic(values), found, len(values))


def bca_estimate(
    sample: Sequence[Any], statistic: Callable[..., Any] = np.mean, *, seed: int = 0, vectorized: bool | None = None
) -> Estimate:
    """A statistic of independent observations with its BCa interval; NaN bounds where all observations are equal."""
    found = bootstrap((sample,), statistic, method="BCa", vectorized=vectorized, rng=np.random.default_rng(seed))
    low, high = found.confidence_interval
    return Estimate(float(statistic(sample)), float(low), float(high), len(sample))
