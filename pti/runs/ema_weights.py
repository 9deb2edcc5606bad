"""Averaged weights among a checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch

__all__ = ["PREFIX", "averages_in"]

PREFIX = "average."


def averages_in(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the EMA weights in a checkpoint by parameter name; empty without averaging."""
    return {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
