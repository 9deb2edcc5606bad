"""reports/finetuning-distance from its raw results."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.finetuning_distance.facts import AXES, DIVERSITIES, SEEN, by_pair, curves, facts_of, table_of
from analysis.finetuning_distance.tables import SHOWN, Found
from analysis.finetuning_distance.text import text
from clipgeom.geometry.bootstrap import resample_groups

__all__ = ["write"]

_COLORS = dict(zip(SEEN, ("tab:blue", "tab:red", "tab:green", "tab:orange", "black"), strict=True))
_UNITS = {"weight": "distance in weights, ‖ΔW‖", "function": "distance in function, mean ‖ε_θ − ε_base‖₂"}
_BANDS = 500


def write(out: Path) -> None:
    """Write report.md and figures/ from the files in ``out/raw``."""
    table = table_of(out / "raw")
    found = facts_of(table)
    (out / "figures").mkdir(exist_ok=True)
    _draw(table, found, out / "figures" / "distance.png")
    (out / "report.md").write_text(text(found), encoding="utf-8")


def _draw(table: pd.DataFrame, found: Found, path: Path) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(13, 7.6), sharey=True, constrained_layout=True)
    for column, (places, name) in enumerate(DIVERSITIES.items()):
        some = by_pair(table[table["places"] == places])
        for row, axis in enumerate(AXES):
            _panel(axes[row, column], some, axis, found, name)
        axes[0, column].set_title(SHOWN[name], fontsize=10)
    for row in range(2):
        axes[row, 0].set_ylabel("share right (appearance); distance from the class word's", fontsize=8)
    axes[0, 0].legend(fontsize=8, loc="upper left")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _panel(axis: Axes, some: dict[tuple[int, str], pd.DataFrame], unit: str, found: Found, name: str) -> None:
    """Curves with bands; at the left edge what they are before any tuning; where position departs, as a vertical line."""
    made = curves(some, unit)
    resampled = np.stack(
        [made.pooled(rows) for rows in resample_groups([character for _, character in some], resamples=_BANDS)]
    )
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    x = 10**made.grid
    for number, (factor, curve) in enumerate(zip(SEEN, made.pooled(), strict=True)):
        axis.plot(x, curve, color=_COLORS[factor], label=factor, linewidth=1.5)
        axis.fill_between(x, low[number], high[number], color=_COLORS[factor], alpha=0.15, linewidth=0)
        axis.plot(x[0] / 2, found[f"{name}.{factor}.start"].value, "o", color=_COLORS[factor], markersize=4)
    departs = found[f"{name}.base.departs.{unit}"]
    if np.isfinite(departs.value):
        axis.axvline(departs.value, color=_COLORS["position"], linestyle="--", linewidth=1)
        axis.axvspan(departs.low, departs.high, color=_COLORS["position"], alpha=0.08, linewidth=0)
    axis.axhline(0, color="grey", linewidth=0.5)
    axis.set(xscale="log", xlabel=_UNITS[unit])
