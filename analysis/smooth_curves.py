"""Curves over a logarithmic distance, from points of several runs that lie at different distances (a Gaussian kernel's means)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BANDWIDTH", "Curves", "crossing"]

# decades, one standard deviation: about the distance between neighbouring checkpoints, so that gaps are bridged
BANDWIDTH = 0.2
_GRID = 160


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """Of some runs; what is pooled of any of them needs no second look at the points.

    Attributes
    ----------
    grid : ndarray, shape (g,)
        Decadic logarithms of distances, from the smallest of a point to the largest.
    sums : ndarray, shape (runs, values, g)
    weights : ndarray, shape (runs, g)
    """

    grid: NDArray[np.float64]
    sums: NDArray[np.float64]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, x: Sequence[NDArray[np.float64]], y: Sequence[NDArray[np.float64]], /) -> Curves:
        """From each run's distances, shape (points,), and values, shape (points, values)."""
        logs = [np.log10(each) for each in x]
        grid = np.linspace(min(each.min() for each in logs), max(each.max() for each in logs), _GRID)
        kernels = [np.exp(-0.5 * ((each[:, None] - grid) / BANDWIDTH) ** 2) for each in logs]
        sums = np.stack([values.T @ kernel for values, kernel in zip(y, kernels, strict=True)])
        return cls(grid, sums, np.stack([kernel.sum(axis=0) for kernel in kernels]))

    def pooled(self, runs: NDArray[np.int64] | Sequence[int] | None = None) -> NDArray[np.float64]:
        """The curves of some runs together, of all by default, shape (values, g)."""
        rows = np.arange(len(self.sums)) if runs is None else np.asarray(runs)
        # far from every point of the runs chosen the kernel underflows, and there is nothing to say
        with np.errstate(invalid="ignore", divide="ignore"):
            found: NDArray[np.float64] = self.sums[rows].sum(axis=0) / self.weights[rows].sum(axis=0)
        return found


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
