"""The numbers of a report, each tied to the fact that it tells.

A number is written with its name beside it in a comment that a reader of the page does not see::

    0.43 [0.40, 0.46]<!--ratio.1e-3 .2f-->

`python -m analysis.check_numbers` computes the facts of every report anew from its raw results and compares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from clipgeom.geometry.estimate import Estimate

__all__ = ["Facts", "tell", "untold"]

Facts = Mapping[str, Estimate]
_MARKED = re.compile(r"([-+]?(?:\d[\d.,e+-]*|nan)(?: \[[^\]]*\])?)<!--(\S+) (\S+)-->")
_CLAIMS = ("Answer", "Findings")  # sections in which every number must be a fact


def tell(facts: Facts, name: str, form: str = ".2f") -> str:
    """A fact as it stands in the text."""
    return f"{_written(facts[name], form)}<!--{name} {form}-->"


def untold(text: str, facts: Facts) -> list[str]:
    """What is wrong with the numbers of a report: other than the facts, or in a claim without being one.

    Claims are the sections "Answer" and "Findings". Each of their sentences needs a fact with an interval; code and links
    are left out.
    """
    wrong = []
    for number, name, form in _MARKED.findall(text):
        if name not in facts:
            wrong.append(f"{number} tells {name}, which is no fact")
        elif _written(facts[name], form) != number:
            wrong.append(f"{number} tells {name}, which is {_written(facts[name], form)}")
    for title in _CLAIMS:
        section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        if section is None:
            wrong.append(f"there is no section {title}")
            continue
        told = re.sub(r"!?\[[^\]]*\]\([^)]*\)|`[^`]*`", "", section[1])
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z*])", told.strip()):
            rest = _MARKED.sub("", sentence)
            wrong += [f"{number} is no fact, in: {rest.strip()}" for number in re.findall(r"(?<!\w)\d[\d.,]*", rest)]
            names = [name for _, name, _ in _MARKED.findall(sentence)]
            if not any(name in facts and facts[name].has_interval for name in names):
                wrong.append(f"no number with an interval in: {sentence}")
    return wrong


def _written(fact: Estimate, form: str) -> str:
    if form.endswith("%"):
        form = f"{form[:-1]}f"
        fact = Estimate(100 * fact.value, 100 * fact.low, 100 * fact.high)
    number = f"{fact.value:{form}}"
    return f"{number} [{fact.low:{form}}, {fact.high:{form}}]" if fact.has_interval else number
