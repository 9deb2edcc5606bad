"""Conversion between images and latents by miniworld's autoencoder."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from clipgeom._images import to_tensor, to_uint8

__all__ = ["decode", "encode"]


@torch.no_grad()
def encode(model: AutoencoderKL, pictures: NDArray[np.uint8], /, *, batch: int = 64) -> torch.Tensor:
    """Encode images to the means of their latents, unscaled."""
    parts = [
        model.encode(to_tensor(pictures[i : i + batch]).contiguous()).latent_dist.mean
        for i in range(0, len(pictures), batch)
    ]
    return torch.cat(parts)


@torch.no_grad()
def decode(model: AutoencoderKL, latents: torch.Tensor, /, *, batch: int = 64) -> NDArray[np.uint8]:
    """Decode unscaled latents to images."""
    # converted batch by batch: floats need four times the memory
    starts = range(0, len(latents), batch)
    return np.concatenate([to_uint8(model.decode(latents[i : i + batch]).sample) for i in starts])
