"""The machine under both stages: devices and processes through accelerate, gradients, the optimiser, its schedule.

The networks are not wrapped for several processes. What is trained is small, so its gradients are averaged here, in one
message a step; any composition of passes (frozen and tuned, one batch or two) then costs nothing and needs no wrapper's
consent.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clipgeom._extras import needs_extra, pip_install
from clipgeom.errors import ConfigError
from pti.config.schema import EngineSection
from pti.errors import TrainingError
from pti.models.pipeline import Model
from pti.training.batches import Share

__all__ = ["Descent", "Engine", "Group", "share_at"]

_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Engine:
    """Devices, processes, precision and trackers.

    Parameters
    ----------
    settings : EngineSection
    folder : Path, optional
        Where trackers that write files write them.

    Raises
    ------
    ConfigError
        The device cannot compute in that precision, or a tracker is unknown or not installed.
    """

    def __init__(self, settings: EngineSection, folder: Path | None = None) -> None:
        with needs_extra("pti", "training"):
            from accelerate import Accelerator
        self.settings = settings
        _check_trackers(settings.trackers)
        try:
            self.accelerator: Any = Accelerator(
                mixed_precision=settings.mixed_precision,
                # told so, accelerate joins the processes of one CPU; left to find out, it lets each train alone
                cpu=settings.device == "cpu" or not torch.accelerator.is_available(),
                log_with=list(settings.trackers) or None,
                project_dir=None if folder is None else str(folder / "trackers"),
            )
        except ValueError as error:
            raise ConfigError(
                f"engine.mixed_precision = {settings.mixed_precision!r} does not work here: {error}"
            ) from error
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched != self.processes:
            raise ConfigError(f"{launched} processes were launched, and accelerate has joined {self.processes} of them")
        if settings.mixed_precision == "fp16" and self.device.type == "cpu":  # accelerate would not scale the loss
            raise ConfigError("engine.mixed_precision = 'fp16' does not work here: processors take bf16")

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return bool(self.accelerator.is_main_process)

    def share(self, batch: int) -> Share:
        """The share of this process in a batch of all."""
        return Share(int(self.accelerator.process_index), self.processes, batch)

    def place(self, model: Model) -> Model:
        """Move the networks to the device; the frozen UNet and text encoders into the chosen precision."""
        dtype = _HALF.get(self.settings.mixed_precision, torch.float32)
        model.vae.to(self.device)  # stays in float32: SDXL's overflows in half precision
        for network in (model.unet, *(encoder.network for encoder in model.encoders)):
            torch.nn.Module.to(network, device=self.device, dtype=dtype)  # diffusers' own warns of what it does
        if self.settings.gradient_checkpointing:
            # both recompute in training mode only; no published pipeline has a dropout that this would wake
            model.unet.enable_gradient_checkpointing()
            model.unet.train()
            for encoder in model.encoders:
                network = encoder.network  # transformers 5 gives the same another name
                getattr(network, "activation_checkpointing_enable", network.gradient_checkpointing_enable)()
                encoder.network.train()
        return model

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision, where it is asked for."""
        context: AbstractContextManager[Any] = self.accelerator.autocast()
        return context

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over processes."""
        reduced: torch.Tensor = self.accelerator.reduce(values, reduction="mean")
        return reduced

    def wait(self) -> None:
        """Until every process is here."""
        self.accelerator.wait_for_everyone()

    def start_trackers(self, settings: Mapping[str, Any]) -> None:
        """Tell the trackers what is run."""
        if self.settings.trackers:
            plain = {key: v if isinstance(v, (int, float, str, bool)) else str(v) for key, v in settings.items()}
            self.accelerator.init_trackers("pti", config=plain)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Tell the trackers about a step."""
        if self.settings.trackers:
            self.accelerator.log(dict(values), step=step)

    def close(self) -> None:
        """Let the trackers finish."""
        if self.settings.trackers:
            self.accelerator.end_training()


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Parameters by name, with their highest learning rate."""

    parameters: Mapping[str, torch.nn.Parameter]
    rate: float


class Descent:
    """An optimiser on named parameters, its schedule, and how many steps it has made.

    Parameters
    ----------
    engine : Engine
    groups : sequence of Group
    steps, warmup : int
    schedule : {"constant", "cosine", "linear"}
    optimizer : {"adamw", "sgd"}
    weight_decay : float
    """

    def __init__(
        self,
        engine: Engine,
        groups: Sequence[Group],
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
        told = [{"params": list(group.parameters.values()), "lr": group.rate} for group in self.groups]
        self.raw: torch.optim.Optimizer
        if optimizer == "sgd":
            self.raw = torch.optim.SGD(told)
        else:
            self.raw = torch.optim.AdamW(told, weight_decay=weight_decay)
        self._optimizer: Any = engine.accelerator.prepare_optimizer(self.raw)

    @property
    def rate(self) -> float:
        """Learning rate of the next step, of the first group."""
        return self.groups[0].rate * share_at(self.step, self.steps, self.warmup, self.schedule)

    def walk(
        self,
        terms_of: Callable[[int], Mapping[str, torch.Tensor]],
        *,
        before: Callable[[], None] | None = None,
    ) -> dict[str, float]:
        """Make one step.

        Parameters
        ----------
        terms_of : callable
            The terms of the loss of one accumulated part, of which ``loss`` is walked.
        before : callable, optional
            Called when all gradients are there, before they are clipped.

        Returns
        -------
        dict of float
            Means of the terms over parts and processes.

        Raises
        ------
        TrainingError
            The loss, or a gradient, is no number; nothing has been changed then.
        """
        share = share_at(self.step, self.steps, self.warmup, self.schedule)
        for group, told in zip(self.raw.param_groups, self.groups, strict=True):
            group["lr"] = told.rate * share
        parts = self.engine.settings.accumulation
        sums: dict[str, torch.Tensor] = {}
        self._optimizer.zero_grad(set_to_none=True)
        for part in range(parts):
            with self.engine.autocast():
                terms = terms_of(part)
            self.engine.accelerator.backward(terms["loss"] / parts)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0) + value.detach().float() / parts
        means = self.engine.mean(torch.stack(list(sums.values())))
        told_terms = {name: float(value) for name, value in zip(sums, means, strict=True)}
        if not math.isfinite(told_terms["loss"]):
            raise TrainingError(f"the loss of step {self.step + 1} is {told_terms['loss']}")
        self._average_gradients()
        if before is not None:
            before()
        limit = self.engine.settings.max_grad_norm
        if limit:
            norm = float(self.engine.accelerator.clip_grad_norm_(list(self.parameters.values()), limit))
            # with fp16 an infinite gradient is the scaler's business, which skips the step
            if not math.isfinite(norm) and self.engine.settings.mixed_precision != "fp16":
                raise TrainingError(f"the gradient of step {self.step + 1} has the norm {norm}")
        self._optimizer.step()
        self.step += 1
        return told_terms

    def _average_gradients(self) -> None:
        if self.engine.processes == 1:
            return
        parameters = list(self.parameters.values())
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        flat = self.engine.mean(flat)
        for parameter, piece in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
            parameter.grad = piece.view_as(parameter).clone()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Parameters and the moments of the optimiser, for a checkpoint."""
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
        """Go on from a checkpoint."""
        self.step = step
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"parameter.{name}"])
            ends = f".{name}"
            state = {}
            for key, value in tensors.items():
                if key.startswith("optimizer.") and key.endswith(ends):
                    kind = key.removeprefix("optimizer.").removesuffix(ends)
                    if "." not in kind:
                        # AdamW counts its steps on the processor
                        state[kind] = value.clone() if kind == "step" else value.to(parameter.device).clone()
            if state:
                self.raw.state[parameter] = state
        scaler = self.engine.accelerator.scaler
        if scaler is not None and "scaler.scale" in tensors:
            stored = {k.removeprefix("scaler."): float(v) for k, v in tensors.items() if k.startswith("scaler.")}
            whole = ("growth_interval", "_growth_tracker")
            scaler.load_state_dict({k: int(v) if k in whole else v for k, v in stored.items()})


def share_at(step: int, steps: int, warmup: int, schedule: str) -> float:
    """Share of the highest learning rate at a step, counted from 0."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return 1.0 - min(1.0, done) if schedule == "linear" else 1.0


def _check_trackers(names: Sequence[str]) -> None:
    if not names:
        return
    from accelerate.tracking import get_available_trackers
    from accelerate.utils import LoggerType

    known = [str(t.value) for t in LoggerType if t.value != "all"]
    there = [str(getattr(t, "value", t)) for t in get_available_trackers()]
    for name in names:
        if name not in known:
            raise ConfigError(f"engine.trackers names {name!r}; accelerate knows {', '.join(known)}")
        if name not in there:
            raise ConfigError(f"engine.trackers names {name!r}, whose package is not installed: {pip_install(name)}")
