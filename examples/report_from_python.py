"""Measure embeddings from Python and write the same report folder as `clipgeom report`.

The example encodes 300 captions of miniworld with miniworld's own CLIP text tower, both of which come with the package.
First it uses the public functions on an array: `measure_shells` for norms and offset, and `check_centering` for the
question which interpolation is suitable. Then it saves the vectors to a file, measures that file and writes a report:
report.html, report.json, statistics.csv, centers.safetensors and figures/. It takes about ten seconds and downloads
nothing. Run it with `python examples/report_from_python.py [FOLDER]`. Without FOLDER the report goes to a temporary
folder and is deleted at the end.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from clipgeom import check_centering, encode, load_text_encoder, measure_shells, open_captions
from clipgeom.encoder.positions import Position
from clipgeom.geometry.embedding_files import load_embeddings
from clipgeom.report.measure.build import measure_embeddings
from clipgeom.report.write import write_report


def main(out: Path) -> None:
    """Encode, measure, check, and write the report."""
    # 1. Captions to vectors; `rows` are the indices of the captions that have the position
    captions = [caption.text for caption in open_captions("miniworld", limit=300)]
    encoder = load_text_encoder("miniworld")
    vectors, rows = encode(encoder, captions, representations="projected", positions="eos")["projected", "eos"]
    print(f"{len(rows)} vectors of dimension {vectors.shape[1]}")

    # 2. Norms about the origin (raw) and about the mean (centred), each with a 95 % interval
    shells = measure_shells(vectors)
    for name, norms in (("raw", shells.raw), ("centred", shells.centered)):
        low, high = norms.ci95["mean_norm"]
        print(f"{name} norm: mean {norms.mean_norm:.3f} [{low:.3f}, {high:.3f}], CV {norms.cv_norm:.3f}")
    print(f"offset ratio: {shells.offset_ratio_corrected:.3f}")

    # 3. The centering check
    check = check_centering(vectors)
    print(f"recommended mode: {check.recommended}; validated: {check.validated}")

    # 4. The report folder, from vectors in a file
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vectors.npy"
        np.save(file, vectors)
        measured = measure_embeddings(
            load_embeddings(file), source=file, representation="projected", position=Position("eos")
        )
        write_report(measured, out)
    first = json.loads((out / "report.json").read_text(encoding="utf-8"))["statistics"][0]
    print(f"report: {out / 'report.html'} (mean raw norm {first['raw']['mean_norm']:.3f})")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary) / "report")
