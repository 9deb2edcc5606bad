"""Curves over a logarithmic distance, from points of several runs that lie at different distances (a Gaussian kernel's means)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

__all__ = ["BANDWIDTH", "Curves", "crossing"]

# decades, one standard deviation: about half the distance between neighbouring checkpoints
BANDWIDTH = 0.2
_GRID = 160


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """Of some runs, each smoothed on its own: in a gap, or beyond its last point, the nearest points speak for a run.

    Were points pooled before they are smoothed, a run would weigh more wherever it has more points, and a curve would rise and
    fall with which runs make it.

    Attributes
    ----------
    grid : ndarray, shape (g,)
        Decadic logarithms of distances, from the smallest of a point to the largest.
    values : ndarray, shape (runs, values, g)
    """

    grid: NDArray[np.float64]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, x: Sequence[NDArray[np.float64]], y: Sequence[NDArray[np.float64]], /) -> Curves:
        """From each run's distances, shape (points,), and values, shape (points, values)."""
        logs = [np.log10(each) for each in x]
        grid = np.linspace(min(each.min() for each in logs), max(each.max() for each in logs), _GRID)
        # normalised as a softmax, which underflows nowhere
        shares = [softmax(-0.5 * ((each[:, None] - grid) / BANDWIDTH) ** 2, axis=0) for each in logs]
        return cls(grid, np.stack([values.T @ share for values, share in zip(y, shares, strict=True)]))

    def pooled(self, runs: NDArray[np.int64] | Sequence[int] | None = None) -> NDArray[np.float64]:
        """The mean curves of some runs, of all by default, shape (values, g)."""
        return np.asarray(self.values.mean(axis=0) if runs is None else self.values[np.asarray(runs)].mean(axis=0))


def crossing(grid: NDArray[np.float64], curve: NDArray[np.float64], level: float, /) -> float:
    """Where a curve first reaches a level, by straight lines between the grid's points; its beginning if it begins there.

    NaN where it never does.
    """
    reached = np.flatnonzero(curve >= level)
    if not len(reached):
        return float("nan")
    i = int(reached[0])
    if i == 0 or not np.isfinite(curve[i - 1]):
        return float(grid[i])
    share = (level - curve[i - 1]) / (curve[i] - curve[i - 1])
    return float(grid[i - 1] + share * (grid[i] - grid[i - 1]))
