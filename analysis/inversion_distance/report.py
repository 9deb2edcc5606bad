"""reports/inversion-distance from its raw results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from analysis.common.citations import tell
from analysis.common.resampling import Fact
from analysis.inversion_distance import sentences
from analysis.inversion_distance.facts import FITS, PREDICTED, PREDICTORS, facts, table_of
from analysis.inversion_distance.sentences import NAMES, PLAIN, Tell

__all__ = ["write"]

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


def _text(found: Mapping[str, Fact]) -> str:
    def t(name: str, form: str = ".2f") -> str:
        return tell(found, name, form)

    best = max(PLAIN, key=lambda way: found[f"{way}.gain"].value)
    return f"""# At what distance should a new word be inverted?

*Rebuild with `python -m analysis inversion-distance --report-only` from the raw results in `raw/`; its numbers are checked by `python -m
analysis.check_numbers`.*

## Question

Textual inversion moves the embedding of a new word away from that of its class word, e₀. How far does it move for a learning rate,
how far does it gain likeness, from where on does it lose what prompts ask for, and how is a learning rate to be chosen?

## Answer

{sentences.moved(found, t)}
{sentences.boundary(found, t, best)}
{sentences.rule(found, t, best)}

## Figure

![reconstruction and editability against the distance moved](figures/distance.png)

*{t("runs", ".0f")} inversions: {t("ways", ".0f")} ways by {t("pairs", ".0f")} pairs of a seed and a character ({t("characters", ".0f")} characters), each measured
at five steps. Points are vectors at a step, lines join means over pairs.*

## Findings

**Distance.** {sentences.early(found, t)} {sentences.path(found, t)}

**Likeness.** {sentences.gain(found, t, best)}

**Editability.** {sentences.edit(found, t)}

**Which space says it.** {sentences.predictor(found, t, "control_kept")} {sentences.predictor(found, t, "gain")} {sentences.shell(found, t)}

**Norm control.** {sentences.norm(found, t, "fixed-0.01", "adamw-0.01")} {sentences.norm(found, t, "decay-0.01", "adamw-0.01")}

## Table

After 1000 steps, means over pairs with 95 % intervals. Ratio: distance / (steps × rate). Gain: share by which the denoising loss on
held-out pictures of the character fell. Appearance: body, headgear and its colour as the readers see them in "a picture of …".
Placed: place, background and style read as the prompt says them. Control: what a wrong caption costs the denoising of
held-out pictures, of what it costs with the class word (arXiv 2303.16203 classifies by this margin). Free: entropy of place, background, facing and style in
"a picture of …", of the class word's, mean of the four. Angle: to the class word's state after the transformer, about the
centre, in degrees. On shell: share of prompts whose state at the word lies on all three shells of real captions' states.

| way | distance | ratio | gain | appearance | placed | control | free | angle | on shell |
|---|---|---|---|---|---|---|---|---|---|
| class word | | | | {t("class.appearance")} | {t("class.edit", ".3f")} | | | | {t("class.word.on_shell")} |
{_rows(t)}

Over AdamW without norm control, means over pairs for each rate and step: rank correlation with each predictor, the difference of its size from that of
L2 in the token space, and the two-segment fit against log10 of the predictor (its bend, slopes per decade before and after it; nan: it does not converge in
half of the resamples):

| what is predicted | by | rank correlation | difference | bend | before | after |
|---|---|---|---|---|---|---|
{_fit_rows(t)}

## Limits

One small world and its networks ({t("hours", ".1f")} core hours of inversion), with noise levels below 800 of 1000 (`loss.max_timestep`) and errors that weigh alike all over a picture (`loss.unmasked_weight = 1`), as by default when the runs were made.
The largest
rate is the best of those tried and the last of them: what lies beyond was not looked at. That far vectors cost nothing may be owed to this encoder, whose
LayerNorms take the size out of what enters them; for another model the command below measures it. Sixteen pictures of each kind a point: a share of one vector is known
to about 0.1 only. Prompts that say place, background and style are easy for this model, which is why the margin of wrong captions and the entropy of what is not said are told as well; both were
added after the pictures had been seen to be right throughout. An entropy from sixteen pictures is low by the same on both sides of its ratio.
The
trainer's default rate stays at 0.002, since after the second stage the rate chosen here is no surely better start ([pivotal-tuning](../pivotal-tuning/report.md#with-other-settings)); from a pivot inverted at 0.1, two runs of it kept
0.96 and 0.43 of the position's entropy (ember and flurry, seeds 13 and 14, raw results not kept), from one at 0.002 it was 0.94 for both characters. Intervals resample characters, then seeds; with three
characters they are rough. Left out, for the hours of two cores: half-decades of the rate below 0.001, plain descent at other rates, decay at other strengths.

## Commands

```sh
python -m analysis inversion-distance --report-only     # this page, from raw/, in a minute
python -m analysis inversion-distance --jobs 2   # from nothing, about an hour and a quarter of two cores
```

On a GPU, for Stable Diffusion 1.5 and pictures of your own (the second stage makes one step that changes nothing, so that what is
evaluated is the vector):

```sh
pti sweep --set model.pretrained_model=stable-diffusion-v1-5/stable-diffusion-v1-5 --set data.source=my-pictures \\
  --set 'data.instance_prompt=an illustration of {{token}}' --set concept.class_word=girl --set data.holdout=2 \\
  --set runtime.mixed_precision=bf16 --set loss.max_timestep=1000 --set loss.unmasked_weight=1 --set lora.steps=1 --set lora.learning_rate=1e-12 \\
  --vary inversion.learning_rate=1e-4,1e-3,3e-3,1e-2,3e-2,1e-1 --seeds 5 --until evaluate --out inversion-distance-sd15
```
"""


def _rows(t: Tell) -> str:
    return "\n".join(
        f"| {name} | {t(f'{way}.distance')} | {t(f'{way}.ratio', '.3f')} | {t(f'{way}.gain', '.3f')} | {t(f'{way}.appearance')} | "
        f"{t(f'{way}.edit', '.3f')} | {t(f'{way}.control_kept', '.3f')} | {t(f'{way}.free_kept')} | {t(f'{way}.word.angle', '.0f')} | {t(f'{way}.word.on_shell')} |"
        for way, name in NAMES.items()
    )


def _fit_rows(t: Tell) -> str:
    return "\n".join(
        f"| {_LABELS[y]} | {name} | {t(f'{y}.{x}.rank')} | {'' if x == 'distance' else t(f'{y}.{x}.minus', '+.2f')} | "
        f"{t(f'{y}.{x}.boundary', '.3g')} | {t(f'{y}.{x}.before', '.3f')} | {t(f'{y}.{x}.after', '.3f')} |"
        for y in PREDICTED
        for x, name in PREDICTORS.items()
    )
