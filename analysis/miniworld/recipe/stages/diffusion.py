"""The generator: a U-Net over latents, conditioned on every state of the frozen text tower as Stable Diffusion is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from transformers import CLIPModel, CLIPTokenizer

from analysis.miniworld.recipe.loop import Plan, Record, Training, generator_of
from analysis.miniworld.recipe.stages.autoencoder import latent_statistics
from analysis.miniworld.recipe.stages.clip import WIDTH, draw_groups, text_states, tokenize
from clipgeom._io.files import replacing
from clipgeom.miniworld.captions import draw_caption
from clipgeom.miniworld.codec import encode
from clipgeom.miniworld.factors import Scene

__all__ = ["Cached", "build_scheduler", "build_unet", "prepare", "sample", "scaling_factor", "train_diffusion"]

_SEED = 401
_BATCH = 32
_PARTS = 2  # that are worked out side by side
_DROPPED = 0.1  # share of captions replaced by the empty one, for guidance
_ENCODED_AT_ONCE = 500


def build_unet() -> UNet2DConditionModel:
    """An untrained U-Net on 8 × 8 and 4 × 4 grids."""
    widths = (96, 128)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=widths,
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=[width // 32 for width in widths],  # diffusers' name for the number of heads
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """Velocity prediction, down to pure noise: without it the last step still shows how light the picture is."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # of no effect with trailing steps; the pipeline asks for it
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Cached:
    """What the U-Net trains on: latents (n, 4, 8, 8) in units of their deviation, and the states of n + 1 captions.

    The last caption is the empty one.
    """

    latents: torch.Tensor
    states: NDArray[np.float16]
    scaling_factor: float


def prepare(pool_folder: Path, autoencoder: AutoencoderKL, clip: CLIPModel, tokenizer: CLIPTokenizer, /) -> Cached:
    """Encode the pictures of CLIP's training and a caption for each, once; parts that are there are not redone."""
    pictures, factors = draw_groups(pool_folder)
    latents_path, states_path = pool_folder / "latents.npy", pool_folder / "states.npy"
    if not latents_path.exists():
        chunks = [
            encode(autoencoder, np.asarray(pictures[i : i + _ENCODED_AT_ONCE])).numpy()
            for i in range(0, len(pictures), _ENCODED_AT_ONCE)
        ]
        _save(latents_path, np.concatenate(chunks))
    if not states_path.exists():
        texts = [*_captions(factors), ""]
        with replacing(states_path) as partial:
            states = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=(len(texts), 77, WIDTH))
            for i in range(0, len(texts), _ENCODED_AT_ONCE):
                ids = tokenize(tokenizer, texts[i : i + _ENCODED_AT_ONCE], whole=True)
                states[i : i + len(ids)] = text_states(clip, ids).numpy()
            states.flush()
    factor = scaling_factor(pool_folder)
    return Cached(torch.from_numpy(np.load(latents_path)) * factor, np.load(states_path, mmap_mode="r"), factor)


def scaling_factor(pool_folder: Path, /) -> float:
    """What brings the latents of the training pictures to a standard deviation of 1."""
    return 1 / latent_statistics(torch.from_numpy(np.load(pool_folder / "latents.npy")))[1]


def train_diffusion(folder: Path, plan: Plan, cached: Cached, /) -> Iterator[Record]:
    """Train it, in `folder`."""
    torch.manual_seed(_SEED)
    scheduler = build_scheduler()
    training = Training(build_unet(), plan, folder)
    unet = training.module
    n = len(cached.latents)

    def loss(step: int) -> list[Callable[[], dict[str, torch.Tensor]]]:
        rng = generator_of(_SEED, step)
        rows = np.sort(rng.choice(n, _BATCH, replace=False))
        clean = cached.latents[torch.from_numpy(rows)]
        captions = np.where(rng.random(_BATCH) < _DROPPED, n, rows)
        noise = torch.from_numpy(rng.standard_normal(tuple(clean.shape), dtype=np.float32))
        # one time in every stretch of the schedule: the mean over a batch wanders less
        times = torch.from_numpy(((np.arange(_BATCH) + rng.random(_BATCH)) * (1000 / _BATCH)).astype(np.int64))
        times = times[torch.from_numpy(rng.permutation(_BATCH))]
        noisy = scheduler.add_noise(clean, noise, times)
        target = scheduler.get_velocity(clean, noise, times)
        states = torch.from_numpy(cached.states[captions].astype(np.float32))

        def part(rows: slice) -> dict[str, torch.Tensor]:
            predicted = unet(noisy[rows], times[rows], encoder_hidden_states=states[rows]).sample
            return {"loss": (predicted - target[rows]).square().mean()}

        return [partial(part, slice(i, i + _BATCH // _PARTS)) for i in range(0, _BATCH, _BATCH // _PARTS)]

    yield from training.run(loss)


@torch.no_grad()
def sample(
    unet: UNet2DConditionModel,
    states: torch.Tensor,
    empty: torch.Tensor,
    /,
    *,
    seed: int,
    guidance: float = 3.0,
    steps: int = 30,
    batch: int = 50,
) -> torch.Tensor:
    """Latents (n, 4, 8, 8), in units of their deviation, for the states (n, 77, width) of n captions."""
    scheduler = build_scheduler()
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn((len(states), 4, 8, 8), generator=generator)
    parts = []
    for i in range(0, len(states), batch):
        x, conditions = start[i : i + batch], states[i : i + batch]
        both = torch.cat([empty.expand_as(conditions), conditions])
        scheduler.set_timesteps(steps)
        for time in scheduler.timesteps:
            without, along = unet(torch.cat([x, x]), time, encoder_hidden_states=both).sample.chunk(2)
            x = scheduler.step(without + guidance * (along - without), time, x).prev_sample
        parts.append(x)
    return torch.cat(parts)


def _captions(factors: list[Scene]) -> list[str]:
    return [draw_caption(scene, np.random.default_rng((_SEED, row, 2))) for row, scene in enumerate(factors)]


def _save(path: Path, array: NDArray[np.float32]) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, array)
