"""The record of a run, record.json, and the versions that it names."""

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
    """The record of a run.

    Raises
    ------
    CheckpointError
        There is none, or it is damaged.
    """
    path = folder / RECORD
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no {RECORD}; write it anew with: pti run {folder}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); delete it, then: pti run {folder}") from error
    return record


def versions() -> dict[str, str]:
    """Of everything that a result may depend on."""
    names = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy")
    return {"clipgeom": __version__, "python": sys.version.split()[0], **{n: version(n) for n in names}}
