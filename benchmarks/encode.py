"""Encoding a caption set, against what people would use instead, on one tower of ViT-L/14's size with random weights.

    python benchmarks/encode.py --tokenizer DIR --captions FILE.txt [--n 5000] [--rounds 3] [--threads 2]
    python benchmarks/encode.py --tokenizer DIR --captions FILE.txt --growth

Every variant gives `hidden` at EOS of the same captions from the same weights, tokenizing included, and its result is
compared with transformers padded to 77. The variants alternate, in `--rounds` rounds; medians are printed. Batch sizes
are chosen beforehand, for each peer, on the first 600 captions; those that come nowhere near (open_clip, whose mask
wants 77 tokens, and sentence-transformers) are measured on these alone. "Of peak" counts the arithmetic of the distinct
prefixes' linear maps only, so that padding and repeated prefixes count as loss; the peak is the best rate of any
float32 (bfloat16) matrix product that torch reaches, measured once a round; medians are compared.

bfloat16 is measured where the processor has instructions for it, else on 200 captions, against the float32 rate.

Needs the extra `benchmarks`. A peer that cannot be had is named with the reason.
"""

import argparse
import gc
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, LAYERS, INNER = 768, 12, 3072
BATCHES = (16, 32, 64, 128, 256)
FLOP = LAYERS * 2 * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER)  # a node's linear maps
LENGTH = 77
TRIED = 600  # captions on which batch sizes are chosen

Encode = Callable[[list[str], int], np.ndarray]


def save_tower(folder: Path, tokenizer: str) -> None:
    import torch
    from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    config = CLIPTextConfig(
        hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=12, vocab_size=49408
    )
    CLIPTextModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


class Peers:
    """The same tower in other people's hands."""

    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        from transformers import AutoTokenizer, CLIPTextModel

        self.folder, self.threads = folder, threads
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.eos = self.tokenizer.eos_token_id
        self.model = CLIPTextModel.from_pretrained(folder).eval().requires_grad_(False)
        torch.set_num_threads(threads)

    def ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"]

    def batches(self, texts: list[str], size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Captions sorted by length: their places, ids padded to the longest, and where EOS is."""
        rows = self.ids(texts)
        order = np.argsort([len(row) for row in rows], kind="stable")
        for start in range(0, len(order), size):
            members = order[start : start + size]
            ids = np.full((len(members), len(rows[members[-1]])), self.eos, dtype=np.int64)
            for i, member in enumerate(members):
                ids[i, : len(rows[member])] = rows[member]
            yield members, ids, (ids == self.eos).argmax(axis=1)

    def sorted_by(self, run: Callable[[np.ndarray], np.ndarray]) -> Encode:
        def encode(texts: list[str], size: int) -> np.ndarray:
            out = np.empty((len(texts), WIDTH), np.float32)
            for members, ids, eos in self.batches(texts, size):
                out[members] = run(ids)[np.arange(len(members)), eos]
            return out

        return encode

    def transformers(self, ids: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return self.model(input_ids=torch.from_numpy(ids)).last_hidden_state.numpy()

    def padded_ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH)["input_ids"]

    def padded(self, texts: list[str], size: int) -> np.ndarray:
        out = []
        for start in range(0, len(texts), size):
            ids = np.array(self.padded_ids(texts[start : start + size]))
            out.append(self.transformers(ids)[np.arange(len(ids)), (ids == self.eos).argmax(axis=1)])
        return np.concatenate(out)

    def sentence_transformers(self) -> Encode:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.models import Pooling, Transformer

        body = Transformer(str(self.folder))
        model = SentenceTransformer(modules=[body, Pooling(WIDTH, pooling_mode="lasttoken")], device="cpu")
        return lambda texts, size: model.encode(texts, batch_size=size, show_progress_bar=False)

    def open_clip(self) -> Encode:
        import torch
        from open_clip.transformer import QuickGELU, TextTransformer

        tower = TextTransformer(
            LENGTH, self.model.config.vocab_size, WIDTH, heads=12, layers=LAYERS, output_dim=None, act_layer=QuickGELU
        )
        renamed = {
            "embeddings.token_embedding": "token_embedding",
            "final_layer_norm": "ln_final",
            "encoder.layers.": "transformer.resblocks.",
            "self_attn.out_proj": "attn.out_proj",
            "layer_norm": "ln_",
            "mlp.fc1": "mlp.c_fc",
            "mlp.fc2": "mlp.c_proj",
        }
        weights = {name.removeprefix("text_model."): value for name, value in self.model.state_dict().items()}
        theirs = {"positional_embedding": weights.pop("embeddings.position_embedding.weight")}
        for layer in range(LAYERS):
            for kind in ("weight", "bias"):
                parts = [weights.pop(f"encoder.layers.{layer}.self_attn.{p}_proj.{kind}") for p in "qkv"]
                theirs[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
        for name, value in weights.items():
            for old, new in renamed.items():
                name = name.replace(old, new)
            theirs[name] = value
        tower.load_state_dict(theirs)
        tower.eval()

        def encode(texts: list[str], size: int) -> np.ndarray:
            out = np.empty((len(texts), WIDTH), np.float32)
            for start in range(0, len(texts), size):
                ids = torch.tensor(self.padded_ids(texts[start : start + size]))
                with torch.inference_mode():
                    out[start : start + size] = tower(ids).numpy()  # pools at the highest id, which is EOS
            return out

        return encode

    def traced(self) -> Any:
        import torch

        class Hidden(torch.nn.Module):
            def __init__(self, model: torch.nn.Module) -> None:
                super().__init__()
                self.model = model

            def forward(self, ids: torch.Tensor) -> torch.Tensor:
                return self.model(input_ids=ids).last_hidden_state

        return Hidden(self.model).eval()

    def openvino(self, precision: str) -> Encode:
        import openvino
        import torch

        converted = openvino.convert_model(
            self.traced(), example_input=torch.ones(2, 9, dtype=torch.int64), input=[openvino.PartialShape([-1, -1])]
        )
        compiled = openvino.Core().compile_model(
            converted, "CPU", {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": self.threads}
        )
        return self.sorted_by(lambda ids: compiled([ids])[0])

    def onnxruntime(self) -> Encode:
        import onnxruntime
        import torch

        path = self.folder / "model.onnx"
        batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=LENGTH)
        torch.onnx.export(
            self.traced(),
            (torch.ones(2, 9, dtype=torch.int64),),
            path,
            dynamo=True,
            dynamic_shapes=({0: batch, 1: length},),
            input_names=["ids"],
            verbose=False,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return self.sorted_by(lambda ids: session.run(None, {"ids": ids})[0])


def ours(folder: Path, dtype: str, positions: str = "eos") -> Encode:
    from clipgeom import encode, load_text_encoder

    encoder = load_text_encoder(folder, dtype=dtype)
    assert encoder.tower is not None, encoder.unpacked
    return lambda texts, _size: encode(encoder, texts, positions=positions)["hidden", positions][0]


def peak(dtype: str) -> float:
    """Best rate of a matrix product, in flop a second: torch's default and oneDNN's with packed weights, three shapes."""
    import torch

    from clipgeom.encoder.tower import _has_packed

    best = 0.0
    operators: Any = torch.ops.mkldnn
    for m, k, n in ((1024, WIDTH, INNER), (1024, INNER, WIDTH), (2048, 2048, 2048)):
        x, w = (torch.randn(shape).to(getattr(torch, dtype)) for shape in ((m, k), (n, k)))
        products = [lambda x=x, w=w: torch.nn.functional.linear(x, w)]
        if _has_packed(w.dtype):
            packed = operators._reorder_linear_weight(w, None)
            products.append(lambda x=x, packed=packed: operators._linear_pointwise(x, packed, None, "none", [], ""))
        for product in products:
            times = []
            for _ in range(9):
                started = time.perf_counter()
                product()
                times.append(time.perf_counter() - started)
            best = max(best, 2 * m * k * n / statistics.median(times))
    return best


def timed(encode: Encode, texts: list[str], size: int) -> tuple[float, np.ndarray]:
    gc.collect()
    started = time.perf_counter()
    vectors = encode(texts, size)
    return time.perf_counter() - started, vectors


def compare(arguments: argparse.Namespace, folder: Path, lines: list[str]) -> None:
    from clipgeom import load_text_encoder
    from clipgeom.encoder.prefix_tree import PrefixTree

    texts = lines[: arguments.n]
    peers = Peers(folder, arguments.threads)
    ids = [np.array(row) for row in peers.ids(texts)]
    nodes = len(PrefixTree(ids))
    print(f"{len(texts):,} captions, {sum(map(len, ids)):,} tokens, {nodes:,} distinct prefixes", flush=True)

    native = load_text_encoder(folder, dtype="auto").dtype == "bfloat16"
    made: dict[str, Callable[[], Encode]] = {
        "transformers sorted": lambda: peers.sorted_by(peers.transformers),
        "ONNX Runtime": peers.onnxruntime,
        "OpenVINO float32": lambda: peers.openvino("f32"),
    }
    if native:
        made["OpenVINO bfloat16"] = lambda: peers.openvino("bf16")
    variants: dict[str, tuple[Encode, int]] = {}
    rows: dict[str, list[float]] = {}

    def tried(name: str, make: Callable[[], Encode], sizes: tuple[int, ...]) -> tuple[Encode, int, float] | None:
        try:
            encode = make()
            taken = {size: timed(encode, texts[:TRIED], size)[0] for size in sizes}
        except Exception as error:  # whatever keeps a peer from running is what is to be told
            print(f"{name}: not measured: {type(error).__name__}: {str(error).splitlines()[0][:120]}", flush=True)
            return None
        best = min(sizes, key=lambda size: taken[size])
        print(f"{name}: batch {best} of { ({k: round(v, 1) for k, v in taken.items()}) } s", flush=True)
        return encode, best, taken[best]

    for name, make in made.items():
        if (found := tried(name, make, BATCHES)) is not None:
            variants[f"{name} ({found[1]})"] = found[:2]
    for name, make, sizes in (
        ("sentence-transformers", peers.sentence_transformers, (16, 64)),
        ("open_clip padded to 77", peers.open_clip, (64,)),
    ):
        if (found := tried(name, make, sizes)) is not None:
            rows[f"{name} ({found[1]}), on {TRIED}"] = [found[2] * len(texts) / TRIED]
    for label, dtype, positions in (
        ("ours float32", "float32", "eos"),
        *((("ours bfloat16", "bfloat16", "eos"),) if native else ()),
        ("ours float32, position 5", "float32", "5"),
    ):
        variants[label] = (ours(folder, dtype, positions), 0)
        timed(variants[label][0], texts[:200], 0)

    seconds: dict[str, list[float]] = {name: [] for name in variants}
    results: dict[str, np.ndarray] = {}
    dtypes = ("float32", "bfloat16") if native else ("float32",)
    peaks: dict[str, list[float]] = {dtype: [] for dtype in dtypes}
    padded_seconds, reference = timed(peers.padded, texts, 64)
    for number in range(arguments.rounds):
        for name, (encode, size) in variants.items():
            if name == "ours float32":
                for dtype, rates in peaks.items():
                    rates.append(peak(dtype))
            taken, results[name] = timed(encode, texts, size)
            seconds[name].append(taken)
            print(f"  round {number + 1}: {name}: {taken:.2f} s", file=sys.stderr, flush=True)

    top = {dtype: statistics.median(rates) for dtype, rates in peaks.items()}
    for dtype, rates in peaks.items():
        print(f"peak {dtype}: {', '.join(f'{rate / 1e9:.0f}' for rate in rates)} GFLOP/s")
    print(f"{'variant':<42} {'median s':>9} {'captions/s':>10} {'of peak':>8}  largest difference / largest value")
    rows = {"transformers padded to 77 (64)": [padded_seconds], **rows, **seconds}
    for name, taken in rows.items():
        median = statistics.median(taken)
        rate = top["bfloat16" if "bfloat16" in name else "float32"]
        share = "" if "position" in name else f"{nodes * FLOP / median / rate:8.2f}"
        same = name in results and results[name].shape == reference.shape and "position" not in name
        error = f"{np.abs(results[name] - reference).max() / np.abs(reference).max():.1e}" if same else ""
        print(f"{name:<42} {median:>9.2f} {len(texts) / median:>10.0f} {share:>8}  {error}")
    mine = statistics.median(seconds["ours float32"])
    print("ratios of medians, ours float32 = 1:")
    for name, taken in rows.items():
        print(f"  {name:<42} {statistics.median(taken) / mine:6.2f}")
    full = [name for name in seconds if "bfloat16" not in name and "ours" not in name]
    best_peer = min(full, key=lambda name: statistics.median(seconds[name]))
    best = statistics.median(seconds[best_peer])
    if native:
        print(
            f"bfloat16 against the best float32 peer, {best_peer}: {best / statistics.median(seconds['ours bfloat16']):.2f}"
        )
    else:
        taken = timed(ours(folder, "bfloat16"), texts[:200], 0)[0]
        print(
            f"bfloat16, emulated, as this processor has no instructions for it: {200 / taken:.1f} captions a second, "
            f"{200 / taken * best / len(texts):.2f} of the best float32 peer's rate, {best_peer}"
        )


def growth(arguments: argparse.Namespace) -> None:
    """Each size in a process of its own: seconds a caption, and peak memory above what the loaded encoder takes."""
    for n in (1000, 5000, 25_000):
        command = [sys.executable, __file__, "--tokenizer", arguments.tokenizer, "--captions", arguments.captions]
        subprocess.run([*command, "--only", str(n), "--threads", str(arguments.threads)], check=True)


def only(arguments: argparse.Namespace, folder: Path, lines: list[str]) -> None:
    import psutil
    import torch

    from clipgeom import load_text_encoder
    from clipgeom.encoder import Wanted, parse_positions
    from clipgeom.encoder.storage.store import VectorStore

    torch.set_num_threads(arguments.threads)
    encoder = load_text_encoder(folder)
    assert encoder.tower is not None, encoder.unpacked
    (place,) = parse_positions("eos")
    gc.collect()
    before = psutil.Process().memory_info().rss / 1024
    with tempfile.TemporaryDirectory() as store:
        started = time.perf_counter()
        VectorStore(Path(store), {}).fill(encoder, lines[: arguments.only], [Wanted(place, ("hidden",))])
        taken = time.perf_counter() - started
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    n = arguments.only
    print(f"{n:>7,} captions  {taken:7.2f} s  {1000 * taken / n:6.3f} ms each  +{extra:.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="a directory with CLIP's tokenizer")
    parser.add_argument("--captions", required=True, help="a text file, a caption a line")
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.growth:
        growth(arguments)
        return
    lines = Path(arguments.captions).read_text(encoding="utf-8").splitlines()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tower(folder, arguments.tokenizer)
        (only if arguments.only else compare)(arguments, folder, lines)


if __name__ == "__main__":
    main()
