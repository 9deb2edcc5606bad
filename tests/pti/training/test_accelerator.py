"""Processes that were launched together train together."""

import os
import subprocess
import sys

import accelerate
import pytest
import torch

from clipgeom.errors import ConfigError
from pti.config.schema import RuntimeSection
from pti.training.accelerator import Runtime

SCRIPT = """
import os
from pathlib import Path
from pti.training.accelerator import Runtime
from pti.config.schema import RuntimeSection
runtime = Runtime(RuntimeSection(device="{device}"))
told = f"{{runtime.processes}} {{runtime.is_main}}"
Path(__file__).with_name(os.environ["RANK"] + ".txt").write_text(told, encoding="utf-8")
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.is_available(), reason="of one CPU")
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_processes_of_one_cpu_are_joined(tmp_path, device):
    """As README has it; with the default device accelerate alone would let each of them write the same files."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(device=device), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    told = [(tmp_path / f"{rank}.txt").read_text(encoding="utf-8") for rank in range(2)]
    assert told == ["2 True", "2 False"]


def test_processes_that_are_not_joined_are_refused(monkeypatch):
    alone = accelerate.Accelerator(cpu=True)
    monkeypatch.setattr(accelerate, "Accelerator", lambda **_: alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="expected accelerate to join 2 launched processes, got 1"):
        Runtime(RuntimeSection())
