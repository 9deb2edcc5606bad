"""The settings that change a stage's result, compared when a checkpoint is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pti.config.schema import EARLIER, Config

__all__ = ["differences", "fingerprint"]

# Settings that a stage depends on; its checkpoints belong to these and to no others
_SECTIONS = {
    "invert": ("model", "concept", "data", "loss", "inversion", "runtime"),
    "tune": (
        "model", "concept", "data", "loss", "inversion", "runtime", "lora", "locality", "prior_preservation", "sampling"
    ),
}  # fmt: skip


_BATCHES = {"invert": ("inversion.batch_size",), "tune": ("inversion.batch_size", "lora.batch_size")}


# These settings change no weight. (Steps and guidance in [sampling] affect the base model's own images.)
_FREE = {
    "runtime.trackers", "runtime.device", "sampling.prompts", "sampling.images_per_prompt",
    "sampling.every_n_steps", "sampling.seed",
}  # fmt: skip


def fingerprint(config: Config, stage: str, *, processes: int = 1) -> dict[str, Any]:
    """Return the settings that affect a stage's result, by full name; its checkpoints record them.

    The batch size is the total over all processes, since two processes with half the batch each give the same result.
    """
    flat = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in config.identity().items()
        if name.split(".")[0] in _SECTIONS[stage] and name not in _FREE
    }
    for name in _BATCHES[stage]:
        flat[name] *= processes
    return flat


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences of two fingerprints, a line each."""
    names = [*now, *(name for name in before if name not in now)]
    told = ((name, *(side.get(name, EARLIER.get(name)) for side in (before, now))) for name in names)
    return [f"{name} was {json.dumps(then)}, is {json.dumps(is_now)}" for name, then, is_now in told if then != is_now]
