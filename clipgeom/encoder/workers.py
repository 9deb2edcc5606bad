"""Packs run side by side on a processor: each in a thread of its own, in which torch uses one thread.

Threads of torch's OpenMP meet after every operation, and beside other busy processes each meeting costs a time slice.
Whole packs need no meeting. Torch also rounds by its number of threads: with one each, vectors are the same bytes
whatever the number of packs that run side by side.
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
    """Results of the jobs, in their order.

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
    """Threads in which torch uses one thread; elsewhere it uses as many as before."""
    import torch

    together = Barrier(count)

    def prepare() -> None:
        together.wait()  # so that each call has a thread of its own
        torch.get_num_threads()  # the first use in a thread takes the process's number
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(count, thread_name_prefix="clipgeom-encode")
    try:
        with ThreadPoolExecutor(1) as fresh:
            before = fresh.submit(torch.get_num_threads).result()
        for prepared in [pool.submit(prepare) for _ in range(count)]:
            prepared.result()
        # torch's setting is of the thread that sets it and of threads yet to come: give the latter theirs back
        restoring = Thread(target=torch.set_num_threads, args=(before,))
        restoring.start()
        restoring.join()
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
