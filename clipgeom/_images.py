"""Conversion between images and the pixel values of networks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["to_tensor", "to_uint8"]


def to_tensor(images: NDArray[np.uint8], /) -> torch.Tensor:
    """Convert images, shape (..., height, width, 3), to pixels in −1 … 1, shape (..., 3, height, width), float32.

    The memory layout stays that of the images, channels last. A convolution may round in another way after
    `contiguous`.
    """
    return torch.from_numpy(np.moveaxis(np.asarray(images), -1, -3).astype(np.float32) / 127.5 - 1)


def to_uint8(pixels: torch.Tensor, /) -> NDArray[np.uint8]:
    """Convert pixels in −1 … 1, shape (..., 3, height, width), to images, shape (..., height, width, 3)."""
    levels = (pixels.clamp(-1, 1) + 1) * 127.5
    images: NDArray[np.uint8] = levels.round().to(torch.uint8).movedim(-3, -1).cpu().numpy()
    return images
