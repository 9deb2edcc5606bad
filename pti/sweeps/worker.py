"""One run of a sweep: copy its inversion, train, measure, and write the result.

A failed run is also a result; an error is raised only if the result cannot be written.
"""

from __future__ import annotations

import gc
import json
import math
import os
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from clipgeom._io.files import replacing
from clipgeom._progress import Quiet
from clipgeom._threads import available_cpus
from clipgeom.errors import ClipGeomError, ConfigError
from pti._files import write_json
from pti._lock import alone
from pti._logging import silence
from pti.config.schema import Config
from pti.runs import checkpoint
from pti.runs.layout import RECORD, TRAINED
from pti.runs.metrics_log import MetricsLog
from pti.sweeps.layout import RESULT
from pti.workflow import run_stages

__all__ = ["Task", "error_record", "invert_once", "run_once", "set_up", "visible_devices", "write_failed"]

_LOSSES = ("loss", "denoising", "locality", "prior")
_LAST = 100  # steps over which a loss is averaged: that of a single step depends mostly on its timesteps
_NOT_MEASURED = ("schema", "prompts", "left_out", "marks", "class_word", "seed")  # keys of evaluation.json
# files of stage 1, checkpoints last
_BROUGHT = (
    "metrics.jsonl",
    "metrics.parquet",
    "previews/focus.png",
    "previews/invert-*.png",
    "latents.safetensors",
    "focus.safetensors",
    "checkpoints/invert-*.safetensors",
)


@dataclass(frozen=True, slots=True)
class Task:
    """One run: its settings with its folder, and the values for its result.

    A finished result must have the same `identity`; `values` are the settings that vary.
    """

    name: str
    config: Config
    inversion: Path
    stages: tuple[str, ...]
    measure: Callable[[Path], Any] | None
    root: Path | None
    identity: Mapping[str, Any]
    values: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.config.output.dir)


@dataclass(slots=True)
class _Clock(Quiet):
    """Duration of a stage; if it was interrupted, earlier steps count at the speed of the later ones."""

    begun: float = field(default_factory=time.perf_counter)
    first: float = 0.0
    skipped: int = 0
    done: int = 0

    def expect(self, total: int, verb: str | None = None, unit: str | None = None) -> None:
        """Start the clock: the first step follows."""
        self.first = time.perf_counter()

    def skip(self, pieces: int) -> None:
        """Count steps of an earlier process."""
        self.skipped += pieces

    def __call__(self, pieces: int) -> None:
        """Count finished steps."""
        self.done += pieces

    def seconds(self) -> float | None:
        """Seconds of the stage; None without steps."""
        if not self.done:
            return None
        stepping = time.perf_counter() - self.first
        return (self.first - self.begun) + stepping * (self.done + self.skipped) / self.done


def set_up(jobs: int) -> None:
    """Prepare one of several processes: limit its CPU threads, and switch off progress bars."""
    torch.set_num_threads(max(1, min(torch.get_num_threads(), available_cpus()) // jobs))
    silence()


def visible_devices() -> list[str]:
    """List the GPUs that this process may use, as names for ``CUDA_VISIBLE_DEVICES``."""
    count = torch.cuda.device_count()  # 0 without CUDA; starts no CUDA context
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(k) for k in range(count)] if named is None else [n.strip() for n in named.split(",")][:count]


def invert_once(task: Task) -> dict[str, str] | None:
    """Run the inversion that several tasks share; return an error record or None."""
    _fresh()
    config = replace(task.config, output=replace(task.config.output, dir=str(task.inversion)))
    clock = _Clock()
    try:
        run_stages(config, ("invert",), progress=clock, root=task.root)
    except Exception as error:
        return error_record(error)
    write_json(task.inversion / RESULT, {"status": "done", "seconds": {"invert": clock.seconds()}})
    return None


def run_once(task: Task) -> str:
    """Complete a run and write its result; return its status."""
    _fresh()
    seconds = _seconds_before(task)
    trained = tuple(stage for stage in task.stages if stage in TRAINED)
    try:
        with alone(task.folder, make=True):
            _bring(task.inversion, task.folder)
        clock = _Clock()
        run_stages(task.config, trained, progress=clock, root=task.root)
        _remember(seconds, trained[-1], clock.seconds())
        _write(task, "started", seconds=seconds)  # an interruption must not lose the duration so far
        for stage in task.stages[len(trained) :]:
            begun = time.perf_counter()
            run_stages(task.config, (stage,), root=task.root)
            _remember(seconds, stage, time.perf_counter() - begun)
            _write(task, "started", seconds=seconds)
        columns = _summary(task)
        rows = [{}] if task.measure is None else _rows(task.measure(task.folder), {*columns, *task.values})
    except Exception as error:
        write_failed(task, error_record(error), seconds)
        return "failed"
    _write(task, "done", seconds=seconds, columns=columns, rows=rows)
    return "done"


def write_failed(task: Task, error: Mapping[str, str], seconds: Mapping[str, float] | None = None) -> None:
    """Write the result of a run that failed, or whose inversion failed."""
    _write(task, "failed", error=dict(error), seconds=seconds or {})


def error_record(error: Exception) -> dict[str, str]:
    """Convert an error for the results, with its traceback unless the user can fix it."""
    plain = {"type": type(error).__name__, "message": str(error)}
    if not isinstance(error, ClipGeomError):
        plain["traceback"] = "".join(traceback.format_exception(error))
    return plain


def _write(task: Task, status: str, **content: Any) -> None:
    blank: dict[str, Any] = {"error": None, "seconds": {}, "columns": {}, "rows": []}
    about = {"schema": "pti.sweep-result/1", "run": task.name, "status": status, **task.identity}
    write_json(task.folder / RESULT, {**about, "values": dict(task.values), **blank, **content})


def _remember(seconds: dict[str, float], stage: str, now: float | None) -> None:
    """Keep the recorded duration of a stage that was finished before."""
    if now is not None:
        seconds.setdefault(stage, now)


def _seconds_before(task: Task) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for path in (task.inversion / RESULT, task.folder / RESULT):
        if path.exists():
            kept = json.loads(path.read_text(encoding="utf-8")).get("seconds", {})
            seconds |= {stage: value for stage, value in kept.items() if value is not None}
    return seconds


def _bring(inversion: Path, folder: Path) -> None:
    """Copy a finished inversion to a run folder; the checkpoint of the last step comes last."""
    last = checkpoint.latest(inversion / "checkpoints", "invert")
    if last is not None and (folder / "checkpoints" / last.name).exists():
        return
    for part in _BROUGHT:
        for path in sorted(inversion.glob(part)):
            with replacing(folder / path.relative_to(inversion)) as partial:
                shutil.copyfile(path, partial)


def _fresh() -> None:
    """Reset accelerate's precision and free its networks, since one process makes many runs."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    gc.collect()


def _summary(task: Task) -> dict[str, Any]:
    """Table columns of a run: final metrics of each stage, the reason it stopped, and the evaluation."""
    record = json.loads((task.folder / RECORD).read_text(encoding="utf-8"))
    columns: dict[str, Any] = {"marks": "; ".join(record.get("marks", []))}
    rows = MetricsLog(task.folder).rows()
    for stage in task.stages:
        if stage in TRAINED:
            columns |= _last([row for row in rows if row["stage"] == stage], stage)
            columns[f"{stage}.stopped"] = record["stages"][stage]["stopped"]
    if "evaluate" in task.stages:
        from pti.runs.layout import EVALUATION

        content = json.loads((task.folder / EVALUATION).read_text(encoding="utf-8"))
        columns |= _flat({key: value for key, value in content.items() if key not in _NOT_MEASURED}, "evaluate")
    return columns


def _last(rows: Sequence[Mapping[str, Any]], stage: str) -> dict[str, Any]:
    """Losses as means over the last steps, other metrics as last measured."""
    columns: dict[str, Any] = {}
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in ("stage", "step")]
    for name in names:
        values = [row[name] for row in rows if row.get(name) is not None]
        recent = [row[name] for row in rows[-_LAST:] if row.get(name) is not None]
        if name in _LOSSES:
            columns[f"{stage}.{name}"] = sum(recent) / len(recent) if recent else None
        else:
            columns[f"{stage}.{name}"] = values[-1] if values else None
    columns[f"{stage}.steps"] = rows[-1]["step"] if rows else 0
    return columns


def _flat(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Flatten nested measures to full names; an interval becomes ``.low`` and ``.high``."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{name}.{key}")
        elif key == "ci95":
            found |= {f"{name}.low": value[0], f"{name}.high": value[1]}
        else:
            found[name if key == "value" else f"{name}.{key}"] = value
    return found


def _rows(measured: Any, taken: set[str]) -> list[dict[str, Any]]:
    """Convert the result of a measure to plain rows."""
    rows = [measured] if isinstance(measured, Mapping) else measured
    if (
        isinstance(rows, (str, bytes))
        or not isinstance(rows, Sequence)
        or not all(isinstance(r, Mapping) for r in rows)
    ):
        raise ConfigError(f"a measure gives a mapping, or a sequence of mappings; got {type(measured).__name__}")
    taken = taken | {"run", "status", "error"}
    plain = []
    for row in rows:
        clash = next((key for key in row if key in taken or str(key).startswith("seconds.")), None)
        if clash is not None:
            raise ConfigError(f"the measure gives {clash!r}, which the table has already; give it another name")
        plain.append({str(key): _value(str(key), value) for key, value in row.items()})
    return plain or [{}]


def _value(name: str, value: Any) -> Any:
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if not isinstance(value, (bool, int, float, str, type(None))):
        raise ConfigError(f"the measure gives {name} as {type(value).__name__}; give a number, a text, a bool or None")
    return None if isinstance(value, float) and math.isnan(value) else value
