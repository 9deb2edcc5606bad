"""Sweeps: many runs over a grid of settings, resumable, with one table of results.

::

    plan = Sweep("my.toml", vary={"inversion.learning_rate": [1e-4, 1e-3], "runtime.seed": range(5)})
    table = pandas.read_parquet(sweep(plan, "sweep", jobs=2, measure=measure))

A sweep's folder::

    sweep.parquet        the table: a row for each run, or for each row that the measure gave
    sweep.json           the plan: base configuration, what varies, the runs; how many are done, failed, missing
    runs/NAME/           run folders with a result.json; NAME lists what varies, and ends in the run's digest
    inversions/DIGEST/   results of stage 1 for each set of its settings; runs start from copies

The table's columns:

- ``run``, ``status`` (done, failed, missing), ``error`` (type and message), and what varies, by full name;
- ``seconds.STAGE``: duration of a stage, loading included, the same for all runs that share an inversion. If a stage
  was interrupted, earlier steps count at the speed of the later ones;
- ``invert.…``, ``tune.…``: the stages' metrics at their ends, losses as the mean of the last 100 steps, other metrics
  as last measured; ``.steps``, and ``.stopped``, the reason;
- ``evaluate.…``: content of ``evaluation.json``, an interval as ``.low`` and ``.high``;
- ``marks``: warnings for every output, such as an overridden certificate;
- the columns of the measure.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from clipgeom._progress import Progress, Quiet
from clipgeom.errors import ConfigError
from pti._folder import check_sweep_folder
from pti._lock import alone
from pti.sweeps.layout import PLAN, RESULT, TABLE
from pti.sweeps.plan import Point, Sweep
from pti.sweeps.process_pool import WorkerDied, Workers

if TYPE_CHECKING:
    from pti.sweeps.worker import Task

__all__ = ["Measure", "Sweep", "collect", "sweep"]

Value: TypeAlias = float | int | str | bool | None
Measure: TypeAlias = Callable[[Path], Mapping[str, Value] | Sequence[Mapping[str, Value]]]

_STAGES = ("invert", "tune", "evaluate", "export")


def sweep(
    plan: Sweep,
    folder: str | Path,
    *,
    stages: Sequence[str] = ("invert", "tune"),
    jobs: int = 1,
    measure: Measure | None = None,
    retry: bool = False,
    progress: Progress | None = None,
    root: Path | None = None,
) -> Path:
    """Run every unfinished run of a plan, and write the table.

    Settings identify a run. An extended plan keeps finished runs; another base starts new runs in the same folder.
    Finished inversions are kept while the settings of stage 1 are the same. With other stages or another measure,
    training is not repeated. After a crash, the same call continues.

    Parameters
    ----------
    plan : Sweep
    folder : str or Path
        Folder of the sweep; see the description of this module.
    stages : sequence of str
        The first one or more of ``invert``, ``tune``, ``evaluate``, ``export``.
    jobs : int
        Number of parallel processes, which share the CPUs; 1 runs everything in this process.
    measure : callable, optional
        Called with the run folder once the stages have ended. Returns a mapping of columns, or several of them, such
        as a row for each checkpoint. It is identified by its qualified name, and with `functools.partial` by its
        arguments. A finished run is measured again if these change, not if the code changes. It must be picklable: a
        function of a module.
    retry : bool
        Also repeat failed runs, from their last checkpoints.
    progress : Progress, optional
        Receives the number of runs, shared inversions included.
    root : Path, optional
        Folder of miniworld's weights; by default the package's.

    Returns
    -------
    Path
        The table. It contains failed runs; no error is raised for them.

    Raises
    ------
    ConfigError
        The plan, the stages or the measure is not valid; another process works in the folder; the folder contains
        another table or plan. Nothing has been run then.
    """
    points = plan.points()
    identity = _identity(stages, jobs, measure)
    folder, progress = Path(folder), Quiet() if progress is None else progress
    check_sweep_folder(folder)
    with alone(folder, make=True):
        tasks = [_task(folder, point, identity, measure, root) for point in points]
        _write_plan(folder, plan, points, tasks, identity)
        try:
            _do(tasks, jobs, retry, progress)
        finally:
            table = collect(folder)
    return table


def collect(folder: str | Path) -> Path:
    """Write the table from the present results of the runs.

    Raises
    ------
    ConfigError
        The folder contains no sweep.
    """
    from io import BytesIO

    import pandas as pd

    from clipgeom._io.files import write_whole
    from pti._files import write_json

    folder = Path(folder)
    if not (folder / PLAN).is_file():
        raise ConfigError(f"{folder} has no sweep: there is no {PLAN}; make one with: pti sweep --out {folder}")
    plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    rows, counts = [], Counter[str]()
    for run in plan["runs"]:
        identity = {**plan["identity"], "digest": run["digest"]}
        result = _result(folder / "runs" / run["run"], identity)
        status = result["status"] if result.get("status") in ("done", "failed") else "missing"
        counts[status] += 1
        error = result.get("error") if status == "failed" else None
        about = {
            "run": run["run"],
            "status": status,
            "error": None if error is None else f"{error['type']}: {error['message']}",
            **run["values"],
            **{f"seconds.{stage}": result.get("seconds", {}).get(stage) for stage in identity["stages"]},
        }
        rows += [{**about, **result.get("columns", {}), **row} for row in result.get("rows") or [{}]]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pd.DataFrame({name: _uniform([row.get(name) for row in rows]) for name in names})
    table["error"] = table["error"].astype("string")  # a text column, even if no run has failed
    content = BytesIO()
    table.to_parquet(content, index=False)
    write_whole(folder / TABLE, content.getvalue())
    write_json(folder / PLAN, {**plan, **{status: counts[status] for status in ("done", "failed", "missing")}})
    return folder / TABLE


def _do(tasks: Sequence[Task], jobs: int, retry: bool, progress: Progress) -> None:
    """Run the inversions, each once, then the runs."""
    waiting = [task for task in tasks if _wanted(task, retry)]
    if not waiting:
        return
    from pti.sweeps.worker import invert_once, run_once, set_up, visible_devices, write_failed

    first = {task.inversion: task for task in reversed(waiting)}  # one of the runs that share it
    inversions = [task for task in waiting if first[task.inversion] is task and not (task.inversion / RESULT).is_file()]
    progress.expect(len(tasks) + len(inversions))
    progress.skip(len(tasks) - len(waiting))
    if inversions:
        progress.note(f"first {len(inversions)} inversions, counted as runs, then {len(waiting)} runs")
    broken: dict[Path, Mapping[str, str]] = {}
    with Workers(jobs, set_up, visible_devices()) as workers:
        for number, outcome in workers.outcomes(invert_once, inversions):
            if outcome is not None:
                broken[inversions[number].inversion] = _told(outcome)
            progress(1)
        for task in waiting:
            if task.inversion in broken:
                write_failed(task, broken[task.inversion])
                progress(1)
        runs = [task for task in waiting if task.inversion not in broken]
        for number, outcome in workers.outcomes(run_once, runs):
            if isinstance(outcome, WorkerDied):
                write_failed(runs[number], _told(outcome))
            progress(1)


def _told(outcome: Any) -> Mapping[str, str]:
    return {"type": "Died", "message": str(outcome)} if isinstance(outcome, WorkerDied) else outcome


def _wanted(task: Task, retry: bool) -> bool:
    status = _result(task.folder, task.identity).get("status")
    return status != "done" and (status != "failed" or retry)


def _result(folder: Path, identity: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the result of a run if settings, stages and measure are the same."""
    try:
        content = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return content if all(content.get(key) == value for key, value in identity.items()) else {}


def _task(folder: Path, point: Point, identity: Mapping[str, Any], measure: Measure | None, root: Path | None) -> Task:
    from pti.sweeps.worker import Task

    there = sorted((folder / "runs").glob(f"*-{point.digest[:8]}"))  # the label changes when another setting varies too
    run = there[0] if there else folder / "runs" / point.name
    return Task(
        name=run.name,
        config=replace(point.config, output=replace(point.config.output, dir=str(run))),
        inversion=folder / "inversions" / point.inversion[:16],
        stages=tuple(identity["stages"]),
        measure=measure,
        root=root,
        identity={**identity, "digest": point.digest},
        values=json.loads(json.dumps(point.values)),
    )


def _identity(stages: Sequence[str], jobs: int, measure: Measure | None) -> dict[str, Any]:
    if not stages or tuple(stages) != _STAGES[: len(stages)]:
        raise ConfigError(
            f"the stages of a sweep are the first of {', '.join(_STAGES)}; got {', '.join(stages) or 'none'}"
        )
    if jobs < 1:
        raise ConfigError(f"jobs is at least 1; got {jobs}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a sweep starts its own processes; start it without a launcher, and set jobs")
    if measure is not None:
        try:
            pickle.dumps(measure)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(f"a measure must be a function of a module, which can be pickled: {error}") from error
    return {"stages": list(stages), "measure": None if measure is None else _name(measure)}


def _name(measure: Any) -> str:
    if isinstance(measure, partial):
        given = [*map(repr, measure.args), *(f"{key}={value!r}" for key, value in sorted(measure.keywords.items()))]
        return f"{_name(measure.func)}({', '.join(given)})"
    if hasattr(measure, "version"):  # results stay valid when the code moves
        return str(measure.version)
    kind = measure if hasattr(measure, "__qualname__") else type(measure)
    room = kind.__module__
    if room == "__main__":  # the same function, whether its module is imported or run as a script
        room = getattr(sys.modules[room].__spec__, "name", room)
    return f"{room}.{kind.__qualname__}"


def _write_plan(
    folder: Path, plan: Sweep, points: Sequence[Point], tasks: Sequence[Task], identity: Mapping[str, Any]
) -> None:
    from pti._files import write_json
    from pti.runs.record import versions

    flat = points[0].config.flat()
    content = {
        "schema": "pti.sweep/1",
        "base": {name: value for name, value in flat.items() if name not in (*plan.keys, "output.dir")},
        "varies": {key: _unique(point.values[key] for point in points) for key in plan.keys},
        "identity": dict(identity),
        "versions": versions(),
        "runs": [
            {"run": task.name, "digest": point.digest, "values": task.values}
            for task, point in zip(tasks, points, strict=True)
        ],
    }
    write_json(folder / PLAN, content)


def _unique(values: Iterable[Any]) -> list[Any]:
    return [json.loads(text) for text in dict.fromkeys(json.dumps(value) for value in values)]


def _uniform(values: list[Any]) -> list[Any]:
    """Convert the values of a column to one type: text if they are of different kinds."""
    kinds = {float if type(value) is int else type(value) for value in values if value is not None}
    return values if len(kinds) <= 1 else [None if value is None else str(value) for value in values]
