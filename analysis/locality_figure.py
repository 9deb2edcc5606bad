"""The figure of the study of the locality regulariser: appearance against leakage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns

from analysis.locality_facts import BOUNDS, FAMILIES, MAIN_BOUND, families_of
from analysis.telling import Facts

__all__ = ["draw"]

_LABELS = {
    "none": "no regulariser",
    "recommended": "certificate's choice",
    "regularised": "other regularised",
    "fewer": "fewer steps",
    "prior": "prior preservation",
    "rank": "lower rank",
}
_MARKERS = {"none": "o", "recommended": "s", "regularised": "D", "fewer": ".", "prior": "P", "rank": "X"}


def draw(found: Facts, settings: list[str], path: Path) -> None:
    """Left every setting, right each family at its best on the pairs that took no part in the choice."""
    colours = dict(zip(FAMILIES, sns.color_palette("colorblind", len(FAMILIES)), strict=True))
    with sns.axes_style("whitegrid"):
        figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5.2), constrained_layout=True)
    _settings(left, found, settings, colours)
    _bests(right, found, colours)
    for axis in (left, right):
        axis.set(xlabel="leakage (place, background, facing, style)", ylabel="appearance")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _settings(axis: Any, found: Facts, settings: list[str], colours: dict[str, Any]) -> None:
    for family in ("fewer", "none", "recommended", "regularised", "prior", "rank"):
        # the certificate's choice is a regulariser too, and drawn once
        names = [
            n
            for n in settings
            if family in families_of(n) and (family == "recommended" or "recommended" not in families_of(n))
        ]
        if not names:
            continue
        x, y = ([found[f"{name}.{what}"].value for name in names] for what in ("leakage", "appearance"))
        line = "-" if family in ("none", "recommended") else "none"
        axis.plot(
            x, y, ls=line, marker=_MARKERS[family], color=colours[family], label=_LABELS[family], lw=1.5, zorder=3
        )
        for name, a, b in zip(names, x, y, strict=True):
            if family == "fewer":
                continue
            told = name.split("-", 1)[1] if family in ("none", "recommended") else name.removesuffix("-0.0015")
            told = told.replace("auto-0.0015-", "")
            axis.annotate(told, (a, b), xytext=(4, 4), textcoords="offset points", fontsize=7)
            if family in ("none", "recommended"):
                _cross(axis, found[f"{name}.leakage"], found[f"{name}.appearance"], colours[family])
    for last in (name for name in settings if families_of(name) == {"none"}):
        steps = [name for name in settings if name.startswith(f"{last}@")] + [last]
        x, y = ([found[f"{name}.{what}"].value for name in steps] for what in ("leakage", "appearance"))
        axis.plot(x, y, "-", lw=0.6, color=colours["fewer"], zorder=2)
    axis.legend(fontsize=8, loc="lower right")
    axis.set_title("every setting (means over pairs)\n(thin lines: steps of a run without regulariser)")


def _bests(axis: Any, found: Facts, colours: dict[str, Any]) -> None:
    for family in FAMILIES:
        if f"best.{family}.{MAIN_BOUND:g}.appearance" not in found:
            continue
        x, y = (
            [found[f"best.{family}.{bound:g}.{what}"].value for bound in BOUNDS] for what in ("leakage", "appearance")
        )
        axis.plot(x, y, "-", lw=0.8, marker=".", ms=4, color=colours[family])
        looks, leaks = (found[f"best.{family}.{MAIN_BOUND:g}.{what}"] for what in ("appearance", "leakage"))
        seconds = found[f"best.{family}.{MAIN_BOUND:g}.seconds"].value
        label = _LABELS[family].replace("other regularised", "any regulariser")
        axis.plot(
            leaks.value, looks.value, _MARKERS[family], ms=9, color=colours[family], label=f"{label}, {seconds:.0f} s"
        )
        _cross(axis, leaks, looks, colours[family])
    axis.axvline(MAIN_BOUND, color="0.4", lw=0.8, ls=":")
    axis.legend(fontsize=8, loc="lower right")
    axis.set_title("each family at its best, on the left-out pair\n(dotted: the bound; small dots: other bounds)")


def _cross(axis: Any, x: Any, y: Any, colour: Any) -> None:
    axis.errorbar(
        x.value, y.value, xerr=[[x.value - x.low], [x.high - x.value]], yerr=[[y.value - y.low], [y.high - y.value]],
        color=colour, elinewidth=0.7, alpha=0.6, zorder=1,
    )  # fmt: skip
