"""Tasks for processes of their own; importing them takes no time."""

import os
import signal
import time
from pathlib import Path

DEVICE = os.environ.get("CUDA_VISIBLE_DEVICES")  # as an import of torch would have seen it


class Unportable(Exception):
    def __init__(self, number, *, must):
        super().__init__(number)


def prepare(jobs):
    os.environ["JOBS"] = str(jobs)


def square(task):
    if task == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "leave":
        os._exit(3)
    if task == "raise":
        raise KeyError("a task")
    if task == "unportable":
        raise Unportable(1, must=True)
    return task * task


def write(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)


def device(task):
    """Meet the tasks of the other processes, then give the GPU that was visible; or die."""
    folder, count = task
    if folder is None:
        os.kill(os.getpid(), signal.SIGKILL)
    (Path(folder) / str(os.getpid())).touch()
    while len(list(Path(folder).iterdir())) < count:
        time.sleep(0.01)
    return DEVICE


def alive(number):
    """Whether there is such a process, and it is more than the memory of one."""
    try:
        return ") Z " not in Path(f"/proc/{number}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
