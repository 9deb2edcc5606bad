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
        self.settings, self._config = config.locality, config
        self._trained = timestep_range(config.loss, len(model.alphas_cumprod))

    @property
    def count(self) -> int:
        """Number of regularized images in a batch of all processes."""
        return len(range(0, self.engine.batch_slice(self._config.lora.batch_size).total, self.settings.every_nth_image))

    def applies_at(self, step: int) -> bool:
        """Return whether a step has this loss."""
        return step % self.settings.every_n_steps == 0

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
        chosen = (torch.from_numpy(plan.rows) % self.settings.every_nth_image == 0).nonzero().flatten()
        if not len(chosen):
            return None

        # Prompts: captions, each encoded as a midpoint, the placeholder token, the class word or the empty prompt.
        sampled = self.sample_timesteps(step, part, plan)[chosen]
        prompts = [
            self.caption(plan, i, int(timestep)) if captions is None else captions[i]
            for i, timestep in zip(chosen.tolist(), sampled, strict=True)
        ]
        tuned_kinds, base_kinds = self.prompt_kinds(step, part, plan, sampled, chosen)

        device = self.engine.device
        interpolation_t = plan.interpolation_t[chosen].to(device) if self.settings.time_drawn else None
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

    def loss(self, model_pred: torch.Tensor, batch: DenoisingBatch) -> torch.Tensor:
        """Return the loss whose mean over processes is the mean over the regularized images of all processes."""
        return difference(model_pred, batch.target).sum() * (self.engine.processes / self.count)

    def sample_timesteps(self, step: int, part: int, plan: BatchPlan) -> torch.Tensor:
        """Return the plan's timesteps, or sample the whole schedule if untrained timesteps are regularized as well."""
        schedule = range(len(self.model.alphas_cumprod))
        if self.settings.outside_timesteps == "nothing" or self._trained == schedule:
            return plan.timesteps
        rng = rng_for(self._config.runtime.seed, "held", step, part)
        sampled = sample_timesteps(rng, self.count, schedule, self._config.loss.timestep_sampling)
        return torch.from_numpy(sampled[plan.rows // self.settings.every_nth_image])

    def caption(self, plan: BatchPlan, row: int, timestep: int) -> str:
        """Return the caption for an image of the plan, with tag dropout and mixed tags as set."""
        complete = self.settings.keep_captions_whole and timestep >= self._config.lora.tag_dropout_max_timestep
        view = replace(plan.views[row], wording=0 if complete else int(plan.wordings[row]))
        return self.latents.exchanged(view) if self.settings.mix_captions else self.latents.caption(view)

    def prompt_kinds(
        self, step: int, part: int, plan: BatchPlan, timesteps: torch.Tensor, chosen: torch.Tensor
    ) -> tuple[list[str], list[str]]:
        """Return the kinds of prompts of the chosen images, for the tuned model and for the base model."""
        empty = self.is_empty_prompt(step, part, plan, chosen)
        untrained = [int(timestep) not in self._trained for timestep in timesteps]
        base_kinds = [
            "empty" if is_empty else self.settings.outside_timesteps if outside else "midpoint"
            for is_empty, outside in zip(empty, untrained, strict=True)
        ]
        return ["token" if kind == "class" else kind for kind in base_kinds], base_kinds

    def is_empty_prompt(self, step: int, part: int, plan: BatchPlan, chosen: torch.Tensor) -> list[bool]:
        """Return which chosen images have the empty prompt: `locality.empty_prompt_fraction` of all, evenly spaced."""
        micro_batch = (step // self.settings.every_n_steps) * self._config.runtime.gradient_accumulation_steps + part
        counts = micro_batch * self.count + plan.rows[chosen.numpy()] // self.settings.every_nth_image
        fraction = self.settings.empty_prompt_fraction
        empty: list[bool] = (np.floor((counts + 1) * fraction) > np.floor(counts * fraction)).tolist()
        return empty
