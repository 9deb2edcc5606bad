"""The centering check on 5,000 × 768 against encoding 2,000 captions with a tower of ViT-L/14's size, in one run.

python benchmarks/centering.py --tokenizer DIR --captions FILE.txt

The tower has random weights; its tokenizer is taken from DIR. Each is run twice, alternating; medians and the extra
peak memory of the check are printed.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np


def large_tower(folder: Path, tokenizer: str) -> None:
    import torch
    from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    config = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=49408
    )
    CLIPTextModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--captions", required=True)
    parser.add_argument("--repeat", type=int, default=2)
    arguments = parser.parse_args()
    from clipgeom import check_centering, encode, load_text_encoder
    from clipgeom.geometry._conformity import conformity
    from clipgeom.geometry.norms import measure_shells

    vectors = (np.random.default_rng(0).normal(size=(5000, 768)) + 0.5).astype(np.float32)
    small = vectors[:200]
    measure_shells(small), conformity(small), check_centering(small)  # what is imported on first use
    before = peak_mb()
    check_centering(vectors)
    extra = peak_mb() - before
    lines = Path(arguments.captions).read_text(encoding="utf-8").splitlines()[::5][:2000]
    checks, encodings = [], []
    with tempfile.TemporaryDirectory() as folder:
        large_tower(Path(folder), arguments.tokenizer)
        encoder = load_text_encoder(folder)
        for _ in range(arguments.repeat):
            started = time.perf_counter()
            check_centering(vectors)
            checks.append(time.perf_counter() - started)
            started = time.perf_counter()
            encode(encoder, lines, representations="hidden", positions="eos,5")
            encodings.append(time.perf_counter() - started)
    check, encoding = statistics.median(checks), statistics.median(encodings)
    print(f"check 5,000 x 768: {check:.1f} s; encode 2,000 captions: {encoding:.1f} s; ratio {check / encoding:.2f}")
    print(f"extra peak memory of the check: {extra:.0f} MB")


if __name__ == "__main__":
    main()
