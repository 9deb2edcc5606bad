"""Study: why raw is tighter than centred at EOS, and whether embeddings may be interpolated about their centre.

    python -m analysis centering                # measure what is missing, then write reports/centering
    python -m analysis centering --report-only         # only write the report again from its raw results

Raw results are JSON files in reports/centering/raw, one an experiment, each written when it is finished: an interrupted
run goes on where it stopped. Delete a file to measure it again. Inputs are found by CLIPGEOM_SHARED (default ../shared).
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analysis import ROOT
from analysis.centering import populations
from analysis.centering import report as centering_report
from clipgeom import check_centering, encode, load_text_encoder, measure_shells
from clipgeom.centering import MODES, summarize

SHARED = Path(os.environ.get("CLIPGEOM_SHARED", ROOT.parent / "shared"))
OUT = ROOT / "reports" / "centering"
SEED = 0
CAPTIONS = "data/coco2014_karpathy_test_captions.txt"
TOWER = "models/coco-text-tiny"
LADDER = ("token", "penultimate", "prenorm", "hidden", "projected", "normalized")
TRIALS, COVERAGE_TRIALS = 200, 1000

Vectors = np.ndarray


def coco_captions() -> list[str]:
    """Every fifth line: one caption of each of 5,000 images."""
    return (SHARED / CAPTIONS).read_text(encoding="utf-8").splitlines()[::5]


def files() -> dict[str, tuple[str, Vectors]]:
    """The real embeddings: name → (what they are, vectors)."""
    images, texts = np.load(SHARED / "data/vitb16_image_text_pairs_normalized.npy")
    return {
        "LVIS names": ("ViT-B/32, projected, EOS", np.load(SHARED / "data/vitb32_text_projected_lvis.npy")),
        "ADE names": ("ViT-L/14, hidden, EOS", np.load(SHARED / "data/vitl14_text_hidden_eos_ade150.npy")),
        "pairs, text": ("ViT-B/16, normalized, EOS", texts),
        "pairs, image": ("ViT-B/16, normalized", images),
    }


def row(vectors: Vectors) -> dict[str, Any]:
    """Norms, offset and radial terms of one set, with intervals."""
    shells = measure_shells(vectors, seed=SEED)
    return {
        "n": shells.n,
        "dim": shells.dim,
        **{
            side: {
                **{k: getattr(of, k) for k in ("mean_norm", "var_norm", "cv_norm")},
                "ci95": {k: of.ci95[k] for k in ("mean_norm", "var_norm", "cv_norm")},
            }
            for side, of in (("raw", shells.raw), ("centered", shells.centered))
        },
        "offset_ratio": shells.offset_ratio,
        "offset_ratio_ci95": shells.offset_ratio_ci95,
        "correlation": shells.radial.correlation,
        "correlation_ci95": shells.radial.ci95["correlation"],
        "cancellation": -shells.radial.C / (shells.radial.A + shells.radial.B) if shells.radial.A else float("nan"),
    }


def tower_vectors(positions: str, representations: str = ",".join(LADDER)) -> dict[tuple[str, str], Any]:
    encoder = load_text_encoder(SHARED / TOWER)
    return encode(encoder, coco_captions(), representations=representations, positions=positions)


# --- experiments: each returns what its JSON file holds


def ladder() -> Any:
    """Where along the forward pass raw becomes tighter than centred."""
    return {f"{name} {place}": row(vectors) for (name, place), (vectors, _rows) in tower_vectors("eos,5").items()}


def undone() -> Any:
    """The same hidden states with the LayerNorm's own scale and shift taken out: a sphere of radius √d."""
    encoder = load_text_encoder(SHARED / TOWER)
    norm = encoder.core.get_submodule("final_layer_norm")
    scale, shift = (p.detach().double().numpy() for p in (norm.weight, norm.bias))
    results = {}
    for (name, place), (vectors, _rows) in tower_vectors("eos,5", "hidden").items():
        radii = np.linalg.norm((vectors - shift) / scale, axis=1)
        results[f"{name} {place}"] = {
            "n": len(radii),
            "root_dim": float(np.sqrt(vectors.shape[1])),
            "mean": float(radii.mean()),
            "cv": float(radii.std() / radii.mean()),
            "scale_cv": float(scale.std() / scale.mean()),
            "shift_norm": float(np.linalg.norm(shift)),
        }
    return results


def statistics() -> Any:
    """Four statistics of one and the same data, in a space without and one with a final LayerNorm."""
    results = {}
    for name in ("LVIS names", "ADE names"):
        x = files()[name][1].astype(float)
        found = row(x)
        for side in ("raw", "centered"):
            found[side]["var_over_mean"] = found[side]["var_norm"] / found[side]["mean_norm"]
        results[name] = found
    return results


def index() -> Any:
    """True EOS, the last padded position, and the highest id when a placeholder token was added."""
    encoder = load_text_encoder(SHARED / TOWER)
    captions = coco_captions()
    # The added token starts as a copy of its class word, so that its state is the class word's; legacy pooling takes the
    # highest id, which is the added token.
    [word] = encoder.tokens(["man"]).ids
    tokens = encoder.tokens(captions)
    found = [(i, int(np.flatnonzero(ids == word[1])[0])) for i, ids in enumerate(tokens.ids) if (ids == word[1]).any()]
    with_word = [captions[i] for i, _ in found]
    taken = []
    for position in sorted({p for _, p in found}):
        chosen = [captions[i] for i, p in found if p == position]
        taken.append(
            encode(encoder, chosen, representations="hidden", positions=[position])["hidden", str(position)][0]
        )
    results = {}
    for representation in ("hidden", "projected"):
        everything = encode(encoder, captions, representations=representation, positions="eos,padded:76")
        results[f"{representation}: true EOS"] = row(everything[representation, "eos"][0])
        results[f"{representation}: last padded position (76)"] = row(everything[representation, "padded:76"][0])
    results["hidden: true EOS, captions with the token"] = row(
        encode(encoder, with_word, representations="hidden")["hidden", "eos"][0]
    )
    results["hidden: highest id (the added token)"] = row(np.concatenate(taken))
    return results


def checks() -> Any:
    """The check on every set there is."""
    results = {}

    def judge(name: str, space: str, vectors: Vectors) -> None:
        results[name] = {"space": space, **summarize(check_centering(vectors, seed=SEED))}

    for name, (space, vectors) in files().items():
        judge(name, space, vectors)
    positions = "eos,5,padded:20,padded:76"
    for (representation, place), (vectors, _rows) in tower_vectors(positions).items():
        judge(f"COCO {representation} {place}", f"coco-text-tiny, {representation}, {place}", vectors)
    for kind in ("text", "image"):
        path = SHARED / f"data/vitl14_{kind}_projected_mean_cov.npz"
        judge(
            f"Gaussian, L/14 {kind}",
            "drawn from the published moments",
            populations.gaussian(path, 3000, 0, centered=False),
        )
    return results


def breaking() -> Any:
    """Populations made to break vSLERP with the norm restored."""
    found = {}
    for name, draw in populations.ADVERSARIES.items():
        found[name] = summarize(check_centering(draw(2000, 0), seed=SEED))
    return found


def tolerance() -> Any:
    """What the thickness that a shell has at least changes."""
    sets = {name: vectors for name, (_space, vectors) in files().items()}
    sets |= {f"COCO {n} {p}": v for (n, p), (v, _r) in tower_vectors("eos,5", "hidden").items()}
    results: dict[str, Any] = {}
    for name, vectors in sets.items():
        for share in (0.0, 0.005, 0.01, 0.02, 0.05):
            check = check_centering(vectors, seed=SEED, tolerance=share)
            rates = {mode: check.on_shell[mode].value for mode in ("real", *MODES)}
            results.setdefault(name, {})[str(share)] = {"rates": rates, "validated": check.validated}
    return results


def calibration(draw: Callable[[int], Vectors], path: Path) -> Any:
    """How often each mode is validated over simulated samples of 1,000; written every few trials, and resumed."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"trials": 0, "validated": {}}
    while found["trials"] < TRIALS:
        for mode, validated in check_centering(draw(found["trials"]), seed=found["trials"]).validated.items():
            found["validated"][mode] = found["validated"].get(mode, 0) + validated
        found["trials"] += 1
        if found["trials"] % 10 == 0:
            _write(path, found)
    return found


def coverage() -> Any:
    """How often 95 % intervals hold the truth, the truth being a sample of 400,000."""
    results: dict[str, Any] = {}
    for name, draw in populations.COVERED.items():

        def numbers(seed: int, n: int, draw: Callable[[int, int], Vectors] = draw) -> dict[str, tuple[float, Any]]:
            shells = measure_shells(draw(n, seed), seed=seed)
            radial = shells.radial
            return {
                "offset ratio": (shells.offset_ratio_corrected, shells.offset_ratio_ci95),
                "mean ‖x‖": (shells.raw.mean_norm, shells.raw.ci95["mean_norm"]),
                "Var ‖x‖": (shells.raw.var_norm, shells.raw.ci95["var_norm"]),
                "mean ‖x−m‖": (shells.centered.mean_norm, shells.centered.ci95["mean_norm"]),
                "Var ‖x−m‖": (shells.centered.var_norm, shells.centered.ci95["var_norm"]),
                **{k: (getattr(radial, k), radial.ci95[k]) for k in ("A", "B", "C", "correlation")},
            }

        truth = {k: value for k, (value, _ci) in numbers(10**6, 400_000).items()}
        covered = dict.fromkeys(truth, 0)
        for trial in range(COVERAGE_TRIALS):
            for k, (_value, (low, high)) in numbers(trial, 1000).items():
                covered[k] += bool(low <= truth[k] <= high)
        results[name] = {"trials": COVERAGE_TRIALS, "covered": covered, "truth": truth}
    return results


EXPERIMENTS: dict[str, Callable[[], Any]] = {
    "ladder": ladder,
    "undone": undone,
    "statistics": statistics,
    "index": index,
    "checks": checks,
    "breaking": breaking,
    "tolerance": tolerance,
    "coverage": coverage,
}
CALIBRATIONS: dict[str, Callable[[int], Vectors]] = {
    **{f"calibration-{name}": partial(draw, 1000) for name, draw in populations.CALIBRATED.items()},
    **{
        f"calibration-gaussian-{kind}": partial(
            populations.gaussian, SHARED / "data/vitl14_text_projected_mean_cov.npz", 1000, centered=centered
        )
        for kind, centered in (("offset", False), ("centered", True))
    },
}


def measure(name: str, path: Path) -> None:
    """Measure one experiment unless its file is complete."""
    if name in CALIBRATIONS:
        print(f"measuring {name}", flush=True)
        _write(path, calibration(CALIBRATIONS[name], path))
    elif not path.exists():
        print(f"measuring {name}", flush=True)
        _write(path, EXPERIMENTS[name]())


def _write(path: Path, content: Any) -> None:
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
    unfinished.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report-only", action="store_true", help="only write the report again from its raw results")
    parser.add_argument(
        "--only", nargs="*", choices=[*EXPERIMENTS, *CALIBRATIONS], help="measure these, and write no report"
    )
    arguments = parser.parse_args()
    raw = OUT / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    if not arguments.report_only:
        for name in arguments.only or [*EXPERIMENTS, *CALIBRATIONS]:
            measure(name, raw / f"{name}.json")
    if not arguments.only:
        centering_report.write(raw, OUT)
        print(f"report: {OUT / 'report.md'}")
