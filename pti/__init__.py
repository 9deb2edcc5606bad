"""Pivotal tuning: invert a few images of a character to a placeholder token, then fine-tune a generator around it.

The command is ``pti``; from Python, `read_config`, `run_stages` and `load_run` do the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Config", "Run", "Sweep", "load_run", "read_config", "run_stages", "sample_images"]

if TYPE_CHECKING:
    from pti.config.schema import Config
    from pti.config.toml_io import read_config
    from pti.models.sampling import sample_images
    from pti.runs.run import Run, load_run
    from pti.sweeps.sweep import Sweep
    from pti.workflow import run_stages

_MODULES = {
    "Config": "pti.config.schema",
    "Run": "pti.runs.run",
    "Sweep": "pti.sweeps.sweep",
    "sample_images": "pti.models.sampling",
    "run_stages": "pti.workflow",
    "load_run": "pti.runs.run",
    "read_config": "pti.config.toml_io",
}


def __getattr__(name: str) -> Any:
    """Import on first use: reading a configuration needs no torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'pti' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
