"""Coverage of the 95 % intervals on captions that come five to an image: how often they contain the whole set's value.

python benchmarks/coverage.py --model DIR --captions FILE.txt

The first 20,000 captions are encoded once. They are cut into 40 chunks of 500 (100 images of 5 captions), and each
chunk is measured by image, and for comparison as if its captions were independent. The printed number is the share of
chunks whose interval contains the value of all 20,000 captions. Means and variances are those of the norms.

Intervals assume that a chunk is a random sample of images. So the images are put in random order, in --orders ways.
The order of the file is measured as well: where neighbouring images are alike it covers less. `spread` is the standard
deviation of the chunks' values in the order of the file, as a multiple of that in random order.
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


def coverage(vectors: np.ndarray, images: np.ndarray, *, by_image: bool = True) -> dict[str, tuple[float, float]]:
    """Share of the chunks whose interval contains the value of all vectors, and the spread of the chunks' values."""
    from clipgeom import measure_shells

    truth = {name: value for name, (value, _) in statistics(measure_shells(vectors)).items()}
    rows = (images[:, None] * PER_IMAGE + np.arange(PER_IMAGE)).reshape(-1, CHUNK)
    groups = np.arange(CHUNK) // PER_IMAGE if by_image else None
    measured = [statistics(measure_shells(vectors[chunk], groups=groups)) for chunk in rows]
    found = {}
    for name, value in truth.items():
        covered = [m[name][1][0] <= value <= m[name][1][1] for m in measured]
        found[name] = float(np.mean(covered)), float(np.std([m[name][0] for m in measured]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--captions", required=True, help="text file, five consecutive lines an image")
    parser.add_argument("--orders", type=int, default=5, help="random orders of the images")
    parser.add_argument("--folder", type=Path, help="where vectors are kept; a temporary folder if left out")
    arguments = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        vectors = encoded(arguments.model, arguments.captions, arguments.folder or Path(temporary))
    in_file = np.arange(N // PER_IMAGE)
    for name, array in vectors.items():
        orders = [coverage(array, np.random.default_rng(o).permutation(in_file)) for o in range(arguments.orders)]
        grouped, loose = coverage(array, in_file), coverage(array, in_file, by_image=False)
        print(f"{name}: {N // CHUNK} chunks in each of {arguments.orders} random orders, and in the order of the file")
        print(f"  {'':<17} random order   order of the file (spread)   as independent, order of the file")
        for statistic, (share, spread) in grouped.items():
            mixed, usual = (float(np.mean([order[statistic][k] for order in orders])) for k in (0, 1))
            print(
                f"  {statistic:<17} {mixed:12.3f}   {share:17.3f} ({spread / usual:.2f})   {loose[statistic][0]:17.3f}"
            )
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
