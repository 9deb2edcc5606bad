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
            f"loss.min_timestep = {settings.min_timestep} leaves no timestep below "
            f"{'loss.max_timestep' if last < n_times else 'the end of the schedule'}, {last}"
        )
    return range(settings.min_timestep, last)


def add_noise(
    alphas_cumprod: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """Add noise to latents: z_t = √ᾱ_t·z + √(1 − ᾱ_t)·ε.

    Parameters
    ----------
    alphas_cumprod : Tensor, shape (n_times,)
        Cumulative products of the noise schedule, ᾱ.
    latents, noise : Tensor, shape (n, channels, side, side)
    timesteps : Tensor of int, shape (n,)
    """
    signal, spread = _coefficients(alphas_cumprod, timesteps, latents)
    return signal * latents + spread * noise


def prediction_target(
    prediction: str, alphas_cumprod: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """Prediction target: the noise ε, or the velocity √ᾱ_t·ε − √(1 − ᾱ_t)·z (arXiv 2202.00512)."""
    if prediction == "epsilon":
        return noise
    if prediction != "v_prediction":
        raise ConfigError(f"expected the prediction epsilon or v_prediction, got {prediction!r}")
    signal, spread = _coefficients(alphas_cumprod, timesteps, latents)
    return signal * noise - spread * latents


def offset_noise(noise: torch.Tensor, offset: torch.Tensor, strength: float) -> torch.Tensor:
    """Add to the noise a constant per channel: `offset`, shape (n, channels, 1, 1), times `strength`."""
    return noise + strength * offset if strength else noise


def min_snr_weights(
    prediction: str, alphas_cumprod: torch.Tensor, timesteps: torch.Tensor, gamma: float
) -> torch.Tensor:
    """Min-SNR loss weights, shape (n,): min(SNR, γ)/SNR for ε, min(SNR, γ)/(SNR + 1) for velocities.

    Source: Hang et al., arXiv 2303.09556. Schedules that end in pure noise have SNR = 0; the weight for ε is 1 there,
    its limit.
    """
    level = alphas_cumprod.to(timesteps.device)[timesteps].double()
    if prediction == "epsilon":
        # γ/SNR = γ·(1 − ᾱ)/ᾱ is infinite at SNR = 0; the minimum of it and 1 is 1
        return torch.clamp(gamma * (1 - level) / level, max=1.0).to(alphas_cumprod.dtype)
    # expand (1 − ᾱ)/(1 − ᾱ), which avoids dividing by 1 − ᾱ
    return torch.minimum(level, gamma * (1 - level)).to(alphas_cumprod.dtype)


def denoising_loss(
    noise_pred: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over a batch of the weighted mean squared error of each prediction, in float32.

    `weights`, shape (n,), belong to timesteps. `mask`, shape (n, 1, side, side), weight positions in the image.
    """
    square = (noise_pred.float() - target.float()).square()
    each = (square if mask is None else square * mask).mean(dim=(1, 2, 3))
    return each.mean() if weights is None else (each * weights.to(each)).mean()


def predict_noise(
    model: DiffusionModel, noisy_latents: torch.Tensor, timesteps: torch.Tensor, prompt_embeds: PromptEmbeds
) -> torch.Tensor:
    """Predict the noise or velocity with the UNet, shape (n, channels, side, side)."""
    dtype = model.unet.dtype
    added = None
    if prompt_embeds.pooled_prompt_embeds is not None:
        added = {"text_embeds": prompt_embeds.pooled_prompt_embeds.to(dtype), "time_ids": prompt_embeds.time_ids}
    noise_pred: torch.Tensor = model.unet(
        noisy_latents.to(dtype),
        timesteps,
        encoder_hidden_states=prompt_embeds.prompt_embeds.to(dtype),
        added_cond_kwargs=added,
    ).sample
    return noise_pred


def _coefficients(
    alphas_cumprod: torch.Tensor, timesteps: torch.Tensor, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    level = alphas_cumprod.to(like.device)[timesteps.to(like.device)].to(like.dtype)
    shape = (-1, *([1] * (like.ndim - 1)))
    return level.sqrt().view(shape), (1 - level).sqrt().view(shape)
