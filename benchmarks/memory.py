"""Peak resident memory of a report's measurement, from 10,000 captions to many: it must not grow with their number.

python benchmarks/memory.py --model DIR --captions FILE.txt [--large 400000]

The captions are repeated until there are enough. Each size runs in a process of its own.
"""

import argparse
import itertools
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def measure(model: str, captions: str, limit: int) -> None:
    from clipgeom import load_text_encoder, open_captions
    from clipgeom.encoder import parse_positions
    from clipgeom.report.measure.build import measure_captions

    encoder = load_text_encoder(model)
    names = tuple(name for name in ("hidden", "projected") if name in encoder.representations)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        measured = measure_captions(
            encoder,
            open_captions(captions, limit=limit),
            representations=names,
            positions=parse_positions("eos,5"),
            workspace=Path(folder),
        )
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert measured.report["captions"]["n_used"] == limit
    print(f"{limit:>9,} captions  peak {peak:7.0f} MB  {seconds:6.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--captions", required=True, help="a text file, a caption a line")
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=400_000)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        measure(arguments.model, arguments.captions, arguments.only)
        return
    lines = Path(arguments.captions).read_text(encoding="utf-8").splitlines()
    with tempfile.TemporaryDirectory() as folder:
        repeated = Path(folder) / "captions.txt"
        with repeated.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in itertools.islice(itertools.cycle(lines), arguments.large))
        for size in (arguments.small, arguments.large):
            command = [
                sys.executable,
                __file__,
                "--model",
                arguments.model,
                "--captions",
                str(repeated),
                "--only",
                str(size),
            ]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
