"""Locality loss: images, timesteps and prompts on which the tuned UNet must match the base UNet.

At the timesteps of training, prompts between the placeholder token and the class word are regularized
(`pti.locality.midpoint`). Adapters also act at timesteps that training leaves out. There the prediction for the placeholder
token is regularized towards the base model's prediction for the class word, or for the untuned token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from pti._random import rng_for
from pti.config.schema import Config
from pti.data.latent_cache import LatentCache
from pti.locality.midpoint import difference
from pti.locality.prompt_cache import PromptEmbedCache
from pti.losses import add_noise, predict_noise, timestep_range
from pti.models.lora import Lora
from pti.models.pipeline import DiffusionModel
from pti.training.accelerator import Runtime
from pti.training.batches import BatchPlan, DenoisingBatch, sample_timesteps

__all__ = ["LocalityLoss"]

# Prompt of the base model's prediction at timesteps that training leaves out. "none" samples no such timestep.
_OUTSIDE = {"class_word": "class", "placeholder": "token", "none": "midpoint"}
_ROUNDING = 1e-9  # three times a third is one row, whatever its last digit


class LocalityLoss:
    """The locality loss of stage 2.

    Parameters
    ----------
    engine : Runtime
    model : DiffusionModel
    latents : LatentCache
        Of the training images, for their captions.
    config : Config
    lora : Lora
    conditions : PromptEmbedCache
        With an interpolation plan.
    """

    def __init__(
        self,
        engine: Runtime,
        model: DiffusionModel,
        latents: LatentCache,
        config: Config,
        lora: Lora,
        conditions: PromptEmbedCache,
    ) -> None:
        self.engine, self.model, self.latents, self.lora, self.conditions = engine, model, latents, lora, conditions
        self.settings, self.experimental, self._config = config.locality, config.experimental, config
        self._trained = timestep_range(config.loss, len(model.alphas_cumprod))

    @property
    def count(self) -> int:
        """Number of regularized images in a batch of all processes."""
        total = self.engine.batch_slice(self._config.lora.batch_size).total
        return int(self.regularized(np.arange(total)).sum())

    def regularized(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which rows of a batch are regularized: the fraction `locality.batch_fraction`, evenly spaced."""
        return self.rank(rows) > self.rank(rows - 1)

    def rank(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return, for each row, the index among regularized rows of the last one up to it; row 0 is regularized."""
        ranks: NDArray[np.int64] = np.ceil((rows + 1) * self.settings.batch_fraction - _ROUNDING).astype(np.int64) - 1
        return ranks

    def applies_at(self, step: int) -> bool:
        """Return whether a step has this loss."""
        return step % self.experimental.locality_every == 0

    def make_batch(
        self,
        step: int,
        part: int,
        plan: BatchPlan,
        latents: torch.Tensor,
        noise: torch.Tensor,
        time_ids: torch.Tensor,
        captions: Sequence[str] | None = None,
    ) -> DenoisingBatch | None:
        """Make the regularized batch of a micro-batch, with the base model's predictions as targets.

        Parameters
        ----------
        step, part : int
            Optimizer step and micro-batch.
        plan : BatchPlan
        latents, noise : Tensor, shape (b, channels, side, side)
            Of the images of the plan.
        time_ids : Tensor, shape (b, 6)
        captions : sequence of b str, optional
            Captions of the images; by default those of the training images.

        Returns
        -------
        DenoisingBatch or None
            None if this process has no regularized image.
        """
        chosen = torch.from_numpy(self.regularized(plan.rows)).nonzero().flatten()
        if not len(chosen):
            return None

        # Prompts: captions, each encoded as a midpoint, the placeholder token, the class word or the empty prompt.
        sampled = self.sample_timesteps(step, part, plan)[chosen]
        prompts = [self.caption(plan, i) if captions is None else captions[i] for i in chosen.tolist()]
        tuned_kinds, base_kinds = self.prompt_kinds(step, part, plan, sampled, chosen)

        device = self.engine.device
        interpolation_t = plan.interpolation_t[chosen].to(device) if self.experimental.locality_t == "uniform" else None
        timesteps, time_ids = sampled.to(device), time_ids[chosen]
        noisy_latents = add_noise(self.model.alphas_cumprod, latents[chosen], noise[chosen], timesteps)

        # Target: the base model's prediction, without gradients.
        with torch.no_grad(), self.lora.disabled():
            prompt_embeds = self.conditions.encode_mixed(prompts, base_kinds, interpolation_t).with_time_ids(time_ids)
            target = predict_noise(self.model, noisy_latents, timesteps, prompt_embeds)

        # The tuned model needs its own prompt embeddings if its text encoder is tuned or its prompts differ.
        if self.lora.in_text or tuned_kinds != base_kinds:
            prompt_embeds = self.conditions.encode_mixed(prompts, tuned_kinds, interpolation_t).with_time_ids(time_ids)
        return DenoisingBatch(noisy_latents, timesteps, prompt_embeds, target)

    def loss(self, noise_pred: torch.Tensor, batch: DenoisingBatch) -> torch.Tensor:
        """Return the loss whose mean over processes is the mean over the regularized images of all processes."""
        return difference(noise_pred, batch.target).sum() * (self.engine.processes / self.count)

    def sample_timesteps(self, step: int, part: int, plan: BatchPlan) -> torch.Tensor:
        """Return the plan's timesteps, or sample the whole schedule if untrained timesteps are regularized as well."""
        schedule = range(len(self.model.alphas_cumprod))
        if self.settings.outside_timesteps == "none" or self._trained == schedule:
            return plan.timesteps
        rng = rng_for(self._config.runtime.seed, "held", step, part)
        sampled = sample_timesteps(rng, self.count, schedule, self._config.loss.timestep_sampling)
        return torch.from_numpy(sampled[self.rank(plan.rows)])

    def caption(self, plan: BatchPlan, row: int) -> str:
        """Return the caption for an image of the plan, with tag dropout and mixed tags as set."""
        view = replace(plan.views[row], wording=int(plan.wordings[row]))
        return self.latents.exchanged(view) if self.settings.mix_captions else self.latents.caption(view)

    def prompt_kinds(
        self, step: int, part: int, plan: BatchPlan, timesteps: torch.Tensor, chosen: torch.Tensor
    ) -> tuple[list[str], list[str]]:
        """Return the kinds of prompts of the chosen images, for the tuned model and for the base model."""
        empty = self.is_empty_prompt(step, part, plan, chosen)
        untrained = [int(timestep) not in self._trained for timestep in timesteps]
        base_kinds = [
            "empty" if is_empty else _OUTSIDE[self.settings.outside_timesteps] if outside else "midpoint"
            for is_empty, outside in zip(empty, untrained, strict=True)
        ]
        return ["token" if kind == "class" else kind for kind in base_kinds], base_kinds

    def is_empty_prompt(self, step: int, part: int, plan: BatchPlan, chosen: torch.Tensor) -> list[bool]:
        """Return which chosen images have the empty prompt: `locality.empty_prompt_fraction` of all, evenly spaced."""
        micro_batch = (
            step // self.experimental.locality_every
        ) * self._config.runtime.gradient_accumulation_steps + part
        counts = micro_batch * self.count + self.rank(plan.rows[chosen.numpy()])
        fraction = self.settings.empty_prompt_fraction
        empty: list[bool] = (np.floor((counts + 1) * fraction) > np.floor(counts * fraction)).tolist()
        return empty
