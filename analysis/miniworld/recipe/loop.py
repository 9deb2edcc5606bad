"""One training loop for every network of the world: seeded by step, resumable, free of pickles.

What a step draws depends on the seed and the step's number alone, so a checkpoint needs no random state: weights,
averaged weights, the moments of the optimisers and the step are all there is.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from analysis.miniworld.recipe.muon import Muon
from clipgeom._io.files import write_whole
from clipgeom.errors import ConfigError

__all__ = ["Plan", "Record", "Training", "append_line", "generator_of", "latest_step"]

Terms = Mapping[str, torch.Tensor]  # of a loss: ``loss`` itself, and what else is to be seen

_BETAS = (0.9, 0.99)
_CLIP = 1.0  # largest norm of a gradient
_EMA_DELAY = 10.0  # the average forgets its start: decay is at most (1 + step) / (10 + step)
_STATE = "checkpoint.safetensors"
# where a network meets the world outside, orthogonal updates do not fit: AdamW's
_OUTER = re.compile(r"embedding|conv_in|conv_out|quant_conv|time_emb")


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how fast and how smoothly to train.

    Attributes
    ----------
    steps : int
        In all; the learning rate falls along half a cosine to a hundredth over them.
    rate : float
        Highest learning rate, reached after `warmup` steps.
    matrix_rate : float
        The same for matrices and filters that Muon trains; 0 to train them by AdamW like the rest.
    weight_decay : float
        On matrices and filters only.
    ema : float
        Decay of the averaged weights; 0 to keep none.
    save_every : int
        Steps between checkpoints.
    """

    steps: int
    rate: float
    matrix_rate: float = 0.0
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.0
    save_every: int = 200

    def share_at(self, step: int) -> float:
        """Share of the highest learning rate at a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, slots=True)
class Record:
    """What a step did: its number (from 1), the terms of its loss, the learning rate, seconds since the run began."""

    step: int
    losses: Mapping[str, float]
    rate: float
    seconds: float


class Training:
    """A network in training: its weights, their average, and the optimiser.

    Parameters
    ----------
    module : Module
        Trained in place; parameters with ``requires_grad=False`` are left alone.
    plan : Plan
    folder : Path
        Where its checkpoint lies; resumed from if there is one.
    """

    def __init__(self, module: torch.nn.Module, plan: Plan, folder: Path) -> None:
        self.module, self.plan, self.folder = module, plan, folder
        self.step = 0
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.optimizers = self._optimizers()
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()} if plan.ema else {}
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / _STATE).exists():
            self._load(folder / _STATE)

    def _optimizers(self) -> list[tuple[torch.optim.Optimizer, float]]:
        """Each with its highest learning rate: AdamW, and Muon for inner matrices where the plan asks for it."""
        inner = {
            name
            for name, p in self.parameters.items()
            if self.plan.matrix_rate and p.ndim > 1 and not _OUTER.search(name)
        }
        rest = {name: p for name, p in self.parameters.items() if name not in inner}
        decayed = [p for p in rest.values() if p.ndim > 1]
        others = [p for p in rest.values() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": self.plan.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizers: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.AdamW([g for g in groups if g["params"]], lr=self.plan.rate, betas=_BETAS), self.plan.rate)
        ]
        if inner:
            matrices = [self.parameters[name] for name in sorted(inner)]
            rate, decay = self.plan.matrix_rate, self.plan.weight_decay
            optimizers.append((Muon(matrices, lr=rate, weight_decay=decay), rate))
        return optimizers

    def _states(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        for optimizer, _ in self.optimizers:
            if parameter in optimizer.state:
                return optimizer.state[parameter]
        return {}

    def run(self, loss: Callable[[int], Terms | Sequence[Callable[[], Terms]]]) -> Iterator[Record]:
        """Train to the end of the plan, yielding after every step; `loss` gives the terms, of which ``loss`` is walked.

        Where it gives several functions instead, each works out the terms of an equal part of the batch, side by side in
        threads: on small networks two cores do more that way than by sharing every operation. Two gradients add up
        to the same whichever comes first.

        Raises
        ------
        ConfigError
            The loss is no longer a number; the last checkpoint is kept.
        """
        start = time.monotonic()
        while self.step < self.plan.steps:
            share = self.plan.share_at(self.step)
            for optimizer, rate in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = share * rate
            for optimizer, _ in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            losses = self._losses(loss(self.step))
            if not math.isfinite(losses["loss"]):
                raise ConfigError(f"the loss of step {self.step + 1} is {losses['loss']}; lower the learning rate.")
            torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), _CLIP)
            for optimizer, _ in self.optimizers:
                optimizer.step()
            self.step += 1
            self._follow()
            if self.step % self.plan.save_every == 0 or self.step == self.plan.steps:
                self.save()
            yield Record(self.step, losses, share * self.plan.rate, time.monotonic() - start)

    def _losses(self, found: Terms | Sequence[Callable[[], Terms]]) -> dict[str, float]:
        """Terms as numbers, their gradients added to those of the parameters."""
        if isinstance(found, Mapping):
            return _backward(found)
        with ThreadPoolExecutor(len(found)) as pool:
            parts = list(pool.map(lambda part: _backward(part(), 1 / len(found)), found))
        return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}

    @torch.no_grad()
    def _follow(self) -> None:
        if self.average:
            decay = min(self.plan.ema, (1 + self.step) / (_EMA_DELAY + self.step))
            for name, parameter in self.parameters.items():
                self.average[name].lerp_(parameter, 1 - decay)

    def averaged(self) -> dict[str, torch.Tensor]:
        """State of the module with averaged weights where they are kept."""
        return {**{k: v.detach().clone() for k, v in self.module.state_dict().items()}, **self.average}

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        tensors = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        for name, parameter in self.parameters.items():
            tensors |= {f"optimizer.{key}.{name}": value for key, value in self._states(parameter).items()}
        tensors = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
        write_whole(self.folder / _STATE, save(tensors, {"step": str(self.step)}))

    def _load(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            self.step = int(file.metadata()["step"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no mapping
        prefix = "module."
        self.module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        for name in self.average:
            self.average[name] = tensors[f"average.{name}"]
        for optimizer, _ in self.optimizers:
            keys = ("momentum",) if isinstance(optimizer, Muon) else ("step", "exp_avg", "exp_avg_sq")
            owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
            for name, parameter in self.parameters.items():
                if id(parameter) in owned and f"optimizer.{keys[0]}.{name}" in tensors:
                    optimizer.state[parameter] = {key: tensors[f"optimizer.{key}.{name}"] for key in keys}


def _backward(terms: Terms, share: float = 1.0) -> dict[str, float]:
    if torch.isfinite(terms["loss"]):
        (share * terms["loss"]).backward()  # type: ignore[no-untyped-call]
    return {name: float(value.detach()) for name, value in terms.items()}


def latest_step(folder: Path, /) -> int:
    """The step of a folder's checkpoint, 0 where there is none."""
    if not (folder / _STATE).exists():
        return 0
    with safe_open(folder / _STATE, framework="pt") as file:
        return int(file.metadata()["step"])


def generator_of(seed: int, step: int, /) -> np.random.Generator:
    """The random numbers of one step."""
    return np.random.default_rng((seed, step))


def append_line(path: Path, row: Mapping[str, object], /) -> None:
    """Add a line to a JSON Lines file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
