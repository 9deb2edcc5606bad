"""The text of reports/finetuning-distance. Which way a sentence goes is chosen by the facts."""

from __future__ import annotations

from analysis.common.citations import tell
from analysis.common.wording import chosen, listed
from analysis.finetuning_distance.facts import AXES, DIVERSITIES, LEARNT
from analysis.finetuning_distance.tables import (
    RATES,
    SHOWN,
    Found,
    departure_table,
    is_learnt,
    learnt_table,
    rate_table,
)

__all__ = ["STABLE_DIFFUSION", "text"]

STABLE_DIFFUSION = r"""pti sweep --out sd15-finetuning-distance --until evaluate \
  --set model.pretrained_model=stable-diffusion-v1-5/stable-diffusion-v1-5 --set concept.class_word=dog \
  --set "data.instance_prompt='a picture of {token}'" --set loss.max_timestep=1000 --set locality.interpolation=none \
  --set loss.unmasked_weight=1 --set lora.averaging=0 \
  --set runtime.mixed_precision=fp16 --set lora.distance_every=50 --set output.checkpointing_steps=50 --set output.checkpoints_total_limit=20 \
  --set sampling.every_n_steps=0 --set sampling.images_per_prompt=1 --set sampling.guidance_scale=7.5 \
  --vary data.source=./one-place,./three-places,./nine-places --vary lora.learning_rate=1e-5,3e-4,1e-3,1e-2 --seeds 5"""


def text(found: Found) -> str:
    """report.md."""
    return f"""# How far to finetune: is appearance learnt before position?

*Rebuild with `python -m analysis finetuning-distance --report-only` from the raw results in `raw/`.*

## Question

From an inverted word, low-rank changes are tuned with learning rates over three decades. Are concepts learnt in the order that the
research notes predict, appearance before position? At which distance does position start to be learnt, with all training
pictures in one place, in three and in nine? Is there a *light* finetune, which has 95 % of the largest appearance while position has
not significantly moved, and how wide is its window?

## Answer

{_both_orders(found, _subject(found))} {_start(found)} {_windows(found)}

![Appearance, position, background, facing and leakage against distance](figures/distance.png)

## Findings

**Order.** {" ".join(_order(found, name, axis) for name in DIVERSITIES.values() for axis in AXES)}

**What else is learnt.** {" ".join(_others(found, name) for name in DIVERSITIES.values())}

**Where position starts.** {" ".join(_departure(found, name) for name in DIVERSITIES.values())}{_between(found)}

**The largest light finetune.** {" ".join(_light(found, name) for name in DIVERSITIES.values())}

**What a rate costs.** {_rates(found)}

## Table

In the figure, curves are means over the pairs, each smoothed with a Gaussian kernel, with 95 % bands, dots the inverted word before any tuning, and the dashed line is
where position first departs significantly from the class word's, with its interval.

Before tuning and at the largest value of the pooled curve; where half of the way from the curve's beginning to there is reached. Appearance is the share of body colour,
headgear and its colour read right; everything else is a distance from the class word's distribution on the frozen model: total variation,
corrected so that two samples of one distribution have 0 in the mean and two that share nothing have 1. Leakage is the mean of that over position,
background, facing and style.

{learnt_table(found)}

Where position departs, from the class word's pictures (base) and from those of the inverted word (pivot). Counts are of {tell(found, "pairs", ".0f")} pairs.
"Still" is the largest distance at which it has not moved; the window reaches from 95 % of the largest appearance to there, in decades
(negative: there is none).

{departure_table(found)}

After 1000 steps, by learning rate. "In taught places": share of pictures whose place was in the training pictures. "As prompted": place,
background and style as the prompt says. "Gain": fall of the denoising loss on held-out pictures since before tuning.

{rate_table(found)}

## Limits

One world of 64 × 64 pictures and a small model; {tell(found, "runs", ".0f")} runs, {tell(found, "pairs", ".0f")} pairs of a seed and a character and
{tell(found, "characters", ".0f")} characters. Intervals are percentiles of a bootstrap over characters and runs within them; with three characters they are rough.
All starts are inversions of 1000 steps at the rate that [inversion-distance](../inversion-distance/report.md) chose: another pivot may change where position departs. Captions say nothing but the word,
the regulariser is off and all noise levels are trained on, since the question is what is learnt when nothing holds it back; the trainer's defaults differ in that.
Errors weigh alike all over a picture (`loss.unmasked_weight = 1`) and each step's own weights are measured (`lora.averaging = 0`), as by default when the runs were made.
Distances are measured at four steps of four rates, so a first departure is the measured distance at which it was significant, with Holm's
correction over all points of a pair: it begins between there and the one before. A sample of 40 pictures can show a large departure only. With
nine places the training pictures hold every place, so that learning their distribution could not be told from leaving it alone.
Each pair's curve is smoothed with a kernel of a fifth of a decade. A factor counts as learnt if the interval of its change, from the curve's
beginning to its largest value, lies above {LEARNT:g}, as the largest value of a noisy curve is above its true one. (That curves are smoothed pair by pair, and
changes told from their own beginning, was decided when the first curves had been seen to follow noise.) The readers' errors are in `reports/miniworld/report.md`.

## Commands

From raw results: `python -m analysis finetuning-distance --report-only`

From nothing ({tell(found, "hours", ".1f")} hours of training, summed over runs, and as long again to measure; about two hours of two cores): `python -m analysis finetuning-distance --jobs 2`

Stable Diffusion 1.5 on a GPU, with three folders of nine of your own pictures of a dog (no readers of places are there; the evaluation is by CLIP,
and both distances are in each run's `metrics.parquet`):

```sh
{STABLE_DIFFUSION}
```
"""


def _subject(found: Found) -> str:
    """The diversity in which position is learnt, if in any; the least diverse first."""
    return next((name for name in DIVERSITIES.values() if is_learnt(found, name, "position")), "one")


def _order(found: Found, name: str, axis: str) -> str:
    with_pictures = f"With {SHOWN[name]}"
    missing = [factor for factor in ("appearance", "position") if not is_learnt(found, name, factor)]
    if missing:
        changes = listed([f"{factor} changes by {tell(found, f'{name}.{factor}.change')}" for factor in missing])
        return f"{with_pictures} there is no order to tell by the distance in {_noun(axis)}: {changes}, not surely enough to count as learnt."
    half = {factor: tell(found, f"{name}.{factor}.half.{axis}", ".3g") for factor in ("appearance", "position")}
    order = chosen(
        found[f"{name}.position.after.{axis}"],
        "appearance first, as the notes predict",
        "position first, against what the notes predict",
        "which of them is first cannot be told",
    )
    return (
        f"{with_pictures} half of the appearance is learnt at a distance in {_noun(axis)} of {half['appearance']} and half of the "
        f"position at {half['position']}, {tell(found, f'{name}.position.after.{axis}', '+.2f')} decades from it: {order}."
    )


def _both_orders(found: Found, name: str) -> str:
    """The answer's sentence: by the distance in weights, and beside it the lag by that in function."""
    told = _order(found, name, "weight")
    if not all(is_learnt(found, name, factor) for factor in ("appearance", "position")):
        return told
    lag = tell(found, f"{name}.position.after.function", "+.2f")
    return f"{told.removesuffix('.')} (by the distance in function {lag} decades)."


def _rates(found: Found) -> str:
    """What each rate does to prompts, and to pictures of the character that were not trained on."""
    parts = []
    for name in DIVERSITIES.values():
        told = "; ".join(
            f"at `{rate}` {tell(found, f'{name}.rate-{rate}.placed')} are, and it falls by "
            f"{tell(found, f'{name}.rate-{rate}.gain', '+.2f')}"
            for rate in RATES
        )
        parts.append(
            f"With {SHOWN[name]}, by share of pictures whose place, background and style are as prompted and by fall of the "
            f"denoising loss on held-out pictures: {told}."
        )
    return " ".join(parts)


def _others(found: Found, name: str) -> str:
    parts = []
    for factor in ("background", "facing"):
        if not is_learnt(found, name, factor):
            parts.append(f"{factor} is not surely learnt (change {tell(found, f'{name}.{factor}.change')})")
            continue
        after = found[f"{name}.{factor}.after.weight"]
        order = chosen(after, "after", "before", "neither clearly before nor after")
        parts.append(
            f"{factor} is learnt {order} appearance ({tell(found, f'{name}.{factor}.after.weight', '+.2f')} decades in weights)"
        )
    leaks = (
        f"leakage goes from {tell(found, f'{name}.leakage.start')} to {tell(found, f'{name}.leakage.largest')} at most"
    )
    return f"With {SHOWN[name]} {listed(parts)}, and {leaks}."


def _start(found: Found) -> str:
    """The answer's sentence: where position departs from the class word's, by diversity."""
    parts = [f"{_where(found, name, 'base', 'weight')} with {SHOWN[name]}" for name in DIVERSITIES.values()]
    return f"Position departs from the class word's {'; '.join(parts)}."


def _where(found: Found, name: str, reference: str, axis: str) -> str:
    key = f"{name}.{reference}"
    most = found["pairs"].value / 2
    of = f"of {tell(found, 'pairs', '.0f')} pairs"
    change = f"its distance is {tell(found, f'{name}.position.largest')} at most"
    if found[f"{key}.departing"].value > most:
        counted = f"{tell(found, f'{key}.departing', '.0f')} {of}"
        return f"at a distance in {_noun(axis)} of {tell(found, f'{key}.departs.{axis}', '.3g')} ({counted})"
    if found[f"{key}.at_pivot"].value > most:
        return f"before any tuning ({tell(found, f'{key}.at_pivot', '.0f')} {of}, {change})"
    if found[f"{key}.never"].value > most:
        return f"at no distance ({tell(found, f'{key}.never', '.0f')} {of}, {change})"
    counts = ", ".join(
        f"{tell(found, f'{key}.{count}', '.0f')} {when}"
        for count, when in (("at_pivot", "before any tuning"), ("departing", "by tuning"), ("never", "never"))
    )
    return f"without a common distance ({counts}, {change})"


def _departure(found: Found, name: str) -> str:
    begun = _where(found, name, "base", "function")
    tuned = _where(found, name, "pivot", "weight")
    return f"With {SHOWN[name]} position departs from the class word's {begun}, and from the inverted word's {tuned}."


def _between(found: Found) -> str:
    """By how much more diversity delays the departure, where enough pairs depart in both."""
    told = ""
    for more, fewer in (("three", "one"), ("nine", "three")):
        key = f"base.{more}-{fewer}.weight"
        if key in found and (found[key].n or 0) > found["pairs"].value / 2:
            fact = found[key]
            way = chosen(fact, "farther", "nearer", "neither clearly farther nor nearer")
            told += f" With {SHOWN[more]} it departs {way} than with {SHOWN[fewer]} ({tell(found, key, '+.2f')} decades in weights)."
    return told


def _windows(found: Found) -> str:
    parts = [f"{_window(found, name, 'weight')} with {SHOWN[name]}" for name in DIVERSITIES.values()]
    return f"A light finetune, by the distance in weights, {'; '.join(parts)}."


def _reference(found: Found, name: str) -> str:
    """Where most inverted words have left the class word's places already, the tuning is measured from the inverted word."""
    return "pivot" if found[f"{name}.base.at_pivot"].value > found["pairs"].value / 2 else "base"


def _window(found: Found, name: str, axis: str) -> str:
    reference = _reference(found, name)
    key = f"{name}.{reference}.window.{axis}"
    width = found[key]
    since = ", if position is measured from the inverted word's," if reference == "pivot" else ""
    never = found[f"{name}.{reference}.never"]
    least = "at least " if never.value > 0 else ""
    if width.above(0):
        return f"exists{since} in a window of {least}{tell(found, key)} decades"
    if width.below(0):
        return f"does not exist{since} as position moves first (window {tell(found, key)} decades)"
    return f"can neither be shown nor excluded{since} (window {tell(found, key)} decades)"


def _light(found: Found, name: str) -> str:
    key = f"{name}.{_reference(found, name)}"
    since = "inverted" if key.endswith("pivot") else "class"
    return (
        f"With {SHOWN[name]} position has not moved from the {since} word's up to a distance in weights of "
        f"{tell(found, f'{key}.still.weight', '.3g')} and in function of {tell(found, f'{key}.still.function', '.3g')}, where the appearance is "
        f"{tell(found, f'{key}.light.weight', '.0%')} per cent of its largest; by the distance in function a light finetune "
        f"{_window(found, name, 'function')}."
    )


def _noun(axis: str) -> str:
    return {"weight": "weights", "function": "function"}[axis]
