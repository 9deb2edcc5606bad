"""A certificate of the world's text encoder for short prompts as well as long ones.

    python -m analysis.locality.certificate              # writes reports/locality/certificate-short.safetensors

The world's own captions mention most of what a scene holds, and hardly any ends before position 14: its certificate in
``reports/miniworld`` says nothing of the padding after "a picture of knight". Here every caption says a number of things
that is drawn evenly from none to all, so that every length is there.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from analysis import ROOT
from clipgeom import Certificate
from clipgeom._progress import Progress
from clipgeom.captions import open_captions
from clipgeom.centering.from_captions import check_captions
from clipgeom.encoder import load_text_encoder, parse_positions
from clipgeom.miniworld import FACTORS, checked_folder
from clipgeom.miniworld.captions import draw_caption
from clipgeom.miniworld.factors import draw_factors

__all__ = ["CAPTIONS", "PATH", "POSITIONS", "evenly_said", "make"]

PATH = Path("reports/locality/certificate-short.safetensors")  # in the repository, as settings name it
CAPTIONS, SEED = 6000, 7
# the word in "a picture of …" is at 4 and its padding begins at 6; hardly any caption has content after 28
POSITIONS = (*map(str, range(4, 29)), "eos", *(f"padded:{i}" for i in range(6, 77)))


def evenly_said(count: int, seed: int = SEED) -> list[str]:
    """Captions that say a number of factors drawn from none to all of them, and which ones at random."""
    said = []
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        some = rng.choice(list(FACTORS), size=int(rng.integers(len(FACTORS) + 1)), replace=False)
        said.append(draw_caption(draw_factors(rng), rng, said=[str(name) for name in some]))
    return said


def make(path: Path, *, count: int = CAPTIONS, positions: tuple[str, ...] = POSITIONS) -> Certificate:
    """Encode the captions, check every position, write the certificate."""
    encoder = load_text_encoder(checked_folder("pipeline"), subfolder="text_encoder", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "captions.txt"
        texts.write_text("\n".join(evenly_said(count)) + "\n", encoding="utf-8")
        captions = open_captions(str(texts))
        with Progress("encoded", "captions") as progress:
            checks = check_captions(
                encoder,
                captions,
                representations=("hidden",),
                positions=parse_positions(",".join(positions), max_positions=encoder.max_positions),
                workspace=Path(folder),
                progress=progress,
            )
    certificate = Certificate.of(
        checks,
        encoder_fingerprint=encoder.fingerprint,
        captions_sha256=captions.counts.sha256,
        seed=0,
        model="miniworld, text_encoder",
        captions=f"miniworld, none to all factors said, {count} captions of seed {SEED}",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    certificate.save(path)
    return certificate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / PATH)
    parser.add_argument("--count", type=int, default=CAPTIONS, help=f"how many captions ({CAPTIONS})")
    parser.add_argument("--positions", default=",".join(POSITIONS), help="as clipgeom check takes them")
    arguments = parser.parse_args()
    made = make(arguments.out, count=arguments.count, positions=tuple(arguments.positions.split(",")))
    for mode, n in Counter(entry.recommended for entry in made.entries).most_common():
        print(f"{mode} recommended at {n} positions")
    print(f"certificate: {arguments.out}")


if __name__ == "__main__":
    main()
