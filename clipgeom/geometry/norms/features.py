"""Radial statistics as functions of means over rows, for the bootstrap, and their values on the sample itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipgeom.geometry.bootstrap import Features, Interval, grouped_quantile_interval, quantile_interval
from clipgeom.geometry.moments import Moments

__all__ = [
    "PERCENTILES",
    "corrected_offset",
    "norm_features",
    "norm_values",
    "offset_features",
    "percentile_intervals",
    "radial_features",
    "radial_values",
]

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


def norm_features(norms: NDArray[np.float64], along: NDArray[np.float64]) -> Features:
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


def norm_values(norms: NDArray[np.float64]) -> dict[str, float]:
    """Mean, variance, standard deviation and CV of norms."""
    mean, var = float(norms.mean()), float(norms.var())
    std = var**0.5
    return {"mean_norm": mean, "var_norm": var, "std_norm": std, "cv_norm": std / mean if mean > 0 else float("nan")}


def percentile_intervals(norms: NDArray[np.float64], codes: NDArray[np.int64] | None = None) -> dict[str, Interval]:
    """Intervals of `PERCENTILES` by percent; by group where `codes` number the groups."""
    if codes is not None:
        return {str(p): grouped_quantile_interval(norms, codes, p / 100) for p in PERCENTILES}
    ordered = np.sort(norms)
    return {str(p): quantile_interval(ordered, p / 100) for p in PERCENTILES}


def corrected_offset(moments: Moments, noise: float) -> float:
    """Offset ratio without `noise`, the part E‖m̂ − m‖² of ‖m̂‖² due to sampling."""
    if moments.total_variance == 0:
        return float("inf")
    center = float(moments.mean @ moments.mean)
    return float((max(center - noise, 0.0) / moments.total_variance) ** 0.5)


def offset_features(
    moments: Moments, axial: NDArray[np.float64], square: NDArray[np.float64], noise: float
) -> Features:
    """Offset ratio less its sampling noise, from m·y (`axial`) and ‖y‖² (`square`)."""
    center = float(moments.mean @ moments.mean)

    def ratio(f: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):  # no spread at all: infinite
            return np.sqrt(np.maximum(center + 2 * f[0] - noise, 0.0) / f[1])

    return Features(np.stack([axial, square], axis=1), {"ratio": ratio})


def radial_features(
    square: NDArray[np.float64], axial: NDArray[np.float64], q: NDArray[np.float64], w: NDArray[np.float64]
) -> Features:
    """Radial terms and their correlation, from the columns of `RadialRows`."""
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


def radial_values(features: Features) -> dict[str, float]:
    """Radial terms of the sample itself."""
    means = features.columns.mean(axis=0)[:, None]
    means[5:] = 0  # the centre is the sample's own: no displacement
    return {name: float(f(means)[0]) for name, f in features.statistics.items()}
