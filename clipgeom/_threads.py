"""Number of CPUs and threads: what is available, and limits that avoid busy waiting.

Threads of a library (OpenMP in torch, OpenBLAS in numpy and scipy) synchronise after every small operation and spin
while they wait. On a busy machine each synchronisation costs a time slice of the scheduler, and a command takes ten
times as long as with one thread. Two rules follow: the commands limit libraries to as many threads as there are free
CPUs. Independent parts (packs of the encoder, halves of the check) run in their own threads, with one library thread
each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

__all__ = [
    "available_cpus",
    "free_cpus",
    "limit_libraries",
    "own_threads",
    "run_in_threads",
    "single_threaded_blas",
    "threads_of_user",
]

T = TypeVar("T")

# variables by which a user sets the threads of torch, oneDNN, OpenBLAS and MKL
SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_LIMIT = "CLIPGEOM_FREE_CPUS"  # the value that limit_libraries gave OMP_NUM_THREADS, for child processes as well
_SAMPLES, _PAUSE = 20, 0.005  # readings of the number of running tasks, and the seconds between them


def available_cpus(root: Path = Path("/")) -> int:
    """Count the CPUs that this process may use: its affinity and the CPU quota of its cgroup; at least 1.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are mounted.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([float(count), *_quotas(root)])))


def free_cpus(root: Path = Path("/")) -> int:
    """Count the CPUs of `available_cpus` that no other process computes on at the moment; at least 1.

    Takes a tenth of a second. Where the system does not list running tasks, all available CPUs count as free.
    """
    available = available_cpus(root)
    if available == 1:
        return 1
    running = []
    for _ in range(_SAMPLES):
        try:
            tasks = (root / "proc/loadavg").read_text().split()[3]  # running/all, this task among them
            running.append(int(tasks.split("/")[0]) - 1)
        except (OSError, IndexError, ValueError):
            return available
        time.sleep(_PAUSE)
    busy = round(sum(running) / len(running))
    return max(1, min(available, (os.cpu_count() or available) - busy))


def limit_libraries(root: Path = Path("/")) -> None:
    """Limit libraries that are loaded from now on to the free CPUs, here and in child processes.

    For commands, before torch and numpy are imported. A thread count that the user has set stays.
    """
    if not any(os.environ.get(name) for name in SETTINGS):
        os.environ["OMP_NUM_THREADS"] = os.environ[_LIMIT] = str(free_cpus(root))


def threads_of_user() -> int | None:
    """Read the user's ``OMP_NUM_THREADS``; None without a number, or if `limit_libraries` set it."""
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(told) if told.isdecimal() and int(told) and told != os.environ.get(_LIMIT) else None


def own_threads(library: int | None = None) -> int:
    """Count the threads for independent parts: one per available CPU, or the user's number.

    Such threads do not wait for each other, so that other processes slow them down only in proportion.

    Parameters
    ----------
    library : int, optional
        Threads that a library would use now. Where these are not those of `limit_libraries`, the user has set them.
    """
    told = threads_of_user()
    if library is None or str(library) == os.environ.get(_LIMIT):
        return told or available_cpus()
    return library if told else min(library, available_cpus())


def run_in_threads(parts: Sequence[Callable[[], T]]) -> list[T]:
    """Run functions in parallel, at most `own_threads` at a time; return results in order."""
    count = min(len(parts), own_threads())
    if count <= 1:
        return [part() for part in parts]
    with ThreadPoolExecutor(count, thread_name_prefix="clipgeom") as pool:
        return list(pool.map(lambda part: part(), parts))


_lock = Lock()
_users = 0
_limits: Any = None


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit numpy's and scipy's BLAS to one thread; restored when the last of several users leaves."""
    global _users, _limits
    import scipy.linalg  # noqa: F401  # loads its BLAS: a library that is loaded later would not be limited
    from threadpoolctl import threadpool_limits

    with _lock:
        if _users == 0:
            _limits = threadpool_limits(1, user_api="blas")
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _limits.restore_original_limits()


def _quotas(root: Path) -> list[float]:
    """CPU quotas of this process's cgroup and those above it, in CPUs."""
    found = []
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / ("" if not controllers else "cpu")
        own = mounted / path.lstrip("/")
        # a container may see its own group as the root of the mount
        for folder in (own, *own.parents):
            if not folder.is_relative_to(mounted):
                break
            found += _quota(folder)
    return found


def _quota(folder: Path) -> list[float]:
    """CPU quota of one cgroup, of version 2 or 1; empty without a quota."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return [int(quota) / int(period)] if quota not in ("max", "-1") else []
    except (OSError, ValueError, ZeroDivisionError):
        return []
