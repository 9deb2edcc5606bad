"""Commands beside busy processes: the default number of threads against one thread, alternating in one run.

    python benchmarks/shared_machine.py --model DIRECTORY --captions FILE [--rounds 3] [--idle] [--limit 5000]

Two single-threaded processes compute without end meanwhile, except with --idle. Report and check encode anew; training
makes 50 steps of each stage on miniworld. The ratio is default time over time with OMP_NUM_THREADS=1, paired by round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack

BUSY = 2
LIMIT = 1200  # seconds after which a command is given up


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    captions = ["--model", options.model, "--captions", options.captions, "--limit", str(options.limit), "--no-cache"]
    changes = ["data.source=miniworld:ember", "inversion.steps=50", "lora.steps=50", "validation.images_per_prompt=1"]
    made = {
        "report": ["-m", "clipgeom", "report", *captions, "--out", "report"],
        "check": ["-m", "clipgeom", "check", *captions, "--out", "check.safetensors"],
        "train": ["-m", "pti", "run", *(f"--set={change}" for change in changes), "--until", "tune", "--out", "run"],
    }
    return {name: made[name] for name in options.only}


def seconds(command: list[str], one_thread: bool) -> tuple[float, float]:
    """Wall and processor seconds of a command in an empty folder."""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    if one_thread:
        environment["OMP_NUM_THREADS"] = "1"
    before, started = os.times(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - started, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--captions", required=True)
    parser.add_argument("--limit", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", action="store_true", help="start no busy processes")
    parser.add_argument("--only", nargs="+", choices=("report", "check", "train"), default=["report", "check", "train"])
    options = parser.parse_args()
    print(f"{'command':<8} {'default s':>10} {'CPU s':>8} {'one s':>8} {'CPU s':>8}  ratios")
    with ExitStack() as stack:
        for _ in range(0 if options.idle else BUSY):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(busy.wait)
            stack.callback(busy.kill)
        for name, command in commands(options).items():
            rounds = [(seconds(command, False), seconds(command, True)) for _ in range(options.rounds)]
            middle = [statistics.median(pair[i][j] for pair in rounds) for i in (0, 1) for j in (0, 1)]
            ratios = [default[0] / one[0] for default, one in rounds]
            shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(
                f"{name:<8} {middle[0]:>10.1f} {middle[1]:>8.1f} {middle[2]:>8.1f} {middle[3]:>8.1f}  "
                f"{shown}; median {statistics.median(ratios):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
