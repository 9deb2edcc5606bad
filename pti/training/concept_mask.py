"""Concept masks from the base model, for masked training without given masks.

A few training images show as much background as concept. The base model's prediction for a noisy image changes where
the class is visible when the class word is removed from the caption. (DiffEdit computes its mask in this way from two
prompts: Couairon et al., arXiv 2210.11427.) The loss has less weight outside that mask.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from clipgeom._text import PLACEHOLDER
from pti._random import rng_for
from pti.data.latent_cache import LatentCache
from pti.data.views import ImageView
from pti.losses import add_noise, predict_noise
from pti.models.pipeline import DiffusionModel
from pti.models.prompt_embeds import encode_prompts
from pti.training.accelerator import Runtime

__all__ = ["class_word_saliency", "loss_weights", "overlay"]

_NOISE_SAMPLES, _BATCH_SIZE = 16, 4  # noisy copies of an image; the batch takes no more memory than training
_MIN_TIMESTEP, _MAX_TIMESTEP = 0.2, 0.7  # fractions of the schedule
_MIN_BRIGHTNESS = 0.2  # of the overlay, where the weight is 0
_FULL_WEIGHT_FROM = 0.25  # fraction of the largest saliency from which the weight is 1


@torch.no_grad()
def class_word_saliency(
    engine: Runtime, model: DiffusionModel, latents: LatentCache, view: ImageView, *, seed: int
) -> torch.Tensor:
    """Measure how much the class word changes the base model's prediction at each latent pixel.

    Returns
    -------
    Tensor, shape (side, side)
        Root mean square of the change over noise samples and channels.
    """
    assert model.placeholder is not None
    rng = rng_for(seed, "focus", view.sample, view.crop)
    image_latents, time_ids = latents.of([view], torch.zeros(1, *latents.shape))

    # Add noise at timesteps that decide shapes.
    n_timesteps = len(model.alphas_cumprod)
    timesteps = torch.linspace(
        _MIN_TIMESTEP * n_timesteps, _MAX_TIMESTEP * n_timesteps, _NOISE_SAMPLES, device=engine.device
    )
    timesteps = timesteps.long().clamp(max=n_timesteps - 1)
    noise = torch.from_numpy(rng.standard_normal((_NOISE_SAMPLES, *latents.shape), dtype=np.float32)).to(engine.device)
    noisy_latents = add_noise(model.alphas_cumprod, image_latents.expand(_NOISE_SAMPLES, -1, -1, -1), noise, timesteps)

    # Compare predictions for the caption with the class word and without it.
    caption = latents.caption(view)
    squares = []
    with engine.autocast():
        prompts = (model.placeholder.in_class_prompt(caption), caption.replace(PLACEHOLDER, "").strip())
        prompt_embeds = [
            encode_prompts(model, [prompt])[[0] * _BATCH_SIZE].with_time_ids(time_ids.expand(_BATCH_SIZE, -1))
            for prompt in prompts
        ]
        for z, t in zip(torch.split(noisy_latents, _BATCH_SIZE), torch.split(timesteps, _BATCH_SIZE), strict=True):
            with_word, without_word = (predict_noise(model, z, t, embeds).float() for embeds in prompt_embeds)
            squares.append((with_word - without_word).square().mean(dim=(0, 1)))
    return torch.stack(squares).mean(dim=0).sqrt()


def loss_weights(saliency: torch.Tensor, unmasked: float) -> torch.Tensor:
    """Compute loss weights: 1 on the concept, `unmasked` outside it, then divided by their mean.

    Parameters
    ----------
    saliency : Tensor, shape (side, side)
        Result of `class_word_saliency`.
    unmasked : float
        Weight outside the concept, 0 to 1.

    Returns
    -------
    Tensor, shape (1, side, side)
        Weights with a mean of 1; all 1 if the class word has no effect.
    """
    largest = saliency.max()
    if not largest > 0:
        return torch.ones_like(saliency)[None]
    mask = (saliency / (_FULL_WEIGHT_FROM * largest)).clamp(max=1.0)
    weights = unmasked + (1 - unmasked) * mask
    return (weights / weights.mean())[None]


def overlay(pixels: torch.Tensor, weights: torch.Tensor) -> NDArray[np.uint8]:
    """Darken an image where its loss weights are low, for a preview.

    Parameters
    ----------
    pixels : Tensor, shape (3, size, size)
        From −1 to 1.
    weights : Tensor, shape (1, side, side)

    Returns
    -------
    ndarray of uint8, shape (size, size, 3)
    """
    relative = (weights / weights.max()).cpu()
    brightness = torch.nn.functional.interpolate(relative[None], size=pixels.shape[1:], mode="nearest")[0]
    shaded = (pixels + 1) * 127.5 * (_MIN_BRIGHTNESS + (1 - _MIN_BRIGHTNESS) * brightness)
    return shaded.round().to(torch.uint8).permute(1, 2, 0).numpy()
