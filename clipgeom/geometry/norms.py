"""Distribution of the norms of vectors: about the origin, about their mean, about the best-fitting sphere.

The three radial terms are the exact account of the difference (no Gaussian assumption):
‖x‖² = ‖x−m‖² + 2m·(x−m) + ‖m‖², hence Var‖x‖² = A + B + C with A = Var‖x−m‖², B = 4·Var(m·(x−m)) and
C = 4·Cov(‖x−m‖², m·(x−m)). An off-centre shell has C small beside A and B; the output of a LayerNorm has C ≈ −(A + B).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipgeom._repr import short_repr
from clipgeom.errors import DomainError
from clipgeom.geometry._leave_out import LeaveOut
from clipgeom.geometry.bootstrap import Features, Interval, grouped_quantile_interval, mean_intervals, quantile_interval
from clipgeom.geometry.groups import group_codes
from clipgeom.geometry.moments import Moments
from clipgeom.geometry.vectors import Vectors, as_vectors, row_hashes

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["NormSummary", "RadialTerms", "Shells", "SphereFit", "measure_shells", "radial_terms", "require_samples"]

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
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
    moments = Moments.from_batches(source.blocks())
    mean, covariance = moments.mean, moments.covariance
    left_out = None if codes is None else LeaveOut(codes, mean)

    raw_parts, square_parts, axial_parts, hash_parts = [], [], [], []
    unit_sum = np.zeros(source.dim)
    cubic_sum = np.zeros(source.dim)
    for block in source.blocks():
        y = block - mean
        square = np.vecdot(y, y)
        raw_parts.append(np.linalg.norm(block, axis=1))
        hash_parts.append(row_hashes(block))
        square_parts.append(square)
        axial_parts.append(y @ mean)
        radius = np.sqrt(square)
        unit_sum += np.divide(1.0, radius, out=np.zeros_like(radius), where=radius > 0) @ y
        cubic_sum += square @ y
        if left_out is not None:
            left_out.add_deviations(y)
    raw, square, axial = (np.concatenate(parts) for parts in (raw_parts, square_parts, axial_parts))
    cubic = cubic_sum / source.n
    fit_shift = _sphere_shift(covariance, cubic, source.n)

    # directions along which a moved centre changes the statistics, and the centre of the best sphere
    directions = np.stack([unit_sum / source.n, cubic, covariance @ mean], axis=1)
    if left_out is not None:
        left_out.measure_centers(raw, square, axial)
    along_parts, fit_parts = [], []
    for block in source.blocks():
        y = block - mean
        along_parts.append(y @ directions)
        if fit_shift is not None:
            fit_parts.append(np.linalg.norm(y - fit_shift, axis=1))
        if left_out is not None:
            left_out.add_distances(y)
    g, q, w = np.concatenate(along_parts).T

    centered = np.sqrt(square)
    values = _norm_values(raw), _norm_values(centered)
    radial_features = _radial_features(square, axial, q, w)
    radial = _radial_values(radial_features)
    if codes is None or left_out is None:
        noise = moments.total_variance / (moments.n - 1)
        parts = [
            _norm_features(raw, np.zeros_like(raw)),
            _norm_features(centered, g),
            _offset_features(moments, axial, square, noise),
            radial_features,
        ]
        raw_ci95, centered_ci95, offset_ci95, radial_ci95 = mean_intervals(*parts, seed=seed)
        offset = offset_ci95["ratio"]
        percentiles = _percentile_intervals(raw), _percentile_intervals(centered)
    else:
        noise = left_out.noise
        raw_ci95, centered_ci95 = left_out.norm_intervals(*values)
        offset = left_out.offset_interval(moments.offset_ratio)
        radial_ci95 = left_out.radial_intervals(radial)
        unbiased = centered / (1 + left_out.centered_bias(values[1]["mean_norm"]))
        percentiles = _percentile_intervals(raw, codes), _percentile_intervals(unbiased, codes)
    copies = np.unique(np.concatenate(hash_parts), return_counts=True)[1]
    return Shells(
        n=source.n,
        n_distinct=len(copies),
        effective_distinct=source.n**2 / float(np.sum(copies.astype(np.float64) ** 2)),
        n_groups=source.n if codes is None else int(codes.max()) + 1,
        dim=source.dim,
        moments=moments,
        raw=_summary(raw, raw_ci95, percentiles[0]),
        centered=_summary(centered, centered_ci95, percentiles[1]),
        center_norm=float(np.linalg.norm(mean)),
        offset_ratio=moments.offset_ratio,
        offset_ratio_corrected=_corrected_offset(moments, noise),
        offset_ratio_ci95=offset,
        radial=RadialTerms(**radial, ci95=radial_ci95),
        sphere=_sphere(mean, fit_shift, fit_parts, moments),
        raw_norms=raw,
        centered_norms=centered,
    )


def radial_terms(
    vectors: Vectors | NDArray[Any], /, *, groups: Sequence[Any] | NDArray[Any] | None = None, seed: int = 0
) -> RadialTerms:
    """Only the radial terms A, B, C of vectors of shape (n, d); see `RadialTerms` and `measure_shells`."""
    return measure_shells(vectors, groups=groups, seed=seed).radial


def _norm_features(norms: NDArray[np.float64], along: NDArray[np.float64]) -> Features:
    """Statistics of norms; `along` is what a moved centre takes off each."""
    mean = float(norms.mean())
    deviation = norms - mean

    def means(f: NDArray[np.float64]) -> NDArray[np.float64]:
        return mean + f[0] - f[2]

    def variances(f: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.maximum(f[1] - (f[0] - f[2]) ** 2, 0.0)

    return Features(
        np.stack([deviation, deviation**2, along], axis=1),
        {
            "mean_norm": means,
            "var_norm": variances,
            "std_norm": lambda f: np.sqrt(variances(f)),
            "cv_norm": lambda f: np.sqrt(variances(f)) / means(f) if mean > 0 else np.full(f.shape[1], np.nan),
        },
    )


def _norm_values(norms: NDArray[np.float64]) -> dict[str, float]:
    mean, var = float(norms.mean()), float(norms.var())
    std = var**0.5
    return {"mean_norm": mean, "var_norm": var, "std_norm": std, "cv_norm": std / mean if mean > 0 else float("nan")}


def _summary(
    norms: NDArray[np.float64], ci95: dict[str, Interval], percentiles_ci95: dict[str, Interval]
) -> NormSummary:
    values = _norm_values(norms)
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


def _percentile_intervals(norms: NDArray[np.float64], codes: NDArray[np.int64] | None = None) -> dict[str, Interval]:
    if codes is not None:
        return {str(p): grouped_quantile_interval(norms, codes, p / 100) for p in PERCENTILES}
    ordered = np.sort(norms)
    return {str(p): quantile_interval(ordered, p / 100) for p in PERCENTILES}


def _corrected_offset(moments: Moments, noise: float) -> float:
    """Offset ratio without `noise`, the part E‖m̂ − m‖² of ‖m̂‖² due to sampling."""
    if moments.total_variance == 0:
        return float("inf")
    center = float(moments.mean @ moments.mean)
    return float((max(center - noise, 0.0) / moments.total_variance) ** 0.5)


def _offset_features(
    moments: Moments, axial: NDArray[np.float64], square: NDArray[np.float64], noise: float
) -> Features:
    center = float(moments.mean @ moments.mean)

    def ratio(f: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):  # no spread at all: infinite
            return np.sqrt(np.maximum(center + 2 * f[0] - noise, 0.0) / f[1])

    return Features(np.stack([axial, square], axis=1), {"ratio": ratio})


def _radial_features(
    square: NDArray[np.float64], axial: NDArray[np.float64], q: NDArray[np.float64], w: NDArray[np.float64]
) -> Features:
    s = square - square.mean()
    p = axial - axial.mean()

    def term_a(f: NDArray[np.float64]) -> NDArray[np.float64]:
        return f[1] - f[0] ** 2 - 4 * f[5]

    def term_b(f: NDArray[np.float64]) -> NDArray[np.float64]:
        return 4 * (f[3] - f[2] ** 2 + 2 * f[6])

    def term_c(f: NDArray[np.float64]) -> NDArray[np.float64]:
        return 4 * (f[4] - f[0] * f[2] + f[5] - 2 * f[6])

    def correlation(f: NDArray[np.float64]) -> NDArray[np.float64]:
        scale = np.sqrt(np.maximum(term_a(f) * term_b(f), 0.0))
        ratio = np.divide(term_c(f), 2 * scale, out=np.full_like(scale, np.nan), where=scale > 0)
        return np.clip(ratio, -1.0, 1.0)

    # s, s², p, p², s·p, and the two directions in which the centre's own uncertainty counts
    columns = np.stack([s, s * s, p, p * p, s * p, q, w], axis=1)
    return Features(columns, {"A": term_a, "B": term_b, "C": term_c, "correlation": correlation})


def _radial_values(features: Features) -> dict[str, float]:
    means = features.columns.mean(axis=0)[:, None]
    means[5:] = 0  # the centre is the sample's own: no displacement
    return {name: float(f(means)[0]) for name, f in features.statistics.items()}


def _sphere_shift(
    covariance: Float[NDArray[np.float64], "d d"], cubic: NDArray[np.float64], n: int
) -> NDArray[np.float64] | None:
    """Vector from the mean to the centre of the least-squares sphere; None if n points always lie on a sphere.

    With y = x − m the problem is linear: ‖y‖² regressed on y, 2Σδ = E[‖y‖²y] (Coope, J. Optim. Theory Appl. 76, 1993).
    """
    if n <= len(cubic) + 1:
        return None
    return np.float64(0.5) * np.linalg.lstsq(covariance, cubic, rcond=None)[0]


def _sphere(
    mean: NDArray[np.float64],
    shift: NDArray[np.float64] | None,
    parts: list[NDArray[np.float64]],
    moments: Moments,
) -> SphereFit | None:
    if shift is None:
        return None
    distances = np.concatenate(parts)
    average = float(distances.mean())
    radius = (moments.total_variance + float(shift @ shift)) ** 0.5
    return SphereFit(
        center=mean + shift,
        center_norm=float(np.linalg.norm(mean + shift)),
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
