"""The tables of reports/finetuning-distance, and what its text shares with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.common.citations import tell
from analysis.finetuning_distance.facts import AXES, DIVERSITIES, LEARNT, REFERENCES, SEEN
from clipgeom.geometry.estimate import Estimate

__all__ = ["RATES", "SHOWN", "Found", "departure_table", "is_learnt", "learnt_table", "rate_table"]

SHOWN = {"one": "all pictures in one place", "three": "pictures in three places", "nine": "pictures in nine places"}
RATES = ("1e-05", "0.0003", "0.001", "0.01")

Found = Mapping[str, Estimate]


def is_learnt(found: Found, name: str, factor: str) -> bool:
    """Whether a factor is, at any distance."""
    return found[f"{name}.{factor}.change"].above(LEARNT)


def learnt_table(found: Found) -> str:
    """How much is learnt, and half-way where."""
    rows = [
        [
            SHOWN[name],
            factor,
            *(_cell(found, f"{name}.{factor}.{what}", ".2f") for what in ("start", "largest")),
            *(
                _cell(found, f"{name}.{factor}.half.{axis}", ".3g") if is_learnt(found, name, factor) else "not learnt"
                for axis in AXES
            ),
        ]
        for name in DIVERSITIES.values()
        for factor in SEEN
    ]
    return _table(["training", "", "before tuning", "largest", "half-way, in weights", "half-way, in function"], rows)


def departure_table(found: Found) -> str:
    """Where position departs, and the window."""
    rows = [
        [
            SHOWN[name],
            reference,
            *(_cell(found, f"{name}.{reference}.{count}", ".0f") for count in ("at_pivot", "departing", "never")),
            *(_cell(found, f"{name}.{reference}.departs.{axis}", ".3g") for axis in AXES),
            *(
                _cell(found, f"{name}.{reference}.{what}.weight", form)
                for what, form in (("still", ".3g"), ("window", ".2f"))
            ),
        ]
        for name in DIVERSITIES.values()
        for reference in REFERENCES
    ]
    head = [
        "training",
        "from",
        "before tuning",
        "by tuning",
        "never",
        "departs, in weights",
        "in function",
        "still",
        "window",
    ]
    return _table(head, rows)


def rate_table(found: Found) -> str:
    """After the last step."""
    columns = {
        "weight_distance": ("in weights", ".3g"),
        "function_distance": ("in function", ".3g"),
        "appearance": ("appearance", ".2f"),
        "position": ("position", ".2f"),
        "taught_share": ("in taught places", ".2f"),
        "leakage": ("leakage", ".2f"),
        "placed": ("as prompted", ".2f"),
        "gain": ("gain", ".2f"),
    }
    rows = [
        [
            SHOWN[name],
            rate,
            *(_cell(found, f"{name}.rate-{rate}.{column}", form) for column, (_, form) in columns.items()),
        ]
        for name in DIVERSITIES.values()
        for rate in RATES
    ]
    return _table(["training", "rate", *(title for title, _ in columns.values())], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(found: Found, name: str, form: str) -> str:
    return tell(found, name, form) if name in found and np.isfinite(found[name].value) else "–"
