"""reports/inversion-distance from its raw results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.common.citations import tell
from analysis.common.template import fill_in
from analysis.common.wording import chosen, listed
from analysis.inversion_distance.facts import FITS, PREDICTED, PREDICTORS, facts, table_of
from clipgeom.geometry.estimate import Estimate

__all__ = ["write"]

NAMES = {
    "adamw-0.0001": "AdamW, 0.0001",
    "adamw-0.001": "AdamW, 0.001",
    "adamw-0.003": "AdamW, 0.003",
    "adamw-0.01": "AdamW, 0.01",
    "adamw-0.03": "AdamW, 0.03",
    "adamw-0.1": "AdamW, 0.1",
    "fixed-0.001": "fixed norm, 0.001",
    "fixed-0.01": "fixed norm, 0.01",
    "decay-0.01": "norm decay, 0.01",
    "sgd-0.3": "plain descent, 0.3",
}

PLAIN = [way for way in NAMES if way.startswith("adamw")]  # without control of the norm

_LABELS = {
    "distance": "distance moved in the token space, ‖e − e₀‖₂",
    "eos.distance": "distance of the state at EOS from the class word's",
    "gain": "fall of the held-out loss",
    "control_kept": "the prompt's control, of the class word's",
}


def write(out: Path, *, fits: int = FITS) -> None:
    """Write report.md and figures/ from the files in ``out/raw``."""
    table, found = table_of(out / "raw"), facts(out / "raw", fits=fits)
    (out / "figures").mkdir(exist_ok=True)
    _draw(table, out / "figures" / "distance.png")
    (out / "report.md").write_text(_text(found), encoding="utf-8")


def _draw(table: pd.DataFrame, path: Path) -> None:
    figure, axes = plt.subplots(2, 2, figsize=(10.5, 7.6), constrained_layout=True)
    moved = table[table["step"] > 0]
    for axis, x, y in (
        (axes[0, 0], "distance", "gain"),
        (axes[0, 1], "distance", "control_kept"),
        (axes[1, 0], "eos.distance", "gain"),
    ):
        _lines(axis, moved, x, y)
        axis.set(xscale="log", xlabel=_LABELS[x], ylabel=_LABELS[y])
    axes[0, 0].legend(fontsize=7, ncols=2, loc="upper left")
    for (way, rate), rows in moved.groupby(["way", "inversion.learning_rate"]):
        means = rows.assign(ratio=rows["distance"] / (rows["step"] * rate)).groupby("step")["ratio"].mean()
        axes[1, 1].plot(means.index, means, marker="o", markersize=3, color=_color(way))
    axes[1, 1].set(xscale="log", yscale="log", xlabel="steps", ylabel="distance / (steps × rate)")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _lines(axis: Axes, table: pd.DataFrame, x: str, y: str) -> None:
    """A point is a vector at a step; lines join the means over pairs."""
    for way, name in NAMES.items():
        rows = table[table["way"] == way]
        style = "-" if way.startswith("adamw") else ":"
        axis.scatter(rows[x], rows[y], s=6, color=_color(way), alpha=0.35, linewidth=0)
        means = rows.groupby("step")[[x, y]].mean()
        axis.plot(means[x], means[y], style, marker="o", markersize=3, color=_color(way), label=name)


def _color(way: str) -> tuple[float, ...]:
    names = list(NAMES)
    if way in PLAIN:
        return tuple(plt.get_cmap("viridis")(PLAIN.index(way) / (len(PLAIN) - 1)))
    return tuple(plt.get_cmap("Set1")(names.index(way) - len(PLAIN)))


def _text(found: Mapping[str, Estimate]) -> str:
    t = partial(tell, found)
    gain = {way: found[f"{way}.gain"].value for way in PLAIN}
    safe = [way for way in PLAIN if found[f"{way}.free_kept"].above(found["rule.kept"].value)]
    control = {way: found[f"{way}.control_lost"] for way in PLAIN}
    moved = {
        "it falls": [way for way, fact in control.items() if fact.below(0)],
        "it rises": [way for way, fact in control.items() if fact.above(0)],
    }
    return fill_in(
        "inversion_distance",
        t=t,
        found=found,
        names=NAMES,
        plain=PLAIN,
        best=max(PLAIN, key=gain.__getitem__),
        safe=max(safe, key=gain.__getitem__, default=None),
        lost=found["control_kept.distance.after"].below(0),
        bends=lambda name: np.isfinite(found[name].value),
        moved_control=[(verb, ways) for verb, ways in moved.items() if ways],
        predictors={y: _compared(found, y) for y in ("control_kept", "gain")},
        chosen=chosen,
        ways=_rows(t),
        fits=_fit_rows(t),
    )


def _compared(found: Mapping[str, Estimate], y: str) -> dict[str, str]:
    """Predictors of `y` that are surely better or worse than the distance in the token space."""
    minus = {x: found[f"{y}.{x}.minus"] for x in PREDICTORS if x != "distance"}
    largest = max(minus, key=lambda x: minus[x].value)
    return {
        "stronger": listed(PREDICTORS[x] for x, fact in minus.items() if fact.above(0)),
        "weaker": listed(PREDICTORS[x] for x, fact in minus.items() if fact.below(0)),
        "largest": largest,
        "largest_name": PREDICTORS[largest],
    }


def _rows(t: Callable[..., str]) -> str:
    return "\n".join(
        f"| {name} | {t(f'{way}.distance')} | {t(f'{way}.ratio', '.3f')} | {t(f'{way}.gain', '.3f')} | {t(f'{way}.appearance')} | "
        f"{t(f'{way}.edit', '.3f')} | {t(f'{way}.control_kept', '.3f')} | {t(f'{way}.free_kept')} | {t(f'{way}.word.angle', '.0f')} | {t(f'{way}.word.on_shell')} |"
        for way, name in NAMES.items()
    )


def _fit_rows(t: Callable[..., str]) -> str:
    return "\n".join(
        f"| {_LABELS[y]} | {name} | {t(f'{y}.{x}.rank')} | {'' if x == 'distance' else t(f'{y}.{x}.minus', '+.2f')} | "
        f"{t(f'{y}.{x}.boundary', '.3g')} | {t(f'{y}.{x}.before', '.3f')} | {t(f'{y}.{x}.after', '.3f')} |"
        for y in PREDICTED
        for x, name in PREDICTORS.items()
    )
