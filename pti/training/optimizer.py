"""The optimizer step: gradients, clipping, learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pti.errors import TrainingError

if TYPE_CHECKING:
    from pti.training.accelerator import Runtime

__all__ = ["OptimizationLoop", "ParamGroup", "lr_multiplier"]


@dataclass(frozen=True, slots=True, eq=False)
class ParamGroup:
    """Parameters by name, with their highest learning rate."""

    parameters: Mapping[str, torch.nn.Parameter]
    rate: float


class OptimizationLoop:
    """An optimizer on named parameters, its learning-rate schedule, and the number of completed steps.

    Parameters
    ----------
    engine : Runtime
    groups : sequence of ParamGroup
    steps, warmup : int
    schedule : {"constant", "cosine", "linear"}
    optimizer : {"adamw", "sgd"}
    weight_decay : float
    """

    def __init__(
        self,
        engine: Runtime,
        groups: Sequence[ParamGroup],
        *,
        steps: int,
        warmup: int,
        schedule: str,
        optimizer: str = "adamw",
        weight_decay: float = 0.0,
    ) -> None:
        self.engine, self.groups = engine, [group for group in groups if group.parameters]
        self.steps, self.warmup, self.schedule = steps, warmup, schedule
        self.step = 0
        self.parameters = {name: p for group in self.groups for name, p in group.parameters.items()}
        param_groups = [{"params": list(group.parameters.values()), "lr": group.rate} for group in self.groups]
        self.raw: torch.optim.Optimizer
        if optimizer == "sgd":
            self.raw = torch.optim.SGD(param_groups)
        else:
            self.raw = torch.optim.AdamW(param_groups, weight_decay=weight_decay)
        self._optimizer: Any = engine.accelerator.prepare_optimizer(self.raw)

    @property
    def rate(self) -> float:
        """Learning rate of the next step, of the first group."""
        return self.groups[0].rate * lr_multiplier(self.step, self.steps, self.warmup, self.schedule)

    def take_step(
        self,
        compute_losses: Callable[[int], Mapping[str, torch.Tensor]],
        *,
        before: Callable[[], None] | None = None,
    ) -> dict[str, float]:
        """Make one optimizer step.

        Parameters
        ----------
        compute_losses : callable
            Returns the losses of a micro-batch by name; the gradients are those of ``loss``.
        before : callable, optional
            Called when all gradients are accumulated, before they are clipped.

        Returns
        -------
        dict of float
            Means of the losses over micro-batches and processes.

        Raises
        ------
        TrainingError
            The loss or a gradient is not finite; the parameters are unchanged.
        """
        # Learning rate of this step.
        multiplier = lr_multiplier(self.step, self.steps, self.warmup, self.schedule)
        for param_group, group in zip(self.raw.param_groups, self.groups, strict=True):
            param_group["lr"] = group.rate * multiplier

        # Accumulate the gradients of the micro-batches.
        parts = self.engine.settings.gradient_accumulation_steps
        sums: dict[str, torch.Tensor] = {}
        self._optimizer.zero_grad(set_to_none=True)
        for part in range(parts):
            with self.engine.autocast():
                losses = compute_losses(part)
            self.engine.accelerator.backward(losses["loss"] / parts)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach().float() / parts

        # Average losses and gradients over the processes.
        means = self.engine.all_reduce_mean(torch.stack(list(sums.values())))
        mean_losses = {name: float(value) for name, value in zip(sums, means, strict=True)}
        if not math.isfinite(mean_losses["loss"]):
            raise TrainingError(f"the loss of step {self.step + 1} is {mean_losses['loss']}")
        self._average_gradients()
        if before is not None:
            before()

        # Clip the gradients, and update the parameters.
        limit = self.engine.settings.max_grad_norm
        if limit:
            norm = float(self.engine.accelerator.clip_grad_norm_(list(self.parameters.values()), limit))
            # with fp16 the gradient scaler skips a step with an infinite gradient
            if not math.isfinite(norm) and self.engine.settings.mixed_precision != "fp16":
                raise TrainingError(f"the gradient of step {self.step + 1} has the norm {norm}")
        self._optimizer.step()
        self.step += 1
        return mean_losses

    def _average_gradients(self) -> None:
        if self.engine.processes == 1:
            return
        parameters = list(self.parameters.values())
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        flat = self.engine.all_reduce_mean(flat)
        for parameter, piece in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
            parameter.grad = piece.view_as(parameter).clone()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the parameters and the optimizer state, for a checkpoint."""
        kept = {f"parameter.{name}": p.detach() for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.raw.state.get(parameter, {}).items():
                if value is not None:
                    kept[f"optimizer.{key}.{name}"] = value
        scaler = self.engine.accelerator.scaler
        if scaler is not None:
            kept |= {f"scaler.{key}": torch.tensor(float(v)) for key, v in scaler.state_dict().items()}
        return kept

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """Continue from a checkpoint."""
        self.step = step
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"parameter.{name}"])
            ends = f".{name}"
            state = {}
            for key, value in tensors.items():
                if key.startswith("optimizer.") and key.endswith(ends):
                    kind = key.removeprefix("optimizer.").removesuffix(ends)
                    if "." not in kind:
                        # AdamW counts its steps on the CPU
                        state[kind] = value.clone() if kind == "step" else value.to(parameter.device).clone()
            if state:
                self.raw.state[parameter] = state
        scaler = self.engine.accelerator.scaler
        if scaler is not None and "scaler.scale" in tensors:
            stored = {k.removeprefix("scaler."): float(v) for k, v in tensors.items() if k.startswith("scaler.")}
            whole = ("growth_interval", "_growth_tracker")
            scaler.load_state_dict({k: int(v) if k in whole else v for k, v in stored.items()})


def lr_multiplier(step: int, steps: int, warmup: int, schedule: str) -> float:
    """Return the learning rate of a step, counted from 0, as a fraction of the highest one."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return 1.0 - min(1.0, done) if schedule == "linear" else 1.0
