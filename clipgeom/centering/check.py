"""The centering check: whether interpolated embeddings are distributed like real embeddings of the encoder.

Two judges rate each mode of interpolation, on captions that they were not fitted to. A centred mode is validated if
both prefer it to SLERP with 95 % confidence, and the second judge detects SLERP's points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgeom._repr import short_repr
from clipgeom._threads import run_in_threads, single_threaded_blas
from clipgeom.centering.design import PairedRates, halves, paired_replicates
from clipgeom.centering.judging import CENTERED_MODES, MODES, TIMES, Judged
from clipgeom.centering.shells import TOLERANCE
from clipgeom.geometry.bootstrap import Codes, Interval, bootstrap_means, interval
from clipgeom.geometry.groups import group_codes
from clipgeom.geometry.norms import Shells, measure_shells
from clipgeom.geometry.vectors import Vectors, as_vectors

__all__ = ["MIN_VECTORS", "CenteringCheck", "Estimate", "Preference", "check_centering"]

Array = NDArray[np.float64]

# Fewer distinct vectors, or groups of them, leave less than 15 independent real points for the second judge.
MIN_VECTORS = 90
# Larger sets are thinned: the intervals are narrow enough.
MAX_VECTORS = 10_000
# Maximal share of one group in all vectors: a larger one would fill most of a third of a half.
LARGEST_GROUP = 0.1


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    ci95: Interval


@dataclass(frozen=True, slots=True)
class Preference:
    """Advantage of one mode over another, by each judge; positive is better.

    `on_shell` is the difference of on-shell rates; `auc` is how much nearer to ½ the classifier's AUC is, one below ½
    counting as ½.
    """

    on_shell: Estimate
    auc: Estimate

    @property
    def certain(self) -> bool:
        """Whether both judges prefer the mode with 95 % confidence."""
        return self.on_shell.ci95[0] > 0 and self.auc.ci95[0] > 0


@short_repr
@dataclass(frozen=True, slots=True, eq=False)
class CenteringCheck:
    """Outcome of the check for one set of vectors.

    Attributes
    ----------
    n, n_distinct, n_judged : int
        Vectors given, distinct ones among them, and those that took part (at most `MAX_VECTORS`).
    n_groups : int
        Groups of the vectors given, `n` where each is independent.
    dim : int
    shells : Shells
        Norms, offset and radial terms of all vectors given.
    decided : bool
        False with too few vectors or without variation: then nothing is validated, and `reason` gives the cause.
    reason : str
    on_shell : dict
        Rate on all three shells for ``real`` (the ceiling) and each mode, over t = ¼, ½, ¾ and random pairs.
    by_time : dict
        The same rates for each t.
    neighbors : dict
        The same rates for pairs of nearest neighbours.
    by_shell : dict
        For each mode the rate on each shell alone: raw, centered, whitened.
    auc : dict
        The classifier's AUC for ``real`` (other real points: must be near ½) and each mode.
    minus_slerp : dict
        Preference over SLERP of each other mode.
    displaced, variance_along, radius : dict
        For each mode: the shift of the mean along the centre's axis, in standard deviations along it; the variance
        along that axis, relative to the real one; the median of each of the three radii, relative to the real mean.
    validated : dict
        For each centred mode.
    recommended : str
        A validated mode, or ``slerp``.
    radii : dict
        For drawing: radii at t = ½ as shares of the real means, shape (k, 3), for ``real`` and each mode.
    bounds : ndarray, shape (3, 2)
        The shells in the same units.
    """

    n: int
    n_distinct: int
    n_judged: int
    n_groups: int
    dim: int
    seed: int
    tolerance: float
    shells: Shells
    decided: bool
    reason: str
    on_shell: dict[str, Estimate]
    by_time: dict[str, dict[str, float]]
    neighbors: dict[str, Estimate]
    by_shell: dict[str, dict[str, float]]
    auc: dict[str, Estimate]
    minus_slerp: dict[str, Preference]
    displaced: dict[str, float]
    variance_along: dict[str, float]
    radius: dict[str, dict[str, float]]
    validated: dict[str, bool]
    recommended: str
    radii: dict[str, Array]
    bounds: Array


def check_centering(
    vectors: Vectors | NDArray[Any],
    /,
    *,
    groups: Sequence[Any] | NDArray[Any] | None = None,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    shells: Shells | None = None,
) -> CenteringCheck:
    """Run the centering check on embeddings of one representation at one position.

    Parameters
    ----------
    vectors : ndarray, shape (n, d), or Vectors
        One embedding a caption. Repeated vectors count once, since a repetition would stand on both sides of the split.
    groups : sequence of length n, optional
        An id for each vector, such as that of the caption's image. Vectors with the same id lie on one side of the
        split, are not paired with each other, and are resampled together.
    seed : int
        Of the split, of the thinning and of every interval; the same vectors and seed give the same outcome.
    tolerance : float
        Half-width that a shell has at least, as a share of its mean radius.
    shells : Shells, optional
        The result of `measure_shells` for these vectors and groups, if it is known already.

    Raises
    ------
    ShapeError
        `groups` has another length.
    DomainError
        NaN or infinity, fewer than three vectors, or a single group.

    Notes
    -----
    Each half is once fitted on (centre, Ledoit–Wolf covariance, classifier) and once judged. See `FittedShells` and
    `Classifier` for the judges, `PairedRates` for the intervals.
    """
    source = as_vectors(vectors)
    codes = group_codes(groups, source.n)
    known = measure_shells(source, groups=codes, seed=seed) if shells is None else shells
    rng = np.random.default_rng(seed)
    x, chosen, n_distinct = _distinct(source, rng)
    if codes is not None:
        codes = codes[chosen]
    reason = _undecidable(known, n_distinct, codes)
    if reason:
        return _undecided(known, n_distinct, seed, tolerance, reason)
    folds = halves(len(x), rng, codes)
    with single_threaded_blas():
        parts = run_in_threads([partial(Judged.of, x, fold, tolerance, codes) for fold in folds])
    return _verdict(known, n_distinct, len(x), seed, tolerance, parts)


def _undecidable(shells: Shells, n_distinct: int, codes: Codes) -> str:
    """Return the reason why no verdict is possible, or an empty text; `codes` are the groups of the distinct vectors."""
    if shells.constant:
        return "the vectors are all but constant, so that no direction is left to interpolate in"
    if n_distinct < MIN_VECTORS:
        return f"{n_distinct} distinct vectors are too few for a verdict: at least {MIN_VECTORS} are needed"
    if codes is None:
        return ""
    sizes = np.unique(codes, return_counts=True)[1]
    if len(sizes) < MIN_VECTORS:
        return (
            f"{n_distinct} distinct vectors of {len(sizes)} groups (images) are too few for a verdict: at least "
            f"{MIN_VECTORS} groups are needed"
        )
    if sizes.max() > LARGEST_GROUP * len(codes):
        return (
            f"{sizes.max()} of {len(codes)} distinct vectors are of one group (image), more than "
            f"{100 * LARGEST_GROUP:.0f} %, so that no split leaves independent vectors on either side"
        )
    return ""


def _distinct(source: Vectors, rng: np.random.Generator) -> tuple[Array, NDArray[np.int64], int]:
    """Distinct vectors in order, thinned at random to `MAX_VECTORS`; their rows; and the number before thinning."""
    seen: dict[bytes, int] = {}
    position = 0
    for block in source.blocks():
        for row in block:
            seen.setdefault(blake2b((row + 0.0).tobytes(), digest_size=16).digest(), position)  # −0 counts as 0
            position += 1
    kept = np.fromiter(seen.values(), dtype=np.int64)
    chosen = np.sort(rng.choice(kept, MAX_VECTORS, replace=False)) if len(kept) > MAX_VECTORS else kept
    rows, position = [], 0
    for block in source.blocks():
        inside = chosen[(chosen >= position) & (chosen < position + len(block))] - position
        rows.append(block[inside])
        position += len(block)
    return np.concatenate(rows), chosen, len(kept)


@dataclass(frozen=True, slots=True, eq=False)
class _Aucs:
    """AUC of the control and of each mode, with paired replicates over captions, or groups of them."""

    values: Array
    replicates: Array

    @classmethod
    def of(cls, parts: Sequence[Judged], seed: int, codes: Codes) -> _Aucs:
        values = np.mean([part.made_placed.mean(axis=0) for part in parts], axis=0)
        # deviations from each half's own AUC: the halves' classifiers differ
        real = np.concatenate([part.real_placed - part.real_placed.mean(axis=0) for part in parts])
        made = np.concatenate([part.made_placed - part.made_placed.mean(axis=0) for part in parts])
        if codes is None:
            return cls(values, values + bootstrap_means(real, seed=seed) + bootstrap_means(made, seed=seed + 1))
        starts = np.cumsum([0, *(len(part.ceiling) for part in parts)])
        shifted = list(zip(parts, starts, strict=False))
        rows = np.concatenate([part.real_rows + start for part, start in shifted])
        pairs = np.concatenate([part.made_pairs + start for part, start in shifted])
        moved = bootstrap_means(real, seed=seed, codes=_renumbered(codes[rows]))
        return cls(values, values + moved + paired_replicates(made, codes[pairs], seed=seed + 1))

    def estimate(self, column: int) -> Estimate:
        low, high = interval(self.replicates[:, column])
        return Estimate(float(self.values[column]), (max(0.0, low), min(1.0, high)))


def _renumbered(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Renumber groups without gaps, if some of them do not take part."""
    numbers: NDArray[np.int64] = np.unique(codes, return_inverse=True)[1]
    return numbers


def _verdict(
    shells: Shells, n_distinct: int, n_judged: int, seed: int, tolerance: float, parts: Sequence[Judged]
) -> CenteringCheck:
    offsets = np.cumsum([0, *(len(part.ceiling) for part in parts)])
    shifted = list(zip(parts, offsets, strict=False))
    pairs = np.concatenate([part.pairs + start for part, start in shifted])
    near = np.concatenate([part.near_pairs + start for part, start in shifted])
    by_time = np.concatenate([part.on_shell for part in parts])
    given = [part.codes for part in parts if part.codes is not None]
    codes = _renumbered(np.concatenate(given)) if given else None
    rates = PairedRates.of(by_time.mean(axis=1), pairs, seed=seed, codes=codes)
    near_rates = PairedRates.of(np.concatenate([part.near_on_shell for part in parts]), near, seed=seed, codes=codes)
    ceiling = np.concatenate([part.ceiling for part in parts]).astype(np.float64)
    ceilings = bootstrap_means(ceiling[:, None], seed=seed, codes=codes)[:, 0]
    aucs = _Aucs.of(parts, seed, codes)

    column = {mode: m for m, mode in enumerate(MODES)}
    on_shell = {
        "real": Estimate(float(ceiling.mean()), interval(ceilings)),
        **{mode: Estimate(float(rates.rates[m]), rates.interval(m)) for mode, m in column.items()},
    }
    auc = {mode: aucs.estimate(m) for m, mode in enumerate(("real", *MODES))}
    difference = _Differences(rates, aucs)
    minus_slerp = {mode: difference.of(m, column["slerp"]) for mode, m in column.items() if mode != "slerp"}
    # A classifier that does not detect SLERP's points gives no preference: two AUCs at ½ differ by chance alone, and
    # significantly in one case of forty.
    found = auc["slerp"].ci95[0] > 0.5
    validated = {mode: found and minus_slerp[mode].certain for mode in CENTERED_MODES}
    return CenteringCheck(
        n=shells.n,
        n_distinct=n_distinct,
        n_judged=n_judged,
        n_groups=shells.n_groups,
        dim=shells.dim,
        seed=seed,
        tolerance=tolerance,
        shells=shells,
        decided=True,
        reason="",
        on_shell=on_shell,
        by_time={
            mode: {str(t): float(by_time[:, k, m].mean()) for k, t in enumerate(TIMES)} for mode, m in column.items()
        },
        neighbors={mode: Estimate(float(near_rates.rates[m]), near_rates.interval(m)) for mode, m in column.items()},
        by_shell={
            mode: dict(
                zip(
                    ("raw", "centered", "whitened"),
                    np.mean([p.by_shell[m] for p in parts], axis=0).tolist(),
                    strict=True,
                )
            )
            for mode, m in column.items()
        },
        auc=auc,
        minus_slerp=minus_slerp,
        displaced={mode: float(np.mean([p.moved[m] for p in parts])) for mode, m in column.items()},
        variance_along={mode: float(np.mean([p.variance[m] for p in parts])) for mode, m in column.items()},
        radius={
            mode: dict(
                zip(
                    ("raw", "centered", "whitened"), np.mean([p.radius[m] for p in parts], axis=0).tolist(), strict=True
                )
            )
            for mode, m in column.items()
        },
        validated=validated,
        recommended=_recommended(validated, difference, column),
        radii=parts[0].drawn,
        bounds=parts[0].bounds,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Differences:
    """Paired differences between modes, by both judges."""

    rates: PairedRates
    aucs: _Aucs

    def of(self, mode: int, other: int) -> Preference:
        """Advantage of `mode` over `other` (columns of MODES)."""
        moved = self.rates.replicates[:, mode] - self.rates.replicates[:, other]
        # a detector below ½ has found nothing; the first column is the control
        detected = np.maximum(self.aucs.replicates, 0.5)
        hidden = detected[:, other + 1] - detected[:, mode + 1]
        values = np.maximum(self.aucs.values, 0.5)
        return Preference(
            Estimate(float(self.rates.rates[mode] - self.rates.rates[other]), interval(moved)),
            Estimate(float(values[other + 1] - values[mode + 1]), interval(hidden)),
        )


def _recommended(validated: dict[str, bool], difference: _Differences, column: dict[str, int]) -> str:
    """The simplest validated mode, unless a later one is significantly better by one judge and not worse by the other."""
    best: str | None = None
    for mode in CENTERED_MODES:
        if not validated[mode]:
            continue
        if best is None:
            best = mode
            continue
        over = difference.of(column[mode], column[best])
        judges = (over.on_shell, over.auc)
        if any(j.ci95[0] > 0 for j in judges) and not any(j.ci95[1] < 0 for j in judges):
            best = mode
    return best or "slerp"


def _undecided(shells: Shells, n_distinct: int, seed: int, tolerance: float, reason: str) -> CenteringCheck:
    return CenteringCheck(
        n=shells.n,
        n_distinct=n_distinct,
        n_judged=0,
        n_groups=shells.n_groups,
        dim=shells.dim,
        seed=seed,
        tolerance=tolerance,
        shells=shells,
        decided=False,
        reason=reason,
        on_shell={},
        by_time={},
        neighbors={},
        by_shell={},
        auc={},
        minus_slerp={},
        displaced={},
        variance_along={},
        radius={},
        validated=dict.fromkeys(CENTERED_MODES, False),
        recommended="slerp",
        radii={},
        bounds=np.empty((0, 2)),
    )
