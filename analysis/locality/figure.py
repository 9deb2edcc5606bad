"""The figure of the study of the locality regulariser: appearance against leakage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns

from analysis.common.citations import Facts
from analysis.locality.facts import BOUNDS, CLASS, FAMILIES, MAIN_BOUND, families_of

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
    """Every setting by what the new word leaks, and by how far the class word has moved; each family at its best."""
    colours = dict(zip(FAMILIES, sns.color_palette("colorblind", len(FAMILIES)), strict=True))
    with sns.axes_style("whitegrid"):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(18, 5.2), constrained_layout=True)
    _settings(left, found, settings, colours)
    last = [name for name in settings if "@" not in name]
    _families(middle, found, last, colours, CLASS)
    middle.set_title("every setting by what becomes of the class word")
    _bests(right, found, colours)
    leakage = "leakage (place, background, facing, style)"
    for axis, across in ((left, leakage), (middle, "how far the class word's own pictures move"), (right, leakage)):
        axis.set(xlabel=across, ylabel="appearance")
        axis.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _settings(axis: Any, found: Facts, settings: list[str], colours: dict[str, Any]) -> None:
    _families(axis, found, settings, colours, "leakage")
    for last in (name for name in settings if families_of(name) == {"none"}):
        steps = [name for name in settings if name.startswith(f"{last}@")] + [last]
        x, y = ([found[f"{name}.{what}"].value for name in steps] for what in ("leakage", "appearance"))
        axis.plot(x, y, "-", lw=0.6, color=colours["fewer"], zorder=2)
    axis.set_title("every setting (means over pairs)\n(thin lines: steps of a run without regulariser)")


def _families(axis: Any, found: Facts, settings: list[str], colours: dict[str, Any], across: str) -> None:
    """Points of settings, those of the ladder of rates joined and named by them; the other ways to regularise lie too close for names."""
    for family in ("fewer", "none", "recommended", "regularised", "prior", "rank"):
        # the certificate's choice is a regulariser too, and drawn once
        names = [
            n
            for n in settings
            if family in families_of(n) and (family == "recommended" or "recommended" not in families_of(n))
        ]
        if not names:
            continue
        x, y = ([found[f"{name}.{what}"].value for name in names] for what in (across, "appearance"))
        ladder = family in ("none", "recommended")
        axis.plot(
            x,
            y,
            ls="-" if ladder else "none",
            marker=_MARKERS[family],
            color=colours[family],
            label=_LABELS[family],
            lw=1.5,
            zorder=3,
        )
        for name, a, b in zip(names if ladder else [], x, y, strict=False):
            axis.annotate(
                name.split("-", 1)[1], (a, b), xytext=(4, 4), textcoords="offset points", fontsize=8,
                color=colours[family],
            )  # fmt: skip
            _cross(axis, found[f"{name}.{across}"], found[f"{name}.appearance"], colours[family])


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
    axis.set_title("each family at its best, on the left-out pair\n(dotted: the bound; small dots: other bounds)")


def _cross(axis: Any, x: Any, y: Any, colour: Any) -> None:
    axis.errorbar(
        x.value, y.value, xerr=[[x.value - x.low], [x.high - x.value]], yerr=[[y.value - y.low], [y.high - y.value]],
        color=colour, elinewidth=0.7, alpha=0.6, zorder=1,
    )  # fmt: skip
