"""Conversion of latents between the autoencoder's units and the UNet's, as in diffusers' pipelines.

Some autoencoders have a mean and a standard deviation for each channel beside the scaling factor. Others have a
shift.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["scale", "scaled", "unscaled"]


def scaled(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Convert the autoencoder's latents, shape (..., channels, height, width), to the UNet's units."""
    return (latents - _mean(vae, latents)) * scale(vae, latents)


def unscaled(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Convert latents in the UNet's units, shape (..., channels, height, width), to the autoencoder's."""
    return latents / scale(vae, latents) + _mean(vae, latents)


def scale(vae: Any, like: torch.Tensor) -> torch.Tensor | float:
    """Return the factor from the autoencoder's latents to the UNet's: one number, or one for each channel."""
    factor = float(vae.config.scaling_factor)
    return factor / _column(vae.config.latents_std, like) if _by_channel(vae) else factor


def _mean(vae: Any, like: torch.Tensor) -> torch.Tensor | float:
    if _by_channel(vae):
        return _column(vae.config.latents_mean, like)
    return float(getattr(vae.config, "shift_factor", None) or 0.0)


def _by_channel(vae: Any) -> bool:
    """Return whether latents are scaled by channel: diffusers ignores a mean without a deviation, and vice versa."""
    return vae.config.get("latents_mean") is not None and vae.config.get("latents_std") is not None


def _column(values: Any, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)
