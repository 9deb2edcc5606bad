"""Figures of the centering check: the three shells of real points, and each mode's interpolated points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import NDArray

from clipgeom.centering import MODES, CenteringCheck
from clipgeom.report.measure.rows import RowArrays
from clipgeom.report.render.figures.svg import (
    CENTERED,
    DOTS,
    GRID,
    INK,
    MUTED,
    RAW,
    Picture,
    board,
    file_name,
    finish,
    ticks,
    unique,
)

__all__ = ["centering"]

_TITLES = ("Norm ‖x‖", "Distance to the centre ‖x − m‖", "Mahalanobis distance")
_WIDTH, _HEIGHT = 7.6, 2.5  # inches
_REACH = 0.45  # relative radii further from 1 are drawn at the edge


def centering(rows: Sequence[RowArrays]) -> list[Picture]:
    """Draw a figure for each row whose check has a verdict, in the order of the rows."""
    checked = [(row, row.check) for row in rows if row.check is not None and row.check.decided]
    names = unique([file_name("centering", row.representation, row.position) for row, _ in checked])
    return [
        _three_shells(check, name=name, row=f"{row.representation} at {row.position}")
        for name, (row, check) in zip(names, checked, strict=True)
    ]


def _three_shells(check: CenteringCheck, *, name: str, row: str) -> Picture:
    figure = board(_WIDTH, _HEIGHT)
    axes = figure.subplots(1, 3, sharey=True)
    lines = ("real", *MODES)
    for shell, axis in enumerate(axes):
        _strip(axis, check, lines, shell)
        axis.set_title(_TITLES[shell])
        axis.set_xlabel("share of the real mean")
    axes[0].set_yticks(range(len(lines)), ["real", *(mode for mode in MODES)])
    axes[0].set_ylim(len(lines) - 0.5, -0.5)
    rates = ", ".join(f"{mode} {100 * check.on_shell[mode].value:.0f} %" for mode in lines)
    return finish(
        figure,
        name=name,
        alt=f"Radii of real and interpolated points of {row} on three shells. On all three: {rates}.",
        caption="Points at t = ½ between random pairs of held-out captions. Shaded: the shell, where 95 % of real points "
        "lie, at least ±1 % thick. Orange: off that shell; at the edge: beyond it. Bar: median.",
    )


def _strip(axis: Axes, check: CenteringCheck, lines: Sequence[str], shell: int) -> None:
    low, high = (float(bound) for bound in check.bounds[shell])
    axis.axvspan(low, high, color=GRID, alpha=0.55, linewidth=0)
    axis.axvline(1.0, color=MUTED, linewidth=0.6)
    limits = _limits(check, shell)
    rng = np.random.default_rng(0)  # jitter for visibility only
    for line, mode in enumerate(lines):
        values = np.clip(check.radii[mode][:, shell], *limits)
        height = line + rng.uniform(-0.28, 0.28, len(values))
        inside = (values >= low) & (values <= high)
        for chosen, colour in ((inside, DOTS), (~inside, RAW)):
            axis.plot(
                values[chosen],
                height[chosen],
                ".",
                color=colour,
                markersize=2.2,
                alpha=0.55,
                rasterized=True,
                markeredgewidth=0,
            )
        median = float(np.median(values))
        axis.plot(
            [median, median], [line - 0.36, line + 0.36], color=INK if mode == "real" else CENTERED, linewidth=1.6
        )
    axis.set_xlim(*limits)
    axis.xaxis.set_major_locator(ticks(4))
    axis.tick_params(axis="y", length=0)
    sns.despine(ax=axis, left=True)


def _limits(check: CenteringCheck, shell: int) -> tuple[float, float]:
    """Axis limits that show the shell and nearly all points but LERP's, which lie far inside."""
    values: NDArray[np.float64] = np.concatenate(
        [radii[:, shell] for mode, radii in check.radii.items() if mode != "lerp"]
    )
    low, high = np.quantile(values, [0.01, 0.99])
    low, high = min(low, check.bounds[shell, 0]), max(high, check.bounds[shell, 1])
    margin = 0.12 * (high - low)
    return max(1 - _REACH, float(low - margin)), min(1 + _REACH, float(high + margin))
