"""Processes that want the same folder at once: real ones."""

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from clipgeom.errors import ConfigError
from pti._lock import alone
from pti.evaluation.run import evaluate_run
from pti.export.run import export_run
from pti.sweeps.sweep import Sweep, sweep
from pti.workflow import run_stages
from tests.conftest import ROOT
from tests.tiny.runs import configuration

_HOLDER = """
import sys, time
from pathlib import Path
from pti._lock import alone
with alone(Path(sys.argv[1]), make=True):
    print("locked", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_process(folder):
    """A process that has locked a folder; it is killed at the end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout.readline() == "locked\n"
            yield process.pid
        finally:
            process.kill()


def test_a_folder_in_use_is_refused_until_its_process_is_gone(sd, tmp_path):
    config = configuration(sd, tmp_path / "run", "inversion.steps=1", "lora.steps=1", "validation.prompts=[]")
    folder = run_stages(config, ("invert", "tune"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    calls = (
        lambda: run_stages(config, ("invert", "tune")),
        lambda: evaluate_run(folder),
        lambda: export_run(folder),
        lambda: sweep(Sweep(None, (), {"runtime.seed": [0, 1]}), tmp_path / "sweep"),
    )
    with another_process(folder) as pid, another_process(tmp_path / "sweep") as other:
        for call, place, holder in zip(
            calls, (folder, folder, folder, tmp_path / "sweep"), (pid,) * 3 + (other,), strict=True
        ):
            with pytest.raises(ConfigError) as refused:
                call()
            assert str(refused.value) == (
                f"{place} is in use by another pti process (pid {holder}); wait for it or give another --out"
            )
    assert {path: path.read_bytes() for path in before} == before
    run_stages(config, ("invert", "tune"))  # the kill has released it


def test_one_process_locks_a_folder_twice_and_other_ranks_never(tmp_path, monkeypatch):
    with alone(tmp_path, make=True), alone(tmp_path):
        pass
    with another_process(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with alone(tmp_path):
            pass
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(ConfigError, match="in use"), alone(tmp_path):
            pass


def test_a_folder_without_a_run_is_left_as_it_is(tmp_path):
    with alone(tmp_path), alone(tmp_path / "none"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_of_two_runs_at_once_one_trains(sd, tmp_path):
    settings = ("inversion.steps=10", "lora.steps=10", "validation.prompts=[]")
    config = configuration(sd, tmp_path / "run", *settings)
    from pti.config.toml_io import toml_of

    (tmp_path / "pti.toml").write_text(toml_of(config))
    command = [sys.executable, "-m", "pti", "run", str(tmp_path / "pti.toml"), "--until", "tune"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=500)[1] for process in processes]
    assert sorted(process.returncode for process in processes)[:1] == [0]
    for process, error in zip(processes, errors, strict=True):
        assert process.returncode in (0, 2), error
        assert process.returncode == 0 or "is in use by another pti process (pid" in error
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 20
    alone_in_it = run_stages(configuration(sd, tmp_path / "alone", *settings), ("invert", "tune"))
    assert (alone_in_it / "metrics.jsonl").read_text().splitlines() == lines
