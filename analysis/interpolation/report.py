"""reports/interpolation from its raw results. What a sentence says is chosen by the facts that it tells."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from analysis.common.citations import Facts, tell
from analysis.common.template import fill_in
from analysis.common.wording import chosen, listed, sorted_by_direction
from analysis.interpolation.facts import JUDGES, TIMES, facts
from clipgeom.geometry.estimate import Estimate

__all__ = ["text", "write"]

MODES = ("lerp", "slerp", "vslerp", "vslerp_norm", "aslerp", "auto")
NAMES = {
    "lerp": "lerp",
    "slerp": "slerp",
    "vslerp": "vslerp",
    "vslerp_norm": "vslerp with the norm restored",
    "aslerp": "aslerp",
    "auto": "the certificate's choice",
}
_WRITTEN = {0.25: "¼", 0.5: "½", 0.75: "¾"}
_REAL = {"confidence": "real.confidence", "kept": "real.kept", "deceived": "control.auc"}
_PANELS = {
    "confidence": "the readers' confidence",
    "kept": "shared place, background, style kept",
    "auc": "AUC, interpolated against real",
}


def write(out: Path) -> None:
    """Write report.md and figures/ from the files in ``raw``."""
    found = facts(out / "raw")
    figures = out / "figures"
    figures.mkdir(exist_ok=True)
    _figure(found, figures / "judges.png")
    (out / "report.md").write_text(text(found), encoding="utf-8")


def _present(found: Facts) -> list[str]:
    return [mode for mode in MODES if f"{mode}.auc" in found]


def text(found: Facts) -> str:
    """The report."""
    modes = _present(found)
    return fill_in(
        "interpolation",
        t=partial(tell, found),
        answer=_answer(found, modes),
        findings=_findings(found, modes),
        table=_table(found, modes),
        by_time=_by_time(found, modes),
        points=len([mode for mode in modes if mode != "auto"]) * len(TIMES),
    )


def _answer(found: Facts, modes: list[str]) -> str:
    def t(name: str) -> str:
        return tell(found, name)

    told = sorted_by_direction(found, modes, lambda mode: f"{mode}.minus_control.auc")
    shown = "auto" if "auto" in modes else modes[-1]
    valid = chosen(
        found[f"{shown}.minus_real.confidence"],
        "surer than of real ones",
        "less sure than of real ones",
        "as sure as of real ones, as far as can be seen",
    )
    shared = sorted_by_direction(found, modes, lambda mode: f"{mode}.minus_real.kept")
    lost = (
        f"is surely lost by {listed(NAMES[m] for m in shared['below'])}"
        if shared["below"]
        else "is surely lost by no mode"
    )
    predicts = [
        f"the {'on-shell rate' if p == 'on_shell' else 'AUC'} "
        + chosen(found[f"predict.{p}.deceived"], "goes with", "goes against", "says nothing sure of")
        + f" it (rank correlation {t(f'predict.{p}.deceived')})"
        for p in ("on_shell", "auc")
    ]
    against = [mode for mode in modes if mode != "slerp"]
    ranked = sorted_by_direction(found, against, lambda mode: f"{mode}.minus_slerp.auc")
    harder, easier = (listed(NAMES[m] for m in ranked[side]) for side in ("below", "above"))
    differences = (
        "; ".join(
            f"{NAMES[m]} {tell(found, f'{m}.minus_slerp.auc', '+.3f')}" for m in (*ranked["below"], *ranked["above"])
        )
        or f"the certificate's choice {tell(found, f'{shown}.minus_slerp.auc', '+.3f')}"
    )
    clear = listed(NAMES[m] for m in told["above"]) if told["above"] else "no mode"
    return (
        f"Judged by a classifier, the pictures of {clear} are surely easier to tell from those of real prompts than those of other real prompts are (AUC of slerp "
        f"{t('slerp.auc')}, of {NAMES[shown]} {t(f'{shown}.auc')}, of other real prompts {t('control.auc')}); what both prompts say {lost} "
        f"({t(f'{shown}.minus_real.kept')} for {NAMES[shown]}), and the readers are {valid} (by {tell(found, f'{shown}.minus_real.confidence', '+.3f')}). "
        f"Against slerp, pictures are surely harder to tell from real ones by {harder}, and surely easier by {easier} (differences in AUC: {differences}). "
        f"How far the classifier is deceived is foretold by the check as follows: {'; '.join(predicts)}."
    )


def _findings(found: Facts, modes: list[str]) -> str:
    def t(name: str) -> str:
        return tell(found, name)

    against = [mode for mode in modes if mode != "slerp"]
    told = sorted_by_direction(found, against, lambda mode: f"{mode}.minus_slerp.auc")
    sure = sorted_by_direction(found, against, lambda mode: f"{mode}.minus_slerp.confidence")
    right = chosen(
        found["auto.minus_slerp.auc"] if "auto" in modes else Estimate(0.0),
        "easier to tell from real ones than slerp's",
        "harder to tell from real ones than slerp's",
        "not surely easier or harder to tell from real ones than slerp's",
    )
    lands = ", ".join(f"{t(f'slerp@{x:g}.lands')} at {_WRITTEN[x]}" for x in TIMES)
    paragraphs = [
        f"**The judges.** Of real prompts the readers are sure to {t('real.confidence')}, and see {t('real.kept')} of what was said. "
        f"The classifier tells other real prompts from them with an AUC of {t('control.auc')}, "
        f"{chosen(found['control.auc'], 'more than it should', 'less than it should', 'as it should be', limit=0.5)}. "
        f"Of overlays of two pictures the readers are sure to {t('fade.confidence')} only, and the classifier has an AUC of {t('fade.auc')}.",
        f"**Modes against slerp.** Surely harder to tell from real pictures than slerp's: {listed(NAMES[m] for m in told['below'])}; surely easier: "
        f"{listed(NAMES[m] for m in told['above'])} (differences in AUC: {_each(found, against, 'minus_slerp.auc')}). "
        f"The readers are certainly more sure than with slerp by {listed(NAMES[m] for m in sure['above'])}; certainly less sure by "
        f"{listed(NAMES[m] for m in sure['below'])} (differences: {_each(found, against, 'minus_slerp.confidence')}).",
        f"**The certificate's choice.** Its pictures are {right} (difference in AUC {t('auto.minus_slerp.auc')}; in the readers' "
        f"confidence {t('auto.minus_slerp.confidence')}; in what is kept {t('auto.minus_slerp.kept')})."
        if "auto" in modes
        else "",
        f"**Where between.** The class is one of the two in {lands} of slerp's pictures, "
        f"and in {t('real.lands')} of those of the ends.",
        _predictions(found),
    ]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def _each(found: Facts, modes: list[str], what: str) -> str:
    return "; ".join(f"{NAMES[mode]} {tell(found, f'{mode}.{what}', '+.3f')}" for mode in modes)


def _predictions(found: Facts) -> str:
    names = {
        "confidence": "the readers' confidence",
        "kept": "what is kept",
        "deceived": "how far the classifier is deceived",
    }
    sentences = []
    for predictor, name in (("on_shell", "on-shell rate"), ("auc", "AUC")):
        parts = [
            f"{chosen(found[f'predict.{predictor}.{judge}'], 'rises with', 'falls with', 'says nothing sure of')} {names[judge]} "
            f"({tell(found, f'predict.{predictor}.{judge}')})"
            if np.isfinite(found[f"predict.{predictor}.{judge}"].value)
            else f"cannot be ranked against {names[judge]}, which is the same in all modes ({tell(found, _REAL[judge])} for real prompts)"
            for judge in JUDGES
        ]
        turned = " (turned, so that more is better)" if predictor == "auc" else ""
        sentences.append(f"Over modes and t the check's {name}{turned} {listed(parts)}.")
    return "**What the check foretells, by rank correlation.** " + " ".join(sentences)


def _table(found: Facts, modes: list[str]) -> str:
    rows = [
        f"| real prompts | {tell(found, 'real.confidence', '.3f')} | {tell(found, 'real.kept', '.3f')} | {tell(found, 'real.lands', '.3f')} | | | |",
        f"| other real prompts | {tell(found, 'control.confidence', '.3f')} | {tell(found, 'control.kept', '.3f')} | "
        f"| {tell(found, 'control.auc', '.3f')} | | |",
        f"| overlays of both ends | {tell(found, 'fade.confidence', '.3f')} | {tell(found, 'fade.kept', '.3f')} | "
        f"{tell(found, 'fade.lands', '.3f')} | {tell(found, 'fade.auc', '.3f')} | | |",
    ]
    for mode in modes:
        cells = [tell(found, f"{mode}.{what}", ".3f") for what in ("confidence", "kept", "lands", "auc")]
        cells += [tell(found, f"{mode}.check.{what}", ".3f") for what in ("on_shell", "auc")]
        rows.append(f"| {NAMES[mode]} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _by_time(found: Facts, modes: list[str]) -> str:
    rows = []
    for mode in modes:
        for x in TIMES:
            cells = [tell(found, f"{mode}@{x:g}.{what}", ".3f") for what in ("confidence", "kept", "lands", "auc")]
            rows.append(f"| {NAMES[mode]} | {_WRITTEN[x]} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _figure(found: Facts, path: Path) -> None:
    modes = _present(found)
    colours = dict(zip(MODES, sns.color_palette("colorblind", len(MODES)), strict=True))
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(1, len(_PANELS), figsize=(13, 4.2), constrained_layout=True)
    for axis, (what, title) in zip(axes, _PANELS.items(), strict=True):
        reference = found["control.auc" if what == "auc" else f"real.{what}"]
        axis.axhspan(reference.low, reference.high, color="0.8", zorder=0)
        for number, mode in enumerate(modes):
            points = [found[f"{mode}@{x:g}.{what}"] for x in TIMES]
            x = [time + 0.022 * (number - (len(modes) - 1) / 2) for time in TIMES]
            y = [fact.value for fact in points]
            bars = [[f.value - f.low for f in points], [f.high - f.value for f in points]]
            axis.errorbar(x, y, yerr=bars, fmt="o-", ms=4, lw=0.8, elinewidth=1, color=colours[mode], label=NAMES[mode])
        axis.set(
            title=title, xlabel="t, from one prompt to the other", xticks=TIMES, xticklabels=list(_WRITTEN.values())
        )
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(modes), fontsize=9)
    figure.suptitle(
        "grey: real prompts (for the AUC: other real prompts, judged as if they were made); bars: 95 % intervals",
        fontsize=9,
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)
