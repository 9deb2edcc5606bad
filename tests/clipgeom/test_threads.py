"""Threads of commands on shared machines: CPUs counted under faked quotas and load, settings of the user kept."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import scipy.linalg  # noqa: F401  # its BLAS is one of those limited
from threadpoolctl import threadpool_info, threadpool_limits

from clipgeom import _threads
from clipgeom.centering import check_centering


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of eight CPUs, with no quota and nobody else on it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(_threads, "_PAUSE", 0)
    for name in (*_threads.SETTINGS, _threads._LIMIT):
        monkeypatch.delenv(name, raising=False)
    _write(tmp_path / "proc/loadavg", "0.00 0.00 0.00 1/200 77\n")
    _write(tmp_path / "proc/self/cgroup", "0::/user/job\n")
    return tmp_path


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _blas():
    return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_all_cpus_of_an_idle_machine_are_free(machine):
    assert _threads.available_cpus(machine) == _threads.free_cpus(machine) == 8


def test_affinity_counts(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {1, 5, 6})
    assert _threads.free_cpus(machine) == 3


@pytest.mark.parametrize(
    ("groups", "file", "text", "expected"),
    [
        ("0::/user/job\n", "user/job/cpu.max", "250000 100000\n", 2),
        ("0::/user/job\n", "user/cpu.max", "50000 100000\n", 1),
        ("0::/\n", "cpu.max", "300000 100000\n", 3),
        ("0::/user/job\n", "cpu.max", "max 100000\n", 8),
        ("4:cpu,cpuacct:/docker/ab\n", "cpu/cpu.cfs_quota_us", "400000\n", 4),
        ("4:cpu,cpuacct:/docker/ab\n", "cpu/cpu.cfs_quota_us", "-1\n", 8),
        ("4:memory:/docker/ab\n", "cpu/cpu.cfs_quota_us", "100000\n", 8),
    ],
)
def test_quotas_of_the_group_and_of_those_above_count(machine, groups, file, text, expected):
    _write(machine / "proc/self/cgroup", groups)
    path = machine / "sys/fs/cgroup" / file
    _write(path, text)
    _write(path.parent / "cpu.cfs_period_us", "100000\n")
    assert _threads.available_cpus(machine) == expected


@pytest.mark.parametrize(("running", "expected"), [(1, 8), (3, 6), (8, 1), (40, 1)])
def test_cpus_of_busy_processes_are_not_free(machine, running, expected):
    _write(machine / "proc/loadavg", f"0.00 0.00 0.00 {running}/200 77\n")
    assert _threads.free_cpus(machine) == expected
    _threads.limit_libraries(machine)
    assert os.environ.pop("OMP_NUM_THREADS") == os.environ.pop(_threads._LIMIT) == str(expected)


def test_without_a_list_of_running_tasks_all_available_cpus_are_free(machine):
    (machine / "proc/loadavg").unlink()
    assert _threads.free_cpus(machine) == 8


@pytest.mark.parametrize("name", _threads.SETTINGS)
def test_threads_that_the_user_has_set_stay(machine, monkeypatch, name):
    monkeypatch.setenv(name, "5")
    _threads.limit_libraries(machine)
    assert {n: os.environ.get(n) for n in _threads.SETTINGS} == {
        n: "5" if n == name else None for n in _threads.SETTINGS
    }


def test_only_commands_limit_libraries_and_before_they_load_them():
    # the commands themselves are replaced; torch and numpy must not be there when the limit is set
    code = """
import os, sys, types
before = dict(os.environ)
import clipgeom, pti, clipgeom.cli.main, clipgeom.cli.run, pti.cli.main
assert dict(os.environ) == before
for package in (clipgeom, pti):
    name = package.__name__ + ".cli.commands"
    def limit():
        print([m for m in ("torch", "numpy", "scipy") if m in sys.modules], name in sys.modules)
    clipgeom.cli.run.limit_libraries = limit
    stand_in = types.ModuleType(name)
    stand_in.app = lambda: print("ran")
    sys.modules[name] = stand_in
    package.cli.main.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[] True", "ran"] * 2


def test_workers_are_as_many_as_available_cpus_unless_the_user_has_set_a_number(machine, monkeypatch):
    monkeypatch.setattr(_threads, "available_cpus", lambda: 4)
    assert _threads.own_threads() == _threads.own_threads(6) == 4
    assert _threads.own_threads(3) == 3
    monkeypatch.setattr(_threads, "free_cpus", lambda _root: 2)
    _threads.limit_libraries(machine)  # chosen by the load, not by the user
    assert _threads.threads_of_user() is None
    assert _threads.own_threads() == _threads.own_threads(2) == 4
    assert _threads.own_threads(1) == 1
    for name in ("OMP_NUM_THREADS", _threads._LIMIT):
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "6,2")
    assert _threads.threads_of_user() == _threads.own_threads() == _threads.own_threads(6) == 6


@pytest.mark.parametrize("text", ["", "0.0 0.0 0.0\n", "0.0 0.0 0.0 x/y 1\n", b"\xff\xfe"])
def test_a_list_of_running_tasks_that_cannot_be_read_makes_all_cpus_free(machine, text):
    (machine / "proc/loadavg").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert _threads.free_cpus(machine) == 8


def test_parts_run_side_by_side_in_order(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    meeting = threading.Barrier(2, timeout=20)

    def part(k):
        meeting.wait()  # passes only when both run at once
        return k

    assert _threads.run_in_threads([lambda k=k: part(k) for k in range(4)]) == [0, 1, 2, 3]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert _threads.run_in_threads([threading.current_thread] * 2) == [threading.current_thread()] * 2


def test_blas_is_limited_until_the_last_user_leaves():
    with threadpool_limits(2, user_api="blas"):
        before = _blas()
        first, second = _threads.single_threaded_blas(), _threads.single_threaded_blas()
        first.__enter__()
        second.__enter__()
        assert set(_blas().values()) == {1}
        first.__exit__(None, None, None)
        assert set(_blas().values()) == {1}
        second.__exit__(None, None, None)
        assert _blas() == before


def test_the_check_computes_with_one_blas_thread_whatever_the_number_of_cpus(monkeypatch):
    from clipgeom.centering import check

    seen = []

    def judged(*_args):
        seen.append((set(_blas().values()), threading.current_thread() is threading.main_thread()))
        if len(seen) < count:
            time.sleep(0.2)  # so that the other half begins
        raise ZeroDivisionError

    monkeypatch.setattr(check.Judged, "of", judged)
    vectors = np.random.default_rng(0).normal(size=(120, 6)) + 2
    for count in (1, 2):
        seen.clear()
        monkeypatch.setenv("OMP_NUM_THREADS", str(count))
        with pytest.raises(ZeroDivisionError):
            check_centering(vectors)
        assert seen == [({1}, count == 1)] * count
