"""Stage 1: textual inversion, which trains the placeholder token's embeddings with everything else frozen.

The training loop is a generator that yields a record after every step. The caller writes checkpoints, previews and logs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from pti.config.schema import Config
from pti.data.latent_cache import LatentCache
from pti.errors import TrainingError
from pti.losses import add_noise, predict_noise, prediction_target
from pti.models.pipeline import DiffusionModel
from pti.models.prompt_embeds import encode_prompts
from pti.training.accelerator import Runtime
from pti.training.optimizer import OptimizationLoop, ParamGroup
from pti.training.stage import TrainingStage

__all__ = ["InversionStep", "TextualInversion", "cut_to_distance", "distance", "project_out", "retract"]

_BISECTIONS = 60  # halvings of a step, more than the precision of float64


@dataclass(frozen=True, slots=True)
class InversionStep:
    """Metrics of one step of stage 1.

    Attributes
    ----------
    step : int
        Starts at 1.
    loss : float
    rate : float
        Learning rate of the step.
    distance : float
        ‖e − e₀‖₂ over all vectors and encoders.
    distance_per_rate : float
        Distance divided by the sum of the learning rates of all steps.
    path : float
        Path length, Σ‖e_s − e_{s−1}‖₂.
    norm : float
        Mean norm of the embeddings.
    distances : tuple of float
        ‖e − e₀‖₂ in each encoder.
    stopped : str
        Reason to stop after this step; empty if training continues.
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
        """Return the metrics by name; those of several encoders have an index."""
        row = asdict(self)
        del row["stopped"], row["distances"]
        if len(self.distances) > 1:
            row |= {f"distance_{i}": value for i, value in enumerate(self.distances)}
        return row


class TextualInversion(TrainingStage[InversionStep]):
    """Stage 1 of a run: train the embeddings of the placeholder token.

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
        settings = self.settings = config.inversion
        super().__init__(engine, model, latents, config, batch_size=settings.batch_size)
        self.start = [start.to(engine.device) for start in self.pivot.initial_embeddings]
        self.rows = [torch.nn.Parameter(row.to(engine.device).clone()) for row in self.pivot.embeddings]
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
        self._tables: list[torch.Tensor] = []
        initial = config.experimental.embedding_norm_target == "initial"
        self._norms = [
            start.norm(dim=-1, keepdim=True) if initial else torch.full_like(start[:, :1], mean)
            for start, mean in zip(self.start, self.pivot.table_norms, strict=True)
        ]

    def run(self) -> Iterator[InversionStep]:  # noqa: D102 - as in the base class
        self._tables = [encoder.table.weight.detach().clone() for encoder in self.model.encoders]
        yield from super().run()

    def check_frozen(self) -> None:
        """Check that the embedding tables are unchanged, bit for bit."""
        for encoder, before in zip(self.model.encoders, self._tables, strict=True):
            if not torch.equal(encoder.table.weight, before):
                raise TrainingError(
                    f"the embedding table of {encoder.name} has changed; only the placeholder token's embeddings may"
                )

    def _train_step(self) -> InversionStep:
        previous = [row.detach().clone() for row in self.rows]
        rate = self.descent.rate

        # Optimizer step, with a fixed norm on the gradient that is tangent to the sphere.
        fixed = self.config.experimental.embedding_norm == "fixed"
        losses = self.descent.take_step(self._compute_losses, before=self._project_gradients if fixed else None)
        self._control_norms()

        # Shorten the step that passes the maximum distance.
        limit = self.settings.max_distance
        if limit is not None and distance(self.rows, self.start) >= limit:
            cut_to_distance(self.rows, previous, self.start, limit, self._norms if fixed else None)
            self.stopped = f"distance {limit} reached"

        # Metrics and early stopping.
        self.path += distance(self.rows, previous)
        self.rates += rate
        self._check_plateau(losses["loss"])
        if not self.stopped and self.step >= self.settings.steps:
            self.stopped = f"{self.settings.steps} steps made"
        distances = [distance([row], [start]) for row, start in zip(self.rows, self.start, strict=True)]
        total = math.hypot(*distances)
        return InversionStep(
            step=self.step,
            loss=losses["loss"],
            rate=rate,
            distance=total,
            distance_per_rate=total / self.rates if self.rates else 0.0,
            path=self.path,
            norm=float(torch.cat([row.detach().norm(dim=-1) for row in self.rows]).mean()),
            distances=tuple(distances),
            stopped=self.stopped,
        )

    def _compute_losses(self, part: int) -> dict[str, torch.Tensor]:
        # Images, timesteps and noise of the micro-batch, from the seed and the step.
        plan = self.plan_batch(self.stage, self.latents, part)

        # Add noise to the latents.
        latents, time_ids = self.latents.of(plan.views, plan.latent_noise)
        noise, timesteps = self._noise(plan), plan.timesteps.to(self.engine.device)
        noisy_latents = add_noise(self.model.alphas_cumprod, latents, noise, timesteps)

        # Encode the captions, with gradients to the placeholder token's embeddings.
        prompts = [self.pivot.in_prompt(self.latents.caption(view)) for view in plan.views]
        prompt_embeds = encode_prompts(self.model, prompts, rows=self.rows).with_time_ids(time_ids)

        # Predict the noise (or velocity), and compare it with the target.
        noise_pred = predict_noise(self.model, noisy_latents, timesteps, prompt_embeds)
        target = prediction_target(self.model.prediction, self.model.alphas_cumprod, latents, noise, timesteps)
        return {"loss": self._denoising_loss(noise_pred, target, timesteps, self.latents.loss_weights(plan.views))}

    @torch.no_grad()
    def _project_gradients(self) -> None:
        for row in self.rows:
            if row.grad is not None:
                row.grad.copy_(project_out(row.grad, row))

    @torch.no_grad()
    def _control_norms(self) -> None:
        if self.config.experimental.embedding_norm == "off":
            return
        fraction = (
            1.0 if self.config.experimental.embedding_norm == "fixed" else self.config.experimental.embedding_norm_decay
        )
        for row, target in zip(self.rows, self._norms, strict=True):
            row.copy_(retract(row, target, fraction))

    def _check_plateau(self, loss: float) -> None:
        window = self.settings.early_stopping_patience
        if not window:
            return
        self.losses = [*self.losses, loss][-2 * window :]
        if len(self.losses) == 2 * window and not self.stopped:
            earlier, later = sum(self.losses[:window]) / window, sum(self.losses[window:]) / window
            if later > (1 - self.settings.early_stopping_min_delta) * earlier:
                self.stopped = f"the mean loss of {window} steps went from {earlier:.4g} to {later:.4g}: a plateau"

    @contextmanager
    def evaluation_weights(self) -> Iterator[DiffusionModel]:
        """Give the model with the present embeddings for the duration of a `with` block."""
        yield self.result()

    def result(self) -> DiffusionModel:
        """Return the model with the present embeddings."""
        return replace(self.model, placeholder=self.pivot.with_embeddings([row.detach().clone() for row in self.rows]))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors of a checkpoint."""
        tensors = self.descent.tensors()
        tensors |= {f"start.{i}": start for i, start in enumerate(self.start)}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        return tensors

    def state(self) -> dict[str, Any]:
        """Return the state of a checkpoint that is not tensors."""
        return {"step": self.step, "path": self.path, "rates": self.rates, "stopped": self.stopped}

    def restore(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.descent.restore(tensors, int(state["step"]))
        self.path, self.rates, self.stopped = float(state["path"]), float(state["rates"]), str(state["stopped"])
        self.losses = [float(value) for value in tensors["losses"]]


def distance(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], /) -> float:
    """‖a − b‖₂ over several tensors, in float64."""
    squares = [(x.detach().double() - y.detach().double()).square().sum() for x, y in zip(a, b, strict=True)]
    return float(torch.stack(squares).sum().sqrt())


def project_out(gradient: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Project out the radial part of a gradient: the rest turns each row and keeps its norm, shape (vectors, width)."""
    unit = rows / rows.norm(dim=-1, keepdim=True)
    return gradient - (gradient * unit).sum(dim=-1, keepdim=True) * unit


def retract(rows: torch.Tensor, norms: torch.Tensor, fraction: float) -> torch.Tensor:
    """Scale rows so that their norms close a fraction of the gap to `norms`, shape (vectors, 1)."""
    present = rows.norm(dim=-1, keepdim=True)
    return rows * ((present + fraction * (norms - present)) / present)


@torch.no_grad()
def cut_to_distance(
    rows: Sequence[torch.Tensor],
    previous: Sequence[torch.Tensor],
    start: Sequence[torch.Tensor],
    limit: float,
    norms: Sequence[torch.Tensor] | None = None,
) -> None:
    """Shorten the step from `previous` to `rows` so that it ends at ‖rows − start‖ = limit; in place.

    With `norms`, the shortened step is scaled to these norms, like the step itself.
    """
    ends = [row.clone() for row in rows]
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        for i, row in enumerate(rows):
            row.copy_(previous[i] + middle * (ends[i] - previous[i]))
            if norms is not None:
                row.copy_(retract(row, norms[i], 1.0))
        if distance(rows, start) < limit:
            low = middle
        else:
            high = middle
