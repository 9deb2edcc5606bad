"""Study of stage 1: at what distance from its class word a new word is best left.

    python analysis/inversion_distance.py               # train and measure what is missing, then write reports/inversion-distance
    python analysis/inversion_distance.py --jobs 2      # two runs at a time
    python analysis/inversion_distance.py --draw        # only write the report again from its raw results

Runs are kept in the folder ``studies/inversion-distance`` and go on where they stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

OUT = ROOT / "reports" / "inversion-distance"
RATES = {
    ("adamw", "off"): (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    ("adamw", "fixed"): (1e-3, 1e-2, 1e-1),
    ("sgd", "off"): (0.1, 1.0, 10.0),
}
CHECKPOINTS = (100, 300, 1000)
N_OPEN, N_ASKED = 12, 12
STATES_AT = "an ink illustration of {token}"  # which stands at position 5 there, as in the certificate


def plan() -> Any:
    """Every optimiser at every rate, for every pair of seed and character."""
    from analysis.readings import PAIRS
    from pti.sweep import Sweep

    ways = [
        {"inversion.optimizer": optimizer, "inversion.norm": norm, "inversion.rate": rate}
        for (optimizer, norm), rates in RATES.items()
        for rate in rates
    ]
    pairs = [{"engine.seed": seed, "data.source": f"miniworld:{name}"} for seed, name in PAIRS]
    return Sweep(overrides=["run.keep=100", "sampling.every=0"], together=[ways, pairs])


def measure(folder: Path) -> list[dict[str, Any]]:
    """A row for every checkpoint that is looked at, the class word's embedding first; pictures in pictures.parquet."""
    from analysis.readings import held_out_loss, read, with_rows
    from pti import checkpoint
    from pti.run import load_run

    run = load_run(folder)
    character, seed = run.config.data.source.split(":")[1], run.config.engine.seed
    log = pd.read_json(folder / "metrics.jsonl", lines=True).set_index("step")
    rows, pictures = [], []
    for step in (0, *CHECKPOINTS):
        vectors = list(run.starts[run.config.concept.token])
        if step:
            tensors = checkpoint.load(folder / "checkpoints" / f"invert-{step:07d}.safetensors").tensors
            vectors = [tensors[f"parameter.rows.{i}"] for i in range(len(vectors))]
        model = with_rows(run.model, vectors)
        drawn = read(model, character, seed, n_open=N_OPEN, n_asked=N_ASKED)
        pictures.append(drawn.assign(step=step))
        moved = (
            log.loc[step, ["distance", "distance_per_rate", "path", "norm"]].to_dict() if step else {"distance": 0.0}
        )
        rows.append({"step": step, **moved, "held_out_loss": held_out_loss(run, model, character), **_states(model)})
    pd.concat(pictures).to_parquet(folder / "pictures.parquet", index=False)
    return rows


def _states(model: Any) -> dict[str, float]:
    """Where the new word stands behind the transformer, against its class word: at its own position and at EOS."""
    import torch

    from analysis.readings import shells
    from pti.conditioning import encode, tokenize

    prompts = [model.pivot.in_prompt(STATES_AT), model.pivot.in_class(STATES_AT)]
    with torch.no_grad():
        both = encode(model, prompts).states.double()
    found: dict[str, float] = {}
    end = int(tokenize(model.encoders[0], prompts[:1]).eos[0])
    for name, place, position in (("word", 5, "5"), ("eos", end, "eos")):
        new, plain = both[0, place], both[1, place]
        whitening, fitted = shells(position)
        center = torch.from_numpy(whitening.center)
        found[f"{name}_distance"] = float((new - plain).norm())
        found[f"{name}_angle"] = _angle(new, plain)
        found[f"{name}_angle_centered"] = _angle(new - center, plain - center)
        found[f"{name}_norm"], found[f"{name}_norm_centered"] = float(new.norm()), float((new - center).norm())
        found[f"{name}_on_shells"] = float(fitted.hold(whitening.radii(new.numpy()[None])).all())
    return found


def _angle(a: Any, b: Any) -> float:
    """In degrees."""
    return float(np.degrees(np.arccos(np.clip(float(a @ b / (a.norm() * b.norm())), -1, 1))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="only write the report again from its raw results")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--runs", type=Path, default=Path("studies/inversion-distance"), help="where runs are kept")
    arguments = parser.parse_args()
    if not arguments.draw:
        from analysis.studies import swept

        swept(plan(), arguments.runs, OUT / "raw", stages=("invert",), measure=measure, jobs=arguments.jobs)
    from analysis import inversion_distance_report

    inversion_distance_report.write(OUT / "raw", OUT)
    print(f"report: {OUT / 'report.md'}")


if __name__ == "__main__":
    main()
