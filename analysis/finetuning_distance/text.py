"""The text of reports/finetuning-distance. Which way a sentence goes is chosen by the facts."""

from __future__ import annotations

from functools import partial

from analysis.common.citations import tell
from analysis.common.template import fill_in
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

__all__ = ["text"]


def text(found: Found) -> str:
    """report.md."""
    names = list(DIVERSITIES.values())
    return fill_in(
        "finetuning_distance",
        t=partial(tell, found),
        found=found,
        LEARNT=LEARNT,
        learnt_table=learnt_table,
        departure_table=departure_table,
        rate_table=rate_table,
        answer=f"{_both_orders(found, _subject(found))} {_start(found)} {_windows(found)}",
        order=" ".join(_order(found, name, axis) for name in names for axis in AXES),
        others=" ".join(_others(found, name) for name in names),
        departures=" ".join(_departure(found, name) for name in names) + _between(found),
        light=" ".join(_light(found, name) for name in names),
        rates=_rates(found),
    )


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
        if key in found and found[key].n > found["pairs"].value / 2:
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
