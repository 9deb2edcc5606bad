"""Conformity: mean cosine of an embedding to all the others (Levi & Gilboa 2025, arXiv 2411.14517).

Computed exactly in O(n·d): with unit vectors u and S = Σu, C(v_i) = (u_i·S − 1)/(n − 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgeom._repr import short_repr
from clipgeom.errors import DomainError
from clipgeom.geometry.bootstrap import Codes, Features, Interval, mean_intervals
from clipgeom.geometry.groups import group_codes
from clipgeom.geometry.vectors import Vectors, as_vectors

__all__ = ["Conformity", "conformity"]

_HELD = 8_000_000  # numbers of the sums by group in memory at once, 8 bytes each


@short_repr
@dataclass(frozen=True, slots=True)
class Conformity:
    """Conformity of n vectors and its linear fit C ≈ slope·cos(m, v) + intercept.

    `values` and `cosines` (to the mean vector) have shape (n,), in the order of the vectors. `ci95` contains 95 %
    bootstrap intervals of mean, slope, intercept and pearson; those of the fit treat the direction of the mean as
    fixed. With groups they are by group, and that of the mean belongs to the mean cosine of vectors of different
    groups: in a larger sample the share of pairs within a group vanishes.
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


def conformity(
    vectors: Vectors | NDArray[Any], /, *, groups: Sequence[Any] | NDArray[Any] | None = None, seed: int = 0
) -> Conformity:
    """Exact conformity of every vector, shape (n, d) → (n,), with its fit to the cosine with the mean.

    Parameters
    ----------
    vectors : ndarray, shape (n, d), or Vectors
    groups : sequence of length n, optional
        An id for each vector; vectors with the same id are not independent, such as the captions of one image.
    seed : int
        Seed of the bootstrap.

    Raises
    ------
    ShapeError
        `groups` has another length.
    DomainError
        Fewer than three vectors, or a single group; a zero vector or a zero mean, which have no direction.
    """
    source = as_vectors(vectors)
    if source.n < 3:
        raise DomainError(f"expected at least 3 vectors for a conformity, got {source.n}")
    codes = group_codes(groups, source.n)
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
    strangers = float(values.mean()) if codes is None else _strangers(source, codes, unit_sum)
    return _fit(values, cosines, strangers, codes, seed)


def _strangers(source: Vectors, codes: NDArray[np.int64], unit_sum: NDArray[np.float64]) -> float:
    """Mean cosine over all pairs of vectors of different groups."""
    sizes = np.bincount(codes).astype(np.float64)
    within, step = 0.0, max(1, _HELD // source.dim)  # groups whose sums are in memory at once
    for first in range(0, len(sizes), step):
        sums = np.zeros((min(step, len(sizes) - first), source.dim))
        for start, block in _numbered(source):
            own = codes[start : start + len(block)] - first
            inside = (own >= 0) & (own < len(sums))
            np.add.at(sums, own[inside], _units(block, start)[inside])
        within += float(np.sum(sums**2))
    return (float(unit_sum @ unit_sum) - within) / (len(codes) ** 2 - float(np.sum(sizes**2)))


def _fit(
    values: NDArray[np.float64], cosines: NDArray[np.float64], strangers: float, codes: Codes, seed: int
) -> Conformity:
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
    # the mean of all pairwise cosines varies twice as fast as one member's, since each pair has two members
    functions = {"mean": lambda f: strangers + 2 * f[0], "slope": slope, "intercept": intercept, "pearson": pearson}
    [ci95] = mean_intervals(Features(features, functions), seed=seed, codes=codes)
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
