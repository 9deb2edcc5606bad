"""Distribution of the norms of vectors: about the origin, about their mean, about the best-fitting sphere.

The three radial terms are the exact account of the difference (no Gaussian assumption):
‖x‖² = ‖x−m‖² + 2m·(x−m) + ‖m‖², hence Var‖x‖² = A + B + C with A = Var‖x−m‖², B = 4·Var(m·(x−m)) and
C = 4·Cov(‖x−m‖², m·(x−m)). An off-centre shell has C small beside A and B; the output of a LayerNorm has C ≈ −(A + B).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgeom._repr import short_repr
from clipgeom.errors import DomainError
from clipgeom.geometry.bootstrap import Features, Interval, mean_intervals
from clipgeom.geometry.groups import group_codes
from clipgeom.geometry.moments import Moments
from clipgeom.geometry.norms.features import (
    PERCENTILES,
    corrected_offset,
    norm_features,
    norm_values,
    offset_features,
    percentile_intervals,
    radial_features,
    radial_values,
)
from clipgeom.geometry.norms.leave_out import LeaveOut
from clipgeom.geometry.norms.rows import RadialRows, read_rows
from clipgeom.geometry.vectors import Vectors, as_vectors

__all__ = ["NormSummary", "RadialTerms", "Shells", "SphereFit", "measure_shells", "radial_terms", "require_samples"]

CONSTANT = 1e-6  # a spread below this share of the norm of the centre is rounding noise
UNIT = 2e-3  # of 1: vectors of unit length, up to half precision
FEW_DISTINCT = 30  # fewer distinct vectors, counted by `effective_distinct`, have no meaningful shape
MIN_SAMPLES = 3  # fewer than three vectors have no meaningful variance about their mean


@short_repr
@dataclass(frozen=True, slots=True)
class NormSummary:
    """Distribution of the distances ‖x − c‖ from one centre c, in the units of the data.

    Variances are population variances (ddof 0). `cv_norm` = std/mean. `ci95` contains a 95 % interval for each
    number, `percentiles` maps percent → value, `percentiles_ci95` percent → interval.
    """

    mean_norm: float
    var_norm: float
    std_norm: float
    cv_norm: float
    percentiles: dict[str, float]
    ci95: dict[str, Interval]
    percentiles_ci95: dict[str, Interval]


@short_repr
@dataclass(frozen=True, slots=True)
class RadialTerms:
    """Var‖x‖² = A + B + C, in fourth powers of the units of the data; see the module's text.

    `correlation` is that of ‖x−m‖² and m·(x−m): −1 for a sphere about the origin, whatever its mean; NaN where one of
    the two does not vary. `ci95` contains 95 % bootstrap intervals.
    """

    A: float
    B: float
    C: float
    correlation: float
    ci95: dict[str, Interval]


@short_repr
@dataclass(frozen=True, slots=True)
class SphereFit:
    """Least-squares sphere: the centre c and radius ρ that minimise Σ(‖x−c‖² − ρ²)².

    `cv_norm` and `std_norm` are those of ‖x−c‖ over the sample it was fitted to. Two readings to beware of, each with
    its number: with few `samples_per_dim` the fit follows the sample; and where `relative_radius` = ρ/√tr Σ is far
    above 1 the "sphere" is nearly a plane, fitted to directions in which the data do not vary (a LayerNorm leaves one).
    """

    center: NDArray[np.float64]
    center_norm: float
    radius: float
    cv_norm: float
    std_norm: float
    relative_radius: float
    samples_per_dim: float


@short_repr
@dataclass(frozen=True, slots=True)
class Shells:
    """Radial statistics of n vectors of dimension d; see the types of the fields.

    `offset_ratio` = ‖m‖/√tr Σ of the sample, as defined by Levi & Gilboa 2025 (arXiv 2411.14517).
    `offset_ratio_corrected` removes the part of ‖m‖² that is mere sampling noise, tr Σ/n for independent vectors; the
    interval belongs to this one. `n_groups` counts the independent units: n, or the groups that were given.
    `n_distinct` counts distinct vectors, and `effective_distinct` = 1/Σp², with p the share of each, as many as
    equally common ones would be. `raw_norms` and `centered_norms` are the distances themselves, shape (n,), in the
    order of the vectors.
    """

    n: int
    n_groups: int
    n_distinct: int
    effective_distinct: float
    dim: int
    moments: Moments
    raw: NormSummary
    centered: NormSummary
    center_norm: float
    offset_ratio: float
    offset_ratio_corrected: float
    offset_ratio_ci95: Interval
    radial: RadialTerms
    sphere: SphereFit | None
    raw_norms: NDArray[np.float64]
    centered_norms: NDArray[np.float64]

    @property
    def constant(self) -> bool:
        """Whether the vectors are equal up to rounding noise."""
        return self.moments.total_variance <= (CONSTANT * self.center_norm) ** 2

    @property
    def discrete(self) -> bool:
        """Whether the vectors are few distinct ones repeated, as at position 1, and hence have no shape."""
        return self.effective_distinct < FEW_DISTINCT

    @property
    def unit(self) -> bool:
        """Whether all vectors have unit length, up to half precision."""
        return not self.constant and abs(self.raw.mean_norm - 1) < UNIT and self.raw.std_norm < UNIT


def measure_shells(
    vectors: Vectors | NDArray[Any], /, *, groups: Sequence[Any] | NDArray[Any] | None = None, seed: int = 0
) -> Shells:
    """Measure norms about origin and mean, the offset, the radial terms and the best sphere, with intervals.

    Parameters
    ----------
    vectors : ndarray, shape (n, d), or Vectors
        At least three. Read three times, in blocks; only a few numbers a row are kept.
    groups : sequence of length n, optional
        An id for each vector. Vectors with the same id are not independent, such as the captions of one image: the
        intervals are by group. Without ids every vector is taken as independent.
    seed : int
        Seed of the bootstrap.

    Raises
    ------
    ShapeError
        `groups` has another length.
    DomainError
        Fewer than three vectors, NaN or infinity among them, or a single group.

    Notes
    -----
    The centre is estimated from the same sample, and the intervals account for it: a resample moves the centre by δ,
    which changes each statistic by its derivative along δ. With r = ‖x−m‖, y = x−m, g = E[y/r] and q = E[r²y], these
    are −g·δ for E[r], −4q·δ for Var r², 2Σm·δ for Var(m·y) and (q − 2Σm)·δ for Cov(r², m·y); each is a mean over rows,
    so that one bootstrap of means serves all. What is left out is O(1/n).

    With groups the number of independent units is small enough for that O(1/n) to count: about its own mean a sample
    is too tight. There the intervals come from `jackknife_interval`, each group left out in turn, and are corrected for
    that bias; the values themselves are the sample's, by the same definitions as without groups.
    """
    source = as_vectors(vectors)
    if source.n < MIN_SAMPLES:
        raise DomainError(f"expected at least {MIN_SAMPLES} vectors to speak of a spread, got {source.n}")
    codes = group_codes(groups, source.n)
    rows = read_rows(source, codes)
    moments, centered = rows.moments, np.sqrt(rows.square)
    radial_columns = radial_features(rows.square, rows.axial, rows.q, rows.w)
    radial = radial_values(radial_columns)
    if codes is None or rows.left_out is None:
        found = _independent_intervals(rows, centered, radial_columns, seed)
    else:
        found = _grouped_intervals(rows.left_out, rows.raw, centered, codes, moments.offset_ratio, radial)
    return Shells(
        n=source.n,
        n_distinct=len(rows.copies),
        effective_distinct=source.n**2 / float(np.sum(rows.copies.astype(np.float64) ** 2)),
        n_groups=source.n if codes is None else int(codes.max()) + 1,
        dim=source.dim,
        moments=moments,
        raw=_summary(rows.raw, *found.raw),
        centered=_summary(centered, *found.centered),
        center_norm=float(np.linalg.norm(moments.mean)),
        offset_ratio=moments.offset_ratio,
        offset_ratio_corrected=corrected_offset(moments, found.noise),
        offset_ratio_ci95=found.offset,
        radial=RadialTerms(**radial, ci95=found.radial),
        sphere=_sphere(rows),
        raw_norms=rows.raw,
        centered_norms=centered,
    )


def radial_terms(
    vectors: Vectors | NDArray[Any], /, *, groups: Sequence[Any] | NDArray[Any] | None = None, seed: int = 0
) -> RadialTerms:
    """Only the radial terms A, B, C of vectors of shape (n, d); see `RadialTerms` and `measure_shells`."""
    return measure_shells(vectors, groups=groups, seed=seed).radial


@dataclass(frozen=True, slots=True)
class _Intervals:
    """95 % intervals; for each kind of norm those of its statistics and of its percentiles.

    `noise` is E‖m̂ − m‖², the part of ‖m̂‖² due to sampling.
    """

    raw: tuple[dict[str, Interval], dict[str, Interval]]
    centered: tuple[dict[str, Interval], dict[str, Interval]]
    offset: Interval
    radial: dict[str, Interval]
    noise: float


def _independent_intervals(rows: RadialRows, centered: NDArray[np.float64], radial: Features, seed: int) -> _Intervals:
    noise = rows.moments.total_variance / (rows.moments.n - 1)
    raw_ci95, centered_ci95, offset_ci95, radial_ci95 = mean_intervals(
        norm_features(rows.raw, np.zeros_like(rows.raw)),
        norm_features(centered, rows.g),
        offset_features(rows.moments, rows.axial, rows.square, noise),
        radial,
        seed=seed,
    )
    return _Intervals(
        raw=(raw_ci95, percentile_intervals(rows.raw)),
        centered=(centered_ci95, percentile_intervals(centered)),
        offset=offset_ci95["ratio"],
        radial=radial_ci95,
        noise=noise,
    )


def _grouped_intervals(
    left_out: LeaveOut,
    raw: NDArray[np.float64],
    centered: NDArray[np.float64],
    codes: NDArray[np.int64],
    offset_ratio: float,
    radial: dict[str, float],
) -> _Intervals:
    values = norm_values(raw), norm_values(centered)
    raw_ci95, centered_ci95 = left_out.norm_intervals(*values)
    unbiased = centered / (1 + left_out.centered_bias(values[1]["mean_norm"]))
    return _Intervals(
        raw=(raw_ci95, percentile_intervals(raw, codes)),
        centered=(centered_ci95, percentile_intervals(unbiased, codes)),
        offset=left_out.offset_interval(offset_ratio),
        radial=left_out.radial_intervals(radial),
        noise=left_out.noise,
    )


def _summary(
    norms: NDArray[np.float64], ci95: dict[str, Interval], percentiles_ci95: dict[str, Interval]
) -> NormSummary:
    values = norm_values(norms)
    percentiles = np.percentile(norms, PERCENTILES)
    return NormSummary(
        mean_norm=values["mean_norm"],
        var_norm=values["var_norm"],
        std_norm=values["std_norm"],
        cv_norm=values["cv_norm"],
        percentiles={str(p): float(v) for p, v in zip(PERCENTILES, percentiles, strict=True)},
        ci95=ci95,
        percentiles_ci95=percentiles_ci95,
    )


def _sphere(rows: RadialRows) -> SphereFit | None:
    if rows.sphere_shift is None or rows.sphere_norms is None:
        return None
    moments, shift, distances = rows.moments, rows.sphere_shift, rows.sphere_norms
    center = moments.mean + shift
    average = float(distances.mean())
    radius = (moments.total_variance + float(shift @ shift)) ** 0.5
    return SphereFit(
        center=center,
        center_norm=float(np.linalg.norm(center)),
        radius=radius,
        cv_norm=float(distances.std()) / average if average > 0 else float("nan"),
        std_norm=float(distances.std()),
        relative_radius=radius / moments.total_variance**0.5 if moments.total_variance > 0 else float("nan"),
        samples_per_dim=moments.n / moments.dim,
    )


def require_samples(n: int, n_excluded: int, position: str, groups: NDArray[np.int64] | None = None) -> None:
    """Refuse to measure fewer than three vectors, or those of a single group.

    Raises
    ------
    DomainError
        The message names the position, and whether captions are too short for it.
    """
    if n >= MIN_SAMPLES:
        if groups is not None and (groups == groups[0]).all():
            raise DomainError(
                f"the {n} vectors at position {position} are all of one image (one group); at least 2 are needed: take "
                "more captions, or leave --group-size out"
            )
        return
    if n == 0 and n_excluded:
        reason = f"no caption is long enough to have content at position {position}"
    else:
        reason = f"only {n} caption(s) can be measured at position {position}"
    raise DomainError(f"{reason}; at least {MIN_SAMPLES} are needed")
