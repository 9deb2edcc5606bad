"""Pictures that the frozen model draws to train on: its own midpoints for the regulariser, its class for the prior."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from pti.config.schema import SamplingSection
from pti.models.pipeline import DiffusionModel
from pti.models.prompt_embeds import PromptEmbeds
from pti.models.sampling import sample_latents, starting_noise

__all__ = ["GeneratedLatents", "generate_latents"]

_AT_ONCE = 8


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedLatents:
    """Latents that the frozen model drew, shape (n, channels, side, side), and the caption of each."""

    latents: torch.Tensor
    captions: tuple[str, ...]
    crops: ClassVar[int] = 1  # they are whole, upright, and said in one way
    flips: ClassVar[bool] = False
    wordings: ClassVar[int] = 1

    def __len__(self) -> int:
        return len(self.latents)


@torch.no_grad()
def generate_latents(
    model: DiffusionModel,
    texts: Sequence[str],
    conditions: Callable[[Sequence[str]], PromptEmbeds],
    sampling: SamplingSection,
    *,
    seed: int,
    stream: str,
    side: int,
) -> GeneratedLatents:
    """Latents of pictures that show some texts, as the model draws them now.

    Parameters
    ----------
    model : DiffusionModel
    texts : sequence of str
        The i-th picture depends on the i-th text, the seed, the stream and i.
    conditions : callable
        Makes the conditions of some of the texts.
    sampling : SamplingSection
        How many steps, and how much guidance.
    seed : int
    stream : str
        Of the random numbers (`pti._random.STREAMS`).
    side : int
        In pixels.
    """
    parts = []
    for start in range(0, len(texts), _AT_ONCE):
        some = texts[start : start + _AT_ONCE]
        noise = starting_noise(model, seed, len(some), size=side, first=start, stream=stream)
        latents = sample_latents(
            model,
            conditions(some),
            noise,
            seed=seed,
            first=start,
            steps=sampling.num_inference_steps,
            guidance=sampling.guidance_scale,
        )
        parts.append(latents.cpu())
    return GeneratedLatents(torch.cat(parts), tuple(texts))
