"""Base class of both training stages: the loop, the plan of a batch, its noise, and the denoising loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Generic, Protocol, TypeVar

import torch

from pti.config.schema import Config
from pti.data.latent_cache import LatentCache
from pti.losses import denoising_loss, min_snr_weights, offset_noise, timestep_range
from pti.models.pipeline import DiffusionModel
from pti.training.accelerator import Runtime
from pti.training.batches import BatchPlan, BatchSlice, SamplingSpace, plan_micro_batch
from pti.training.generated_images import GeneratedLatents
from pti.training.optimizer import OptimizationLoop

__all__ = ["TrainingStage"]


class _Step(Protocol):
    @property
    def stopped(self) -> str: ...


Step = TypeVar("Step", bound=_Step)


class TrainingStage(ABC, Generic[Step]):
    """One stage of a run; its loop is a generator that yields the metrics of every step.

    Parameters
    ----------
    engine : Runtime
    model : DiffusionModel
        With a placeholder token.
    latents : LatentCache
        Of the training images.
    config : Config
    batch_size : int
        Of one process.
    tag_dropout_max_timestep : int, optional
        From this timestep on, captions are complete.

    Attributes
    ----------
    stage : str
        Name of the stage in files, and of its random stream.
    descent : OptimizationLoop
    stopped : str
        Reason to stop after the present step; empty if training continues.
    """

    stage: ClassVar[str]
    descent: OptimizationLoop

    def __init__(
        self,
        engine: Runtime,
        model: DiffusionModel,
        latents: LatentCache,
        config: Config,
        *,
        batch_size: int,
        tag_dropout_max_timestep: int | None = None,
    ) -> None:
        assert model.placeholder is not None
        self.engine, self.model, self.latents, self.config = engine, model, latents, config
        self.pivot = model.placeholder
        self.stopped = ""
        self._batch_size, self._tag_dropout_max_timestep = batch_size, tag_dropout_max_timestep

    @property
    def step(self) -> int:
        """Number of completed steps."""
        return self.descent.step

    def run(self) -> Iterator[Step]:
        """Train until a limit is reached, then check that no frozen weight has changed.

        Raises
        ------
        TrainingError
            The loss is not finite, or a frozen weight has changed.
        """
        while not self.stopped:
            record = self._train_step()
            if record.stopped:
                self.check_frozen()
            yield record

    @abstractmethod
    def check_frozen(self) -> None:
        """Check that the weights that this stage does not train are unchanged, bit for bit."""

    @abstractmethod
    def _train_step(self) -> Step:
        """Train for one step, and return its metrics."""

    def plan_batch(
        self, stream: str, source: LatentCache | GeneratedLatents, part: int, *, probe: BatchSlice | None = None
    ) -> BatchPlan:
        """Plan a micro-batch of the next step for this process; with `probe`, one that is the same at every step."""
        return plan_micro_batch(
            self.config.runtime.seed,
            stream,
            self.step if probe is None else 0,
            part,
            parts=self.config.runtime.gradient_accumulation_steps,
            batch_slice=probe or self.engine.batch_slice(self._batch_size),
            space=SamplingSpace(
                n_images=len(source),
                crops=source.crops,
                flips=source.flips,
                wordings=source.wordings,
                complete_from=self._tag_dropout_max_timestep,
                latent_shape=self.latents.shape,
                timesteps=timestep_range(self.config.loss, len(self.model.alphas_cumprod)),
                timestep_sampling=self.config.loss.timestep_sampling,
            ),
        )

    def _noise(self, plan: BatchPlan) -> torch.Tensor:
        """Return the noise of a batch, with the noise offset."""
        return offset_noise(plan.noise, plan.offset, self.config.loss.noise_offset).to(self.engine.device)

    def _denoising_loss(
        self, noise_pred: torch.Tensor, target: torch.Tensor, timesteps: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the denoising loss, weighted by SNR and by the concept mask."""
        gamma, weights = self.config.loss.min_snr_gamma, None
        if gamma is not None:
            weights = min_snr_weights(self.model.prediction, self.model.alphas_cumprod, timesteps, gamma)
        return denoising_loss(noise_pred, target, weights, mask)
