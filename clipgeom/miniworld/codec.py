"""Conversion between images and latents by miniworld's autoencoder."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

__all__ = ["decode", "encode", "normalized"]


@torch.no_grad()
def encode(model: AutoencoderKL, pictures: NDArray[np.uint8], /, *, batch: int = 64) -> torch.Tensor:
    """Encode images to the means of their latents, unscaled."""
    parts = [
        model.encode(torch.from_numpy(normalized(pictures[i : i + batch]))).latent_dist.mean
        for i in range(0, len(pictures), batch)
    ]
    return torch.cat(parts)


@torch.no_grad()
def decode(model: AutoencoderKL, latents: torch.Tensor, /, *, batch: int = 64) -> NDArray[np.uint8]:
    """Decode unscaled latents to images."""
    parts = []
    for start in range(0, len(latents), batch):  # converted to bytes at once: floats need four times the memory
        pixels = (model.decode(latents[start : start + batch]).sample.clamp(-1, 1) + 1) * 127.5
        parts.append(pixels.round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


def normalized(pictures: NDArray[np.uint8], /) -> NDArray[np.float32]:
    """Convert images to network input: channels first, −1 … 1."""
    return np.ascontiguousarray(np.moveaxis(pictures, -1, 1), dtype=np.float32) / np.float32(127.5) - np.float32(1)
