"""Runs in processes of their own, some of which are killed: ``python -m tests.pti.worker SPECIFICATION.json``.

A specification lists runs: folder, pipeline, changes, number of processes, and the points at which they are killed (stage,
step, place, and which process). Each attempt is a fork, so that libraries are imported once.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

from pti.runs import checkpoint, metrics_log
from pti.training.optimizer import OptimizationLoop
from pti.workflow import run_stages
from tests.tiny.runs import configuration


def kill_at(stage, step, place):
    """Die like a machine without power: at a step, in the middle of something."""
    taken = {"parts": 0}
    honest_step, honest_replace, honest_append = OptimizationLoop.take_step, Path.replace, metrics_log.MetricsLog.append

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def named(descent):
        return "invert" if any(name.startswith("rows") for name in descent.parameters) else "tune"

    def walk(self, terms_of, **kwargs):
        if (named(self), self.step + 1) == (stage, step):
            taken["here"] = True
            if place == "gradient":

                def counted(part):
                    terms = terms_of(part)
                    die()
                    return terms

                return honest_step(self, counted, **kwargs)
        result = honest_step(self, terms_of, **kwargs)
        if taken.get("here") and place == "stepped":
            die()
        return result

    def replace(self, target):
        if taken.get("here") and place == "saving" and "checkpoints" in str(target):
            die()
        return honest_replace(self, target)

    def append(self, told, values):
        if taken.get("here") and place == "logging":
            with self.lines.open("a") as file:
                file.write('{"stage": "tu')
            die()
        honest_append(self, told, values)

    OptimizationLoop.take_step, checkpoint.Path.replace, metrics_log.MetricsLog.append = walk, replace, append


def attempt(run, kill):
    """One run in as many forks as it has processes; whether it was killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(run["processes"]):
        child = os.fork()
        if child:
            children.append(child)
            continue
        try:
            if run["processes"] > 1:
                os.environ.update(
                    RANK=str(rank),
                    LOCAL_RANK=str(rank),
                    WORLD_SIZE=str(run["processes"]),
                    LOCAL_WORLD_SIZE=str(run["processes"]),
                    MASTER_ADDR="127.0.0.1",
                    MASTER_PORT=str(port),
                    OMP_NUM_THREADS="1",
                )
            if kill and rank == kill[3]:
                kill_at(*kill[:3])
            run_stages(configuration(run["pipeline"], run["folder"], *run["changes"]), ("invert", "tune"))
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 1
        sys.stderr.flush()
        os._exit(code)
    killed = failed = False
    while children:
        child, status = os.wait()
        children.remove(child)
        killed = killed or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)
        failed = failed or (os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0)
        if killed or failed:  # the first to go takes the others along, by a signal of another name
            for other in children:
                os.kill(other, signal.SIGTERM)
    if failed and not killed:
        raise SystemExit(f"a process of {run['folder']} failed")
    return killed


def main():
    for run in json.loads(Path(sys.argv[1]).read_text()):
        for kill in run.get("kills", []):
            if not attempt(run, kill):
                raise SystemExit(f"{run['folder']} was not killed at {kill}")
        if attempt(run, None):
            raise SystemExit(f"{run['folder']} was killed by somebody else")


if __name__ == "__main__":
    main()
