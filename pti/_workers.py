"""Tasks in processes of their own, one task at a time to each, so that it is known which one a dead process was at.

`concurrent.futures` breaks as a whole when one of its processes is killed, and does not tell which task killed it.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipgeom.errors import ClipGeomError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

__all__ = ["Died", "outcomes"]

_READY = "ready"


@dataclass(frozen=True, slots=True)
class Died:
    """In place of a result: the process was killed, or left, while it was at the task."""

    code: int | None

    def __str__(self) -> str:
        if self.code is None or self.code >= 0:
            return f"its process ended with exit code {self.code}"
        names = {s.value: s.name for s in signal.Signals}
        why = " (out of memory?)" if -self.code == signal.SIGKILL else ""
        return f"its process was killed by {names.get(-self.code, f'signal {-self.code}')}{why}"


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    task: int | None = None
    started: bool = False


def outcomes(
    function: Callable[[Any], Any], tasks: Sequence[Any], jobs: int, setup: Callable[[int], None]
) -> Iterator[tuple[int, Any]]:
    """Do tasks, and give their numbers and results as they end.

    With one job they are done here. With more, `function`, tasks and results are pickled, `setup` is called with the number
    of jobs in each new process, and a process that dies gives a `Died` and is replaced. Leaving the iteration ends all
    processes at once.

    Raises
    ------
    Exception
        Whatever `function` raises; the tasks under way are given up.
    """
    if jobs == 1 or not tasks:
        for number, task in enumerate(tasks):
            yield number, function(task)
        return
    yield from _spread(function, tasks, min(jobs, len(tasks)), setup)


def _spread(
    function: Callable[[Any], Any], tasks: Sequence[Any], jobs: int, setup: Callable[[int], None]
) -> Iterator[tuple[int, Any]]:
    from multiprocessing.connection import wait

    waiting = list(range(len(tasks)))[::-1]
    workers = [_started(function, jobs, setup) for _ in range(jobs)]
    try:
        while any(worker.task is not None for worker in workers) or waiting:
            for pipe in wait([worker.pipe for worker in workers]):
                (worker,) = (w for w in workers if w.pipe is pipe)
                try:
                    kind, value = worker.pipe.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    if not worker.started:
                        raise ClipGeomError(
                            f"a process did not start (exit code {worker.process.exitcode}); a script that calls this "
                            'with jobs > 1 must do so under: if __name__ == "__main__"'
                        ) from None
                    number, died = worker.task, Died(worker.process.exitcode)
                    workers.remove(worker)
                    worker.pipe.close()
                    if waiting:
                        workers.append(_started(function, jobs, setup))
                    if number is not None:
                        yield number, died
                    continue
                if kind == "raised":
                    raise value
                worker.started = True
                number, worker.task = worker.task, None
                if waiting:
                    worker.task = waiting.pop()
                    with suppress(OSError):  # it has just died; its pipe tells
                        worker.pipe.send(tasks[worker.task])
                if number is not None:
                    yield number, value
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join()
            worker.pipe.close()


def _started(function: Callable[[Any], Any], jobs: int, setup: Callable[[int], None]) -> _Worker:
    from multiprocessing import get_context

    context = get_context("spawn")  # a fork of a process that has threads, as torch has, can hang
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, function, jobs, setup), daemon=True)
    process.start()
    theirs.close()  # else its end would not be noticed
    return _Worker(process, ours)


def _work(pipe: Connection, function: Callable[[Any], Any], jobs: int, setup: Callable[[int], None]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        setup(jobs)
        pipe.send((_READY, None))
        while True:
            pipe.send(("done", function(pipe.recv())))
    except EOFError:
        return
    except Exception as error:
        pipe.send(("raised", _portable(error)))


def _end_with_parent() -> None:
    """A killed parent ends nothing; its runs must not go on behind the back of the command that is started next."""
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
