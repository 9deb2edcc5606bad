"""Both judges of the centering check on one half of the vectors, fitted on the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipgeom.centering.classifier import Classifier, placements
from clipgeom.centering.design import Fold, nearest_pairs, random_pairs, thirds
from clipgeom.centering.shells import FittedShells, Whitening
from clipgeom.geometry.bootstrap import Codes
from clipgeom.interpolation._modes import CENTERED_MODES, MODES, interpolate

__all__ = ["CENTERED_MODES", "MODES", "TIMES", "Judged"]

Array = NDArray[np.float64]

# from the simplest to the least simple: of equal modes, the first is recommended

TIMES = (0.25, 0.5, 0.75)

_DRAWN = 400  # points of each mode in a figure


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Outcome of both judges on one half, fitted on the other. Columns are MODES throughout; indices count the half.

    `codes` are the groups of the judged vectors, `real_rows` the vectors behind `real_placed`, and `made_pairs` the
    parents behind `made_placed`.
    """

    codes: Codes
    ceiling: NDArray[np.bool_]
    pairs: NDArray[np.int64]
    on_shell: Array  # (pairs, times, modes)
    near_pairs: NDArray[np.int64]
    near_on_shell: Array  # (near pairs, modes)
    by_shell: Array  # (modes, 3)
    real_rows: NDArray[np.int64]
    real_placed: Array  # (real, 1 + modes): the first column is the control
    made_pairs: NDArray[np.int64]
    made_placed: Array  # (parents' pairs, 1 + modes)
    moved: Array  # (modes,)
    variance: Array  # (modes,)
    radius: Array  # (modes, 3)
    drawn: dict[str, Array]
    bounds: Array

    @classmethod
    def of(cls, x: Array, fold: Fold, tolerance: float, codes: Codes = None) -> Judged:
        """Fit on one half of the vectors x, shape (n, d), and judge the other; `codes` are all vectors' groups."""
        fitted, judged = x[fold.fitted], x[fold.judged]
        fitted_codes, judged_codes = (None, None) if codes is None else (codes[fold.fitted], codes[fold.judged])
        whitening = Whitening.fit(fitted)
        real = whitening.radii(judged)
        shells = FittedShells.of(real, tolerance=tolerance)

        pairs = random_pairs(len(judged), codes=judged_codes)
        near = nearest_pairs(judged, judged_codes)
        axis = whitening.center / max(float(np.linalg.norm(whitening.center)), np.finfo(float).tiny)
        along = judged @ axis
        on_shell = np.empty((len(pairs), len(TIMES), len(MODES)))
        near_on_shell = np.empty((len(near), len(MODES)))
        by_shell, radius = np.empty((len(MODES), 3)), np.empty((len(MODES), 3))
        moved, variance = np.empty(len(MODES)), np.empty(len(MODES))
        drawn = {"real": real[:_DRAWN] / shells.mean}
        for m, mode in enumerate(MODES):
            alone = np.zeros(3)
            for k, t in enumerate(TIMES):
                # partner by partner, so that memory contains at most one point per vector
                for start in range(0, len(pairs), len(judged)):
                    some = pairs[start : start + len(judged)]
                    points = interpolate(judged[some[:, 0]], judged[some[:, 1]], t, mode=mode, center=whitening.center)
                    radii = whitening.radii(points)
                    held = shells.hold(radii)
                    on_shell[start : start + len(some), k, m] = held.all(axis=1)
                    alone += held.sum(axis=0)
                    if t == 0.5 and start == 0:
                        radius[m] = np.median(radii / shells.mean, axis=0)
                        moved[m] = (points @ axis).mean() - along.mean()
                        variance[m] = (points @ axis).var() / along.var()
                        drawn[mode] = radii[:_DRAWN] / shells.mean
            by_shell[m] = alone / (len(pairs) * len(TIMES))
            held_near = [
                shells.hold(
                    whitening.radii(
                        interpolate(judged[near[:, 0]], judged[near[:, 1]], t, mode=mode, center=whitening.center)
                    )
                ).all(axis=1)
                for t in TIMES
            ]
            near_on_shell[:, m] = np.mean(held_near, axis=0)
        fitted_parts, judged_parts = thirds(len(fitted), fitted_codes), thirds(len(judged), judged_codes)
        real_placed, made_placed = _classified(
            [fitted[part] for part in fitted_parts], [judged[part] for part in judged_parts], whitening
        )
        return cls(
            codes=judged_codes,
            ceiling=np.asarray(shells.hold(real).all(axis=1)),
            pairs=pairs,
            on_shell=on_shell,
            near_pairs=near,
            near_on_shell=near_on_shell,
            by_shell=by_shell,
            real_rows=judged_parts[0],
            real_placed=real_placed,
            made_pairs=np.stack(judged_parts[1:], axis=1),
            made_placed=made_placed,
            moved=moved / along.std(),
            variance=variance,
            radius=radius,
            drawn=drawn,
            bounds=np.stack([shells.low / shells.mean, shells.high / shells.mean], axis=1),
        )


def _classified(fitted: list[Array], judged: list[Array], whitening: Whitening) -> tuple[Array, Array]:
    """Placements of real and made points of the judged half, by classifiers trained on the fitted half.

    In each half, one third are real points and two thirds are parents, each used once. In training each pair gives
    one point, with t cycling. In judging it gives one for each t, and their placements are averaged. The control's
    made points are real.
    """
    real, first, second = fitted
    real_out, first_out, second_out = judged
    times = np.resize(TIMES, len(first))
    real_placed, made_placed = [], []
    for mode in ("real", *MODES):
        if mode == "real":
            made, out = first, [first_out]
        else:
            made = np.empty_like(first)
            for t in TIMES:
                mine = times == t
                made[mine] = interpolate(first[mine], second[mine], t, mode=mode, center=whitening.center)
            out = [interpolate(first_out, second_out, t, mode=mode, center=whitening.center) for t in TIMES]
        classifier = Classifier.fit(whitening, real, made)
        scores = classifier.scores(real_out)
        placed = [placements(scores, classifier.scores(points)) for points in out]
        real_placed.append(np.mean([above for above, _ in placed], axis=0))
        made_placed.append(np.mean([below for _, below in placed], axis=0))
    return np.stack(real_placed, axis=1), np.stack(made_placed, axis=1)
