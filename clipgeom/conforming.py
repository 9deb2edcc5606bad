"""Conformity: how common an embedding is, C(v) = mean cosine of v to all the others (Levi & Gilboa, arXiv 2411.14517).

Exact without an estimate, in O(n·d): with unit vectors u and S = Σu, C(v_i) = (u_i·S − 1)/(n − 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgeom.errors import DomainError
from clipgeom.intervals import Features, Interval, mean_intervals
from clipgeom.vectors import Vectors, as_vectors

__all__ = ["Conformity", "conformity"]


@dataclass(frozen=True, slots=True)
class Conformity:
    """Conformity of n vectors and its linear fit C ≈ slope·cos(m, v) + intercept.

    `values` and `cosines` (to the mean vector) have shape (n,), in the order of the vectors. `ci95` holds 95 %
    bootstrap intervals of mean, slope, intercept and pearson; those of the fit take the direction of the mean as given.
    """

    n: int
    values: NDArray[np.float64]
    cosines: NDArray[np.float64]
    mean: float
    std: float
    slope: float
    intercept: float
    pearson: float
    ci95: dict[str, Interval]


def conformity(vectors: Vectors | NDArray[Any], /, *, seed: int = 0) -> Conformity:
    """Exact conformity of every vector, shape (n, d) → (n,), with its fit to the cosine with the mean.

    Raises
    ------
    DomainError
        Fewer than three vectors; a zero vector or a zero mean, which have no direction.
    """
    source = as_vectors(vectors)
    if source.n < 3:
        raise DomainError(f"expected at least 3 vectors for a conformity, got {source.n}")
    unit_sum = np.zeros(source.dim)
    total = np.zeros(source.dim)
    for start, block in _numbered(source):
        unit_sum += _units(block, start).sum(axis=0)
        total += block.sum(axis=0)
    length = float(np.linalg.norm(total))
    if length == 0:
        raise DomainError("the mean of the vectors is zero, so that no cosine with it exists")
    axes = np.stack([unit_sum, total / length], axis=1)
    projections = np.concatenate([_units(block, start) @ axes for start, block in _numbered(source)])
    values = (projections[:, 0] - 1.0) / (source.n - 1)
    cosines = np.clip(projections[:, 1], -1.0, 1.0)
    return _fit(values, cosines, seed)


def _fit(values: NDArray[np.float64], cosines: NDArray[np.float64], seed: int) -> Conformity:
    mean, cosine = float(values.mean()), float(cosines.mean())
    y, x = values - mean, cosines - cosine
    features = np.stack([y, x, y * y, x * x, x * y], axis=1)

    def slope(f: NDArray[np.float64]) -> NDArray[np.float64]:
        var = f[3] - f[1] ** 2
        return np.divide(f[4] - f[0] * f[1], var, out=np.full_like(var, np.nan), where=var > 0)

    def intercept(f: NDArray[np.float64]) -> NDArray[np.float64]:
        return mean + f[0] - slope(f) * (cosine + f[1])

    def pearson(f: NDArray[np.float64]) -> NDArray[np.float64]:
        scale = np.sqrt(np.maximum((f[3] - f[1] ** 2) * (f[2] - f[0] ** 2), 0.0))
        return np.divide(f[4] - f[0] * f[1], scale, out=np.full_like(scale, np.nan), where=scale > 0)

    point = features.mean(axis=0)[:, None]
    # the mean of all pairwise cosines moves twice as fast as one member's: it is in every pair on either side
    functions = {"mean": lambda f: mean + 2 * f[0], "slope": slope, "intercept": intercept, "pearson": pearson}
    [ci95] = mean_intervals(Features(features, functions), seed=seed)
    return Conformity(
        n=len(values),
        values=values,
        cosines=cosines,
        mean=mean,
        std=float(values.std()),
        slope=float(slope(point)[0]),
        intercept=float(intercept(point)[0]),
        pearson=float(pearson(point)[0]),
        ci95=ci95,
    )


def _numbered(source: Vectors) -> Iterator[tuple[int, NDArray[np.float64]]]:
    start = 0
    for block in source.blocks():
        yield start, block
        start += len(block)


def _units(block: NDArray[np.float64], start: int) -> NDArray[np.float64]:
    lengths = np.linalg.norm(block, axis=1, keepdims=True)
    zero = np.flatnonzero(lengths == 0)
    if zero.size:
        raise DomainError(f"vector {start + int(zero[0])} is zero and has no direction; leave it out")
    return block / lengths
