"""Plans of micro-batches: images, timesteps and noise as functions of the seed and the step alone.

A checkpoint therefore needs no random state and no sampler state: a resumed run repeats the same plans. Random numbers
belong to the batch of all processes, and each process takes its slice. Two processes with half the batch size train on
the same batch as one process.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pti._random import STREAMS, rng_for
from pti.data.views import ImageView
from pti.models.prompt_embeds import PromptEmbeds

__all__ = [
    "BatchPlan",
    "BatchSlice",
    "DenoisingBatch",
    "SamplingSpace",
    "plan_micro_batch",
    "sample_order",
    "sample_timesteps",
]


@dataclass(frozen=True, slots=True)
class BatchSlice:
    """The part of the batch that one process trains on: rank, number of processes, batch size of each."""

    rank: int
    processes: int
    batch: int

    @property
    def total(self) -> int:
        """Batch size of all processes together."""
        return self.processes * self.batch

    @property
    def rows(self) -> slice:
        """Indices of this process in the batch of all processes."""
        return slice(self.rank * self.batch, (self.rank + 1) * self.batch)


@dataclass(frozen=True, slots=True)
class SamplingSpace:
    """Images, image views and timesteps that a batch is sampled from.

    Attributes
    ----------
    n_images, crops, wordings : int
        Number of images, crops of each, and caption variants of each.
    flips : bool
        Mirror half the images.
    latent_shape : tuple of int
        Shape of one image's latents.
    timesteps : range
    timestep_sampling : {"stratified", "uniform"}
    complete_from : int or None
        From this timestep on, captions are in their first variant, which is complete.
    """

    n_images: int
    crops: int
    flips: bool
    latent_shape: tuple[int, int, int]
    timesteps: range
    timestep_sampling: str
    wordings: int = 1
    complete_from: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class BatchPlan:
    """Random choices of one process for one micro-batch.

    Attributes
    ----------
    rows : ndarray of int, shape (b,)
        Indices in the batch of all processes.
    views : list of ImageView
        Image, crop, flip and caption variant of each element.
    timesteps : Tensor of int64, shape (b,)
    noise, latent_noise : Tensor, shape (b, channels, side, side)
        Noise of the diffusion process, and of sampling from the VAE's distribution.
    offset : Tensor, shape (b, channels, 1, 1)
        Standard normal, for the noise offset.
    interpolation_t : Tensor, shape (b,)
        Uniform on [0, 1).
    wordings : ndarray of int, shape (b,)
        Caption variants, ignoring the timestep limit of tag dropout.
    """

    rows: NDArray[np.int64]
    views: list[ImageView]
    timesteps: torch.Tensor
    noise: torch.Tensor
    latent_noise: torch.Tensor
    offset: torch.Tensor
    interpolation_t: torch.Tensor
    wordings: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class DenoisingBatch:
    """Inputs of the UNet and the target of its prediction.

    Attributes
    ----------
    noisy_latents : Tensor, shape (n, channels, side, side)
    timesteps : Tensor of int, shape (n,)
    prompt_embeds : PromptEmbeds
    target : Tensor, shape (n, channels, side, side)
        Noise or velocity; for the locality loss the base model's prediction.
    """

    noisy_latents: torch.Tensor
    timesteps: torch.Tensor
    prompt_embeds: PromptEmbeds
    target: torch.Tensor


def sample_order(seed: int, stream: str, n: int, start: int, count: int) -> NDArray[np.int64]:
    """Return elements `start` … `start + count` of an endless sequence of shuffled epochs of n samples."""
    positions = np.arange(start, start + count)
    epochs = {
        int(epoch): rng_for(seed, "order", STREAMS[stream], int(epoch)).permutation(n) for epoch in set(positions // n)
    }
    return np.array([epochs[int(position // n)][position % n] for position in positions], dtype=np.int64)


def sample_timesteps(rng: np.random.Generator, n: int, timesteps: range, sampling: str) -> NDArray[np.int64]:
    """Sample n timesteps of a range: independently (uniform), or one from each of n equal parts, shuffled (stratified)."""
    if sampling == "uniform":
        return timesteps.start + rng.integers(len(timesteps), size=n)
    strata = ((np.arange(n) + rng.random(n)) * (len(timesteps) / n)).astype(np.int64)
    return timesteps.start + np.minimum(strata, len(timesteps) - 1)[rng.permutation(n)]


def plan_micro_batch(
    seed: int, stream: str, step: int, part: int, *, parts: int, batch_slice: BatchSlice, space: SamplingSpace
) -> BatchPlan:
    """Plan micro-batch `part` (of `parts` accumulated ones) of a step for one process.

    Parameters
    ----------
    seed : int
    stream : str
        Name of the random stream (`pti._random.STREAMS`).
    step, part, parts : int
        Optimizer step, micro-batch, and micro-batches of a step.
    batch_slice : BatchSlice
        Of this process.
    space : SamplingSpace
    """
    rng = rng_for(seed, stream, step, part)
    total, shape = batch_slice.total, space.latent_shape

    # Sample for the batch of all processes. The order of these calls determines all random numbers of a run: keep it.
    images = sample_order(seed, stream, space.n_images, (step * parts + part) * total, total)
    crop, mirror = rng.integers(space.crops, size=total), rng.random(total) < (0.5 if space.flips else 0.0)
    timesteps = sample_timesteps(rng, total, space.timesteps, space.timestep_sampling)
    interpolation_t = rng.random(total, dtype=np.float32)
    noise = rng.standard_normal((total, *shape), dtype=np.float32)
    latent_noise = rng.standard_normal((total, *shape), dtype=np.float32)
    offset = rng.standard_normal((total, shape[0], 1, 1), dtype=np.float32)
    variants = rng.integers(space.wordings, size=total)

    # No tag dropout at high noise levels, where the image layout is decided.
    wording = variants if space.complete_from is None else np.where(timesteps >= space.complete_from, 0, variants)

    # Take the slice of this process.
    rows = batch_slice.rows
    return BatchPlan(
        rows=np.arange(total)[rows],
        views=[
            ImageView(int(s), int(c), bool(m), int(w))
            for s, c, m, w in zip(images[rows], crop[rows], mirror[rows], wording[rows], strict=True)
        ],
        timesteps=torch.from_numpy(timesteps[rows].copy()),
        noise=torch.from_numpy(noise[rows].copy()),
        latent_noise=torch.from_numpy(latent_noise[rows].copy()),
        offset=torch.from_numpy(offset[rows].copy()),
        interpolation_t=torch.from_numpy(interpolation_t[rows].copy()),
        wordings=variants[rows],
    )
