"""Latents that are fitted to their picture, where the encoder alone loses what matters.

An autoencoder's encoder is made for pictures in general. Of a picture of its own kind (a headgear of two tones, a face)
the decoder can often show more than it is told: with latents moved a little, by gradient descent through the decoder,
it shows the picture as it is. These are what a trainer should learn, since it is the decoder that will be looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

from pti.scaling import scale

__all__ = ["refine_latents"]

_RATE = 0.025  # of Adam, in units of the latents' deviation; falls to nothing along a line
_SQUARE = 4.0  # weight of the squared error beside the absolute one
_NEAR = 0.1  # weight of the squared distance from what the encoder says, in the same units


def refine_latents(vae: AutoencoderKL, latents: torch.Tensor, pictures: torch.Tensor, steps: int) -> torch.Tensor:
    """Latents near some others, from which the decoder shows the pictures better.

    Parameters
    ----------
    vae : AutoencoderKL
        Frozen.
    latents : Tensor, shape (n, channels, side, side)
        What the encoder says, unscaled.
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
