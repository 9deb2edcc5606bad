"""The denoising loss: noise, prediction targets, loss weights and the UNet's prediction."""

from __future__ import annotations

import torch

from clipgeom.errors import ConfigError
from pti.config.schema import LossSection
from pti.models.pipeline import DiffusionModel
from pti.models.prompt_embeds import PromptEmbeds

__all__ = [
    "add_noise",
    "denoising_loss",
    "min_snr_weights",
    "offset_noise",
    "predict_noise",
    "prediction_target",
    "timestep_range",
]


def timestep_range(settings: LossSection, n_times: int) -> range:
    """Return the timesteps from which training samples.

    Raises
    ------
    ConfigError
        No timestep of the schedule lies in the range.
    """
    last = min(settings.max_timestep, n_times)
    if settings.min_timestep >= last:
        raise ConfigError(
            f"loss.min_timestep = {settings.min_timestep} leaves no noise level below "
            f"{'loss.max_timestep' if last < n_times else 'the end of the schedule'}, {last}"
        )
    return range(settings.min_timestep, last)


def add_noise(alphas: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """Add noise to latents: z_t = √ᾱ_t·z + √(1 − ᾱ_t)·ε.

    Parameters
    ----------
    alphas : Tensor, shape (n_times,)
        Cumulative products of the noise schedule, ᾱ.
    clean, noise : Tensor, shape (n, channels, side, side)
    times : Tensor of int, shape (n,)
    """
    signal, spread = _coefficients(alphas, times, clean)
    return signal * clean + spread * noise


def prediction_target(
    prediction: str, alphas: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
) -> torch.Tensor:
    """Prediction target: the noise ε, or the velocity √ᾱ_t·ε − √(1 − ᾱ_t)·z (arXiv 2202.00512)."""
    if prediction == "epsilon":
        return noise
    if prediction != "v_prediction":
        raise ConfigError(f"a prediction is epsilon or v_prediction, not {prediction!r}")
    signal, spread = _coefficients(alphas, times, clean)
    return signal * noise - spread * clean


def offset_noise(noise: torch.Tensor, offset: torch.Tensor, strength: float) -> torch.Tensor:
    """Add to the noise a constant per channel: `offset`, shape (n, channels, 1, 1), times `strength`."""
    return noise + strength * offset if strength else noise


def min_snr_weights(prediction: str, alphas: torch.Tensor, times: torch.Tensor, gamma: float) -> torch.Tensor:
    """Min-SNR loss weights, shape (n,): min(SNR, γ)/SNR for ε, min(SNR, γ)/(SNR + 1) for velocities.

    Source: Hang et al., arXiv 2303.09556. Schedules that end in pure noise have SNR = 0; the weight for ε is 1 there,
    its limit.
    """
    level = alphas.to(times.device)[times].double()
    if prediction == "epsilon":
        # γ/SNR = γ·(1 − ᾱ)/ᾱ is infinite at SNR = 0; the minimum of it and 1 is 1
        return torch.clamp(gamma * (1 - level) / level, max=1.0).to(alphas.dtype)
    # expand (1 − ᾱ)/(1 − ᾱ), which avoids dividing by 1 − ᾱ
    return torch.minimum(level, gamma * (1 - level)).to(alphas.dtype)


def denoising_loss(
    predicted: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor | None = None,
    cells: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over a batch of the weighted mean squared error of each prediction, in float32.

    `weights`, shape (n,), belong to timesteps. `cells`, shape (n, 1, side, side), weight positions in the image.
    """
    square = (predicted.float() - target.float()).square()
    each = (square if cells is None else square * cells).mean(dim=(1, 2, 3))
    return each.mean() if weights is None else (each * weights.to(each)).mean()


def predict_noise(
    model: DiffusionModel, noisy: torch.Tensor, times: torch.Tensor, conditions: PromptEmbeds
) -> torch.Tensor:
    """Predict the noise or velocity with the UNet, shape (n, channels, side, side)."""
    dtype = model.unet.dtype
    added = None
    if conditions.pooled_prompt_embeds is not None:
        added = {"text_embeds": conditions.pooled_prompt_embeds.to(dtype), "time_ids": conditions.time_ids}
    said: torch.Tensor = model.unet(
        noisy.to(dtype), times, encoder_hidden_states=conditions.prompt_embeds.to(dtype), added_cond_kwargs=added
    ).sample
    return said


def _coefficients(alphas: torch.Tensor, times: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    level = alphas.to(like.device)[times.to(like.device)].to(like.dtype)
    shape = (-1, *([1] * (like.ndim - 1)))
    return level.sqrt().view(shape), (1 - level).sqrt().view(shape)
