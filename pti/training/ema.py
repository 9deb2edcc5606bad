"""EMA of the trained parameters, with a power function of the step in place of a decay.

At a constant learning rate the weights fluctuate from step to step, and those of the last step are a random sample. An
average has less noise (Polyak and Juditsky, 1992), and costs no pass of a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from pti.errors import CheckpointError
from pti.runs.ema_weights import PREFIX, averages_in

__all__ = ["PowerEMA"]


class PowerEMA:
    """Average of named parameters over all steps; the weight of step s is about s to the power gamma.

    The average then covers the same fraction of training for any number of steps, and the initial weights have no
    influence (Karras et al., arXiv 2312.02696; Shamir and Zhang, 2013).

    Parameters
    ----------
    parameters : mapping of Tensor
        The trained parameters, which training changes in place.
    gamma : float
        At least 0. 0 is the mean of all steps; larger values favour late steps. The first half of the steps has a total
        weight of 2 to the power −(1 + gamma).
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], gamma: float) -> None:
        self.parameters, self.gamma = parameters, gamma
        self.values = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after a step, numbered from 1."""
        weight = 1 - (1 - 1 / step) ** (1 + self.gamma)
        # one call for all, as in torch.optim.swa_utils: the parameters are small and number in the hundreds
        torch._foreach_lerp_(list(self.values.values()), [self.parameters[name] for name in self.values], weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Set the parameters to their averages for the duration of a `with` block."""
        trained = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.copy_to_model()
        try:
            yield
        finally:
            _copy(trained, self.parameters)

    def copy_to_model(self) -> None:
        """Set the parameters to their averages, for good."""
        _copy(self.values, self.parameters)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the averages, for a checkpoint."""
        return {PREFIX + name: value for name, value in self.values.items()}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Continue from a checkpoint.

        Raises
        ------
        CheckpointError
            An average is missing.
        """
        found = averages_in(tensors)
        missing = [name for name in self.values if name not in found]
        if missing:
            raise CheckpointError(f"this checkpoint has no average of {missing[0]}")
        _copy(found, self.values)


@torch.no_grad()
def _copy(values: Mapping[str, torch.Tensor], into: Mapping[str, torch.Tensor]) -> None:
    for name, target in into.items():
        target.copy_(values[name])
