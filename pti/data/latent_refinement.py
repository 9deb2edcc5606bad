"""Latents refined by gradient descent, where the encoder alone loses details of an image.

An encoder can lose details, such as a face, that the decoder could reproduce. Gradient descent through the decoder
moves the latents slightly until the decoded image matches the original. Training uses the refined latents, because
users see images from the decoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

from pti.models.latent_scaling import scale

__all__ = ["refine_latents"]

_RATE = 0.025  # learning rate of Adam, in units of the latents' deviation; decays linearly to zero
_SQUARE = 4.0  # weight of the squared error beside the absolute one
_NEAR = 0.1  # weight of the squared distance from the encoder's latents, in the same units


def refine_latents(vae: AutoencoderKL, latents: torch.Tensor, pictures: torch.Tensor, steps: int) -> torch.Tensor:
    """Refine latents so that the decoder reproduces the images better.

    Parameters
    ----------
    vae : AutoencoderKL
        Frozen.
    latents : Tensor, shape (n, channels, side, side)
        Latents from the encoder, unscaled.
    pictures : Tensor, shape (n, 3, height, width)
        In −1 … 1.
    steps : int

    Returns
    -------
    Tensor, shape (n, channels, side, side), float32
    """
    start = latents.detach().float()
    factor = scale(vae, start)
    moved = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([moved], lr=_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(1, steps))
    for _ in range(steps):
        with torch.enable_grad():
            shown = vae.decode((start + moved / factor).to(vae.dtype), return_dict=False)[0].float()
            difference = shown - pictures.float()
            loss = difference.abs().mean() + _SQUARE * difference.square().mean() + _NEAR * moved.square().mean()
            (moved.grad,) = torch.autograd.grad(loss, moved)
        optimizer.step()
        schedule.step()
    return (start + moved / factor).detach()
