"""Two straight segments and the place where they meet, by Muggeo's method (the library piecewise-regression)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Segments", "fit"]

_STARTS = (0.35, 0.5, 0.65)  # quantiles of x that the search begins from, where nothing better is known


@dataclass(frozen=True, slots=True)
class Segments:
    """A fit: where the segments meet, their slopes, and the mean squared residual."""

    breakpoint: float
    before: float
    after: float
    intercept: float
    error: float

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The fitted values."""
        bend = np.maximum(0.0, np.asarray(x) - self.breakpoint)
        fitted: NDArray[np.float64] = self.intercept + self.before * np.asarray(x) + (self.after - self.before) * bend
        return fitted


def fit(x: NDArray[np.float64], y: NDArray[np.float64], /, *, near: float | None = None) -> Segments | None:
    """The best of the fits that converge, by their residuals; None where none does.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
    near : float, optional
        Where to begin the search; by default at three quantiles of x, one after the other.
    """
    from piecewise_regression import Fit

    found = None
    for start in np.quantile(x, _STARTS) if near is None else [near]:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                made = Fit(list(x), list(y), n_breakpoints=1, start_values=[float(start)], n_boot=0)
            except (np.linalg.LinAlgError, ValueError):
                continue
        told = made.get_results()
        if not told["converged"]:
            continue
        values = {name: entry["estimate"] for name, entry in told["estimates"].items()}
        segments = Segments(
            float(values["breakpoint1"]),
            float(values["alpha1"]),
            float(values["alpha2"]),
            float(values["const"]),
            error=float(told["rss"]) / len(x),
        )
        if found is None or segments.error < found.error:
            found = segments
    return found
