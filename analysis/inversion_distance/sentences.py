"""Sentences of reports/inversion-distance: which are told, and which way, is decided by the facts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from analysis.common.citations import Facts
from analysis.common.wording import chosen, listed
from analysis.inversion_distance.facts import PREDICTORS

__all__ = [
    "NAMES",
    "PLAIN",
    "Tell",
    "boundary",
    "early",
    "edit",
    "gain",
    "moved",
    "norm",
    "path",
    "predictor",
    "rule",
    "shell",
]

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

Tell: TypeAlias = Callable[..., str]  # a fact by its name and form


def moved(found: Facts, t: Tell) -> str:
    """Whether distance is steps × rate."""
    word = "is not" if found["exponent"].below(1) or found["exponent"].above(1) else "is close to"
    return (
        f"Distance {word} steps × rate: over all points of AdamW it grows as (steps × rate) to the power of {t('exponent')}, and at a rate of "
        f"`0.001` it is {t('adamw-0.001.early', '.1f')} × that product after ten steps and {t('adamw-0.001.ratio')} × after a thousand."
    )


def boundary(found: Facts, t: Tell, best: str) -> str:
    """How far likeness is gained, and where the prompt's control begins to be lost."""
    reach = (
        f"Likeness is gained to the largest distance reached: the held-out loss falls by {t(f'{best}.gain', '.3f')} of itself at "
        f"{t(f'{best}.distance', '.1f')}, against {t('adamw-0.001.gain', '.3f')} at {t('adamw-0.001.distance')}"
        if found[f"{best}.gain"].above(found["adamw-0.001.gain"].value)
        else f"Likeness is gained no further than at the small distances: by {t('adamw-0.001.gain', '.3f')} of the held-out loss at "
        f"{t('adamw-0.001.distance')}, by {t(f'{best}.gain', '.3f')} at {t(f'{best}.distance', '.1f')}"
    )
    fact = found["control_kept.distance.boundary"]
    if found["control_kept.distance.after"].below(0) and np.isfinite(fact.value):
        return f"{reach}; what the prompt says to the model begins to be lost at {t('control_kept.distance.boundary')}."
    return (
        f"{reach}; that farther vectors cost editability is not what was found, for what the prompt says to the model is {t(f'{best}.control_kept')} of what it "
        f"says with the class word, and place, background and style are drawn as said in {t(f'{best}.edit', '.3f')} of the pictures."
    )


def rule(found: Facts, t: Tell, best: str) -> str:
    """What it costs, and what rate follows."""
    if found["control_kept.distance.after"].below(0) and np.isfinite(found["rule.rate"].value):
        return f"So choose the rate by the distance that it reaches: a thousand steps of AdamW reach the bend at {t('rule.rate', '.4f')}."
    safe = [way for way in PLAIN if found[f"{way}.free_kept"].above(found["rule.kept"].value)]
    cost = (
        f'What it may cost is what the prompt leaves open: in "a picture of …", place, background, facing and style keep {t(f"{best}.free_kept")} of their entropy at '
        f"`{_rate(best)}` and {t('adamw-0.001.free_kept')} at `0.001`"
    )
    if not safe:
        return f"{cost}, and at no rate surely {t('rule.kept', '.1f')} of it."
    chosen_rate = max(safe, key=lambda way: found[f"{way}.gain"].value)
    return (
        f"{cost}; of the rates that surely keep {t('rule.kept', '.1f')} of it, `{_rate(chosen_rate)}` has the best held-out loss (keeping "
        f"{t(f'{chosen_rate}.free_kept')}, with a fall of {t(f'{chosen_rate}.gain', '.3f')})."
    )


def early(found: Facts, t: Tell) -> str:
    """The ratio, and why it is so at first."""
    return (
        f"AdamW's first steps move each of the {t('width', '.0f')} coordinates by nearly the rate, so that ten of them go {t('adamw-0.001.early', '.1f')} × "
        f"steps × rate (all coordinates, always the same way, would be {t('root_width', '.1f')}). "
        f"After a thousand steps the ratio is {t('adamw-0.0001.ratio')} at a rate of `0.0001`, {t('adamw-0.01.ratio')} at `0.01` and {t('adamw-0.1.ratio')} at `0.1`. "
        f"Plain descent at `0.3` has {t('sgd-0.3.ratio', '.3f')}: there the ratio is the size of the gradient, and says nothing of steps."
    )


def path(found: Facts, t: Tell) -> str:
    """Where the rest of the distance went."""
    return (
        f"The length of the path stays near {t('adamw-0.001.path_ratio', '.1f')} × steps × rate at `0.001`, and {t('adamw-0.1.path_ratio', '.1f')} × at `0.1`; what the distance lacks is lost to "
        f"turning: the distance is {t('adamw-0.0001.straight')} of the path at `0.0001` and {t('adamw-0.01.straight')} at `0.01`."
    )


def gain(found: Facts, t: Tell, best: str) -> str:
    """What the held-out loss and the looks do."""
    bend = found["gain.distance.boundary"]
    fitted = (
        f"Against the distance the fall bends at {t('gain.distance.boundary')}, from {t('gain.distance.before', '.3f')} to {t('gain.distance.after', '.3f')} a decade."
        if np.isfinite(bend.value)
        else "Against the distance no two-segment fit converges in most resamples: the fall is steep, then flat, then steep again at the largest rates "
        f"(its rank correlation with the distance is {t('gain.distance.rank')})."
    )
    told = ", ".join(f"{t(f'{way}.gain', '.3f')} at `{_rate(way)}`" for way in PLAIN)
    return f"After a thousand steps of AdamW the held-out loss has fallen by {told}. {fitted}"


def edit(found: Facts, t: Tell) -> str:
    """What prompts lose, by rate."""
    lost = [way for way in PLAIN if found[f"{way}.control_lost"].below(0)]
    won = [way for way in PLAIN if found[f"{way}.control_lost"].above(0)]
    parts = [
        f"{verb} at these rates: " + ", ".join(f"{t(f'{way}.control_lost', '+.3f')} at `{_rate(way)}`" for way in ways)
        for verb, ways in (("it falls", lost), ("it rises", won))
        if ways
    ] or [f"it does not surely move ({t('adamw-0.1.control_lost', '+.3f')} at `0.1`)"]
    free = ", ".join(f"{t(f'{way}.free_kept')} at `{_rate(way)}`" for way in PLAIN)
    return (
        f"What a wrong caption costs the denoising of held-out pictures, of what it costs with the class word: {'; '.join(parts)}. "
        f"In drawn pictures the readers see place, background and style as the prompt says them in {t('class.edit', '.3f')} with the class word and "
        f"{t('adamw-0.1.edit', '.3f')} at the largest rate. Of what the prompt does not say, the entropy is kept to: {free}."
    )


def predictor(found: Facts, t: Tell, y: str) -> str:
    """Which distance tells `y` best."""
    what = {"control_kept": "The prompt's control", "gain": "The fall of the held-out loss"}[y]
    others = [x for x in PREDICTORS if x != "distance"]
    better = [x for x in others if found[f"{y}.{x}.minus"].above(0)]
    worse = [x for x in others if found[f"{y}.{x}.minus"].below(0)]
    nearest = max(others, key=lambda x: found[f"{y}.{x}.minus"].value)
    return (
        f"{what} has a rank correlation of {t(f'{y}.distance.rank')} with the distance in the token space; surely stronger is that with: "
        f"{listed(PREDICTORS[x] for x in better)}; surely weaker: {listed(PREDICTORS[x] for x in worse)} (the largest difference is {t(f'{y}.{nearest}.minus', '+.2f')}, with the "
        f"{PREDICTORS[nearest]})."
    )


def shell(found: Facts, t: Tell) -> str:
    """Whether states stay among real ones."""
    return (
        f"The states leave the shells of real ones early: of the class word's {t('class.word.on_shell')} lie on them, at the word; after a thousand steps at `0.001` {t('adamw-0.001.word.on_shell')}; "
        f"at EOS {t('class.eos.on_shell')}, {t('adamw-0.001.eos.on_shell')} at `0.001` and {t('adamw-0.1.eos.on_shell')} at `0.1`."
    )


def norm(found: Facts, t: Tell, way: str, against: str) -> str:
    """What a way of norm control changes."""
    verdicts = []
    for column, name in (("control_kept", "of the prompt's control"), ("gain", "likeness")):
        fact = found[f"{way}.minus.{column}"]
        verb = chosen(fact, "more", "less", "not surely more or less")
        verdicts.append(f"{verb} {name} ({t(f'{way}.minus.{column}', '.3f')})")
    return f"Against AdamW without it at the same rate, {_code(way)} has {' and '.join(verdicts)}, at a distance of {t(f'{way}.distance')} against {t(f'{against}.distance')}."


def _code(way: str) -> str:
    """A way's name; code, so that its rate is not taken for a finding."""
    return f"`{NAMES[way]}`"


def _rate(way: str) -> str:
    return way.split("-", 1)[1]
