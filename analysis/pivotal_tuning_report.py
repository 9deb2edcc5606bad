"""reports/pivotal-tuning from its raw results. Every number in it comes from a raw file."""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import bootstrap

from analysis.factors import FREE, LOOKS
from clipgeom.miniworld import FACTORS
from clipgeom.miniworld.readers import entropy
from pti.sections import EARLIER

__all__ = ["write"]

STAGES = {"base": "class word, frozen model", "inverted": "after inversion", "tuned": "after tuning"}
ENLARGED = 2
_WANTED, _WANTED_FREE = 0.9, 0.8
# settings that belong to a character, not to a way
_OWN = ("concept.class_word", "data.source", "engine.seed", "run.folder")


def write(raw: Path, out: Path) -> None:
    """Write report.md and figures/ from the files in `raw`."""
    told = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(raw.glob("run-*.json"))]
    ways: dict[str, list[dict[str, Any]]] = {}
    for run in sorted(told, key=lambda run: run["seed"]):
        ways.setdefault(json.dumps(_way(run)), []).append(run)
    runs, *others = ways.values()  # the defaults have the lowest seeds
    figures = out / "figures"
    figures.mkdir(exist_ok=True)
    for run in runs:
        stored = np.load(raw / f"run-{run['seed']}.npz")
        _sheet(stored["training"], stored["pictures"], figures / f"{run['character']}.png")
    (out / "report.md").write_text(_text(runs, others), encoding="utf-8")


def _way(run: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run, but those of its character and its seed; as they were before they could be set, where they could not."""
    settings = {**EARLIER, **run["settings"]}
    return {name: settings[name] for name in sorted(settings) if name not in _OWN}


def _text(runs: list[dict[str, Any]], others: list[list[dict[str, Any]]]) -> str:
    names = ", ".join(f"{run['character']} (seed {run['seed']})" for run in runs)
    settings = runs[0]["settings"]
    looks = "\n".join(
        f"| {factor.replace('_', ' ')} | "
        + " | ".join(_mean(_shares(runs, stage, factor)) for stage in (*STAGES, "rebuilt"))
        + " |"
        for factor in LOOKS
    )
    each = "\n".join(
        f"| {run['character']} | "
        + " | ".join(f"{_share(run, 'tuned', factor):.2f} of {_share(run, 'rebuilt', factor):.2f}" for factor in LOOKS)
        + " |"
        for run in runs
    )
    free = "\n".join(
        f"| {factor} | "
        + " | ".join(_mean([_entropy(run, stage, factor) for run in runs]) for stage in STAGES)
        + f" | {_mean([_kept(run, factor) for run in runs])} |"
        for factor in FREE
    )
    places = ", ".join(f"{run['character']} {_kept(run, 'position'):.2f}" for run in runs)
    reached = {
        "class": np.mean(_shares(runs, "tuned", "class")),
        "body colour": np.mean(_shares(runs, "tuned", "body")),
        "headgear colour": np.mean(_shares(runs, "tuned", "headgear_color")),
    }
    free_places = np.mean([_kept(run, "position") for run in runs])
    answer = [f"{name} {share:.3f}, {'reached' if share >= _WANTED else 'short'}" for name, share in reached.items()]
    answer.append(
        f"entropy of the position {free_places:.3f} of the base's, {'reached' if free_places >= _WANTED_FREE else 'short'}"
    )
    modes = sorted({ruling["mode"] for run in runs for ruling in run["record"]["locality"]["rulings"]})
    pictures = "\n\n".join(
        f"**{run['character']}**: {run['factors']['body']} {run['factors']['class']}, {run['factors']['headgear_color']} "
        f"{run['factors']['headgear']}.\n\n![{run['character']}](figures/{run['character']}.png)"
        for run in runs
    )
    n = len(runs[0]["read"]["base"]["class"])
    return f"""# Does the trainer learn a new character from six pictures, and nothing else?

*Rebuild with `python analysis/pivotal_tuning.py` (raw results in `raw/`), or from them alone with `--draw`.*

**Answer.** Wanted: class and colours right in {100 * _WANTED:.0f} % of pictures, and {_WANTED_FREE:g} of the base model's entropy of the
position. Found, as means over runs: {"; ".join(answer)}.

{len(runs)} runs of the defaults of `pti init` on the first new characters of miniworld: {names}; {settings["inversion.steps"]}
steps of inversion at a rate of {settings["inversion.rate"]:g}, {settings["tuning.steps"]} of tuning at {settings["tuning.rate"]:g} and rank
{settings["tuning.rank"]}, the locality regulariser with weight {settings["locality.weight"]:g}, interpolating by {" and ".join(modes)} (no
certificate is given), which holds the empty prompt on {settings["locality.empty"]:g} of its pictures; parts of captions left out with probability {settings["data.tag_dropout"]:g} (in
tuning at noise levels below {settings["tuning.whole_captions_from"]} only), levels below {settings["objective.max_timestep"]} of 1000 in training. These defaults were chosen on harbor and ivory, which take no
part here, and on comet and dapple with other seeds; the seeds of this study were fixed before and are fresh. {n} pictures of "a picture of …" a run and stage, guidance {settings["sampling.guidance"]:g}. Means over runs
with 95 % intervals by bootstrap over runs (BCa).

## What is learnt

Share of pictures in which the readers see the character's own value:

| | {" | ".join(STAGES.values())} | fresh pictures of the character, through the autoencoder |
|---|---|---|---|---|
{looks}

The last column is what the readers see right in pictures that *are* the character, once the autoencoder has encoded and decoded
them: no generator that draws through it can be expected to show more. By character, after tuning and of fresh pictures:

| character | {" | ".join(factor.replace("_", " ") for factor in LOOKS)} |
|---|---|---|---|---|
{each}

## What stays free

Entropy of what the prompt does not say, in bits (position: {np.log2(9):.2f} at most), and its share of the base model's:

| | {" | ".join(STAGES.values())} | tuned / base |
|---|---|---|---|---|
{free}

Position by character, tuned / base: {places}.

{_others(runs, others)}## Where it was never shown

Prompts that say place, background and style: position right in {_mean(_placed(runs, "position"))} and background in
{_mean(_placed(runs, "background"))} of the pictures after tuning.

## Pictures

For each character its six training pictures; below them, by rows, the class word on the frozen model, the token after inversion,
the token after tuning: four prompts that say place, background and style, then four of "a picture of …".

{pictures}

## Limits

One world, {len(runs)} runs, one setting, found by hand and not by a sweep. What was looked at before, and is not told above:

- Seeds 0 to 4 of the five characters, parts of captions left out at all levels, no level above 600 and no hold of the empty prompt: body colour was
  right in 0.811 of the pictures, and the position kept 0.654 of its entropy, 0.21 in the worst run (raw results in the history, commit ed8090c). A
  second choice, twice the rate with thrice the weight and the hold, was given up after three runs that kept 1.00, 0.05 and 0.17 of it (bramble,
  comet, dapple; raw results not kept). The last two of these were looked into for the cause, and the defaults were chosen.
- After the five runs of the defaults: on ember and flurry with seeds 21 to 24 captions whole from level 500 on, twice the rate, constant or
  falling by a cosine, twice the batch, all 1000 levels in one stage or both, captions shortened to the new word alone; and a rate of inversion of
  0.1 with seeds 13 and 14. What each gained in one colour it lost in another, or in places (raw results not kept).
- Then weights by place, on ember, flurry and gambit with seed 41: looks and places gained at once, and no variation in single runs was better throughout
  (a narrower mask, levels to 900 or 1000, inversion at all 1000 or at five times the rate, twice the rate of tuning, constant or falling by a
  cosine, twice the batch, the empty prompt held from level 400 on only, and two and four vectors without weights). Five runs of seeds 25 to 29 with
  the default rate, captions of the regulariser whole where those of training are, and guidance 2 were begun and given up after two:
  body and headgear colour 0.70 and 0.49 (ember), 0.82 and 0.54 (flurry), the position at 0.97 of its entropy in both.
- On these two, seeds 28 and 29: at twice the rate flurry stood in one place (0.08 of the entropy). The regulariser had never seen a prompt that leaves the
  place open at the levels where it is decided, since captions were whole there for it, too. Shortened for it at every level, places stayed free (0.99 and 1.00) at
  twice the rate; among the five runs of B four kept 0.80 and more. Thrice the rate was no better.
- Then all 1000 levels in both stages, with seeds 30, 31, 33 and 34 (bramble, comet, ember, flurry): given up after these four, in which body and headgear colour were right
  in 0.747 and 0.858 of the pictures, the position kept 0.945 of its entropy and the background 0.502, 0.06 in the worst (comet). B came last.
- Guidance 1, 1.5, 2 and 3 were compared on the weights of some of these: more of it makes headgear clearer and turns ember's red and black checks orange. What has no seeds
  of a table above has no raw results here.

An interval over five runs is somewhat too
narrow. The readers' own errors are in `reports/miniworld/report.md`. Entropies are plug-in estimates from {n} pictures, low by the same
amount (about {8 / (2 * n * np.log(2)):.2f} bits for position) on both sides of the ratio.
"""


def _others(runs: list[dict[str, Any]], others: list[list[dict[str, Any]]]) -> str:
    """The same with other settings; nothing where none were run."""
    if not others:
        return ""
    named = dict(zip(ascii_uppercase, others, strict=False))
    sides = (runs, *others)
    ways = "\n".join(f"- {name}: {_changed(runs[0], side[0])}" for name, side in named.items())
    rows = [
        f"| {factor.replace('_', ' ')} | " + " | ".join(_mean(_shares(side, "tuned", factor)) for side in sides) + " |"
        for factor in LOOKS
    ]
    rows += [
        f"| {factor}, of the base's entropy | "
        + " | ".join(_mean([_kept(run, factor) for run in side]) for side in sides)
        + " |"
        for factor in FREE
    ]
    return f"""## With other settings

Five runs each of other seeds, fixed before; all but what is named as by default. A has the rate of inversion that
[inversion-distance](../inversion-distance/report.md) chose, for prompts alone and before any tuning. B weighs errors away from the character down, where the class word
changes nothing for the frozen model, trains at twice the rate, and shortens the regulariser's captions at every level. B draws more of the headgear and its colour where the
defaults failed (ember), and less where they did not (comet), and lets the places go with one character: a choice to try, and no better default.

{ways}

| after tuning | defaults | {" | ".join(named)} |
|---|{"---|" * len(sides)}
{chr(10).join(rows)}

By run, {", ".join(factor.replace("_", " ") for factor in LOOKS)}, and position's share of entropy:

{chr(10).join(f"- {name}: {'; '.join(_briefly(run) for run in side)}" for name, side in named.items())}

"""


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


def _kept(run: dict[str, Any], factor: str) -> float:
    """Entropy after tuning, of the base model's."""
    return _entropy(run, "tuned", factor) / _entropy(run, "base", factor)


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
    low, high = bootstrap((values,), np.mean, method="BCa", rng=np.random.default_rng(0)).confidence_interval
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _sheet(training: np.ndarray, pictures: np.ndarray, path: Path) -> None:
    columns = pictures.shape[1]
    first = np.full((columns, *training.shape[1:]), 255, dtype=np.uint8)
    first[: len(training)] = training[:columns]
    rows = [np.concatenate(list(row), axis=1) for row in (first, *pictures)]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((sheet.width * ENLARGED, sheet.height * ENLARGED), Image.Resampling.NEAREST).save(path, optimize=True)
