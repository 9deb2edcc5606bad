"""What the studies of the trainer share: a sweep into a folder, its results into reports/NAME/raw, a report from these alone.

``raw`` holds the sweep's table and plan, and ``results.jsonl``, a line for each finished run: with it a sweep that was begun on
one machine goes on on another, where the runs themselves are not.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from clipgeom._progress import Progress
from pti.sweeps.layout import PLAN, RESULT, TABLE
from pti.sweeps.sweep import Measure, Sweep, sweep

__all__ = ["PAIRS", "main"]

PAIRS = ((0, "gambit"), (1, "harbor"), (2, "ivory"), (3, "gambit"), (4, "harbor"))  # seed and character of every point

_RESULTS = "results.jsonl"


def main(
    about: str | None,
    plan: Sweep | Callable[[Path], Sweep],
    measure: Measure,
    stages: Sequence[str],
    out: Path,
    kept: str,
    write: Callable[[Path], None],
) -> None:
    """The command of a study.

    Parameters
    ----------
    about : str
        Its module's description, for ``--help``.
    plan : Sweep or callable
        Or what makes it, given the folder of the runs, once it has written there what they read.
    measure : callable
        Of `pti.sweeps.sweep`.
    stages : sequence of str
    out : Path
        The report's folder.
    kept : str
        Default folder of the runs.
    write : callable
        Writes the report from ``out/raw`` alone.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report-only", action="store_true", help="only write the report again from its raw results")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--retry", action="store_true", help="do runs that failed again")
    parser.add_argument("--runs", type=Path, default=Path(kept), help=f"where runs are kept ({kept})")
    arguments = parser.parse_args()
    raw = out / "raw"
    if not arguments.report_only:
        _bring(raw, arguments.runs)
        try:
            with Progress("finished", "runs") as progress:
                sweep(
                    plan(arguments.runs) if callable(plan) else plan,
                    arguments.runs,
                    stages=stages,
                    jobs=arguments.jobs,
                    measure=measure,
                    retry=arguments.retry,
                    progress=progress,
                )
        finally:
            _keep(arguments.runs, raw)
    write(out)
    print(f"report: {out / 'report.md'}")


def _bring(raw: Path, runs: Path) -> None:
    """Give the sweep's folder the results of runs that were finished elsewhere; it checks what they belong to itself."""
    if not (raw / _RESULTS).exists():
        return
    for line in (raw / _RESULTS).read_text(encoding="utf-8").splitlines():
        result = runs / "runs" / json.loads(line)["run"] / RESULT
        if not result.exists():
            result.parent.mkdir(parents=True, exist_ok=True)
            result.write_text(line + "\n", encoding="utf-8")


def _keep(runs: Path, raw: Path) -> None:
    """Copy what a sweep has come to, as far as it has come."""
    if not (runs / PLAN).exists():
        return
    raw.mkdir(parents=True, exist_ok=True)
    plan = json.loads((runs / PLAN).read_text(encoding="utf-8"))
    if (raw / PLAN).exists():  # values of settings that were removed since the runs were made
        earlier = json.loads((raw / PLAN).read_text(encoding="utf-8"))
        if "removed_settings" in earlier:
            plan["removed_settings"] = earlier["removed_settings"]
    shutil.copyfile(runs / TABLE, raw / TABLE)
    (raw / PLAN).write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    results = [runs / "runs" / run["run"] / RESULT for run in plan["runs"]]
    found = [json.loads(path.read_text(encoding="utf-8")) for path in results if path.exists()]
    lines = [json.dumps(result) for result in found if result["status"] == "done"]
    (raw / _RESULTS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
