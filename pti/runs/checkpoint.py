"""Checkpoints: one safetensors file each, written atomically, with the settings and data they belong to.

A file contains the trained parameters, the initial embeddings and the moments of the optimiser. Its header contains,
as JSON, the step, the settings and a digest of everything. The file contains no random state: a step's random numbers
follow from its number.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clipgeom._io.files import write_whole
from pti._tensors import packed, unpacked
from pti.config.identity import differences
from pti.errors import CheckpointError

__all__ = ["Checkpoint", "latest", "load", "prune", "save"]

SCHEMA = "pti.checkpoint/2"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Content of a checkpoint: tensors, state of the stage, and the settings, data and processes it belongs to."""

    path: Path
    stage: str
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]
    belongs: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether its stage has ended."""
        return bool(self.state.get("stopped"))

    def require(self, belongs: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of other settings, data or processes.

        Raises
        ------
        CheckpointError
            The message lists every difference.
        """
        found = differences(self.belongs, json.loads(json.dumps(belongs)))
        if found:
            raise CheckpointError(
                f"{self.path} belongs to another configuration: {'; '.join(found)}. Set these back, train into another "
                f"output.dir, or delete {self.path.parent}/{self.stage}-*.safetensors to restart that stage"
            )


def save(
    folder: Path, stage: str, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any], belongs: Mapping[str, Any]
) -> Path:
    """Write the checkpoint of a step.

    Raises
    ------
    CheckpointError
        The disk is full; earlier checkpoints are unchanged.
    """
    path = _path(folder, stage, state)
    header = {"schema": SCHEMA, "stage": stage, "state": dict(state), "belongs": dict(belongs)}
    content = packed(tensors, header)
    before = latest(folder, stage)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        kept = "there is none before it" if before is None else f"the one before it is whole: {before}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise CheckpointError(
                f"no space left on the disk for the checkpoint {path} ({len(content):,} bytes); {kept}. "
                "Free some and run the same command again: it continues from there"
            ) from error
        raise CheckpointError(f"the checkpoint {path} cannot be written ({error.strerror}); {kept}") from error
    return path


def latest(folder: Path, stage: str) -> Path | None:
    """Return the path of the latest checkpoint of a stage, None without one."""
    found = sorted(folder.glob(f"{stage}-*.safetensors"))
    return found[-1] if found else None


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    CheckpointError
        The file is damaged or not a checkpoint.
    """
    try:
        tensors, header = unpacked(path)
        if header["schema"] != SCHEMA:
            raise CheckpointError(f"{path} has the schema {header['schema']!r}, this version reads {SCHEMA!r}")
        found = Checkpoint(path, header["stage"], tensors, header["state"], header["belongs"])
        if path.name != _path(path.parent, found.stage, found.state).name:
            raise ValueError(f"it is of step {found.state['step']} of {found.stage}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} is damaged, or no checkpoint ({error}); delete it, and the same command continues from the one "
            "before it, or restarts the stage"
        ) from error
    return found


def prune(folder: Path, stage: str, keep: int) -> None:
    """Delete all but the last `keep` checkpoints of a stage."""
    for path in sorted(folder.glob(f"{stage}-*.safetensors"))[:-keep]:
        path.unlink()


def _path(folder: Path, stage: str, state: Mapping[str, Any]) -> Path:
    return folder / f"{stage}-{int(state['step']):07d}.safetensors"
