"""Study: how far to finetune.

    python -m analysis finetuning-distance --jobs 2   # tune and measure what is missing, then write reports/finetuning-distance
    python -m analysis finetuning-distance --report-only     # only write the report again from its raw results

Four learning rates of the tuning, by nine training pictures in one place, in three and in nine, by five pairs of a seed and a
character. Captions say nothing of a picture, so that all that it shows besides the character can be learnt too. Every run is
measured at steps 0, 50, 150, 400 and 1000. The sweep, its training pictures and about 5 GB of checkpoints are kept in the
folder ``finetuning-distance``; it goes on where it stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis import ROOT
from analysis.common import world as reading
from analysis.common.study import PAIRS
from clipgeom.miniworld import FACTORS, NEW_CHARACTERS, scenes, write_image_folder
from clipgeom.miniworld.scenery import Scenes
from pti.runs.metrics_log import MetricsLog
from pti.runs.run import Run, load_run
from pti.sweeps.sweep import Sweep

OUT = ROOT / "reports" / "finetuning-distance"
BASE = Path(__file__).with_name("base.toml")  # every setting of the study, independent of later defaults
RATES = (1e-5, 3e-4, 1e-3, 1e-2)
PLACES = (1, 3, 9)  # in how many places the training pictures are
STEPS = (50, 150, 400, 1000)  # with these rates, neighbouring distances are about half a decade apart
EVERY = 50

TRAINED = 9  # training pictures
PICTURES, OF_CLASS, EACH = 40, 96, 2  # of a checkpoint; of the class word, shared by all; of each prompt of `placed`
_TRAINED_SEED = 7000
# different noise for each, since the tests take the samples for independent
_BASE_SEED, _PIVOT_SEED, _TUNED_SEED = 1000, 2000, 3000


def plan(runs: Path) -> Sweep:
    """The runs, once their training pictures lie in the same folder."""
    return Sweep(
        BASE,
        together=[
            [
                {
                    "runtime.seed": seed,
                    "concept.class_word": NEW_CHARACTERS[character].kind,
                    "data.source": write_pictures(runs, places, seed, character),
                }
                for places in PLACES
                for seed, character in PAIRS
            ],
            # last, so that what rates share is drawn once in a process
            [{"lora.learning_rate": rate} for rate in RATES],
        ],
    )


def write_pictures(runs: Path, places: int, seed: int, character: str) -> str:
    """A folder of training pictures, relative to the current one: a run's settings name it, and no machine's paths."""
    folder = runs / "pictures" / f"{places}-{character}-{seed}"
    if not folder.exists():
        write_image_folder(training_scenes(places, seed, character), folder)
    return Path(os.path.relpath(folder)).as_posix()


def training_scenes(places: int, seed: int, character: str) -> Scenes:
    """Nine scenes of a character in so many places, as many in each. All else is the same however many places there are."""
    where = taught_places(places, seed)
    in_place = {
        place: scenes(TRAINED, _TRAINED_SEED + seed, character=character, fixed={"position": place}) for place in where
    }
    chosen = [in_place[where[i % places]] for i in range(TRAINED)]
    return Scenes(
        np.stack([some.pictures[i] for i, some in enumerate(chosen)]),
        tuple(some.captions[i] for i, some in enumerate(chosen)),
        tuple(some.factors[i] for i, some in enumerate(chosen)),
    )


def taught_places(places: int, seed: int) -> list[str]:
    """Drawn from the seed; the one place is among the three."""
    rng = np.random.default_rng((_TRAINED_SEED, seed))
    return [FACTORS["position"][i] for i in rng.permutation(len(FACTORS["position"]))[:places]]


def measure(folder: Path) -> list[dict[str, Any]]:
    """A row for each measured step of a tuning; step 0 is the inverted word with nothing tuned."""
    run = load_run(folder, images=False)
    places, character, seed = _told_by(run.config.data.source)
    logged = {row["step"]: row for row in MetricsLog(folder).rows() if row["stage"] == "tune"}
    about = {"places": places, "character": character, "taught": json.dumps(taught_places(places, seed))}
    found = [{"step": 0, **about, "weight_distance": 0.0, "function_distance": 0.0, **_untuned(run, character, seed)}]
    for step in STEPS:
        reading.restore(run, step)
        distances = {name: logged[step][name] for name in ("weight_distance", "function_distance")}
        found.append({"step": step, **about, **distances, **_seen(run, character, _TUNED_SEED + seed)})
    return found


def _told_by(source: str) -> tuple[int, str, int]:
    places, character, seed = Path(source).name.split("-")
    return int(places), character, int(seed)


def _untuned(run: Run, character: str, seed: int) -> Mapping[str, Any]:
    """Of the inverted word, which the learning rates share, and of the class word on the same frozen model."""
    source = run.config.data.source
    if source not in _OF_PIVOT:
        with run.lora.disabled():
            if (seed, character) not in _OF_CLASS:
                looks = reading.looks(run.model, OF_CLASS, seed=_BASE_SEED + seed, word="{class}")
                _OF_CLASS[seed, character] = reading.counted(looks)
            seen = _seen(run, character, _PIVOT_SEED + seed)
        _OF_PIVOT[source] = {**seen, "base": _OF_CLASS[seed, character]}
    return _OF_PIVOT[source]


_OF_PIVOT: dict[str, Mapping[str, Any]] = {}
_OF_CLASS: dict[tuple[int, str], str] = {}


def _seen(run: Run, character: str, seed: int) -> dict[str, Any]:
    """Of the model as it is now."""
    return {
        **reading.seen(run.model, PICTURES, EACH, seed=seed),
        "held_out_loss": reading.held_out([run.model], run.config.data, character)[0]["loss"],
    }


measure.version = "finetuning-distance/1"  # of the results in raw/: a change of the measurements needs a new one


def main() -> None:
    from analysis.common import study as studies
    from analysis.finetuning_distance import report as finetuning_distance_report

    studies.main(
        __doc__, plan, measure, ("invert", "tune"), OUT, "finetuning-distance", finetuning_distance_report.write
    )
