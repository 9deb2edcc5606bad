"""Speed and memory of ``clipgeom.slerp`` beside what a user would pick instead: ``torch.lerp`` and the usual formula.

    python benchmarks/interpolate.py --library torch
    python benchmarks/interpolate.py --library numpy

The candidates take turns, so that a busy machine slows all of them alike, and the ratios are those of the medians.
Extra memory is what the resident set grows by during a call, at its peak, less the size of the result. It is sampled
once a millisecond, and in a process of its own for each candidate, lest one use unseen what another has freed.
"""

import argparse
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Candidates = dict[str, Callable[[], Any]]


def torch_candidates(rows: int, dim: int, dtype: str, threads: int) -> Candidates:
    import torch

    from clipgeom import slerp

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    a, b = (torch.randn(rows, dim, dtype=getattr(torch, dtype)) for _ in range(2))

    def usual() -> Any:
        u, v = a / torch.linalg.norm(a, dim=-1, keepdim=True), b / torch.linalg.norm(b, dim=-1, keepdim=True)
        omega = torch.acos((u * v).sum(-1, keepdim=True))
        return torch.sin(0.5 * omega) / torch.sin(omega) * a + torch.sin(0.5 * omega) / torch.sin(omega) * b

    slerp(a[:2], b[:2], 0.5)
    return {"slerp": lambda: slerp(a, b, 0.5), "usual formula": usual, "torch.lerp": lambda: torch.lerp(a, b, 0.5)}


def numpy_candidates(rows: int, dim: int, dtype: str, threads: int) -> Candidates:
    import numpy as np

    from clipgeom import slerp

    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((rows, dim)).astype(dtype) for _ in range(2))
    half = np.dtype(dtype).type(0.5)

    def usual() -> Any:
        u, v = a / np.linalg.norm(a, axis=-1, keepdims=True), b / np.linalg.norm(b, axis=-1, keepdims=True)
        omega = np.arccos(np.sum(u * v, axis=-1, keepdims=True))
        return np.sin(half * omega) / np.sin(omega) * a + np.sin(half * omega) / np.sin(omega) * b

    slerp(a[:2], b[:2], 0.5)
    return {"slerp": lambda: slerp(a, b, 0.5), "usual formula": usual, "lerp": lambda: half * a + half * b}


LIBRARIES = {"torch": torch_candidates, "numpy": numpy_candidates}


def resident_bytes() -> int:
    """Return the resident set of this process, as Linux tells it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def extra_bytes(call: Callable[[], Any]) -> int:
    """Return by how much the resident set grows during the call, at its peak, beyond the result."""
    before = peak = resident_bytes()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(1e-3):
            peak = max(peak, resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = call()
    done.set()
    watcher.join()
    return max(peak, resident_bytes()) - before - int(result.nbytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--library", choices=LIBRARIES, default="torch")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--memory-of", metavar="CANDIDATE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    candidates = LIBRARIES[options.library](options.rows, options.dim, options.dtype, options.threads)
    if options.memory_of:
        print(extra_bytes(candidates[options.memory_of]))
        return

    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(options.repeat):
        for name, call in candidates.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    del candidates

    print(f"{options.library}, {options.rows} x {options.dim} {options.dtype}, medians of {options.repeat}")
    print(f"{'':16}{'median ms':>12}{'least ms':>12}{'time / slerp':>14}{'extra MB':>12}")
    for name, median in medians.items():
        command = [sys.executable, *sys.argv, "--memory-of", name]
        extra = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        least = min(seconds[name])
        print(f"{name:16}{median * 1e3:12.0f}{least * 1e3:12.0f}{median / medians['slerp']:14.2f}{extra / 1e6:12.1f}")


if __name__ == "__main__":
    main()
