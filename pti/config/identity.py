"""The settings that change a stage's result, compared when a checkpoint is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pti.config.schema import Config

__all__ = ["differences", "fingerprint"]

# Settings that a stage depends on; its checkpoints belong to these and to no others
_INVERT = (
    "model", "concept", "data", "loss", "inversion", "runtime",
    "experimental.embedding_norm", "experimental.embedding_norm_target", "experimental.embedding_norm_decay",
    "experimental.prompt_templates",
)  # fmt: skip
_STAGES = {
    "invert": _INVERT,
    "tune": (*_INVERT, "lora", "locality", "prior_preservation", "sampler", "experimental"),
}

_BATCHES = {"invert": ("inversion.batch_size",), "tune": ("inversion.batch_size", "lora.batch_size")}

_FREE = ("runtime.trackers", "runtime.device")  # these change no weight
_TUNE_ONLY = ("data.tag_dropout_max_timestep",)


def fingerprint(config: Config, stage: str, *, processes: int = 1) -> dict[str, Any]:
    """Return the settings that affect a stage's result, by full name; its checkpoints record them.

    The batch size is the total over all processes, since two processes with half the batch each give the same result.
    """
    free = _FREE if stage == "tune" else (*_FREE, *_TUNE_ONLY)
    flat = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in config.flat().items()
        if (name in _STAGES[stage] or name.split(".")[0] in _STAGES[stage]) and name not in free
    }
    for name in _BATCHES[stage]:
        flat[name] *= processes
    return flat


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences of two fingerprints, a line each."""
    names = [*now, *(name for name in before if name not in now)]
    pairs = ((name, before.get(name), now.get(name)) for name in names)
    return [f"{name} was {json.dumps(old)}, is {json.dumps(new)}" for name, old, new in pairs if old != new]
