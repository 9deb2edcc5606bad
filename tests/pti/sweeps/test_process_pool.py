"""Processes for a sweep's runs: every task has its end told, and none outlives who asked for it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from clipgeom.errors import ClipGeomError
from pti.config.toml_io import read_config
from pti.sweeps.process_pool import WorkerDied, Workers
from pti.sweeps.sweep import Sweep, sweep
from pti.sweeps.worker import visible_devices
from tests.conftest import ROOT
from tests.pti import chores


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_task_is_done_once(jobs):
    with Workers(jobs, chores.prepare) as workers:
        assert sorted(workers.outcomes(chores.square, range(5))) == [(i, i * i) for i in range(5)]
        assert list(workers.outcomes(chores.square, [])) == []
        assert dict(workers.outcomes(chores.square, [7])) == {0: 49}  # the processes are there still


def test_a_killed_process_is_told_and_replaced():
    with Workers(2, chores.prepare) as workers:
        ended = dict(workers.outcomes(chores.square, [1, "kill", 2, "leave", 3, 4]))
    assert {ended[i] for i in (0, 2, 4, 5)} == {1, 4, 9, 16}
    assert str(ended[1]) == "its process was killed by SIGKILL (out of memory?)"
    assert str(ended[3]) == "its process ended with exit code 3"
    assert str(WorkerDied(-signal.SIGTERM)) == "its process was killed by SIGTERM"


def test_what_is_raised_comes_back():
    with Workers(2, chores.prepare) as workers, pytest.raises(KeyError, match="a task"):
        list(workers.outcomes(chores.square, ["raise", 1]))
    with Workers(2, chores.prepare) as workers, pytest.raises(RuntimeError, match="Unportable: 1"):
        list(workers.outcomes(chores.square, ["unportable"]))
    with Workers(2, os._exit) as workers, pytest.raises(ClipGeomError, match=r"did not start \(exit code 2\)"):
        list(workers.outcomes(chores.square, [1]))


def test_each_process_sees_one_device(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    with Workers(3, chores.prepare, ["5", "GPU-7"]) as workers:
        first = dict(workers.outcomes(chores.device, [(folders[0], 3)] * 3))
        assert isinstance(dict(workers.outcomes(chores.device, [(None, 0)]))[0], WorkerDied)
        second = dict(workers.outcomes(chores.device, [(folders[1], 3)] * 3))  # one of them is a new process
    assert sorted(first.values()) == sorted(second.values()) == ["5", "5", "GPU-7"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,GPU-7"


@pytest.mark.parametrize(
    ("variable", "count", "expected"),
    [
        (None, 0, []),
        (None, 2, ["0", "1"]),
        ("2, 3", 2, ["2", "3"]),
        ("GPU-a,GPU-b,-1", 2, ["GPU-a", "GPU-b"]),
        ("", 0, []),
    ],
)
def test_the_devices_of_a_sweep_are_those_that_it_may_use(monkeypatch, variable, count, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    assert visible_devices() == expected


def test_the_runs_of_a_sweep_are_given_devices(monkeypatch, tmp_path):
    given = []

    class Stopped(Exception):
        pass

    def workers(jobs, _setup, devices):
        given.append((jobs, list(devices)))
        raise Stopped

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("pti.sweeps.sweep.Workers", workers)
    with pytest.raises(Stopped):
        sweep(
            Sweep(read_config(None, ("data.source=miniworld:ember",)), vary={"runtime.seed": (0, 1)}), tmp_path, jobs=2
        )
    assert given == [(2, ["0", "1", "2", "3"])]


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_nothing_goes_on_without_its_parent(tmp_path, by):
    code = (
        "import signal; from pti.sweeps.process_pool import Workers; from tests.pti import chores\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in a shell's background inherits it ignored
        f"with Workers(2, chores.prepare) as workers: list(workers.outcomes(chores.write, [{str(tmp_path)!r}] * 2))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    ) as process:
        while len(list(tmp_path.iterdir())) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(by)
    deadline = time.monotonic() + 60
    while any(chores.alive(int(path.name)) for path in tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
