"""Coverage of the 95 % intervals on captions that come five to an image: how often they contain the whole set's value.

python benchmarks/coverage.py --model DIR --captions FILE.txt

The first 20,000 captions are encoded once. They are cut into 40 chunks of 500 (100 images of 5 captions), and each
chunk is measured by image, and for comparison as if its captions were independent. The printed number is the share of
chunks whose interval contains the value of all 20,000 captions. Means and variances are those of the norms.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

N, CHUNK, PER_IMAGE = 20_000, 500, 5
ROWS = (("hidden", "eos"), ("projected", "eos"))


def encoded(model: str, captions: str, folder: Path) -> dict[str, np.ndarray]:
    """Vectors of the first N captions, from a file of this folder once they are there."""
    from clipgeom import encode, load_text_encoder

    file = folder / "vectors.npz"
    if not file.exists():
        lines = Path(captions).read_text(encoding="utf-8").splitlines()[:N]
        if len(lines) < N:
            raise SystemExit(f"expected at least {N} captions in {captions}, got {len(lines)}")
        found = encode(load_text_encoder(model), lines, representations="hidden,projected", positions="eos")
        np.savez(file, **{f"{name}.{place}": found[name, place][0] for name, place in ROWS})
    with np.load(file) as stored:
        return {name: stored[name] for name in stored}


def statistics(shells: Any) -> dict[str, tuple[float, tuple[float, float]]]:
    """Value and interval of each number in the report's main table, of the radial terms and of the median."""
    found = {}
    for side, norms in (("", shells.raw), ("centred ", shells.centered)):
        for name, key in (("mean", "mean_norm"), ("variance", "var_norm"), ("CV", "cv_norm")):
            found[side + name] = getattr(norms, key), norms.ci95[key]
        found[side + "median"] = norms.percentiles["50"], norms.percentiles_ci95["50"]
    found["offset"] = shells.offset_ratio_corrected, shells.offset_ratio_ci95
    for name, interval in shells.radial.ci95.items():
        found[name] = getattr(shells.radial, name), interval
    return found


def coverage(vectors: np.ndarray, *, by_image: bool) -> dict[str, float]:
    """Share of the chunks whose interval contains the value of all vectors, for each statistic."""
    from clipgeom import measure_shells

    truth = {name: value for name, (value, _) in statistics(measure_shells(vectors)).items()}
    covered = dict.fromkeys(truth, 0)
    starts = range(0, N, CHUNK)
    for start in starts:
        images = np.arange(start, start + CHUNK) // PER_IMAGE if by_image else None
        measured = statistics(measure_shells(vectors[start : start + CHUNK], groups=images, seed=start))
        for name, (_, (low, high)) in measured.items():
            covered[name] += low <= truth[name] <= high
    return {name: count / len(starts) for name, count in covered.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--captions", required=True, help="text file, five consecutive lines an image")
    parser.add_argument("--folder", type=Path, help="where vectors are kept; a temporary folder if left out")
    arguments = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        vectors = encoded(arguments.model, arguments.captions, arguments.folder or Path(temporary))
    for name, array in vectors.items():
        grouped, independent = coverage(array, by_image=True), coverage(array, by_image=False)
        print(f"{name}: coverage in {N // CHUNK} chunks")
        for statistic, share in grouped.items():
            print(f"  {statistic:<17} by image {share:.3f}   as independent {independent[statistic]:.3f}")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
