"""The record of a run, ``record.json``, and the versions in it."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clipgeom._version import __version__
from pti.errors import CheckpointError
from pti.runs.layout import RECORD

__all__ = ["read_record", "versions"]


def read_record(folder: Path) -> dict[str, Any]:
    """Read the record of a run.

    Raises
    ------
    CheckpointError
        The record is missing or damaged.
    """
    path = folder / RECORD
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {RECORD}; write it again with: pti run {folder}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); delete it, then: pti run {folder}") from error
    return record


def versions() -> dict[str, str]:
    """Versions of the software that can affect a result."""
    names = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy")
    return {"clipgeom": __version__, "python": sys.version.split()[0], **{n: version(n) for n in names}}
