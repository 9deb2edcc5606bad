"""Stage 1: move the new word's vectors until the frozen generator draws its pictures from it.

The loop is a generator that yields a record after every step; checkpoints, previews and logs are its caller's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pti.config.schema import Config
from pti.data.latent_cache import LatentCache
from pti.errors import TrainingError
from pti.losses import (
    add_noise,
    denoising_loss,
    min_snr_weights,
    offset_noise,
    predict_noise,
    prediction_target,
    timestep_range,
)
from pti.models.pipeline import DiffusionModel
from pti.models.prompt_embeds import encode_prompts
from pti.training.accelerator import Runtime
from pti.training.batches import BatchPlan, plan_micro_batch
from pti.training.optimizer import OptimizationLoop, ParamGroup

__all__ = ["InversionStep", "TextualInversion", "cut_to_distance", "distance", "project_out", "retract"]

_BISECTIONS = 60  # halvings of a step: beyond the digits of float64


@dataclass(frozen=True, slots=True)
class InversionStep:
    """What one step of stage 1 did.

    Attributes
    ----------
    step : int
        From 1.
    loss : float
    rate : float
        Learning rate of the step.
    distance : float
        ‖e − e₀‖₂ over all vectors and encoders.
    distance_per_rate : float
        The same in units of steps × learning rate (their sum where the rate changes).
    path : float
        Length of the way so far, Σ‖e_s − e_{s−1}‖₂.
    norm : float
        Mean norm of the vectors.
    distances : tuple of float
        ‖e − e₀‖₂ in each encoder.
    stopped : str
        Why this step is the last; empty if it is not.
    """

    step: int
    loss: float
    rate: float
    distance: float
    distance_per_rate: float
    path: float
    norm: float
    distances: tuple[float, ...]
    stopped: str = ""

    def values(self) -> dict[str, float]:
        """All numbers by name, those of single encoders with an index."""
        row = asdict(self)
        del row["stopped"], row["distances"]
        if len(self.distances) > 1:
            row |= {f"distance_{i}": value for i, value in enumerate(self.distances)}
        return row


class TextualInversion:
    """Stage 1 of a run.

    Parameters
    ----------
    engine : Runtime
    model : DiffusionModel
        With a placeholder token.
    latents : LatentCache
    config : Config
    """

    stage = "invert"

    def __init__(self, engine: Runtime, model: DiffusionModel, latents: LatentCache, config: Config) -> None:
        assert model.placeholder is not None
        self.engine, self.latents, self.config, self.settings = engine, latents, config, config.inversion
        self.pivot = model.placeholder
        self.start = [start.to(engine.device) for start in self.pivot.initial_embeddings]
        self.rows = [torch.nn.Parameter(row.to(engine.device).clone()) for row in self.pivot.embeddings]
        self.model = model
        settings = self.settings
        self.descent = OptimizationLoop(
            engine,
            [ParamGroup({f"rows.{i}": row for i, row in enumerate(self.rows)}, settings.learning_rate)],
            steps=settings.steps,
            warmup=settings.lr_warmup_steps,
            schedule=settings.lr_scheduler,
            optimizer=settings.optimizer,
            weight_decay=settings.weight_decay,
        )
        self.path = self.rates = 0.0
        self.losses: list[float] = []
        self.stopped = ""
        initial = settings.embedding_norm_target == "initial"
        self._norms = [
            start.norm(dim=-1, keepdim=True) if initial else torch.full_like(start[:, :1], mean)
            for start, mean in zip(self.start, self.pivot.table_norms, strict=True)
        ]

    @property
    def step(self) -> int:
        """Steps made."""
        return self.descent.step

    def run(self) -> Iterator[InversionStep]:
        """Train until a limit is reached.

        Raises
        ------
        TrainingError
            The loss is no number, or a row of the table has moved.
        """
        tables = [encoder.table.weight.detach().clone() for encoder in self.model.encoders]
        while not self.stopped:
            record = self._one()
            if record.stopped:
                for encoder, before in zip(self.model.encoders, tables, strict=True):
                    if not torch.equal(encoder.table.weight, before):
                        raise TrainingError(f"the embedding table of {encoder.name} has moved; only the new rows may")
            yield record

    def _one(self) -> InversionStep:
        before = [row.detach().clone() for row in self.rows]
        rate = self.descent.rate
        fixed = self.settings.embedding_norm == "fixed"
        terms = self.descent.take_step(self._terms, before=self._to_directions if fixed else None)
        self._control_norms()
        limit = self.settings.max_distance
        if limit is not None and distance(self.rows, self.start) >= limit:
            cut_to_distance(self.rows, before, self.start, limit, self._norms if fixed else None)
            self.stopped = f"distance {limit} reached"
        self.path += distance(self.rows, before)
        self.rates += rate
        self._remember(terms["loss"])
        if not self.stopped and self.step >= self.settings.steps:
            self.stopped = f"{self.settings.steps} steps made"
        apart = [distance([row], [start]) for row, start in zip(self.rows, self.start, strict=True)]
        total = math.hypot(*apart)
        return InversionStep(
            step=self.step,
            loss=terms["loss"],
            rate=rate,
            distance=total,
            distance_per_rate=total / self.rates if self.rates else 0.0,
            path=self.path,
            norm=float(torch.cat([row.detach().norm(dim=-1) for row in self.rows]).mean()),
            distances=tuple(apart),
            stopped=self.stopped,
        )

    def _terms(self, part: int) -> dict[str, torch.Tensor]:
        draw = self.draw(part)
        clean, sizes = self.latents.of(draw.views, draw.latent_noise)
        texts = [self.pivot.in_prompt(self.latents.caption(view)) for view in draw.views]
        conditions = encode_prompts(self.model, texts, rows=self.rows).with_time_ids(sizes)
        objective, alphas, device = self.config.loss, self.model.alphas_cumprod, self.engine.device
        times = draw.timesteps.to(device)
        noise = offset_noise(draw.noise, draw.offset, objective.noise_offset).to(device)
        said = predict_noise(self.model, add_noise(alphas, clean, noise, times), times, conditions)
        target = prediction_target(self.model.prediction, alphas, clean, noise, times)
        weights = None
        if objective.min_snr_gamma is not None:
            weights = min_snr_weights(self.model.prediction, alphas, times, objective.min_snr_gamma)
        return {"loss": denoising_loss(said, target, weights, self.latents.loss_weights(draw.views))}

    def draw(self, part: int) -> BatchPlan:
        """What this process draws for a part of the next step."""
        return plan_micro_batch(
            self.config.runtime.seed,
            self.stage,
            self.step,
            part,
            parts=self.config.runtime.gradient_accumulation_steps,
            share=self.engine.batch_slice(self.settings.batch_size),
            samples=len(self.latents),
            crops=self.latents.crops,
            flips=self.latents.flips,
            wordings=self.latents.wordings,
            shape=self.latents.shape,
            levels=timestep_range(self.config.loss, len(self.model.alphas_cumprod)),
            timesteps=self.config.loss.timestep_sampling,
        )

    @torch.no_grad()
    def _to_directions(self) -> None:
        for row in self.rows:
            if row.grad is not None:
                row.grad.copy_(project_out(row.grad, row))

    @torch.no_grad()
    def _control_norms(self) -> None:
        if self.settings.embedding_norm == "off":
            return
        share = 1.0 if self.settings.embedding_norm == "fixed" else self.settings.embedding_norm_decay
        for row, target in zip(self.rows, self._norms, strict=True):
            row.copy_(retract(row, target, share))

    def _remember(self, loss: float) -> None:
        window = self.settings.early_stopping_patience
        if not window:
            return
        self.losses = [*self.losses, loss][-2 * window :]
        if len(self.losses) == 2 * window and not self.stopped:
            earlier, later = sum(self.losses[:window]) / window, sum(self.losses[window:]) / window
            if later > (1 - self.settings.early_stopping_min_delta) * earlier:
                self.stopped = f"the mean loss of {window} steps went from {earlier:.4g} to {later:.4g}: a plateau"

    @contextmanager
    def outcome(self) -> Iterator[DiffusionModel]:
        """While this lasts, the model as it would be if training ended here."""
        yield self.result()

    def result(self) -> DiffusionModel:
        """The model with the vectors as they are now."""
        from dataclasses import replace

        return replace(self.model, placeholder=self.pivot.with_embeddings([row.detach().clone() for row in self.rows]))

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint holds."""
        kept = self.descent.tensors()
        kept |= {f"start.{i}": start for i, start in enumerate(self.start)}
        kept["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        return kept

    def state(self) -> dict[str, Any]:
        """What a checkpoint says beside them."""
        return {"step": self.step, "path": self.path, "rates": self.rates, "stopped": self.stopped}

    def restore(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.descent.restore(tensors, int(state["step"]))
        self.path, self.rates, self.stopped = float(state["path"]), float(state["rates"]), str(state["stopped"])
        self.losses = [float(value) for value in tensors["losses"]]


def distance(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], /) -> float:
    """‖a − b‖₂ over several tensors, in float64."""
    squares = [(x.detach().double() - y.detach().double()).square().sum() for x, y in zip(a, b, strict=True)]
    return float(torch.stack(squares).sum().sqrt())


def project_out(gradient: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The part of a gradient across each row: what turns it and leaves its norm, shape (vectors, width)."""
    unit = rows / rows.norm(dim=-1, keepdim=True)
    return gradient - (gradient * unit).sum(dim=-1, keepdim=True) * unit


def retract(rows: torch.Tensor, norms: torch.Tensor, share: float) -> torch.Tensor:
    """Rows whose norms have gone a share of the way to `norms`, shape (vectors, 1)."""
    now = rows.norm(dim=-1, keepdim=True)
    return rows * ((now + share * (norms - now)) / now)


@torch.no_grad()
def cut_to_distance(
    rows: Sequence[torch.Tensor],
    before: Sequence[torch.Tensor],
    start: Sequence[torch.Tensor],
    limit: float,
    norms: Sequence[torch.Tensor] | None = None,
) -> None:
    """Shorten the step from `before` to `rows` so that it ends at ‖rows − start‖ = limit; in place.

    With `norms` the shortened step is brought back to them, as the step itself was.
    """
    ends = [row.clone() for row in rows]
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        for i, row in enumerate(rows):
            row.copy_(before[i] + middle * (ends[i] - before[i]))
            if norms is not None:
                row.copy_(retract(row, norms[i], 1.0))
        if distance(rows, start) < limit:
            low = middle
        else:
            high = middle
