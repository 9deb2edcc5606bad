"""Streaming, mergeable mean and covariance of a set of vectors.

Batches, shards and machines give the same result in any split and any order: two `Moments` add. The sums are kept
relative to a pivot (the first row seen), so that a mean far larger than the spread costs no digits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipgeom._repr import short_repr
from clipgeom.errors import DomainError, ShapeError

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Moments"]


@short_repr
@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Count, mean and scatter of a set of vectors; adding two gives those of the union.

    Parameters
    ----------
    n : int
        Number of vectors.
    pivot : ndarray, shape (d,)
        Origin of the sums: any point near the data. Only rounding depends on it.
    shift : ndarray, shape (d,)
        Mean minus pivot, in the units of the data.
    scatter : ndarray, shape (d, d)
        Σ (x − mean)(x − mean)ᵀ, in squared units of the data.

    Notes
    -----
    Batches are merged by the pairwise update of Chan, Golub and LeVeque (1979),
    S = S₁ + S₂ + δδᵀ·n₁n₂/n with δ the difference of the two means. Everything is float64.

    Examples
    --------
    >>> rows = np.arange(12.0).reshape(4, 3)
    >>> whole = Moments.of(rows)
    >>> parts = Moments.of(rows[:1]) + Moments.of(rows[1:])
    >>> bool(np.allclose(whole.covariance, parts.covariance))
    True
    """

    n: int
    pivot: Float[NDArray[np.float64], " d"]
    shift: Float[NDArray[np.float64], " d"]
    scatter: Float[NDArray[np.float64], "d d"]

    @classmethod
    def empty(cls, dim: int) -> Moments:
        """Moments of no vectors at all, of dimension `dim`: the neutral element of addition."""
        return cls(0, np.zeros(dim), np.zeros(dim), np.zeros((dim, dim)))

    @classmethod
    def of(cls, batch: ArrayLike) -> Moments:
        """Moments of one batch, shape (n, d).

        Raises
        ------
        ShapeError
            If the batch is not a matrix.
        DomainError
            The batch contains NaN or infinity.
        """
        rows = np.asarray(batch)
        if rows.ndim != 2:
            raise ShapeError(f"expected a batch of vectors, shape (n, d); got shape {rows.shape}")
        if len(rows) == 0:
            return cls.empty(rows.shape[1])
        pivot = rows[0].astype(np.float64)
        centered = rows.astype(np.float64) - pivot
        shift = centered.mean(axis=0)
        if not np.isfinite(shift).all():
            raise DomainError("the vectors contain NaN or infinity; drop or repair those rows first")
        centered -= shift
        return cls(len(rows), pivot, shift, centered.T @ centered)

    @classmethod
    def from_batches(cls, batches: Iterable[ArrayLike]) -> Moments:
        """Moments of a stream of batches, each of shape (n_i, d)."""
        total: Moments | None = None
        for batch in batches:
            part = cls.of(batch)
            total = part if total is None else total + part
        if total is None:
            raise DomainError("expected at least one batch of vectors, got none")
        return total

    def __add__(self, other: Moments) -> Moments:
        if not isinstance(other, Moments):
            return NotImplemented
        if self.dim != other.dim:
            raise ShapeError(f"cannot add moments of dimension {self.dim} and {other.dim}")
        if other.n == 0:
            return self
        if self.n == 0:
            return other
        n = self.n + other.n
        # (pivot − pivot) is exact or nearly so for nearby pivots, where (mean − mean) would have lost those digits
        delta = (other.pivot - self.pivot) + (other.shift - self.shift)
        scatter = self.scatter + other.scatter
        scatter += np.outer(delta, delta * (self.n / n * other.n))
        return Moments(n, self.pivot, self.shift + delta * (other.n / n), scatter)

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return len(self.pivot)

    @property
    def mean(self) -> Float[NDArray[np.float64], " d"]:
        """Mean vector, shape (d,): the centre of the ellipsoid."""
        self._require(1)
        return self.pivot + self.shift

    @property
    def covariance(self) -> Float[NDArray[np.float64], "d d"]:
        """Population covariance (ddof 0), shape (d, d)."""
        self._require(1)
        return self.scatter / self.n

    @property
    def total_variance(self) -> float:
        """Trace of the covariance: mean squared distance to the mean, in squared units of the data."""
        self._require(1)
        return float(np.trace(self.scatter)) / self.n

    @property
    def offset_ratio(self) -> float:
        """‖mean‖ / √tr Σ: the centre's distance from the origin in units of the radius (infinite without spread)."""
        spread = self.total_variance
        norm = float(np.linalg.norm(self.mean))
        return norm / spread**0.5 if spread > 0 else float("inf")

    def _require(self, least: int) -> None:
        if self.n < least:
            raise DomainError(f"expected at least {least} vector, got {self.n}")
