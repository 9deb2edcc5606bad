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

from pti._random import rng_of
from pti.config.schema import Config
from pti.data.latent_cache import Latents
from pti.locality.midpoint import difference
from pti.locality.prompt_cache import Captioned
from pti.losses import noise_levels, noised, predict
from pti.models.lora import Lora
from pti.models.pipeline import Model
from pti.models.prompt_embeds import Conditions
from pti.training.accelerator import Engine
from pti.training.batches import Draw, draw_times

__all__ = ["Held", "Regulariser"]


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Rows that are held.

    Attributes
    ----------
    noisy : Tensor, shape (n, channels, side, side)
    times : Tensor of int, shape (n,)
    conditions : Conditions
        Of what the tuned model is asked.
    frozen : Tensor, shape (n, channels, side, side)
        What the frozen model says, for it to say as well.
    """

    noisy: torch.Tensor
    times: torch.Tensor
    conditions: Conditions
    frozen: torch.Tensor


class Regulariser:
    """The regulariser of a run's stage 2.

    Parameters
    ----------
    engine : Engine
    model : Model
    latents : Latents
        Of the training pictures, for their captions.
    config : Config
    lora : Lora
    conditions : Captioned
        With a gate's decision.
    """

    def __init__(
        self, engine: Engine, model: Model, latents: Latents, config: Config, lora: Lora, conditions: Captioned
    ) -> None:
        self.engine, self.model, self.latents, self.lora, self.conditions = engine, model, latents, lora, conditions
        self.settings, self._config = config.locality, config
        self._trained = noise_levels(config.objective, len(model.alphas))

    @property
    def count(self) -> int:
        """How many pictures of a batch of all processes are regularised on."""
        return len(range(0, self.engine.share(self._config.tuning.batch).total, self.settings.one_in))

    def due(self, step: int) -> bool:
        """Whether a step is regularised."""
        return step % self.settings.every == 0

    def rows(
        self,
        step: int,
        part: int,
        draw: Draw,
        clean: torch.Tensor,
        noise: torch.Tensor,
        sizes: torch.Tensor,
        captions: Sequence[str] | None = None,
    ) -> Held | None:
        """What is held of a part of a step; None where no picture of this process is regularised on.

        Parameters
        ----------
        step, part : int
        draw : Draw
        clean, noise : Tensor, shape (b, channels, side, side)
            Latents of what was drawn, and their noise.
        sizes : Tensor, shape (b, 6)
        captions : sequence of b str, optional
            Of pictures that are not those of training.
        """
        chosen = (torch.from_numpy(draw.rows) % self.settings.one_in == 0).nonzero().flatten()
        if not len(chosen):
            return None
        device = self.engine.device
        levels = self.levels(step, part, draw)[chosen]
        said = [
            self.caption(draw, i, int(level)) if captions is None else captions[i]
            for i, level in zip(chosen.tolist(), levels, strict=True)
        ]
        tuned_to, frozen_to = self.ways(step, part, draw, levels, chosen)
        between = draw.between[chosen].to(device) if self.settings.time_drawn else None
        times, sizes = levels.to(device), sizes[chosen]
        noisy = noised(self.model.alphas, clean[chosen], noise[chosen], times)
        with torch.no_grad(), self.lora.frozen():
            asked = self.conditions.held(said, frozen_to, between).with_sizes(sizes)
            frozen = predict(self.model, noisy, times, asked)
        if self.lora.in_text or tuned_to != frozen_to:
            asked = self.conditions.held(said, tuned_to, between).with_sizes(sizes)
        return Held(noisy, times, asked, frozen)

    def loss(self, said: torch.Tensor, held: Held) -> torch.Tensor:
        """The mean over the rows of all processes, of which this one may hold more or fewer than the others."""
        return difference(said, held.frozen).sum() * (self.engine.processes / self.count)

    def levels(self, step: int, part: int, draw: Draw) -> torch.Tensor:
        """Noise levels of a batch: those of training or, where more is held than is trained on, of the whole schedule."""
        whole = range(len(self.model.alphas))
        if self.settings.untrained == "nothing" or self._trained == whole:
            return draw.times
        rng = rng_of(self._config.engine.seed, "held", step, part)
        drawn = draw_times(rng, self.count, whole, self._config.objective.timesteps)
        return torch.from_numpy(drawn[draw.rows // self.settings.one_in])

    def caption(self, draw: Draw, row: int, level: int) -> str:
        """The caption that is held for a picture: what it does not say has to stay open at that noise level."""
        whole = self.settings.whole_captions and level >= self._config.tuning.whole_captions_from
        view = replace(draw.views[row], wording=0 if whole else int(draw.wordings[row]))
        return self.latents.exchanged(view) if self.settings.exchange else self.latents.caption(view)

    def ways(
        self, step: int, part: int, draw: Draw, levels: torch.Tensor, chosen: torch.Tensor
    ) -> tuple[list[str], list[str]]:
        """How the prompts of some rows are said to the tuned model, and to the frozen one."""
        silent = self.silent(step, part, draw, chosen)
        untrained = [int(level) not in self._trained for level in levels]
        frozen = [
            "empty" if quiet else self.settings.untrained if far else "midpoint"
            for quiet, far in zip(silent, untrained, strict=True)
        ]
        return ["token" if way == "class" else way for way in frozen], frozen

    def silent(self, step: int, part: int, draw: Draw, chosen: torch.Tensor) -> list[bool]:
        """On which of some rows the empty prompt is held: `locality.empty` of all, spread evenly over them."""
        passed = (step // self.settings.every) * self._config.engine.accumulation + part
        counts = passed * self.count + draw.rows[chosen.numpy()] // self.settings.one_in
        share = self.settings.empty
        held: list[bool] = (np.floor((counts + 1) * share) > np.floor(counts * share)).tolist()
        return held
