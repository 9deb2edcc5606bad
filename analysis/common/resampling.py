"""Intervals over the characters and the seeds of a study, by resampling both.

SciPy's bootstrap resamples one level. Here runs of one character are alike, so characters are drawn first, then runs within each
(Davison & Hinkley 1997, §3.8), with percentile intervals: with three characters they are rough, and rather wide than narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fact", "draws", "estimate"]

_COUNT = 2000


@dataclass(frozen=True, slots=True)
class Fact:
    """A number of a report: its value, a 95 % interval where it has one, and how many runs it comes from."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @classmethod
    def of(cls, value: float, replicates: NDArray[np.float64], n: int) -> Fact:
        """With a percentile interval over the resamples of which the value is a number."""
        known = replicates[np.isfinite(replicates)]
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
        return cls(value, float(low), float(high), n)

    @property
    def interval(self) -> bool:
        """Whether it has one."""
        return self.low is not None

    def above(self, limit: float) -> bool:
        """Whether the whole interval is."""
        return self.low is not None and self.low > limit

    def below(self, limit: float) -> bool:
        """Whether the whole interval is."""
        return self.high is not None and self.high < limit


def draws(groups: Sequence[Hashable], /, *, count: int = _COUNT, seed: int = 0) -> list[NDArray[np.int64]]:
    """Indices of resampled runs: as many groups as there are, with replacement, and within each its runs, with replacement."""
    return list(_drawn(tuple(groups), count, seed))


@lru_cache(maxsize=16)
def _drawn(groups: tuple[Hashable, ...], count: int, seed: int) -> list[NDArray[np.int64]]:
    """The facts of a study ask for the same draws many times."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero([g == name for g in groups]) for name in dict.fromkeys(groups)]
    found = []
    for _ in range(count):
        chosen = rng.integers(len(members), size=len(members))
        found.append(np.concatenate([rng.choice(members[i], size=len(members[i])) for i in chosen]))
    return found


def estimate(
    runs: Mapping[tuple[int, str], NDArray[np.float64] | float],
    /,
    statistic: Callable[[NDArray[np.float64]], float] = lambda x: float(np.mean(x)),
    *,
    count: int = _COUNT,
    seed: int = 0,
) -> Fact:
    """A statistic over runs with its interval.

    Parameters
    ----------
    runs : mapping
        By seed and character: a number, or an array of one shape for all.
    statistic : callable
        Of the runs stacked, shape (runs, …). Resamples of which it is no number are left out.
    count, seed : int
    """
    values = np.stack([np.asarray(value, dtype=np.float64) for value in runs.values()])
    found = np.array([statistic(values[rows]) for rows in draws([c for _, c in runs], count=count, seed=seed)])
    return Fact.of(statistic(values), found, len(values))
