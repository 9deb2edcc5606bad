"""Training loop of stage 2: LoRA tuning of the UNet and the text encoder; the placeholder token's embeddings are frozen.

Training images, class images and the images of the locality loss share one pass of the UNet. The base model's
predictions need no gradient. If the text encoder is not trained, all prompt embeddings are computed once.
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
from pti.losses import add_noise, predict_noise, prediction_target
from pti.models.lora import add_lora, base_weights_sha256
from pti.models.pipeline import DiffusionModel
from pti.models.prompt_embeds import PromptEmbeds, concatenate, encode_prompts
from pti.training.accelerator import Runtime
from pti.training.batches import BatchPlan, BatchSlice, DenoisingBatch
from pti.training.ema import PowerEMA
from pti.training.generated_images import GeneratedLatents, generate_latents
from pti.training.locality_loss import LocalityLoss
from pti.training.optimizer import OptimizationLoop, ParamGroup
from pti.training.stage import TrainingStage

__all__ = ["LoraTuning", "TuningStep"]

_PROBES = 8  # noisy images for the prediction distance


@dataclass(frozen=True, slots=True)
class TuningStep:
    """Metrics of one step of stage 2.

    Attributes
    ----------
    step : int
        Starts at 1.
    loss, denoising : float
        Total loss, and the denoising loss on the training images.
    rate : float
        Learning rate of the step.
    locality, prior : float or None
        Locality loss and prior-preservation loss, before their weights; None at steps without them.
    weight_distance, function_distance : float or None
        ‖ΔW‖_F, and the mean ‖ε_θ − ε_base‖₂ on the probe images; None at steps without a measurement.
    stopped : str
        Reason to stop after this step; empty if training continues.
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
        """Return the metrics by name, without those that are None."""
        names = ("step", "loss", "denoising", "rate", "locality", "prior", "weight_distance", "function_distance")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class LoraTuning(TrainingStage[TuningStep]):
    """Stage 2 of a run: train LoRA adapters around the inverted placeholder token.

    Parameters
    ----------
    engine : Runtime
    model : DiffusionModel
        With an inverted placeholder token.
    latents : LatentCache
        Of the training images.
    config : Config
    decision : InterpolationPlan or None
        How to interpolate at each token position; None turns the locality loss off.
    digest : str, optional
        `base_weights_sha256` of the model, if known.

    Attributes
    ----------
    own : GeneratedLatents or None
        Images that the base model generated for interpolated prompts (`generate_own`), for
        ``experimental.locality_inputs = "generated"``.
    prior : LatentCache, GeneratedLatents or None
        Class images, for a positive ``prior_preservation.weight``.
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
        settings = self.settings = config.lora
        super().__init__(
            engine,
            model,
            latents,
            config,
            batch_size=settings.batch_size,
            tag_dropout_max_timestep=config.data.tag_dropout_max_timestep,
        )
        self.own: GeneratedLatents | None = None
        self.prior: LatentCache | GeneratedLatents | None = None
        self.decision = decision if config.locality.interpolation != "none" and config.locality.weight > 0 else None
        self._digest = digest or base_weights_sha256(model)
        self._initial_rows = [row.clone() for row in self.pivot.embeddings]
        self.lora = add_lora(model, config.lora, seed=config.runtime.seed)
        self.conditions = PromptEmbedCache(model, self.lora, config.experimental, self.decision)
        self.locality_loss = (
            LocalityLoss(engine, model, latents, config, self.lora, self.conditions) if self.decision else None
        )
        text = {n: p for n, p in self.lora.parameters.items() if n.startswith("text_encoder")}
        unet = {n: p for n, p in self.lora.parameters.items() if n not in text}
        text_rate = settings.text_encoder_learning_rate or 0.5 * settings.learning_rate
        self.descent = OptimizationLoop(
            engine,
            [ParamGroup(unet, settings.learning_rate), ParamGroup(text, text_rate)],
            steps=settings.steps,
            warmup=settings.lr_warmup_steps,
            schedule=settings.lr_scheduler,
            weight_decay=settings.weight_decay,
        )
        self.averages = None if settings.ema_gamma is None else PowerEMA(self.lora.parameters, settings.ema_gamma)
        self._probes: tuple[torch.Tensor, torch.Tensor, list[str], torch.Tensor, torch.Tensor] | None = None

    def check_frozen(self) -> None:
        """Check that the placeholder embeddings and all base weights are unchanged, bit for bit."""
        if not all(torch.equal(a, b) for a, b in zip(self.pivot.embeddings, self._initial_rows, strict=True)):
            raise TrainingError("the placeholder token's embeddings have changed in stage 2, where they are frozen")
        if base_weights_sha256(self.model) != self._digest:
            raise TrainingError("a base weight has changed in stage 2; only the LoRA may")

    def _train_step(self) -> TuningStep:
        rate = self.descent.rate
        losses = self.descent.take_step(self._compute_losses)
        if self.averages is not None:
            self.averages.update(self.step)

        # Measure the distances from the base model, and stop at their limits.
        measured: dict[str, float] = {}
        if self.step % self.settings.distance_every == 0 or self.step >= self.settings.steps:
            with self.evaluation_weights():
                local = [self.lora.weight_distance(), self.function_distance()]
            distances = torch.tensor(local, device=self.engine.device)
            # all processes must stop at the same step, so they compare the same numbers
            weight_distance, function_distance = (float(value) for value in self.engine.all_reduce_mean(distances))
            measured = {"weight_distance": weight_distance, "function_distance": function_distance}
            self._stop_at(measured)

        if not self.stopped and self.step >= self.settings.steps:
            self.stopped = f"{self.settings.steps} steps made"
        return TuningStep(
            step=self.step,
            loss=losses["loss"],
            denoising=losses["denoising"],
            rate=rate,
            locality=losses.get("locality"),
            prior=losses.get("prior"),
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

    def _compute_losses(self, part: int) -> dict[str, torch.Tensor]:
        # Images, timesteps and noise of the micro-batch, from the seed and the step.
        plan = self.plan_batch(self.stage, self.latents, part)

        # Denoising: noisy latents of the training images, and their captions with the placeholder token.
        latents, time_ids = self.latents.of(plan.views, plan.latent_noise)
        noise = self._noise(plan)
        captions = [self.latents.caption(view) for view in plan.views]
        prompt_embeds = self.conditions.encode(captions, "token").with_time_ids(time_ids)
        batches = {"denoising": self._denoising_batch(plan, latents, noise, prompt_embeds)}

        # Prior preservation (DreamBooth): class images.
        if self.prior is not None:
            batches["prior"] = self._prior_batch(part)

        # Locality loss: prompts between the placeholder token and the class word.
        has_locality = self.locality_loss is not None and self.locality_loss.applies_at(self.step)
        locality_batch = self._locality_batch(part, plan, latents, noise, time_ids) if has_locality else None
        if locality_batch is not None:
            batches["locality"] = locality_batch

        # One UNet pass for all losses: launching three small batches costs more than one large one.
        noise_pred = predict_noise(
            self.model,
            torch.cat([batch.noisy_latents for batch in batches.values()]),
            torch.cat([batch.timesteps for batch in batches.values()]),
            concatenate([batch.prompt_embeds for batch in batches.values()]),
        )
        sizes = [len(batch.timesteps) for batch in batches.values()]
        noise_preds = dict(zip(batches, torch.split(noise_pred, sizes), strict=True))

        # Weighted sum of the losses.
        mask, batch = self.latents.loss_weights(plan.views), batches["denoising"]
        loss = denoising = self._denoising_loss(noise_preds["denoising"], batch.target, batch.timesteps, mask)
        losses = {"denoising": denoising}
        if self.prior is not None:
            batch = batches["prior"]
            losses["prior"] = self._denoising_loss(noise_preds["prior"], batch.target, batch.timesteps)
            loss = loss + self.config.prior_preservation.weight * losses["prior"]
        if has_locality:
            assert self.locality_loss is not None
            losses["locality"] = denoising.new_zeros(())  # if this process has no regularized image
            if locality_batch is not None:
                losses["locality"] = self.locality_loss.loss(noise_preds["locality"], locality_batch)
            loss = loss + self.config.locality.weight * losses["locality"]
        return {"loss": loss, **losses}

    def _denoising_batch(
        self, plan: BatchPlan, latents: torch.Tensor, noise: torch.Tensor, prompt_embeds: PromptEmbeds
    ) -> DenoisingBatch:
        """Add noise to latents, and compute the target of the UNet's prediction."""
        alphas_cumprod, timesteps = self.model.alphas_cumprod, plan.timesteps.to(self.engine.device)
        noisy_latents = add_noise(alphas_cumprod, latents, noise, timesteps)
        target = prediction_target(self.model.prediction, alphas_cumprod, latents, noise, timesteps)
        return DenoisingBatch(noisy_latents, timesteps, prompt_embeds, target)

    def _prior_batch(self, part: int) -> DenoisingBatch:
        """Make a batch of class images."""
        assert self.prior is not None
        plan = self.plan_batch("prior", self.prior, part)
        if isinstance(self.prior, GeneratedLatents):
            latents, time_ids, captions = self.prior.of(plan.views, self.model.factor, self.engine.device)
        else:
            latents, time_ids = self.prior.of(plan.views, plan.latent_noise)
            captions = [self.prior.caption(view) for view in plan.views]
        prompt_embeds = self.conditions.encode(captions, "class").with_time_ids(time_ids)
        return self._denoising_batch(plan, latents, self._noise(plan), prompt_embeds)

    def _locality_batch(
        self, part: int, plan: BatchPlan, latents: torch.Tensor, noise: torch.Tensor, time_ids: torch.Tensor
    ) -> DenoisingBatch | None:
        """Make a batch for the locality loss from the training images, or from images that the base model generated."""
        assert self.locality_loss is not None
        if self.config.experimental.locality_inputs != "generated":
            return self.locality_loss.make_batch(self.step, part, plan, latents, noise, time_ids)
        assert self.own is not None
        plan = self.plan_batch("own", self.own, part)
        latents, time_ids, captions = self.own.of(plan.views, self.model.factor, self.engine.device)
        noise = plan.noise.to(self.engine.device)
        return self.locality_loss.make_batch(self.step, part, plan, latents, noise, time_ids, captions)

    def generate_own(self) -> GeneratedLatents:
        """Generate images of interpolated prompts with the base model, for the captions of the locality loss in turn."""
        n, wordings, numbers = (
            len(self.latents),
            self.latents.wordings,
            range(self.config.experimental.locality_num_generated),
        )
        if self.config.locality.mix_captions:
            texts = [self.latents.exchanged(ImageView(i % n, wording=i // n % wordings)) for i in numbers]
        else:
            texts = [self.latents.caption(ImageView(i % n)) for i in numbers]
        return self._generate(texts, "own", self.conditions.midpoints)

    def generate_prior(self) -> GeneratedLatents:
        """Generate class images with the base model."""
        texts = [self.config.prior_preservation.class_prompt] * self.config.prior_preservation.num_class_images
        return self._generate(texts, "prior", lambda batch: self.conditions.encode(batch, "class"))

    def _generate(
        self, texts: Sequence[str], stream: str, conditions: Callable[[Sequence[str]], PromptEmbeds]
    ) -> GeneratedLatents:
        with self.engine.autocast(), self.lora.disabled():
            return generate_latents(
                self.model,
                texts,
                conditions,
                self.config.sampler,
                seed=self.config.runtime.seed,
                stream=stream,
                side=self.latents.shape[-1] * self.model.factor,
            )

    @torch.no_grad()
    def function_distance(self) -> float:
        """Mean ‖ε_θ − ε_base‖₂ over fixed noisy training images, the probes."""
        device = self.engine.device
        if self._probes is None:
            plan = self.plan_batch("probe", self.latents, 0, probe=BatchSlice(0, 1, _PROBES))
            latents, time_ids = self.latents.of(plan.views, plan.latent_noise)
            timesteps = plan.timesteps.to(device)
            noisy_latents = add_noise(self.model.alphas_cumprod, latents, plan.noise.to(device), timesteps)
            captions = [self.latents.caption(view) for view in plan.views]
            with self.engine.autocast(), self.lora.disabled():
                prompt_embeds = self.conditions.encode(captions, "token").with_time_ids(time_ids)
                base_pred = predict_noise(self.model, noisy_latents, timesteps, prompt_embeds)
            self._probes = (noisy_latents, timesteps, captions, time_ids, base_pred)

        noisy_latents, timesteps, captions, time_ids, base_pred = self._probes
        with self.engine.autocast():
            if self.lora.in_text:
                prompt_embeds = encode_prompts(self.model, [self.pivot.in_prompt(caption) for caption in captions])
            else:
                prompt_embeds = self.conditions.encode(captions, "token")
            noise_pred = predict_noise(self.model, noisy_latents, timesteps, prompt_embeds.with_time_ids(time_ids))
        return float((noise_pred.float() - base_pred.float()).flatten(1).norm(dim=1).mean())

    @contextmanager
    def evaluation_weights(self) -> Iterator[DiffusionModel]:
        """Give the model with the averaged weights for the duration of a `with` block."""
        with nullcontext() if self.averages is None else self.averages.applied():
            yield self.model

    def result(self) -> DiffusionModel:
        """Return the trained model, with the averaged weights for good; call it after the last step."""
        if self.averages is not None:
            self.averages.copy_to_model()
        return self.model

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors of a checkpoint, including the placeholder embeddings."""
        tensors = self.descent.tensors() | ({} if self.averages is None else self.averages.tensors())
        tensors |= {f"rows.{i}": row for i, row in enumerate(self.pivot.embeddings)}
        tensors |= {f"start.{i}": row for i, row in enumerate(self.pivot.initial_embeddings)}
        return tensors

    def state(self) -> dict[str, Any]:
        """Return the state of a checkpoint that is not tensors."""
        return {"step": self.step, "stopped": self.stopped}

    def restore(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        for i, row in enumerate(self.pivot.embeddings):
            if not torch.equal(tensors[f"rows.{i}"].to(row), row):
                raise TrainingError(
                    "this checkpoint of stage 2 belongs to other embeddings of the placeholder token; give another --out"
                )
        self.descent.restore(tensors, int(state["step"]))
        if self.averages is not None:
            self.averages.restore(tensors)
        self.stopped = str(state["stopped"])
