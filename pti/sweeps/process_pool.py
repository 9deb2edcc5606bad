"""A process pool that reports which task a crashed worker was running.

An executor of `concurrent.futures` breaks when one of its processes is killed, and does not report the task.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from clipgeom.errors import ClipGeomError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

__all__ = ["WorkerDied", "Workers"]


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """Result of a task whose process was killed or exited."""

    code: int | None

    def __str__(self) -> str:
        if self.code is None or self.code >= 0:
            return f"its process ended with exit code {self.code}"
        names = {s.value: s.name for s in signal.Signals}
        why = " (out of memory?)" if -self.code == signal.SIGKILL else ""
        return f"its process was killed by {names.get(-self.code, f'signal {-self.code}')}{why}"


@dataclass(slots=True)
class _Worker:
    seat: int
    process: BaseProcess
    pipe: Connection
    task: int | None = None
    started: bool = False


class Workers:
    """A pool of worker processes, started with the first tasks and ended with the block.

    With one job, tasks run in this process. With more, functions, tasks and results are pickled. A process that dies
    gives a `WorkerDied` and is replaced while there are tasks.

    Parameters
    ----------
    jobs : int
        Number of processes.
    setup : callable
        Called with `jobs` in each new process.
    devices : sequence of str
        GPUs, as in ``CUDA_VISIBLE_DEVICES``; each process gets one of them, in turn.
    """

    def __init__(self, jobs: int, setup: Callable[[int], None], devices: Sequence[str] = ()) -> None:
        self.jobs, self.setup, self.devices = jobs, setup, tuple(devices)
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers = []

    def outcomes(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Run tasks, and yield their indices and results as they end.

        Raises
        ------
        Exception
            Any exception of `function`.
        ClipGeomError
            A process cannot be started.
        """
        if self.jobs == 1:
            yield from ((number, function(task)) for number, task in enumerate(tasks))
            return
        from multiprocessing.connection import wait

        waiting = list(range(len(tasks)))[::-1]
        while waiting or any(worker.task is not None for worker in self._workers):
            busy = sum(worker.task is not None for worker in self._workers)
            while len(self._workers) < min(self.jobs, busy + len(waiting)):
                self._workers.append(self._started())
            for worker in self._workers:
                if waiting and worker.started and worker.task is None:
                    worker.task = waiting.pop()
                    with suppress(OSError):  # the process has just died; reading its pipe detects that
                        worker.pipe.send((function, tasks[worker.task]))
            for pipe in wait([worker.pipe for worker in self._workers]):
                (worker,) = (w for w in self._workers if w.pipe is pipe)
                number, outcome = worker.task, self._heard(worker)
                if number is not None:
                    yield number, outcome

    def _started(self) -> _Worker:
        """Start a process in the first free slot, which determines its GPU."""
        from multiprocessing import get_context

        seat = min(set(range(self.jobs)) - {worker.seat for worker in self._workers})
        context = get_context("spawn")  # a fork of a process with threads, such as torch's, can hang
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.jobs, self.setup), daemon=True)
        # set before the process starts: CUDA reads it once, and any module may import torch
        with _environment(CUDA_VISIBLE_DEVICES=self.devices[seat % len(self.devices)] if self.devices else None):
            process.start()
        theirs.close()  # otherwise its end would go unnoticed
        return _Worker(seat, process, ours)

    def _heard(self, worker: _Worker) -> Any:
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            worker.pipe.close()
            self._workers.remove(worker)
            if not worker.started:
                raise ClipGeomError(
                    f"a process did not start (exit code {worker.process.exitcode}); a script that starts several "
                    'must do so under: if __name__ == "__main__"'
                ) from None
            return WorkerDied(worker.process.exitcode)
        worker.started, worker.task = True, None
        if kind == "raised":
            raise value
        return value


@contextmanager
def _environment(**variables: str | None) -> Iterator[None]:
    """Set environment variables for the block, except those that are None."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: value for name, value in variables.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _work(pipe: Connection, jobs: int, setup: Callable[[int], None]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent handles it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        setup(jobs)
        pipe.send(("ready", None))
        while True:
            function, task = pipe.recv()
            pipe.send(("done", function(task)))
    except EOFError:
        return
    except Exception as error:
        pipe.send(("raised", _portable(error)))


def _end_with_parent() -> None:
    """End the process when its parent is killed, so that it does not interfere with the next command."""
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
