"""Study of whether the embedded world keeps its promises.

    python -m analysis miniworld                # measure what is missing on the weights of the package, then write reports/miniworld
    python -m analysis miniworld --report-only         # only write the report again from its raw results
    python -m analysis miniworld --only said    # one experiment alone, for another core; repeatable
    python -m analysis miniworld --curves DIR   # also take the curves of a training folder over into the raw results

Raw results are JSON files in reports/miniworld/raw, one an experiment. Delete a file to measure it again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analysis import ROOT
from analysis.miniworld import report as miniworld_report
from analysis.miniworld.recipe.measure import (
    TEST_SEED,
    UNSAID,
    Generator,
    measure_autoencoder,
    measure_clip,
    measure_readers,
    measure_said,
    measure_speed,
    measure_unsaid,
)
from analysis.miniworld.recipe.recipe import STAGES
from clipgeom import Certificate
from clipgeom.miniworld import FACTORS, NEW_CHARACTERS, checked_folder, load_clip, load_pipeline, load_readers, scenes
from clipgeom.miniworld.codec import decode, encode

OUT = ROOT / "reports" / "miniworld"
CAPTIONS = miniworld_report.CAPTIONS
LAST_CONTENT, FIRST_PADDING = 28, 14  # beyond them hardly any caption has content, or padding
POINTS = 200  # of a curve


def scenery() -> dict[str, Any]:
    """Drawn scenes and new characters: pictures for the report."""
    drawn = scenes(24, TEST_SEED)
    new = [scenes(3, TEST_SEED, character=name).pictures for name in NEW_CHARACTERS]
    _keep("scenes", drawn.pictures)
    _keep("characters", np.concatenate(new))
    return {"captions": drawn.captions, "characters": list(NEW_CHARACTERS)}


def autoencoder() -> dict[str, Any]:
    vae = load_pipeline().vae
    pictures = np.concatenate(
        [scenes(8, TEST_SEED).pictures, *(scenes(1, TEST_SEED + 1, character=name).pictures for name in NEW_CHARACTERS)]
    )
    _keep("reconstructions", np.concatenate([pictures, decode(vae, encode(vae, pictures))]))
    return measure_autoencoder(vae)


def geometry() -> dict[str, Any]:
    """The report and the centering check of its own CLIP, as a user would run them."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "report",
            "--limit",
            str(CAPTIONS),
            "--positions",
            "eos,5",
            "--out",
            f"{folder}/report",
            "--no-cache",
        ]
        subprocess.run([sys.executable, "-m", "clipgeom", *command], cwd=folder, check=True)
        report = json.loads((Path(folder) / "report" / "report.json").read_text(encoding="utf-8"))
    return {name: report[name] for name in ("statistics", "modality", "centering")}


def suffix() -> dict[str, Any]:
    """The certificate for `hidden` at position 5 and the later ones, through the command that makes any.

    Made for the text encoder in the pipeline's folder, which is the one that the trainer asks about.
    """
    positions = [*map(str, range(5, LAST_CONTENT + 1)), "eos", *(f"padded:{i}" for i in range(FIRST_PADDING, 77))]
    folder = checked_folder("pipeline").relative_to(ROOT)  # the certificate repeats it
    pipeline = ["--model", str(folder), "--subfolder", "text_encoder", "--captions", "miniworld"]
    path = OUT / "certificate.safetensors"
    command = ["check", *pipeline, "--representation", "hidden", "--positions", ",".join(positions), "--no-cache"]
    command += ["--limit", str(CAPTIONS), "--out", str(path)]
    subprocess.run([sys.executable, "-m", "clipgeom", *command], cwd=ROOT, check=True)
    certificate = Certificate.load(path)
    modes = [certificate.entry("hidden", position).recommended for position in positions]
    return {"positions": len(positions), "recommended": dict(Counter(modes).most_common())}


def samples() -> dict[str, Any]:
    """Pictures of full captions, and several of captions that leave things unsaid."""
    generator = Generator.of(load_pipeline())
    full = scenes(24, TEST_SEED, said=tuple(FACTORS))
    _keep("samples", generator.draw(full.captions, seed=0))
    open_ended = [
        "an ink illustration of knight",
        "a wizard at night",
        "a flat poster of a red dragon",
        "penguin, top left",
    ]
    _keep("variety", generator.draw([text for text in open_ended for _ in range(8)], seed=1))
    return {"captions": full.captions, "open_ended": open_ended}


def unsaid(name: str) -> dict[str, Any]:
    return measure_unsaid(name, Generator.of(load_pipeline()), load_readers())


EXPERIMENTS: dict[str, Callable[[], Any]] = {
    "scenery": scenery,
    "autoencoder": autoencoder,
    "readers": lambda: measure_readers(load_readers(), load_pipeline().vae),
    "clip": lambda: measure_clip(*load_clip()),
    "geometry": geometry,
    "suffix": suffix,
    "samples": samples,
    "said": lambda: measure_said(Generator.of(load_pipeline()), load_readers()),
    **{f"unsaid-{name}": partial(unsaid, name) for name in UNSAID},
    "speed": lambda: _speed(),
}


def _speed() -> dict[str, float]:
    pipeline = load_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    return measure_speed(pipeline)


def _keep(name: str, pictures: np.ndarray) -> None:
    np.savez_compressed(OUT / "raw" / f"{name}.npz", pictures=pictures)


def curves(folder: Path) -> dict[str, Any]:
    """The curves of a training folder, thinned."""
    found = {}
    for stage in STAGES:
        lines = (folder / stage / "curve.jsonl").read_text(encoding="utf-8").splitlines()
        by_step = {row["step"]: row for row in map(json.loads, lines)}  # a run that was cut off repeats some
        rows = [by_step[step] for step in sorted(by_step)]
        found[stage] = [*rows[:: max(1, len(rows) // POINTS)], rows[-1]]
    return found


def _write(path: Path, content: Any) -> None:
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
    unfinished.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report-only", action="store_true", help="only write the report again from its raw results")
    parser.add_argument("--only", choices=EXPERIMENTS, action="append", help="measure these alone, and write no report")
    parser.add_argument("--curves", type=Path, help="a training folder")
    arguments = parser.parse_args()
    raw = OUT / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    if arguments.curves is not None:
        _write(raw / "curves.json", curves(arguments.curves))
    for name, measure in EXPERIMENTS.items():
        if arguments.only and name not in arguments.only:
            continue
        if not arguments.report_only and not (raw / f"{name}.json").exists():
            print(f"measuring {name}", flush=True)
            start = time.monotonic()
            result = measure()
            _write(raw / f"{name}.json", {"seconds": time.monotonic() - start, **result})
    if arguments.only:
        return
    miniworld_report.write(raw, OUT)
    print(f"report: {OUT / 'report.md'}")
