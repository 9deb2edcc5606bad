"""Of reports/pivotal-tuning: the single runs by which the defaults were chosen, as they were read at the time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FILE", "section"]

FILE = "pilots.jsonl"
# the settings H of the report, by what they differ in from D
_BEFORE = (
    "loss.max_timestep=650",
    "lora.learning_rate=4e-3",
    "locality.outside_timesteps=class_word",
    "locality.mix_captions=true",
    "data.caption_tag_dropout_rate=0.75",
    "lora.train_text_encoder=true",
    "lora.text_encoder_learning_rate=2e-3",
)
_SHARED = ("comet", "dapple", "ember", "flurry")  # on whom the means are


def section(path: Path) -> dict[str, Any] | None:
    """Facts of the section; None where there is no file."""
    if not path.exists():
        return None
    told = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    told = [run for run in told if run["stage"] == "tuned"]
    characters = sorted({run["character"] for run in told})
    rows: dict[tuple[str, float], dict[str, list[Any]]] = {}
    first: dict[str, int] = {}
    for run in told:
        changed = _named(run["changed"]) or "nothing"
        first.setdefault(changed, len(first))
        rows.setdefault((changed, run["guidance"]), {}).setdefault(run["character"], []).append(run)
    ordered = sorted(rows.items(), key=lambda item: (first[item[0][0]], -item[0][1]))
    return {
        "file": FILE,
        "before": _BEFORE,
        "shared": _SHARED,
        "characters": characters,
        "pictures": told[0]["pictures"],
        "seeds": ", ".join(
            f"{name} {next(run['seed'] for run in told if run['character'] == name)}" for name in characters
        ),
        "rows": [
            [changed, f"{guidance:g}", *("; ".join(map(_cell, row.get(name, ()))) for name in characters), _means(row)]
            for (changed, guidance), row in ordered
        ],
    }


def _named(changed: list[str]) -> str:
    """Settings as they are set; those of H by that name."""
    if set(_BEFORE) <= set(changed):
        return ", ".join(["H", *(f"`{setting}`" for setting in changed if setting not in _BEFORE)])
    return ", ".join(f"`{setting}`" for setting in changed)


def _numbers(run: dict[str, Any]) -> tuple[float, float, float]:
    return run["right"]["body"], run["right"]["headgear_color"], run["bits"]["position"]


def _cell(run: dict[str, Any]) -> str:
    return ", ".join(f"{number:.2f}" for number in (*_numbers(run), *([run["placed"]] if "placed" in run else [])))


def _means(row: dict[str, list[Any]]) -> str:
    if not all(name in row for name in _SHARED):
        return ""
    shared = [np.mean([_numbers(run) for run in row[name]], axis=0) for name in _SHARED]
    return ", ".join(f"{number:.3f}" for number in np.mean(shared, axis=0))
