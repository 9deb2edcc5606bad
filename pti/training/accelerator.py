"""The machine under both stages: devices and processes through accelerate, gradients, the optimiser, its schedule.

The networks are not wrapped for several processes. What is trained is small, so its gradients are averaged here, in one
message a step; any composition of passes (frozen and tuned, one batch or two) then costs nothing and needs no wrapper's
consent.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from clipgeom._extras import needs_extra, pip_install
from clipgeom.errors import ConfigError
from pti.config.schema import RuntimeSection
from pti.models.pipeline import DiffusionModel
from pti.training.batches import BatchSlice

__all__ = ["Runtime"]

_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Runtime:
    """Devices, processes, precision and trackers.

    Parameters
    ----------
    settings : RuntimeSection
    folder : Path, optional
        Where trackers that write files write them.

    Raises
    ------
    ConfigError
        The device cannot compute in that precision, or a tracker is unknown or not installed.
    """

    def __init__(self, settings: RuntimeSection, folder: Path | None = None) -> None:
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
                f"runtime.mixed_precision = {settings.mixed_precision!r} does not work here: {error}"
            ) from error
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched != self.processes:
            raise ConfigError(f"{launched} processes were launched, and accelerate has joined {self.processes} of them")
        if settings.mixed_precision == "fp16" and self.device.type == "cpu":  # accelerate would not scale the loss
            raise ConfigError("runtime.mixed_precision = 'fp16' does not work here: processors take bf16")

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

    def batch_slice(self, batch: int) -> BatchSlice:
        """The share of this process in a batch of all."""
        return BatchSlice(int(self.accelerator.process_index), self.processes, batch)

    def prepare(self, model: DiffusionModel) -> DiffusionModel:
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

    def all_reduce_mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over processes."""
        reduced: torch.Tensor = self.accelerator.reduce(values, reduction="mean")
        return reduced

    def wait_for_everyone(self) -> None:
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


def _check_trackers(names: Sequence[str]) -> None:
    if not names:
        return
    from accelerate.tracking import get_available_trackers
    from accelerate.utils import LoggerType

    known = [str(t.value) for t in LoggerType if t.value != "all"]
    there = [str(getattr(t, "value", t)) for t in get_available_trackers()]
    for name in names:
        if name not in known:
            raise ConfigError(f"runtime.trackers names {name!r}; accelerate knows {', '.join(known)}")
        if name not in there:
            raise ConfigError(f"runtime.trackers names {name!r}, whose package is not installed: {pip_install(name)}")
