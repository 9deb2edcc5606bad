"""Conversion between images and pixel values."""

import numpy as np
import torch

from clipgeom._images import to_tensor, to_uint8

IMAGES = np.arange(2 * 4 * 8 * 3 * 4, dtype=np.uint32).astype(np.uint8).reshape(8, 4, 8, 3)


def test_pixels_are_channels_first_from_minus_one_to_one():
    pixels = to_tensor(IMAGES)
    assert pixels.shape == (8, 3, 4, 8)
    assert pixels.dtype == torch.float32
    assert (float(pixels.min()), float(pixels.max())) == (-1.0, 1.0)
    np.testing.assert_array_equal(pixels[3, 1].numpy(), IMAGES[3, :, :, 1].astype(np.float32) / 127.5 - 1)


def test_every_value_survives_both_conversions():
    assert set(IMAGES.ravel()) == set(range(256))
    np.testing.assert_array_equal(to_uint8(to_tensor(IMAGES)), IMAGES)
    np.testing.assert_array_equal(to_uint8(to_tensor(IMAGES[0])), IMAGES[0])


def test_values_outside_the_range_are_clipped_and_others_rounded():
    pixels = torch.tensor([-1.5, 1.5, 0.0, 1 / 127.5 * 0.4]).view(4, 1, 1).repeat(1, 1, 1)[None, :3]
    assert to_uint8(pixels).ravel().tolist() == [0, 255, 128]


def test_decoded_images_are_those_of_diffusers_pipelines():
    """Diffusers halves first: (x / 2 + 0.5) · 255; halving is exact, so the bytes are equal."""
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.8
    theirs = ((pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(to_uint8(pixels), theirs)
