"""Where in its pictures the concept is, told by the frozen model: masked training without masks.

Six pictures say as much about their backgrounds as about what is to be learnt, and most of a picture is background. What
the frozen model predicts for a noisy picture with the class word in its caption, and without it, differs where the class
is seen (the mask of DiffEdit, Couairon et al., arXiv 2210.11427, there of two prompts). Errors beside it weigh less, as
they do in trainers that are given masks.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pti._random import rng_for
from pti.data.latent_cache import LatentCache
from pti.data.views import ImageView
from pti.losses import add_noise, predict_noise
from pti.models.pipeline import DiffusionModel
from pti.models.prompt_embeds import encode_prompts
from pti.models.token import PLACEHOLDER
from pti.training.accelerator import Runtime

__all__ = ["class_word_saliency", "loss_weights", "overlay"]

_DRAWS, _TOGETHER = 16, 4  # noisy copies of a picture, and how many in a pass: no more room than training takes
_FROM, _TO = 0.2, 0.7  # their noise levels, as shares of the schedule
_DARKEST = 0.2  # what is left of a picture's brightness where nothing weighs
_FULL = 0.25  # of the strongest contrast: from here on a cell weighs fully


@torch.no_grad()
def class_word_saliency(
    engine: Runtime, model: DiffusionModel, latents: LatentCache, view: ImageView, *, seed: int
) -> torch.Tensor:
    """How far the class word changes what the frozen model predicts, cell by cell of a latent.

    The root of the mean square over noise and channels, shape (side, side). Not negative.
    """
    assert model.placeholder is not None
    rng = rng_for(seed, "focus", view.sample, view.crop)
    clean, sizes = latents.of([view], torch.zeros(1, *latents.shape))
    n_times = len(model.alphas_cumprod)
    times = torch.linspace(_FROM * n_times, _TO * n_times, _DRAWS, device=engine.device).long().clamp(max=n_times - 1)
    noise = torch.from_numpy(rng.standard_normal((_DRAWS, *latents.shape), dtype=np.float32)).to(engine.device)
    noisy = add_noise(model.alphas_cumprod, clean.expand(_DRAWS, -1, -1, -1), noise, times)
    caption = latents.caption(view)
    squares = []
    with engine.autocast():
        texts = (model.placeholder.in_class_prompt(caption), caption.replace(PLACEHOLDER, "").strip())
        sides = [
            encode_prompts(model, [text])[[0] * _TOGETHER].with_time_ids(sizes.expand(_TOGETHER, -1)) for text in texts
        ]
        for z, t in zip(torch.split(noisy, _TOGETHER), torch.split(times, _TOGETHER), strict=True):
            word, without = (predict_noise(model, z, t, conditions).float() for conditions in sides)
            squares.append((word - without).square().mean(dim=(0, 1)))
    return torch.stack(squares).mean(dim=0).sqrt()


def loss_weights(found: torch.Tensor, unmasked: float) -> torch.Tensor:
    """Weights of the squared errors: 1 on the concept, `unmasked` beside it, then divided by their mean.

    Parameters
    ----------
    found : Tensor, shape (side, side)
        As `class_word_saliency` gives it.
    unmasked : float

    Returns
    -------
    Tensor, shape (1, side, side)
        With a mean of 1; all 1 where the class word changes nothing.
    """
    strongest = found.max()
    if not strongest > 0:
        return torch.ones_like(found)[None]
    mask = (found / (_FULL * strongest)).clamp(max=1.0)
    weights = unmasked + (1 - unmasked) * mask
    return (weights / weights.mean())[None]


def overlay(pixels: torch.Tensor, weights: torch.Tensor) -> NDArray[np.uint8]:
    """A picture, shape (3, size, size) in −1 … 1, the darker the less its places weigh; (size, size, 3)."""
    share = (weights / weights.max()).cpu()
    light = torch.nn.functional.interpolate(share[None], size=pixels.shape[1:], mode="nearest")[0]
    shown = (pixels + 1) * 127.5 * (_DARKEST + (1 - _DARKEST) * light)
    return shown.round().to(torch.uint8).permute(1, 2, 0).numpy()
