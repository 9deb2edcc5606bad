"""Averages of what is trained, over the course of training.

At a constant learning rate the weights of one step are a sample of a walk: where it stands at the last step is chance.
Their average is what the steps have in common (Polyak and Juditsky, 1992), and costs no pass of a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from pti.errors import CheckpointError
from pti.runs.ema_weights import PREFIX, averages_in

__all__ = ["PowerEMA"]


class PowerEMA:
    """The average of named parameters over all steps so far, where step s has a weight of about s to the power gamma.

    A power of the step, in place of a decay for each, so that the part of training that counts is the same however
    many steps there are, and nothing is left of where it began (Karras et al., arXiv 2312.02696; Shamir and Zhang, 2013).

    Parameters
    ----------
    parameters : mapping of Tensor
        What is trained, in place.
    gamma : float
        At least 0. 0 is the mean of all steps; larger values favour late steps. The first half of the steps has a total
        weight of 2 to the power −(1 + gamma).
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], gamma: float) -> None:
        self.parameters, self.gamma = parameters, gamma
        self.values = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Count in what the parameters are after a step, numbered from 1."""
        weight = 1 - (1 - 1 / step) ** (1 + self.gamma)
        # all at once, as in torch.optim.swa_utils: there are hundreds, and small ones
        torch._foreach_lerp_(list(self.values.values()), [self.parameters[name] for name in self.values], weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While this lasts, the parameters are their averages."""
        trained = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.copy_to_model()
        try:
            yield
        finally:
            _copy(trained, self.parameters)

    def copy_to_model(self) -> None:
        """Make the parameters their averages, for good."""
        _copy(self.values, self.parameters)

    def tensors(self) -> dict[str, torch.Tensor]:
        """For a checkpoint."""
        return {PREFIX + name: value for name, value in self.values.items()}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from a checkpoint.

        Raises
        ------
        CheckpointError
            It lacks an average.
        """
        found = averages_in(tensors)
        missing = [name for name in self.values if name not in found]
        if missing:
            raise CheckpointError(f"this checkpoint holds no average of {missing[0]}")
        _copy(found, self.values)


@torch.no_grad()
def _copy(values: Mapping[str, torch.Tensor], into: Mapping[str, torch.Tensor]) -> None:
    for name, target in into.items():
        target.copy_(values[name])
