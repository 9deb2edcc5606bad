"""Crop, resize and normalise one image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from clipgeom._images import to_tensor
from pti.models.prompt_embeds import time_ids

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["image_to_tensor"]


def image_to_tensor(
    image: Image, size: int, crop: str, rng: np.random.Generator, *, mirrored: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert an image to a square tensor.

    Parameters
    ----------
    image : Image
        RGB.
    size : int
        Side of the square in pixels.
    crop : {"center_crop", "random_crop", "stretch"}
    rng : Generator
        Selects the position of a random crop.
    mirrored : bool

    Returns
    -------
    pixels : Tensor, shape (3, size, size), in −1 … 1
    sizes : Tensor, shape (1, 6)
        See `time_ids`; the corner is that of the crop in the resized image, mirrored with it.
    """
    from PIL import Image as Pictures
    from PIL import ImageOps

    width, height = image.size
    if crop == "stretch":
        scaled = image.resize((size, size), Pictures.Resampling.LANCZOS)
    else:
        ratio = size / min(width, height)
        scaled = image.resize(
            (max(size, round(width * ratio)), max(size, round(height * ratio))), Pictures.Resampling.LANCZOS
        )
    spare_x, spare_y = scaled.width - size, scaled.height - size
    if mirrored:
        scaled = ImageOps.mirror(scaled)
    if crop == "random_crop":
        left, top = int(rng.integers(spare_x + 1)), int(rng.integers(spare_y + 1))
    else:
        left, top = spare_x // 2, spare_y // 2
    cut = scaled.crop((left, top, left + size, top + size))
    return to_tensor(np.asarray(cut)), time_ids((height, width), (top, left), size)
