"""reports/pivotal-tuning from its raw results. Every number in it comes from a raw file."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
from PIL import Image

from analysis.common.factors import FREE, LOOKS
from analysis.common.resampling import bca_estimate
from analysis.common.template import fill_in
from analysis.pivotal_tuning import pilots as pivotal_tuning_pilots
from clipgeom.miniworld import FACTORS
from clipgeom.miniworld.readers import entropy

__all__ = ["write"]

STAGES = {"base": "class word, frozen model", "inverted": "after inversion", "tuned": "after tuning"}
_LAST = "last"  # stage 2 as its last step left it, where the average is what is kept
_TAUGHT, _FITTED = "training", "fitted"  # the training pictures as the encoder has them, and as they are trained on
ENLARGED = 2
_WANTED, _WANTED_FREE = 0.9, 0.8
# settings that belong to a character, not to a way
_OWN = ("concept.class_word", "data.source", "runtime.seed", "output.dir")


def write(raw: Path, out: Path) -> None:
    """Write report.md and figures/ from the files in `raw`."""
    told = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(raw.glob("run-*.json"))]
    ways: dict[str, list[dict[str, Any]]] = {}
    for run in sorted(told, key=lambda run: run["seed"]):
        ways.setdefault(json.dumps(_way(run)), []).append(run)
    # pictures are kept of today's defaults alone
    (runs,) = (some for some in ways.values() if (raw / f"run-{some[0]['seed']}.npz").exists())
    others = [some for some in ways.values() if some is not runs]
    figures = out / "figures"
    figures.mkdir(exist_ok=True)
    for run in runs:
        stored = np.load(raw / f"run-{run['seed']}.npz")
        _sheet(stored["training"], stored["pictures"], figures / f"{run['character']}.png")
    text = _text(runs, others, pivotal_tuning_pilots.section(raw / pivotal_tuning_pilots.FILE))
    (out / "report.md").write_text(text, encoding="utf-8")


def _way(run: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run, but those of its character and its seed."""
    settings = {**run["removed_settings"], **run["settings"]}
    return {name: json.loads(json.dumps(settings[name])) for name in sorted(settings) if name not in _OWN}


def _text(runs: list[dict[str, Any]], others: list[list[dict[str, Any]]], pilots: dict[str, Any] | None) -> str:
    n = len(runs[0]["read"]["base"]["class"])
    named = dict(zip(ascii_uppercase, others, strict=False))
    return fill_in(
        "pivotal_tuning",
        runs=runs,
        named=named,
        pilots=pilots,
        n=n,
        settings=runs[0]["settings"],
        stages=STAGES.values(),
        looks=[_words(factor) for factor in LOOKS],
        modes=sorted({ruling["mode"] for run in runs for ruling in run["record"]["locality"]["rulings"]}),
        wanted=_WANTED,
        wanted_free=_WANTED_FREE,
        answer=[
            f"{name} {value:.3f}, {'reached' if value >= least else 'short'}"
            for name, (value, least) in _wanted(runs).items()
        ],
        reaching=_reaching(named),
        # how often the defaults before drew a place that the prompt names
        obeyed=[f"{_mean(_placed(named[name], 'position'))} ({name})" for name in "DEH" if name in named],
        repeated=_twice(others[0]) if others else "",
        right=[
            [_words(factor), *(_mean(_shares(runs, stage, factor)) for stage in (*STAGES, "rebuilt"))]
            for factor in LOOKS
        ],
        each=[
            [
                run["character"],
                *(f"{_share(run, 'tuned', factor):.2f} of {_share(run, 'rebuilt', factor):.2f}" for factor in LOOKS),
            ]
            for run in runs
        ],
        free=[
            [
                factor,
                *(_mean([_entropy(run, stage, factor) for run in runs]) for stage in STAGES),
                _mean([_kept(run, factor) for run in runs]),
            ]
            for factor in FREE
        ],
        averaging=_averaging(runs),
        comparison=_compared((runs, *others)),
        training_images_read=all(stage in run["read"] for run in runs for stage in (_TAUGHT, _FITTED)),
        position_bits=np.log2(len(FACTORS["position"])),
        entropy_bias=8 / (2 * n * np.log(2)),
        mean=_mean,
        placed=_placed,
        kept=_kept,
        short=_short,
        briefly=lambda side: "; ".join(map(_briefly, side)),
        changed=lambda side: _changed(runs[0], side[0]),
        last_and_average=lambda factor: "; ".join(
            f"{run['character']} {_kept(run, factor, _LAST):.2f} and {_kept(run, factor):.2f}" for run in runs
        ),
    )


def _words(factor: str) -> str:
    return factor.replace("_", " ")


def _wanted(runs: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """What is asked for: its mean over runs, and the least that it should be."""
    looks = {"class": "class", "body colour": "body", "headgear colour": "headgear_color"}
    found = {name: (float(np.mean(_shares(runs, "tuned", factor))), _WANTED) for name, factor in looks.items()}
    kept = float(np.mean([_kept(run, "position") for run in runs]))
    return {**found, "entropy of the position, of the base's": (kept, _WANTED_FREE)}


def _reaching(named: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Means of the other settings that reach everything."""
    means = {name: _wanted(side) for name, side in named.items()}
    return {
        name: ", ".join(f"{what} {value:.3f}" for what, (value, _) in found.items())
        for name, found in means.items()
        if all(value >= least for value, least in found.values())
    }


def _short(runs: list[dict[str, Any]], stage: str) -> str:
    """Mean shares of what is not all read right, and where it is not."""
    shares = {_words(factor): _shares(runs, stage, factor) for factor in LOOKS}
    told = [
        f"{name} {np.mean(values):.3f} ("
        + ", ".join(f"{run['character']} {value:.2f}" for run, value in zip(runs, values, strict=True) if value < 1)
        + ")"
        for name, values in shares.items()
        if min(values) < 1
    ]
    return "; ".join([*told, "the rest in all of them" if told else "everything in all of them"])


def _averaging(runs: list[dict[str, Any]]) -> list[list[str]]:
    """Rows that compare the last step with the average; none for runs that keep the last step."""
    if not all(_LAST in run["read"] for run in runs):
        return []
    measures = {_words(factor): partial(_share, factor=factor) for factor in LOOKS}
    measures |= {f"{factor}, of the base's entropy": partial(_kept, factor=factor) for factor in FREE}
    rows = []
    for name, measure in measures.items():
        last, tuned = ([measure(run, stage=stage) for run in runs] for stage in (_LAST, "tuned"))
        rows.append([name, _mean(last), _mean(tuned), _mean([b - a for a, b in zip(last, tuned, strict=True)])])
    return rows


def _compared(sides: tuple[list[dict[str, Any]], ...]) -> list[list[str]]:
    """Rows of the table of all settings."""
    return [
        *([_words(factor), *(_mean(_shares(side, "tuned", factor)) for side in sides)] for factor in LOOKS),
        *(
            [f"{factor}, of the base's entropy", *(_mean([_kept(run, factor) for run in side]) for side in sides)]
            for factor in FREE
        ),
        ["place that the prompt says", *(_mean(_placed(side, "position")) for side in sides)],
    ]


def _twice(runs: list[dict[str, Any]]) -> str:
    """What a second five runs of the same settings kept of places, where there are any."""
    first, second = runs[:5], runs[5:]
    if not second:
        return ""
    kept = [_mean([_kept(run, "position") for run in half]) for half in (first, second)]
    return (
        f", and is here twice: of the position's entropy its first five runs had kept {kept[0]}, its second five, by the same "
        f"settings, kept {kept[1]}"
    )


def _briefly(run: dict[str, Any]) -> str:
    looks = ", ".join(f"{_share(run, 'tuned', factor):.2f}" for factor in LOOKS)
    return f"{run['character']} (seed {run['seed']}) {looks} and {_kept(run, 'position'):.2f}"


def _changed(run: dict[str, Any], other: dict[str, Any]) -> str:
    """What the settings of another run differ in, as they are set."""
    ours, theirs = _way(run), _way(other)
    return ", ".join(f"`{name} = {json.dumps(theirs[name])}`" for name in ours if theirs[name] != ours[name])


def _shares(runs: list[dict[str, Any]], stage: str, factor: str) -> list[float]:
    return [_share(run, stage, factor) for run in runs]


def _share(run: dict[str, Any], stage: str, factor: str) -> float:
    return float(np.mean([value == run["factors"][factor] for value in run["read"][stage][factor]]))


def _entropy(run: dict[str, Any], stage: str, factor: str) -> float:
    return entropy(run["read"][stage][factor])


def _kept(run: dict[str, Any], factor: str, stage: str = "tuned") -> float:
    """Entropy after tuning, of the base model's."""
    return _entropy(run, stage, factor) / _entropy(run, "base", factor)


def _placed(runs: list[dict[str, Any]], factor: str) -> list[float]:
    told = {
        "position": ("top left", "bottom right", "top right", "bottom left"),
        "background": ("snow", "sea", "desert", "night"),
    }[factor]
    assert all(value in FACTORS[factor] for value in told)
    shares = []
    for run in runs:
        read = run["placed"]["tuned"][factor]
        each = len(read) // len(told)
        shares.append(float(np.mean([value == told[i // each] for i, value in enumerate(read)])))
    return shares


def _mean(values: list[float]) -> str:
    mean = float(np.mean(values))
    if len(set(values)) == 1:
        return f"{mean:.3f} (all runs alike)"
    found = bca_estimate(values)
    return f"{mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _sheet(training: np.ndarray, pictures: np.ndarray, path: Path) -> None:
    columns = pictures.shape[1]
    first = np.full((columns, *training.shape[1:]), 255, dtype=np.uint8)
    first[: len(training)] = training[:columns]
    rows = [np.concatenate(list(row), axis=1) for row in (first, *pictures)]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((sheet.width * ENLARGED, sheet.height * ENLARGED), Image.Resampling.NEAREST).save(path, optimize=True)
