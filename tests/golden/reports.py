"""Reports on a tiny text tower's captions, and on vectors from a seed: report.json and the centres."""

import io
import json
import runpy
import sys
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np

from . import models
from .digests import tensors_of

_VOLATILE = ("versions", "created")


def report_values():
    """All values, by report; written into the current folder."""
    models.save_tower(Path("tower"))
    _write_captions(Path("captions.jsonl"))
    np.save("vectors.npy", _vectors(600, 12))
    captions = ("--model", "tower", "--captions", "captions.jsonl", "--image-column", "image")
    vectors = ("--embeddings", "vectors.npy", "--representation", "hidden", "--positions", "eos", "--seed", "3")
    reports = {
        "captions": (*captions, "--limit", "200", "--sample", "random", "--positions", "eos", "--padded"),
        "vectors": vectors,
        "vectors-grouped": (*vectors, "--group-size", "4"),
    }
    with _figures_undrawn():
        return {name: _report(name, *arguments) for name, arguments in reports.items()}


@contextmanager
def _figures_undrawn():
    """Figures are no golden values, and drawing them takes most of the time."""
    from matplotlib.figure import Figure

    def savefig(figure, file, *, format, **_):
        file.write(b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>' if format == "svg" else b"")

    before, Figure.savefig = Figure.savefig, savefig
    try:
        yield
    finally:
        Figure.savefig = before


def _report(name, *arguments):
    printed = command("clipgeom", "report", *arguments, "--out", name)
    report = json.loads((Path(name) / "report.json").read_text(encoding="utf-8"))
    for key in _VOLATILE:
        del report["provenance"][key]
    return {
        "printed": printed.splitlines(),
        "report": report,
        "centers": tensors_of(Path(name) / "centers.safetensors"),
        "columns": (Path(name) / "statistics.csv").read_text(encoding="utf-8").splitlines()[0].split(","),
    }


def command(package, *arguments):
    """Run ``python -m package`` in this process, and give back what it prints."""
    before, out = sys.argv, io.StringIO()
    sys.argv = [package, *arguments]
    try:
        with redirect_stdout(out):
            runpy.run_module(package, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"{package} {' '.join(arguments)}: exit code {stop.code}") from None
    finally:
        sys.argv = before
    return out.getvalue()


def _write_captions(path):
    animals, places = ("the cat", "a dog", "the thin dog"), ("on a mat", "at the door", "and the cat")
    lines = []
    for i in range(300):
        text = f"{animals[i % 3]} {places[i // 3 % 3]} {'and a dog ' * (i % 5)}{i}"
        lines.append(json.dumps({"caption": text, "image": i // 3}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _vectors(n, dim):
    """Groups of four that resemble each other, on a shell about a far centre."""
    rng = np.random.default_rng(7)
    x = np.repeat(rng.normal(size=(n // 4, dim)), 4, axis=0) + 0.5 * rng.normal(size=(n, dim))
    x *= np.linspace(0.5, 1.5, dim)
    return (x / np.linalg.norm(x, axis=1, keepdims=True) + 1.5 * np.eye(dim)[0]).astype(np.float32)
