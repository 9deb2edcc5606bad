"""Image generation with the placeholder token and LoRA.

The pipeline's own sampler runs on prompt embeddings computed here. Tests compare the exported files with these
images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from clipgeom._images import to_uint8
from clipgeom.errors import ConfigError
from pti._random import rng_for
from pti.models.latent_scaling import unscaled
from pti.models.lora import Lora
from pti.models.pipeline import DiffusionModel
from pti.models.prompt_embeds import PromptEmbeds, empty_prompt_embeds, encode_prompts, time_ids

if TYPE_CHECKING:
    from jaxtyping import UInt8

__all__ = ["decode_latents", "sample_images", "sample_latents", "starting_noise", "whole_sizes"]

_BATCH = 8


def sample_images(
    model: DiffusionModel,
    prompts: Sequence[str],
    *,
    seed: int,
    steps: int = 30,
    guidance: float = 5.0,
    lora_scale: float = 1.0,
    size: int | None = None,
) -> UInt8[NDArray[np.uint8], "n side side 3"]:
    """Generate an image for each prompt.

    Parameters
    ----------
    model : DiffusionModel
        With or without placeholder token and LoRA.
    prompts : sequence of str
        The placeholder token is written ``{token}`` or by its name; ``{class}`` is the class word.
    seed : int
        The i-th image depends on the seed and on i.
    steps : int
    guidance : float
        Scale of classifier-free guidance; 1 is none.
    lora_scale : float
        Scale of the LoRA; 0 is exactly the base model.
    size : int, optional
        Side in pixels; the pipeline's own by default.

    Returns
    -------
    ndarray of uint8, shape (n, side, side, 3)

    Raises
    ------
    ConfigError
        A prompt is too long, or there are more steps than the model has timesteps.
    """
    size = size or model.size
    texts = [p if model.placeholder is None else model.placeholder.in_prompt(p) for p in prompts]
    batches = []
    with torch.no_grad(), Lora(model).scaled(lora_scale):
        for start in range(0, len(texts), _BATCH):
            part = texts[start : start + _BATCH]
            noise = starting_noise(model, seed, len(part), size=size, first=start)
            latents = sample_latents(
                model, encode_prompts(model, part), noise, seed=seed, first=start, steps=steps, guidance=guidance
            )
            batches.append(decode_latents(model, latents))
    return np.concatenate(batches)


def starting_noise(
    model: DiffusionModel, seed: int, n: int, *, size: int | None = None, first: int = 0, stream: str = "sample"
) -> torch.Tensor:
    """Initial noise of images `first` … `first + n`, shape (n, channels, side, side), float32."""
    side = (size or model.size) // model.factor
    shape = (int(model.unet.config.in_channels), side, side)
    rows = [rng_for(seed, stream, first + i).standard_normal(shape, dtype=np.float32) for i in range(n)]
    return torch.from_numpy(np.stack(rows))


@torch.no_grad()
def sample_latents(
    model: DiffusionModel,
    conditions: PromptEmbeds,
    noise: torch.Tensor,
    *,
    seed: int,
    steps: int,
    guidance: float,
    first: int = 0,
) -> torch.Tensor:
    """Generate latents, in the UNet's units, from prompt embeddings and initial noise."""
    if steps > len(model.alphas_cumprod):
        raise ConfigError(
            f"expected at most {len(model.alphas_cumprod)} sampling steps, the timesteps of this model; got {steps}"
        )
    device, dtype = model.device, model.unet.dtype
    n, side = len(conditions), noise.shape[-1] * model.factor
    settings = {
        "prompt_embeds": conditions.prompt_embeds.to(device, dtype),
        "latents": noise.to(device, dtype),
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "height": side,
        "width": side,
        "output_type": "latent",
        "return_dict": False,
        # samplers that add noise at each step
        "generator": [_generator(seed, first + i) for i in range(n)],
    }
    negative = empty_prompt_embeds(model)
    if conditions.pooled_prompt_embeds is not None and negative.pooled_prompt_embeds is not None:
        settings["pooled_prompt_embeds"] = conditions.pooled_prompt_embeds.to(device, dtype)
        settings["negative_pooled_prompt_embeds"] = negative.pooled_prompt_embeds.to(device, dtype).repeat(n, 1)
    settings["negative_prompt_embeds"] = negative.prompt_embeds.to(device, dtype).repeat(n, 1, 1)
    latents: torch.Tensor = model.pipeline(**settings)[0]
    return latents.float()


@torch.no_grad()
def decode_latents(model: DiffusionModel, latents: torch.Tensor) -> UInt8[NDArray[np.uint8], "n side side 3"]:
    """Decode latents to images, in the autoencoder's own precision."""
    pixels = model.vae.decode(unscaled(model.vae, latents).to(model.vae.dtype), return_dict=False)[0]
    return to_uint8(pixels.float())


def _generator(seed: int, index: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng_for(seed, "sample", index, 1).integers(2**62)))


def whole_sizes(n: int, side: int) -> torch.Tensor:
    """SDXL's time ids of n images without a crop, shape (n, 6)."""
    return time_ids((side, side), (0, 0), side).repeat(n, 1)
