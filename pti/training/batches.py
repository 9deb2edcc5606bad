"""Everything random about a step, as a function of the seed and the step's number alone.

So a checkpoint needs no random state and no sampler's place: a resumed run draws what it would have drawn. What is
drawn belongs to the batch of all processes together, of which each takes its own rows: two processes with half the
batch see what one sees with all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pti._random import STREAMS, rng_for
from pti.data.views import ImageView

__all__ = ["BatchPlan", "BatchSlice", "plan_micro_batch", "sample_order", "sample_timesteps"]


@dataclass(frozen=True, slots=True)
class BatchSlice:
    """The share of one process: its rank among how many, and its batch."""

    rank: int
    processes: int
    batch: int

    @property
    def total(self) -> int:
        """Batch of all processes together."""
        return self.processes * self.batch

    @property
    def rows(self) -> slice:
        """Its rows in the batch of all."""
        return slice(self.rank * self.batch, (self.rank + 1) * self.batch)


@dataclass(frozen=True, slots=True, eq=False)
class BatchPlan:
    """What one process draws for one part of one step.

    Attributes
    ----------
    rows : ndarray of int, shape (b,)
        Which rows of the batch of all processes these are.
    views : list of ImageView
    timesteps : Tensor of int64, shape (b,)
        Noise levels.
    noise, latent_noise : Tensor, shape (b, channels, side, side)
    offset : Tensor, shape (b, channels, 1, 1)
        Standard normal, for the noise offset.
    interpolation_t : Tensor, shape (b,)
        Uniform on [0, 1).
    wordings : ndarray of int, shape (b,)
        Wordings that no noise level forbids.
    """

    rows: NDArray[np.int64]
    views: list[ImageView]
    timesteps: torch.Tensor
    noise: torch.Tensor
    latent_noise: torch.Tensor
    offset: torch.Tensor
    interpolation_t: torch.Tensor
    wordings: NDArray[np.int64]


def sample_order(seed: int, stream: str, n: int, start: int, count: int) -> NDArray[np.int64]:
    """Places `start` … `start + count` of an endless sequence in which every n rows hold each sample once."""
    places = np.arange(start, start + count)
    epochs = {
        int(epoch): rng_for(seed, "order", STREAMS[stream], int(epoch)).permutation(n) for epoch in set(places // n)
    }
    return np.array([epochs[int(place // n)][place % n] for place in places], dtype=np.int64)


def sample_timesteps(rng: np.random.Generator, n: int, levels: range, kind: str) -> NDArray[np.int64]:
    """Noise levels of a range: one from each of n equal stretches in a random order, or each on its own."""
    if kind == "uniform":
        return levels.start + rng.integers(len(levels), size=n)
    stretched = ((np.arange(n) + rng.random(n)) * (len(levels) / n)).astype(np.int64)
    return levels.start + np.minimum(stretched, len(levels) - 1)[rng.permutation(n)]


def plan_micro_batch(
    seed: int,
    stream: str,
    step: int,
    part: int,
    *,
    parts: int,
    share: BatchSlice,
    samples: int,
    crops: int,
    flips: bool,
    wordings: int = 1,
    whole_from: int | None = None,
    shape: tuple[int, int, int],
    levels: range,
    timesteps: str,
) -> BatchPlan:
    """Draw one part (of `parts` accumulated ones) of a step for one process.

    From the noise level `whole_from` on, samples come in their first wording.
    """
    rng = rng_for(seed, stream, step, part)
    total = share.total
    which = sample_order(seed, stream, samples, (step * parts + part) * total, total)
    crop, mirror = rng.integers(crops, size=total), rng.random(total) < (0.5 if flips else 0.0)
    times = sample_timesteps(rng, total, levels, timesteps)
    between = rng.random(total, dtype=np.float32)
    noise = rng.standard_normal((total, *shape), dtype=np.float32)
    latent_noise = rng.standard_normal((total, *shape), dtype=np.float32)
    offset = rng.standard_normal((total, shape[0], 1, 1), dtype=np.float32)
    drawn = rng.integers(wordings, size=total)
    wording = drawn if whole_from is None else np.where(times >= whole_from, 0, drawn)
    mine = share.rows
    return BatchPlan(
        rows=np.arange(total)[mine],
        views=[
            ImageView(int(s), int(c), bool(m), int(w))
            for s, c, m, w in zip(which[mine], crop[mine], mirror[mine], wording[mine], strict=True)
        ],
        timesteps=torch.from_numpy(times[mine].copy()),
        noise=torch.from_numpy(noise[mine].copy()),
        latent_noise=torch.from_numpy(latent_noise[mine].copy()),
        offset=torch.from_numpy(offset[mine].copy()),
        interpolation_t=torch.from_numpy(between[mine].copy()),
        wordings=drawn[mine],
    )
