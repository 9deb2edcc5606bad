"""Pivotal tuning: invert a few pictures of a character to a new word, then tune a generator lightly around it.

The command is ``pti``; from Python, `read_config`, `execute` and `load_run` do the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Config", "Run", "Sweep", "draw", "execute", "load_run", "read_config"]

if TYPE_CHECKING:
    from pti.config import read_config
    from pti.run import Run, execute, load_run
    from pti.sampling import draw
    from pti.sections import Config
    from pti.sweep import Sweep

_ROOMS = {
    "Config": "pti.sections",
    "Run": "pti.run",
    "Sweep": "pti.sweep",
    "draw": "pti.sampling",
    "execute": "pti.run",
    "load_run": "pti.run",
    "read_config": "pti.config",
}


def __getattr__(name: str) -> Any:
    """Import on first use: reading a configuration needs no torch."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'pti' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_ROOMS[name]), name)
