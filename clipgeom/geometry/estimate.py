"""A number with its confidence interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgeom.geometry.bootstrap import Interval, interval

__all__ = ["Estimate"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, its 95 % interval, and the number of images or runs it is computed from.

    Without an interval, the bounds are infinite; without a sample, `n` is 0.
    """

    value: float
    low: float = -math.inf
    high: float = math.inf
    n: int = 0

    @classmethod
    def from_resamples(cls, value: float, replicates: NDArray[np.float64], n: int, /) -> Estimate:
        """With the percentile interval of those resamples in which the value is defined; NaN if there are none."""
        known = replicates[np.isfinite(replicates)]
        low, high = interval(known) if len(known) else (math.nan, math.nan)
        return cls(value, low, high, n)

    @property
    def ci95(self) -> Interval:
        """Both bounds of the interval."""
        return self.low, self.high

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval, of numbers or of NaN."""
        return not (math.isinf(self.low) and math.isinf(self.high))

    def above(self, limit: float, /) -> bool:
        """Whether the whole interval is above a limit."""
        return self.low > limit

    def below(self, limit: float, /) -> bool:
        """Whether the whole interval is below a limit."""
        return self.high < limit

    def to_json(self) -> dict[str, Any]:
        """Plain values with the interval as a pair, as in report.json and evaluation.json."""
        return {"value": self.value, "ci95": self.ci95, "n": self.n}
