"""Parallel packs on a CPU: each in its own thread, in which torch uses one thread.

Threads of torch's OpenMP synchronise after every operation, which costs a time slice on a busy machine. Whole packs
need no synchronisation. Torch's rounding depends on its number of threads: with one each, vectors are identical for
any number of parallel packs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Thread
from typing import TypeVar

from clipgeom._threads import own_threads

__all__ = ["in_order"]

T = TypeVar("T")


def in_order(jobs: Iterator[Callable[[], T]], device: str) -> Iterator[T]:
    """Run jobs and return their results in order.

    Parameters
    ----------
    jobs : iterator of callables
        Taken in order, in the calling thread; at most twice as many as run side by side are taken ahead.
    device : str
        Jobs on another device than ``"cpu"`` run one by one in the calling thread.
    """
    if device != "cpu":
        for job in jobs:
            yield job()
        return
    import torch

    count = own_threads(torch.get_num_threads())
    with _single_threads(count) as pool:
        waiting: deque[Future[T]] = deque()
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) >= 2 * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def _single_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Create threads in which torch uses one thread; other threads keep their number."""
    import torch

    together = Barrier(count)

    def prepare() -> None:
        together.wait()  # a thread for each call
        torch.get_num_threads()  # the first use in a thread sets the process's number
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(count, thread_name_prefix="clipgeom-encode")
    try:
        with ThreadPoolExecutor(1) as fresh:
            before = fresh.submit(torch.get_num_threads).result()
        for prepared in [pool.submit(prepare) for _ in range(count)]:
            prepared.result()
        # torch's setting applies to the calling thread and to new threads: restore it for the latter
        restoring = Thread(target=torch.set_num_threads, args=(before,))
        restoring.start()
        restoring.join()
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
