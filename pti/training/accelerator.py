"""Devices, processes, precision and trackers, through accelerate.

The networks are not wrapped for several processes. The trained parameters are few, so one message a step averages their
gradients (`pti.training.optimizer`). A step may then combine passes of the tuned and the base model in any way.
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
        Folder for the files of trackers.

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
                # without cpu=True, accelerate trains each process of one CPU alone
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
            raise ConfigError(
                f"expected accelerate to join {launched} launched processes, got {self.processes}; "
                "start them with accelerate launch or torchrun"
            )
        if settings.mixed_precision == "fp16" and self.device.type == "cpu":  # accelerate would not scale the loss
            raise ConfigError("runtime.mixed_precision = 'fp16' does not work on the CPU; use bf16 or no")

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def processes(self) -> int:
        """Number of processes that train together."""
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which writes the files."""
        return bool(self.accelerator.is_main_process)

    def batch_slice(self, batch: int) -> BatchSlice:
        """Return the slice of this process in the batch of all processes; `batch` is the size for one process."""
        return BatchSlice(int(self.accelerator.process_index), self.processes, batch)

    def prepare(self, model: DiffusionModel) -> DiffusionModel:
        """Move the networks to the device, and convert the UNet and the text encoders to the chosen precision."""
        dtype = _HALF.get(self.settings.mixed_precision, torch.float32)
        model.vae.to(self.device)  # stays in float32: SDXL's overflows in half precision
        for network in (model.unet, *(encoder.network for encoder in model.encoders)):
            torch.nn.Module.to(
                network, device=self.device, dtype=dtype
            )  # diffusers' own `to` warns about half precision
        if self.settings.gradient_checkpointing:
            # checkpointing works in training mode only; no published pipeline has a dropout that this mode enables
            model.unet.enable_gradient_checkpointing()
            model.unet.train()
            for encoder in model.encoders:
                network = encoder.network  # transformers 5 renamed the method
                getattr(network, "activation_checkpointing_enable", network.gradient_checkpointing_enable)()
                encoder.network.train()
        return model

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of mixed precision, if it is configured."""
        context: AbstractContextManager[Any] = self.accelerator.autocast()
        return context

    def all_reduce_mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of each value over the processes."""
        reduced: torch.Tensor = self.accelerator.reduce(values, reduction="mean")
        return reduced

    def wait_for_everyone(self) -> None:
        """Wait until every process gets to this call."""
        self.accelerator.wait_for_everyone()

    def start_trackers(self, settings: Mapping[str, Any]) -> None:
        """Start the trackers with the settings of the run."""
        if self.settings.trackers:
            plain = {key: v if isinstance(v, (int, float, str, bool)) else str(v) for key, v in settings.items()}
            self.accelerator.init_trackers("pti", config=plain)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send the metrics of a step to the trackers."""
        if self.settings.trackers:
            self.accelerator.log(dict(values), step=step)

    def close(self) -> None:
        """End the trackers."""
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
            raise ConfigError(f"expected runtime.trackers to be among {', '.join(known)}; got {name!r}")
        if name not in there:
            raise ConfigError(f"runtime.trackers names {name!r}, whose package is not installed: {pip_install(name)}")
