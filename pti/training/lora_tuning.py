"""Stage 2: low-rank changes of the generator around the new word, whose vectors are frozen.

What costs a pass of the UNet is put together: training pictures, class pictures and the regulariser's pictures are one
batch. The frozen model's predictions need no gradient, and with the text encoder frozen every condition is computed
once: those of captions, and those of the midpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from pti.config.schema import Config
from pti.data.latent_cache import LatentCache
from pti.data.views import ImageView
from pti.errors import TrainingError
from pti.locality.certification import InterpolationPlan
from pti.locality.prompt_cache import PromptEmbedCache
from pti.losses import (
    add_noise,
    denoising_loss,
    min_snr_weights,
    offset_noise,
    predict_noise,
    prediction_target,
    timestep_range,
)
from pti.models.lora import add_lora, base_weights_sha256
from pti.models.pipeline import DiffusionModel
from pti.models.prompt_embeds import PromptEmbeds, concatenate, encode_prompts
from pti.models.sampling import whole_sizes
from pti.training.accelerator import Runtime
from pti.training.batches import BatchPlan, BatchSlice, plan_micro_batch
from pti.training.ema import PowerEMA
from pti.training.generated_images import GeneratedLatents, generate_latents
from pti.training.locality_loss import LocalityBatch, LocalityLoss
from pti.training.optimizer import OptimizationLoop, ParamGroup

__all__ = ["LoraTuning", "TuningStep"]


@dataclass(frozen=True, slots=True)
class TuningStep:
    """What one step of stage 2 did.

    Attributes
    ----------
    step : int
        From 1.
    loss, denoising : float
        Everything that was walked, and its part on the training pictures.
    rate : float
    locality, prior : float or None
        The regulariser and the loss on class pictures, before their weights; None where they took no part.
    weight_distance, function_distance : float or None
        ‖ΔW‖_F, and the mean ‖ε_θ − ε_base‖₂ on the probes; where they were measured.
    stopped : str
        Why this step is the last; empty if it is not.
    """

    step: int
    loss: float
    denoising: float
    rate: float
    locality: float | None = None
    prior: float | None = None
    weight_distance: float | None = None
    function_distance: float | None = None
    stopped: str = ""

    def values(self) -> dict[str, float]:
        """All numbers by name, without those that were not measured."""
        names = ("step", "loss", "denoising", "rate", "locality", "prior", "weight_distance", "function_distance")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class LoraTuning:
    """Stage 2 of a run.

    Parameters
    ----------
    engine : Runtime
    model : DiffusionModel
        With an inverted placeholder token.
    latents : LatentCache
        Of the training pictures.
    config : Config
    decision : InterpolationPlan or None
        The gate's; None leaves the regulariser out.
    digest : str, optional
        `base_weights_sha256` of the model, where it is known already.

    Attributes
    ----------
    own : GeneratedLatents or None
        The frozen model's own pictures of midpoints (`draw_own`), for ``locality.inputs = "own"``.
    prior : LatentCache, GeneratedLatents or None
        Pictures of the class, for a positive ``prior_preservation.weight``.
    """

    stage = "tune"

    def __init__(
        self,
        engine: Runtime,
        model: DiffusionModel,
        latents: LatentCache,
        config: Config,
        *,
        decision: InterpolationPlan | None = None,
        digest: str | None = None,
    ) -> None:
        assert model.placeholder is not None
        self.engine, self.model, self.latents, self.config = engine, model, latents, config
        self.settings, self.pivot = config.lora, model.placeholder
        self.own: GeneratedLatents | None = None
        self.prior: LatentCache | GeneratedLatents | None = None
        self.decision = decision if config.locality.interpolation != "none" and config.locality.weight > 0 else None
        self._digest = digest or base_weights_sha256(model)
        self._frozen_rows = [row.clone() for row in model.placeholder.embeddings]
        self.lora = add_lora(model, config.lora, seed=config.runtime.seed)
        self.conditions = PromptEmbedCache(model, self.lora, config.locality, self.decision)
        self.regulariser = (
            LocalityLoss(engine, model, latents, config, self.lora, self.conditions) if self.decision else None
        )
        text = {n: p for n, p in self.lora.parameters.items() if n.startswith("text_encoder")}
        rest = {n: p for n, p in self.lora.parameters.items() if n not in text}
        settings = self.settings
        self.descent = OptimizationLoop(
            engine,
            [
                ParamGroup(rest, settings.learning_rate),
                ParamGroup(
                    text, settings.text_encoder_learning_rate or settings.text_rate_share * settings.learning_rate
                ),
            ],
            steps=settings.steps,
            warmup=settings.lr_warmup_steps,
            schedule=settings.lr_scheduler,
            weight_decay=settings.weight_decay,
        )
        self.averages = PowerEMA(self.lora.parameters, settings.averaging) if settings.averaging else None
        self.stopped = ""
        self._probes: tuple[torch.Tensor, torch.Tensor, list[str], torch.Tensor, torch.Tensor] | None = None

    @property
    def step(self) -> int:
        """Steps made."""
        return self.descent.step

    def run(self) -> Iterator[TuningStep]:
        """Train until a limit is reached, then make sure that nothing else has moved.

        Raises
        ------
        TrainingError
            The loss is no number; the placeholder's embeddings or a frozen weight have changed.
        """
        while not self.stopped:
            record = self._one()
            if record.stopped:
                self.check_frozen()
            yield record

    def check_frozen(self) -> None:
        """Make sure, bit for bit, that the placeholder's embeddings and every base weight are what they were (trap 1 and 2)."""
        if not all(torch.equal(a, b) for a, b in zip(self.pivot.embeddings, self._frozen_rows, strict=True)):
            raise TrainingError("the new word's vectors have moved in stage 2, where they are frozen")
        if base_weights_sha256(self.model) != self._digest:
            raise TrainingError("a base weight has moved in stage 2; only the low-rank changes may")

    def _one(self) -> TuningStep:
        rate = self.descent.rate
        terms = self.descent.take_step(self._terms)
        if self.averages is not None:
            self.averages.update(self.step)
        measured: dict[str, float] = {}
        if self.step % self.settings.distance_every == 0 or self.step >= self.settings.steps:
            with self.outcome():
                found = [self.lora.weight_distance(), self.function_distance()]
            distances = torch.tensor(found, device=self.engine.device)
            # every process stops for the same number
            weights, function = (float(value) for value in self.engine.all_reduce_mean(distances))
            measured = {"weight_distance": weights, "function_distance": function}
            self._stop_at(measured)
        if not self.stopped and self.step >= self.settings.steps:
            self.stopped = f"{self.settings.steps} steps made"
        return TuningStep(
            step=self.step,
            loss=terms["loss"],
            denoising=terms["denoising"],
            rate=rate,
            locality=terms.get("locality"),
            prior=terms.get("prior"),
            stopped=self.stopped,
            **measured,
        )

    def _stop_at(self, measured: dict[str, float]) -> None:
        limits = {
            "weight_distance": self.settings.max_weight_distance,
            "function_distance": self.settings.max_prediction_distance,
        }
        for name, limit in limits.items():
            if limit is not None and measured[name] >= limit:
                self.stopped = f"{name.replace('_', ' ')} {measured[name]:.4g} reached {limit}"

    def _terms(self, part: int) -> dict[str, torch.Tensor]:
        device, alphas, objective = self.engine.device, self.model.alphas_cumprod, self.config.loss
        draw = self.draw(self.stage, self.latents, part)
        clean, sizes = self.latents.of(draw.views, draw.latent_noise)
        captions = [self.latents.caption(view) for view in draw.views]
        times, noise = (
            draw.timesteps.to(device),
            offset_noise(draw.noise, draw.offset, objective.noise_offset).to(device),
        )
        noisy = add_noise(alphas, clean, noise, times)
        batches = [(noisy, times, self.conditions.encode(captions, "token").with_time_ids(sizes))]
        targets = [prediction_target(self.model.prediction, alphas, clean, noise, times)]

        if self.prior is not None:
            prior_noisy, prior_times, conditions, target = self._prior(part)
            batches.append((prior_noisy, prior_times, conditions))
            targets.append(target)

        regularised = self.regulariser is not None and self.regulariser.applies_at(self.step)
        held = self._held(part, draw, clean, noise, sizes) if regularised else None
        if held is not None:
            batches.append((held.noisy, held.times, held.conditions))

        together = predict_noise(
            self.model,
            torch.cat([b[0] for b in batches]),
            torch.cat([b[1] for b in batches]),
            concatenate([b[2] for b in batches]),
        )
        said = torch.split(together, [len(b[0]) for b in batches])

        weights = [self._weights(b[1]) for b in batches[: len(targets)]]
        loss = denoising = denoising_loss(said[0], targets[0], weights[0], self.latents.loss_weights(draw.views))
        terms = {"denoising": denoising}
        if self.prior is not None:
            terms["prior"] = denoising_loss(said[1], targets[1], weights[1])
            loss = loss + self.config.prior_preservation.weight * terms["prior"]
        if regularised:
            assert self.regulariser is not None
            terms["locality"] = denoising.new_zeros(()) if held is None else self.regulariser.loss(said[-1], held)
            loss = loss + self.config.locality.weight * terms["locality"]
        return {"loss": loss, **terms}

    def _weights(self, times: torch.Tensor) -> torch.Tensor | None:
        gamma = self.config.loss.min_snr_gamma
        return (
            None if gamma is None else min_snr_weights(self.model.prediction, self.model.alphas_cumprod, times, gamma)
        )

    def _held(
        self, part: int, draw: BatchPlan, clean: torch.Tensor, noise: torch.Tensor, sizes: torch.Tensor
    ) -> LocalityBatch | None:
        """What is held of a part of the next step: the training pictures, or the frozen model's own."""
        assert self.regulariser is not None
        if self.config.locality.inputs != "own":
            return self.regulariser.make_batch(self.step, part, draw, clean, noise, sizes)
        assert self.own is not None
        draw = self.draw("own", self.own, part)
        rows = [view.sample for view in draw.views]
        clean, noise = self.own.latents[rows].to(self.engine.device), draw.noise.to(self.engine.device)
        sizes = whole_sizes(len(rows), clean.shape[-1] * self.model.factor).to(self.engine.device)
        return self.regulariser.make_batch(
            self.step, part, draw, clean, noise, sizes, [self.own.captions[row] for row in rows]
        )

    def _prior(self, part: int) -> tuple[torch.Tensor, torch.Tensor, PromptEmbeds, torch.Tensor]:
        assert self.prior is not None
        device, alphas = self.engine.device, self.model.alphas_cumprod
        draw = self.draw("prior", self.prior, part)
        if isinstance(self.prior, GeneratedLatents):
            rows = [view.sample for view in draw.views]
            clean, captions = self.prior.latents[rows].to(device), [self.prior.captions[row] for row in rows]
            sizes = whole_sizes(len(rows), clean.shape[-1] * self.model.factor).to(device)
        else:
            clean, sizes = self.prior.of(draw.views, draw.latent_noise)
            captions = [self.prior.caption(view) for view in draw.views]
        times = draw.timesteps.to(device)
        noise = offset_noise(draw.noise, draw.offset, self.config.loss.noise_offset).to(device)
        conditions = self.conditions.encode(captions, "class").with_time_ids(sizes)
        target = prediction_target(self.model.prediction, alphas, clean, noise, times)
        return add_noise(alphas, clean, noise, times), times, conditions, target

    def draw_own(self) -> GeneratedLatents:
        """Let the frozen model draw the midpoints of the captions that are held, in turn."""
        n, some = len(self.latents), range(self.config.locality.num_generated)
        if self.config.locality.mix_captions:
            texts = [self.latents.exchanged(ImageView(i % n, wording=i // n % self.latents.wordings)) for i in some]
        else:
            texts = [self.latents.caption(ImageView(i % n)) for i in some]
        return self._drawn(texts, "own", self.conditions.midpoints)

    def draw_prior(self) -> GeneratedLatents:
        """Let the frozen model draw the class."""
        texts = [self.config.prior_preservation.class_prompt] * self.config.prior_preservation.num_class_images
        return self._drawn(texts, "prior", lambda some: self.conditions.encode(some, "class"))

    def _drawn(
        self, texts: Sequence[str], stream: str, conditions: Callable[[Sequence[str]], PromptEmbeds]
    ) -> GeneratedLatents:
        with self.engine.autocast(), self.lora.disabled():
            return generate_latents(
                self.model,
                texts,
                conditions,
                self.config.sampling,
                seed=self.config.runtime.seed,
                stream=stream,
                side=self.latents.shape[-1] * self.model.factor,
            )

    def draw(self, stream: str, source: LatentCache | GeneratedLatents, part: int) -> BatchPlan:
        """What this process draws from a source for a part of the next step."""
        return self._draw(stream, source, self.step, part, self.engine.batch_slice(self.settings.batch_size))

    def _draw(
        self, stream: str, source: LatentCache | GeneratedLatents, step: int, part: int, share: BatchSlice
    ) -> BatchPlan:
        return plan_micro_batch(
            self.config.runtime.seed,
            stream,
            step,
            part,
            parts=self.config.runtime.gradient_accumulation_steps,
            share=share,
            samples=len(source),
            crops=source.crops,
            flips=source.flips,
            wordings=source.wordings,
            whole_from=self.settings.tag_dropout_max_timestep,
            shape=self.latents.shape,
            levels=timestep_range(self.config.loss, len(self.model.alphas_cumprod)),
            timesteps=self.config.loss.timestep_sampling,
        )

    @torch.no_grad()
    def function_distance(self) -> float:
        """Mean ‖ε_θ − ε_base‖₂ over noisy training pictures that are the same at every measurement."""
        if self._probes is None:
            draw = self._draw("probe", self.latents, 0, 0, BatchSlice(0, 1, self.settings.probes))
            clean, sizes = self.latents.of(draw.views, draw.latent_noise)
            times = draw.timesteps.to(self.engine.device)
            noisy = add_noise(self.model.alphas_cumprod, clean, draw.noise.to(self.engine.device), times)
            captions = [self.latents.caption(view) for view in draw.views]
            with self.engine.autocast(), self.lora.disabled():
                base = predict_noise(
                    self.model, noisy, times, self.conditions.encode(captions, "token").with_time_ids(sizes)
                )
            self._probes = (noisy, times, captions, sizes, base)
        noisy, times, captions, sizes, base = self._probes
        with self.engine.autocast():
            if self.lora.in_text:
                conditions = encode_prompts(self.model, [self.pivot.in_prompt(caption) for caption in captions])
            else:
                conditions = self.conditions.encode(captions, "token")
            said = predict_noise(self.model, noisy, times, conditions.with_time_ids(sizes))
        return float((said.float() - base.float()).flatten(1).norm(dim=1).mean())

    @contextmanager
    def outcome(self) -> Iterator[DiffusionModel]:
        """While this lasts, the model as it would be if training ended here."""
        with nullcontext() if self.averages is None else self.averages.applied():
            yield self.model

    def result(self) -> DiffusionModel:
        """The model with the changes in its networks, averaged if they are to be; for after the last step."""
        if self.averages is not None:
            self.averages.copy_to_model()
        return self.model

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint holds, the placeholder's embeddings included (trap 7)."""
        kept = self.descent.tensors() | ({} if self.averages is None else self.averages.tensors())
        kept |= {f"rows.{i}": row for i, row in enumerate(self.pivot.embeddings)}
        kept |= {f"start.{i}": row for i, row in enumerate(self.pivot.initial_embeddings)}
        return kept

    def state(self) -> dict[str, Any]:
        """What a checkpoint says beside them."""
        return {"step": self.step, "stopped": self.stopped}

    def restore(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for i, row in enumerate(self.pivot.embeddings):
            if not torch.equal(tensors[f"rows.{i}"].to(row), row):
                raise TrainingError("this checkpoint of stage 2 was made around another pivot")
        self.descent.restore(tensors, int(state["step"]))
        if self.averages is not None:
            self.averages.restore(tensors)
        self.stopped = str(state["stopped"])
