"""Statistics of vectors as the rows of report.json, with the arrays that the figures draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgeom.centering import CenteringCheck, check_centering, summarize
from clipgeom.errors import DomainError
from clipgeom.geometry._conformity import Conformity, conformity
from clipgeom.geometry.moments import Moments
from clipgeom.geometry.norms import MIN_SAMPLES, NormSummary, Shells, measure_shells, require_samples
from clipgeom.geometry.spectrum import Spectrum, measure_spectrum
from clipgeom.geometry.vectors import Vectors

__all__ = ["Row", "RowArrays", "VectorSet", "json_ready", "measure_profile", "measure_row"]

EXTREMES = 8
DRAWN = 20_000  # points that a histogram or scatter is drawn from

Describe = Callable[[Iterable[int]], list[dict[str, str]]]


@dataclass(frozen=True, slots=True, eq=False)
class VectorSet:
    """Vectors to measure as one row, and where they are from.

    Parameters
    ----------
    vectors : Vectors
        n vectors of dimension d.
    representation, position : str
        Representation and position of the vectors.
    describe : callable
        From row indices to {id, text} of their captions.
    n_excluded : int
        Captions that have no such position.
    groups : ndarray, shape (n,), optional
        An id for each vector; those with the same id, the captions of one image, are not independent.
    encoded : bool
        Whether an encoder computed the vectors here, so that the representation is more than a name.
    """

    vectors: Vectors
    representation: str
    position: str
    describe: Describe
    n_excluded: int = 0
    groups: NDArray[np.int64] | None = None
    encoded: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class RowArrays:
    """Data for the figures of one row; at most `DRAWN` evenly spaced samples of each distribution.

    `conformity` and `cosines` are None where no direction exists; `check` is None where no centering check was run.
    """

    representation: str
    position: str
    raw_norms: NDArray[np.float64]
    centered_norms: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    conformity: NDArray[np.float64] | None
    cosines: NDArray[np.float64] | None
    check: CenteringCheck | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One (representation, position): its entries in report.json, its centre and its arrays."""

    statistics: dict[str, Any]
    conformity: dict[str, Any] | None
    centering: dict[str, Any] | None
    center: NDArray[np.float64]
    arrays: RowArrays


def measure_row(measured: VectorSet, *, seed: int, check: bool = True) -> Row:
    """Measure one set of vectors.

    Parameters
    ----------
    measured : VectorSet
    seed : int
        Seed of the bootstrap and of the check.
    check : bool
        Whether to run the centering check too.

    Raises
    ------
    DomainError
        There are too few vectors or groups; the message names the position.
    """
    vectors, groups, describe = measured.vectors, measured.groups, measured.describe
    representation, position = measured.representation, measured.position
    require_samples(vectors.n, measured.n_excluded, position, groups)
    shells = measure_shells(vectors, groups=groups, seed=seed)
    spectrum = measure_spectrum(shells.moments)
    try:
        common: Conformity | None = conformity(vectors, groups=groups, seed=seed)
    except DomainError:
        common = None  # a zero vector or zero mean has no direction; the notes of the row mention it
    checked = check_centering(vectors, groups=groups, seed=seed, shells=shells) if check else None
    figures = None if checked is None else summarize(checked, representation if measured.encoded else None)
    statistics = {
        "representation": representation,
        "position": position,
        "n": shells.n,
        "n_groups": shells.n_groups,
        "n_distinct": shells.n_distinct,
        "effective_distinct": shells.effective_distinct,
        "n_excluded": measured.n_excluded,
        "dim": shells.dim,
        **_shells(shells),
        **_spectrum(spectrum),
        "extremes": {
            "norm_highest": _extremes(-shells.raw_norms, shells.raw_norms, describe),
            "norm_lowest": _extremes(shells.raw_norms, shells.raw_norms, describe),
        },
        "notes": _notes(shells, common),
    }
    return Row(
        statistics=statistics,
        conformity=None if common is None else _conformity(common, representation, position, describe),
        centering=None if figures is None else {"representation": representation, "position": position, **figures},
        center=shells.moments.mean,
        arrays=RowArrays(
            representation=representation,
            position=position,
            raw_norms=_thin(shells.raw_norms),
            centered_norms=_thin(shells.centered_norms),
            eigenvalues=spectrum.eigenvalues,
            conformity=None if common is None else _thin(common.values),
            cosines=None if common is None else _thin(common.cosines),
            check=checked,
        ),
    )


def measure_profile(vectors: Vectors) -> dict[str, Any] | None:
    """Mean norms and offset at one position, or None with fewer than three vectors; reads the vectors twice."""
    if vectors.n < MIN_SAMPLES:
        return None
    moments = Moments.from_batches(vectors.blocks())
    raw = np.concatenate([np.linalg.norm(block, axis=1) for block in vectors.blocks()])
    centered = np.concatenate([np.linalg.norm(block - moments.mean, axis=1) for block in vectors.blocks()])
    return {
        "n": vectors.n,
        "mean_raw_norm": float(raw.mean()),
        "std_raw_norm": float(raw.std()),
        "mean_centered_norm": float(centered.mean()),
        "std_centered_norm": float(centered.std()),
        "center_norm": float(np.linalg.norm(moments.mean)),
        "offset_ratio": moments.offset_ratio,
        "center": moments.mean,
    }


def json_ready(value: Any) -> Any:
    """Convert to plain JSON types; NaN and infinity become null."""
    if isinstance(value, dict):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(v) for v in value]
    if isinstance(value, np.ndarray):
        return json_ready(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _shells(shells: Shells) -> dict[str, Any]:
    sphere = shells.sphere
    radial = asdict(shells.radial)
    return {
        "raw": _norms(shells.raw),
        "centered": _norms(shells.centered),
        "center_norm": shells.center_norm,
        "offset_ratio": shells.offset_ratio,
        "offset_ratio_corrected": shells.offset_ratio_corrected,
        "offset_ratio_ci95": shells.offset_ratio_ci95,
        "total_variance": shells.moments.total_variance,
        "radial_terms": radial,
        "sphere": None
        if sphere is None
        else {
            "center_norm": sphere.center_norm,
            "radius": sphere.radius,
            "cv_norm": sphere.cv_norm,
            "std_norm": sphere.std_norm,
            "relative_radius": sphere.relative_radius,
            "samples_per_dim": sphere.samples_per_dim,
        },
    }


def _norms(summary: NormSummary) -> dict[str, Any]:
    return asdict(summary)


def _spectrum(spectrum: Spectrum) -> dict[str, Any]:
    fields = asdict(spectrum)
    fields["eigenvalues"] = spectrum.eigenvalues
    fields["features"] = {"by_variance": fields.pop("by_variance"), "by_center": fields.pop("by_center")}
    return fields


def _conformity(common: Conformity, representation: str, position: str, describe: Describe) -> dict[str, Any]:
    return {
        "representation": representation,
        "position": position,
        "n": common.n,
        "mean": common.mean,
        "std": common.std,
        "slope": common.slope,
        "intercept": common.intercept,
        "pearson": common.pearson,
        "ci95": common.ci95,
        "highest": _extremes(-common.values, common.values, describe),
        "lowest": _extremes(common.values, common.values, describe),
    }


def _extremes(keys: NDArray[np.float64], values: NDArray[np.float64], describe: Describe) -> list[dict[str, Any]]:
    """The `EXTREMES` smallest keys with values and captions; ties in the order of the captions."""
    order = np.argsort(keys, kind="stable")[:EXTREMES]
    return [{**caption, "value": float(values[i])} for caption, i in zip(describe(order), order, strict=True)]


def _notes(shells: Shells, common: Conformity | None) -> list[str]:
    notes = []
    if shells.constant:
        notes.append("the vectors are all but constant (as at BOS): variances and ratios are rounding noise")
    elif shells.discrete and shells.n_distinct < shells.n:
        notes.append(
            f"only {shells.n_distinct} distinct vectors, as many as {shells.effective_distinct:.2g} equally common ones: no "
            "verdict on their shape"
        )
    if shells.n <= shells.dim:
        notes.append(f"fewer samples ({shells.n}) than dimensions ({shells.dim}): the covariance is singular")
    if common is None:
        notes.append("a zero vector or a zero mean has no direction: no conformity")
    if shells.sphere is not None and shells.sphere.relative_radius > 3:
        notes.append("the best sphere is nearly a plane (see relative_radius): its small CV says nothing about a shell")
    return notes


def _thin(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(values) <= DRAWN:
        return values
    return values[np.linspace(0, len(values) - 1, DRAWN).astype(np.int64)]
