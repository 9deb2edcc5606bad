"""Study: whether the locality regulariser lets a higher learning rate learn the looks without learning places.

    python -m analysis locality --jobs 2   # train and measure what is missing, then write reports/locality
    python -m analysis locality --report-only     # only write the report again from its raw results

Seventeen ways to tune, by five pairs of a seed and a character, which share their inversions. Captions say nothing but the new
word, so that place, background, facing and style may leak. The sweep is kept in the folder ``locality`` of the
repository and goes on where it stopped. Ways may be added to or taken from `WAYS`: what is finished is kept, and the report tells of
whatever is there.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis import ROOT
from analysis.common import world as reading
from analysis.common.study import PAIRS
from analysis.locality import certificate as short_certificate
from clipgeom.centering import CENTERED_MODES
from pti.runs.run import Run, load_run
from pti.sweeps.sweep import Sweep

OUT = ROOT / "reports" / "locality"
BASE = Path(__file__).with_name("base.toml")  # every setting of the study, independent of later defaults
RATES = (3e-4, 6e-4, 1.5e-3, 3e-3)  # the ladder: the lowest, and 2, 5 and 10 times it
USUAL = 1.5e-3  # at which all else is varied
EARLIER = (
    100,
    200,
    300,
    500,
)  # steps at which an unregularised run is measured as well: fewer steps, at no further run
LAST = 1000


@dataclass(frozen=True, slots=True)
class Way:
    """One way to tune."""

    rate: float = USUAL
    mode: str = "none"
    weight: float = 1.0
    positions: str = "suffix"
    inputs: str = "latents"
    prior: float = 0.0
    rank: int = 8

    @property
    def settings(self) -> dict[str, str | float | bool]:
        """By full name. A centred mode is used at every position, validated there or not; outputs are marked where it is not."""
        return {
            "lora.learning_rate": self.rate,
            "lora.rank": self.rank,
            "locality.interpolation": self.mode,
            "locality.weight": self.weight,
            "experimental.locality_positions": self.positions,
            "experimental.locality_inputs": self.inputs,
            "locality.allow_uncertified": self.mode in CENTERED_MODES,
            "prior_preservation.weight": self.prior,
        }


# Twice the lowest rate is left to the regulariser: what lies between the others without it, fewer steps show. The certificate's
# own choice is vslerp with the norm restored at most positions and slerp at the rest; it stands for that mode.
WAYS = (
    *(Way(rate) for rate in (RATES[0], *RATES[2:])),
    *(Way(rate, "auto") for rate in RATES),
    *(Way(mode=mode) for mode in ("lerp", "slerp", "vslerp", "aslerp")),
    Way(mode="auto", positions="placeholder"),
    Way(mode="auto", inputs="generated"),
    *(Way(mode="auto", weight=weight) for weight in (0.1, 10.0)),
    Way(prior=1.0),
    Way(rank=2),
)
PLAN = Sweep(
    BASE,
    together=[
        [way.settings for way in WAYS],
        [{"runtime.seed": seed, "data.source": f"miniworld:{character}"} for seed, character in PAIRS],
    ],
)

PICTURES, OF_CLASS, EACH = (
    48,
    96,
    2,
)  # of "a picture of …" with the word and the class, and of each prompt that says a place
_DRAWING_SEED, _CLASS_SEED = 1000, 2000  # apart: the two samples must have nothing to do with each other
_BASES: dict[tuple[int, str], str] = {}


def measure(folder: Path) -> list[dict[str, Any]]:
    """A row for each measured step of stage 2, the last one last."""
    run = load_run(folder, images=False)
    base, seed = base_of(run), _DRAWING_SEED + run.config.runtime.seed
    regularised = run.config.locality.interpolation != "none"
    plain = not regularised and run.config.prior_preservation.weight == 0 and run.config.lora.rank == Way().rank
    about = {"base": base, "rulings": rulings_of(run.record) if regularised else "{}"}
    found = []
    if plain and run.config.lora.learning_rate == RATES[0]:
        with run.lora.disabled():  # the inverted word alone, which all ways start from, is told once
            found.append({"step": 0, **about, **reading.seen(run.model, PICTURES, EACH, seed=seed)})
    for step in (*(EARLIER if plain else ()), LAST):
        reading.restore(run, step)
        found.append({"step": step, **about, **reading.seen(run.model, PICTURES, EACH, seed=seed)})
    found[-1]["of_class"] = of_class(run)
    return found


def of_class(run: Run) -> str:
    """What the tuned model draws of the class word, which nobody asked to change."""
    return reading.counted(
        reading.looks(run.model, PICTURES, seed=_DRAWING_SEED + run.config.runtime.seed, word="{class}")
    )


def base_of(run: Run) -> str:
    """What the frozen model draws of the class word, told once in a process for each pair."""
    key = (run.config.runtime.seed, run.config.data.source)
    if key not in _BASES:
        with run.lora.disabled():
            looks = reading.looks(run.model, OF_CLASS, seed=_CLASS_SEED + run.config.runtime.seed, word="{class}")
        _BASES[key] = reading.counted(looks)
    return _BASES[key]


def rulings_of(record: dict[str, Any]) -> str:
    """At how many positions each mode was used, as JSON."""
    modes: Counter[str] = Counter()
    for ruling in record["locality"]["rulings"]:
        modes[ruling["mode"]] += len(ruling["positions"])
    return json.dumps(dict(modes), sort_keys=True)


measure.version = "locality/1"  # of the results in raw/: a change of the measurements needs a new one


def main() -> None:
    from analysis.common import study as studies
    from analysis.locality import report as locality_report

    os.chdir(ROOT)  # settings name the certificate as it lies in the repository
    if "--report-only" not in sys.argv and not short_certificate.PATH.exists():
        short_certificate.make(short_certificate.PATH)
    studies.main(__doc__, PLAN, measure, ("invert", "tune"), OUT, "locality", locality_report.write)
