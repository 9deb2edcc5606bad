"""Later rounds of the autoencoder: whole pictures, with an eye for the figure.

After the first round the pictures are right to 26 dB and the headgear, a few pixels wide, is read wrong in a tenth of
them. Here errors on the figure weigh more than those beside it, and what the image tower of CLIP sees at every patch
has to stay (a perceptual loss; the readers, which measure the result, have no part in it). The last round trains the
decoder alone, for latents that no longer change, so that the generator can be trained on them meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers.models.clip.modeling_clip import CLIPVisionModel

from analysis.miniworld.recipe.loop import Plan, Record, Training, generator_of
from analysis.miniworld.recipe.stages.autoencoder import KL, SQUARE, draw_pictures
from analysis.miniworld.recipe.stages.patches import TOLD
from clipgeom._images import to_tensor
from clipgeom.miniworld.drawing.canvas import SIZE
from clipgeom.miniworld.drawing.render import middle

__all__ = ["train_details"]

_SEED, _DECODER_SEED = 102, 103
_BATCH = 6
_FIGURE_WEIGHT = 4.0  # of errors on the figure, beside 1 elsewhere
_REACH = (10.0, 14.0)  # of the figure from its middle, in pixels, (x, y)
_SEEN, _SEEN_LAST = 0.1, 0.4  # weight of the perceptual loss, against a mean absolute error of 0.05; in the last round


def train_details(
    folder: Path,
    plan: Plan,
    pool_folder: Path,
    autoencoder: AutoencoderKL,
    tower: CLIPVisionModel,
    /,
    *,
    decoder_only: bool = False,
) -> Iterator[Record]:
    """Train the autoencoder on, in `folder`; or its decoder alone."""
    pictures, scenes = draw_pictures(pool_folder)
    centers = np.array([middle(scene["position"]) for scene in scenes], dtype=np.float32)
    tower.requires_grad_(False)
    autoencoder.train().requires_grad_(True)
    if decoder_only:
        autoencoder.encoder.requires_grad_(False)
        autoencoder.quant_conv.requires_grad_(False)
    seed, seen_weight = (_DECODER_SEED, _SEEN_LAST) if decoder_only else (_SEED, _SEEN)
    training = Training(autoencoder, plan, folder)

    def loss(step: int) -> dict[str, torch.Tensor]:
        rng = generator_of(seed, step)
        rows = np.sort(rng.choice(len(pictures), _BATCH, replace=False))
        batch = to_tensor(pictures[rows]).contiguous()
        posterior = autoencoder.encode(batch).latent_dist
        noise = torch.from_numpy(rng.standard_normal(posterior.mean.shape, dtype=np.float32))
        back = autoencoder.decode(posterior.mean + posterior.std * noise).sample
        weights = _weights(torch.from_numpy(centers[rows]))
        difference = back - batch
        square = (weights * difference.square()).mean()
        absolute = (weights * difference.abs()).mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        with torch.no_grad():
            wanted = _seen(tower, batch)
        seen = (_seen(tower, back) - wanted).square().mean()
        terms = {"square": difference.square().mean(), "absolute": absolute, "seen": seen, "kl": kl}
        return {"loss": absolute + SQUARE * square + seen_weight * seen + KL * kl, **terms}

    yield from training.run(loss)


def _weights(centers: torch.Tensor) -> torch.Tensor:
    """Weight of every pixel, (n, 1, 64, 64), with a mean near 1."""
    pixels = torch.arange(SIZE) + 0.5
    across = (pixels[None, None, :] - centers[:, :1, None]).abs() < _REACH[0]
    down = (pixels[None, :, None] - centers[:, 1:, None]).abs() < _REACH[1]
    weights = torch.where(across & down, _FIGURE_WEIGHT, 1.0)
    return (weights / weights.mean(dim=(1, 2), keepdim=True))[:, None]


def _seen(tower: CLIPVisionModel, pictures: torch.Tensor) -> torch.Tensor:
    """States of the patches, each of length √width."""
    states = tower(pixel_values=pictures, output_hidden_states=True).hidden_states[TOLD]
    return torch.nn.functional.layer_norm(states, states.shape[-1:])
