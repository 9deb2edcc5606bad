"""Radial statistics with each group left out in turn, about the remaining vectors' own centre."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipgeom.geometry.bootstrap import Interval, Scale, jackknife_interval
from clipgeom.geometry.groups import merge_groups

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["LeaveOut"]

Array = NDArray[np.float64]

MAX_BLOCKS = 500  # groups beyond this are left out several at a time: the cost is n·d·MAX_BLOCKS
_ENTRIES = 1_000_000  # numbers in memory at once for each of a few temporary matrices, 8 bytes each

_SCALES: dict[str, Scale] = {
    "mean_norm": "log",
    "var_norm": "log",
    "std_norm": "log",
    "cv_norm": "log",
    "A": "log",
    "B": "log",
    "C": "identity",
    "correlation": "atanh",
}


class LeaveOut:
    """Statistics with one block of whole groups left out; filled in two passes over the vectors.

    Leaving block j out moves the mean m to m + δⱼ, and with y = x − m every statistic about the new centre follows
    from y·δⱼ: ‖y − δⱼ‖² = ‖y‖² − 2 y·δⱼ + ‖δⱼ‖². Nothing is linearised.

    Parameters
    ----------
    codes : ndarray, shape (n,)
        Number of each row's group.
    mean : ndarray, shape (d,)
        Mean of all rows.
    """

    def __init__(self, codes: NDArray[np.int64], mean: Array) -> None:
        self._blocks = merge_groups(codes, MAX_BLOCKS)
        self._mean = mean
        self._n = len(codes)
        self._sizes = np.bincount(self._blocks)
        self._sums = np.zeros((len(self._sizes), len(mean)))
        self._seen = 0

    def add_deviations(self, y: Float[NDArray[np.float64], "_ d"]) -> None:
        """First pass: the next rows, less the mean."""
        np.add.at(self._sums, self._blocks[self._seen : self._seen + len(y)], y)
        self._seen += len(y)

    @property
    def noise(self) -> float:
        """E‖m̂ − m‖², the trace of the covariance of the mean, from the sums of the blocks."""
        k = len(self._sizes)
        return k / (k - 1) * float(np.sum(self._sums**2)) / self._n**2

    def measure_centers(self, raw: Array, square: Array, axial: Array) -> None:
        """Between the passes: ‖x‖, ‖y‖² and m·y of all rows, each of shape (n,)."""
        self._rest = (self._n - self._sizes).astype(np.float64)
        self._shifts = -self._sums / self._rest[:, None]
        self._lengths = np.vecdot(self._shifts, self._shifts)
        self._along = self._shifts @ self._mean
        self._raw, self._square, self._axial = raw, square, axial
        self._origin = (float(np.sqrt(square).mean()), float(square.mean()))
        self._totals = np.zeros((7, len(self._sizes)))
        self._seen = 0

    def add_distances(self, y: Float[NDArray[np.float64], "_ d"]) -> None:
        """Second pass: the same rows again."""
        step = max(1, _ENTRIES // len(self._sizes))
        for start in range(0, len(y), step):
            self._add(y[start : start + step])

    def _add(self, y: Array) -> None:
        rows = slice(self._seen, self._seen + len(y))
        moved = y @ self._shifts.T
        square = np.maximum(self._square[rows, None] - 2 * moved + self._lengths, 0.0)
        r = np.sqrt(square) - self._origin[0]
        s = square - self._origin[1]
        p = self._axial[rows, None] + moved - self._along - self._lengths
        own = np.arange(len(y)), self._blocks[rows]
        for values in (r, s, p):
            values[own] = 0.0
        terms = (r, r * r, s, s * s, p, p * p, s * p)
        self._totals += np.stack([term.sum(axis=0) for term in terms])
        self._seen += len(y)

    def norm_intervals(self, raw: dict[str, float], centered: dict[str, float]) -> list[dict[str, Interval]]:
        """95 % intervals of mean, variance, standard deviation and CV of ‖x‖ and of ‖x − m‖, given their values."""
        origin = float(self._raw.mean())
        deviation = self._raw - origin
        without = [
            np.sum(f) - np.bincount(self._blocks, f, len(self._sizes)) for f in (deviation, deviation * deviation)
        ]
        r, rr = self._totals[:2] / self._rest
        return [
            _intervals(raw, _norms(origin, *(f / self._rest for f in without))),
            _intervals(centered, _norms(self._origin[0], r, rr)),
        ]

    def centered_bias(self, value: float) -> float:
        """Bias of the mean of ‖x − m̂‖, as a share of its value: below zero, since m̂ is the sample's own mean."""
        left_out = self._origin[0] + self._totals[0] / self._rest
        return float((len(left_out) - 1) * (left_out.mean() - value) / value) if value > 0 else 0.0

    def radial_intervals(self, values: dict[str, float]) -> dict[str, Interval]:
        """95 % intervals of A, B, C and the correlation, given their values."""
        s, ss, p, pp, sp = self._totals[2:] / self._rest
        a, b = np.maximum(ss - s * s, 0.0), 4 * np.maximum(pp - p * p, 0.0)
        c = 4 * (sp - s * p)
        scale = 2 * np.sqrt(a * b)
        correlation = np.divide(c, scale, out=np.full_like(c, np.nan), where=scale > 0)
        return _intervals(values, {"A": a, "B": b, "C": c, "correlation": correlation})

    def offset_interval(self, value: float) -> Interval:
        """95 % interval of the offset ratio, given its value; computed on its square, where the noise is additive."""
        center = float(self._mean @ self._mean) + 2 * self._along + self._lengths
        spread = self._origin[1] + self._totals[2] / self._rest
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = jackknife_interval(value**2, center / spread)
        return float(np.sqrt(max(low, 0.0))), float(np.sqrt(max(high, 0.0)))


def _norms(origin: float, r: Array, rr: Array) -> dict[str, Array]:
    """Statistics from means of r and r², r being the norms less `origin`."""
    mean, variance = origin + r, np.maximum(rr - r * r, 0.0)
    std = np.sqrt(variance)
    cv = np.divide(std, mean, out=np.full_like(mean, np.nan), where=mean > 0)
    return {"mean_norm": mean, "var_norm": variance, "std_norm": std, "cv_norm": cv}


def _intervals(values: dict[str, float], left_out: dict[str, Array]) -> dict[str, Interval]:
    return {name: jackknife_interval(values[name], left_out[name], scale=_SCALES[name]) for name in left_out}
