"""Latents of images that the base model generates for training: interpolated prompts and class images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from pti.config.schema import SamplerSection
from pti.data.views import ImageView
from pti.models.pipeline import DiffusionModel
from pti.models.prompt_embeds import PromptEmbeds
from pti.models.sampling import sample_latents, starting_noise, whole_sizes

__all__ = ["GeneratedLatents", "generate_latents"]

_BATCH_SIZE = 8


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedLatents:
    """Generated latents, shape (n, channels, side, side), and the caption of each."""

    latents: torch.Tensor
    captions: tuple[str, ...]
    crops: ClassVar[int] = 1  # generated images are neither cropped nor mirrored, and have one caption each
    flips: ClassVar[bool] = False
    wordings: ClassVar[int] = 1

    def __len__(self) -> int:
        return len(self.latents)

    def of(
        self, views: Sequence[ImageView], factor: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """Return latents, time ids and captions of some images; `factor` is pixels per latent pixel."""
        indices = [view.sample for view in views]
        latents = self.latents[indices].to(device)
        time_ids = whole_sizes(len(indices), latents.shape[-1] * factor).to(device)
        return latents, time_ids, [self.captions[index] for index in indices]


@torch.no_grad()
def generate_latents(
    model: DiffusionModel,
    texts: Sequence[str],
    conditions: Callable[[Sequence[str]], PromptEmbeds],
    sampling: SamplerSection,
    *,
    seed: int,
    stream: str,
    side: int,
) -> GeneratedLatents:
    """Generate one image for each text, and return the latents.

    Parameters
    ----------
    model : DiffusionModel
        Used with its present weights.
    texts : sequence of str
        The i-th image depends on the i-th text, the seed, the stream and i.
    conditions : callable
        Encodes a batch of the texts.
    sampling : SamplerSection
        Sampling steps and guidance scale.
    seed : int
    stream : str
        Name of the random stream (`pti._random.STREAMS`).
    side : int
        Image size in pixels.
    """
    batches = []
    for start in range(0, len(texts), _BATCH_SIZE):
        batch = texts[start : start + _BATCH_SIZE]
        noise = starting_noise(model, seed, len(batch), size=side, first=start, stream=stream)
        latents = sample_latents(
            model,
            conditions(batch),
            noise,
            seed=seed,
            first=start,
            steps=sampling.num_inference_steps,
            guidance=sampling.guidance_scale,
        )
        batches.append(latents.cpu())
    return GeneratedLatents(torch.cat(batches), tuple(texts))
