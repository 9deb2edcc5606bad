"""The rows of a step on which stage 2 is held to the frozen model: which pictures, at which noise levels, said how.

Where training learns, prompts midway between the token and the class word are held (`pti.locality.midpoint`). At noise levels
that training leaves out, low-rank changes tell all the same when pictures are drawn: there the token itself is held, to what
the frozen model says of the class word or of the token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from pti.models.prompt_embeds import PromptEmbeds
from pti.training.accelerator import Runtime
from pti.training.batches import BatchPlan, sample_timesteps

__all__ = ["LocalityBatch", "LocalityLoss"]


@dataclass(frozen=True, slots=True, eq=False)
class LocalityBatch:
    """Rows that are held.

    Attributes
    ----------
    noisy : Tensor, shape (n, channels, side, side)
    times : Tensor of int, shape (n,)
    conditions : PromptEmbeds
        Of what the tuned model is asked.
    frozen : Tensor, shape (n, channels, side, side)
        What the frozen model says, for it to say as well.
    """

    noisy: torch.Tensor
    times: torch.Tensor
    conditions: PromptEmbeds
    frozen: torch.Tensor


class LocalityLoss:
    """The regulariser of a run's stage 2.

    Parameters
    ----------
    engine : Runtime
    model : DiffusionModel
    latents : LatentCache
        Of the training pictures, for their captions.
    config : Config
    lora : Lora
    conditions : PromptEmbedCache
        With a gate's decision.
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
        """How many pictures of a batch of all processes are regularised on."""
        return len(range(0, self.engine.batch_slice(self._config.lora.batch_size).total, self.settings.every_nth_image))

    def applies_at(self, step: int) -> bool:
        """Whether a step is regularised."""
        return step % self.settings.every_n_steps == 0

    def make_batch(
        self,
        step: int,
        part: int,
        draw: BatchPlan,
        clean: torch.Tensor,
        noise: torch.Tensor,
        sizes: torch.Tensor,
        captions: Sequence[str] | None = None,
    ) -> LocalityBatch | None:
        """What is held of a part of a step; None where no picture of this process is regularised on.

        Parameters
        ----------
        step, part : int
        draw : BatchPlan
        clean, noise : Tensor, shape (b, channels, side, side)
            Latents of what was drawn, and their noise.
        sizes : Tensor, shape (b, 6)
        captions : sequence of b str, optional
            Of pictures that are not those of training.
        """
        chosen = (torch.from_numpy(draw.rows) % self.settings.every_nth_image == 0).nonzero().flatten()
        if not len(chosen):
            return None
        device = self.engine.device
        levels = self.levels(step, part, draw)[chosen]
        said = [
            self.caption(draw, i, int(level)) if captions is None else captions[i]
            for i, level in zip(chosen.tolist(), levels, strict=True)
        ]
        tuned_to, frozen_to = self.prompt_kinds(step, part, draw, levels, chosen)
        between = draw.interpolation_t[chosen].to(device) if self.settings.time_drawn else None
        times, sizes = levels.to(device), sizes[chosen]
        noisy = add_noise(self.model.alphas_cumprod, clean[chosen], noise[chosen], times)
        with torch.no_grad(), self.lora.disabled():
            asked = self.conditions.encode_mixed(said, frozen_to, between).with_time_ids(sizes)
            frozen = predict_noise(self.model, noisy, times, asked)
        if self.lora.in_text or tuned_to != frozen_to:
            asked = self.conditions.encode_mixed(said, tuned_to, between).with_time_ids(sizes)
        return LocalityBatch(noisy, times, asked, frozen)

    def loss(self, said: torch.Tensor, held: LocalityBatch) -> torch.Tensor:
        """The mean over the rows of all processes, of which this one may hold more or fewer than the others."""
        return difference(said, held.frozen).sum() * (self.engine.processes / self.count)

    def levels(self, step: int, part: int, draw: BatchPlan) -> torch.Tensor:
        """Noise levels of a batch: those of training or, where more is held than is trained on, of the whole schedule."""
        whole = range(len(self.model.alphas_cumprod))
        if self.settings.outside_timesteps == "nothing" or self._trained == whole:
            return draw.timesteps
        rng = rng_for(self._config.runtime.seed, "held", step, part)
        drawn = sample_timesteps(rng, self.count, whole, self._config.loss.timestep_sampling)
        return torch.from_numpy(drawn[draw.rows // self.settings.every_nth_image])

    def caption(self, draw: BatchPlan, row: int, level: int) -> str:
        """The caption that is held for a picture: what it does not say has to stay open at that noise level."""
        whole = self.settings.keep_captions_whole and level >= self._config.lora.tag_dropout_max_timestep
        view = replace(draw.views[row], wording=0 if whole else int(draw.wordings[row]))
        return self.latents.exchanged(view) if self.settings.mix_captions else self.latents.caption(view)

    def prompt_kinds(
        self, step: int, part: int, draw: BatchPlan, levels: torch.Tensor, chosen: torch.Tensor
    ) -> tuple[list[str], list[str]]:
        """How the prompts of some rows are said to the tuned model, and to the frozen one."""
        silent = self.is_empty_prompt(step, part, draw, chosen)
        untrained = [int(level) not in self._trained for level in levels]
        frozen = [
            "empty" if quiet else self.settings.outside_timesteps if far else "midpoint"
            for quiet, far in zip(silent, untrained, strict=True)
        ]
        return ["token" if way == "class" else way for way in frozen], frozen

    def is_empty_prompt(self, step: int, part: int, draw: BatchPlan, chosen: torch.Tensor) -> list[bool]:
        """On which of some rows the empty prompt is held: `locality.empty_prompt_fraction` of all, spread evenly over them."""
        passed = (step // self.settings.every_n_steps) * self._config.runtime.gradient_accumulation_steps + part
        counts = passed * self.count + draw.rows[chosen.numpy()] // self.settings.every_nth_image
        share = self.settings.empty_prompt_fraction
        held: list[bool] = (np.floor((counts + 1) * share) > np.floor(counts * share)).tolist()
        return held
