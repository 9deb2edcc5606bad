"""The autoencoder: 64 × 64 pictures to 8 × 8 × 4 latents and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from analysis.miniworld.recipe.loop import Plan, Record, Training, generator_of
from analysis.miniworld.recipe.pools import Pool, draw_pool
from clipgeom._images import to_tensor
from clipgeom.miniworld.drawing.canvas import SIZE
from clipgeom.miniworld.drawing.render import middle

__all__ = ["KL", "SQUARE", "build_autoencoder", "draw_pictures", "latent_statistics", "psnr", "train_autoencoder"]

KL = 5e-4  # of the mean over latents: holds them near the unit Gaussian; larger values cost detail
SQUARE = 4.0  # weight of the squared error beside the absolute one

_SEED = 101
_CELL = 8  # pixels a side that one latent stands for
_POOL, _NEW = 24_000, 0.35
_WHOLE, _CROPS = 6, 24  # pictures a step, or crops of a quarter of their size
_CROP = 32  # pixels a side
_ON_FIGURE = 0.7  # share of crops that hold the figure: the hard part of a picture, and a tenth of it
_ENDING = 0.85  # share of the steps on crops; the rest sees whole pictures, as does everyone after


def build_autoencoder() -> AutoencoderKL:
    """An untrained `AutoencoderKL`, three times halving the side of the picture."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 16, 48, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    )


def draw_pictures(pool_folder: Path, /) -> Pool:
    """What the autoencoder trains on: scenes, a third of them of new characters."""
    return draw_pool(pool_folder, _POOL, _SEED, new_characters=_NEW)


def train_autoencoder(folder: Path, plan: Plan, pool_folder: Path, /) -> Iterator[Record]:
    """Train it, in `folder`."""
    pictures, factors = draw_pictures(pool_folder)
    centers = np.array([middle(scene["position"]) for scene in factors])
    torch.manual_seed(_SEED)
    model = build_autoencoder()
    training = Training(model, plan, folder)

    def loss(step: int) -> dict[str, torch.Tensor]:
        rng = generator_of(_SEED, step)
        cropped = step < _ENDING * plan.steps
        rows = np.sort(rng.choice(_POOL, _CROPS if cropped else _WHOLE, replace=False))
        batch = to_tensor(_crops(pictures[rows], centers[rows], rng) if cropped else pictures[rows]).contiguous()
        posterior = model.encode(batch).latent_dist
        noise = torch.from_numpy(rng.standard_normal(posterior.mean.shape, dtype=np.float32))
        back = model.decode(posterior.mean + posterior.std * noise).sample
        difference = back - batch
        square, absolute, kl = (
            difference.square().mean(),
            difference.abs().mean(),
            posterior.kl().mean() / posterior.mean[0].numel(),
        )
        return {"loss": absolute + SQUARE * square + KL * kl, "square": square, "absolute": absolute, "kl": kl}

    yield from training.run(loss)


def _crops(pictures: NDArray[np.uint8], centers: NDArray[np.float64], rng: np.random.Generator, /) -> NDArray[np.uint8]:
    """A square of each picture, most of them about the figure, on the grid of the latents."""
    most = (SIZE - _CROP) // _CELL
    on_figure = (centers[:, ::-1] - _CROP / 2 + rng.uniform(-6, 6, centers.shape)) / _CELL
    anywhere = rng.integers(0, most + 1, centers.shape)
    chosen = np.where(rng.random((len(centers), 1)) < _ON_FIGURE, on_figure, anywhere)
    corners = np.clip(np.rint(chosen), 0, most).astype(np.int64) * _CELL
    return np.stack([picture[y : y + _CROP, x : x + _CROP] for picture, (y, x) in zip(pictures, corners, strict=True)])


def latent_statistics(latents: torch.Tensor, /) -> tuple[float, float]:
    """Mean and standard deviation over everything."""
    return float(latents.mean()), float(latents.std())


def psnr(first: NDArray[np.uint8], second: NDArray[np.uint8], /) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of every pair of pictures, in decibels."""
    square = ((first.astype(np.float64) - second.astype(np.float64)) ** 2).mean(axis=(1, 2, 3))
    return 10 * np.log10(255.0**2 / np.maximum(square, 1e-9))  # equal pictures: 138 dB rather than infinity
