"""The first judge: whether an interpolated point lies on the three shells of real points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipgeom._extras import needs_extra

__all__ = ["RADII", "TOLERANCE", "FittedShells", "Whitening"]

RADII = ("raw", "centered", "whitened")
COVERAGE = 0.95
TOLERANCE = 0.01  # a shell is at least ±1 % of its mean radius thick


@dataclass(frozen=True, slots=True, eq=False)
class Whitening:
    """Centre and Ledoit–Wolf covariance of the fitted half, for three radii.

    `whitener` maps x − center to coordinates of unit covariance, shape (d, d).
    """

    center: NDArray[np.float64]
    whitener: NDArray[np.float64]
    spread: float

    @classmethod
    def fit(cls, x: NDArray[np.float64]) -> Whitening:
        """Fit to vectors of shape (n, d); the shrunk covariance is scikit-learn's `ledoit_wolf`."""
        with needs_extra("report", "the centering check"):
            from sklearn.covariance import ledoit_wolf

        center = x.mean(axis=0)
        covariance, _shrinkage = ledoit_wolf(x - center, assume_centered=True)
        values, vectors = np.linalg.eigh(covariance)
        return cls(center, vectors / np.sqrt(values), float(values.sum()))

    def radii(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """‖x‖, ‖x − c‖ and the Mahalanobis distance of each vector, shape (n, 3)."""
        y = x - self.center
        return np.stack([np.linalg.norm(v, axis=1) for v in (x, y, y @ self.whitener)], axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class FittedShells:
    """Three intervals of radii: the central 95 % of real points, widened to ±tolerance of the mean radius."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]

    @classmethod
    def of(cls, radii: NDArray[np.float64], *, tolerance: float = TOLERANCE) -> FittedShells:
        """Create from the radii of real points, shape (n, 3)."""
        mean = radii.mean(axis=0)
        low, high = np.quantile(radii, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], axis=0)
        return cls(np.minimum(low, mean * (1 - tolerance)), np.maximum(high, mean * (1 + tolerance)), mean)

    def hold(self, radii: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points lie on each shell, shape (n, 3)."""
        return (radii >= self.low) & (radii <= self.high)
