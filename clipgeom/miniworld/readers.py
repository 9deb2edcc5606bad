"""Attribute classifiers: a small network that predicts the factors of an image, independent of the generator.

It has one trunk of convolutions, and a classifier for every factor. It predicts the factors in captions,
and the marks of the new characters: pattern of the body, emblem, and whether the headgear has two tones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipgeom import _distributions
from clipgeom._extras import needs_extra
from clipgeom.errors import ShapeError
from clipgeom.miniworld.characters import EMBLEMS, PATTERNS
from clipgeom.miniworld.drawing.canvas import SIZE
from clipgeom.miniworld.factors import FACTORS

if TYPE_CHECKING:
    import torch

__all__ = ["MARKS", "READ", "FactorReaders", "build_network", "entropy", "load_readers"]

MARKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"pattern": ("plain", *PATTERNS), "emblem": ("none", *EMBLEMS), "two_tone": ("no", "yes")}
)
READ: Mapping[str, tuple[str, ...]] = MappingProxyType({**FACTORS, **MARKS})  # attributes and their values

_WIDTHS = (24, 48, 96, 96)
_SQUEEZED = 8  # channels of a classifier's input at each position
_HIDDEN = 64
_BATCH = 128


def build_network() -> torch.nn.Module:
    """Build the untrained network: images (n, 3, 64, 64) in −1 … 1 to the logits of all attributes, as in `READ`."""
    from torch import nn

    def layer(before: int, after: int, stride: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1), nn.GroupNorm(8, after), nn.SiLU(inplace=True)
        )

    side = SIZE // 8
    first, second, third, fourth = _WIDTHS
    trunk = nn.Sequential(layer(3, first, 2), layer(first, second, 2), layer(second, third, 2), layer(third, fourth, 1))
    heads = nn.ModuleDict(
        {
            name: nn.Sequential(
                nn.Conv2d(fourth, _SQUEEZED, 1),
                nn.SiLU(inplace=True),
                nn.Flatten(),
                nn.Linear(_SQUEEZED * side * side, _HIDDEN),
                nn.SiLU(inplace=True),
                nn.Linear(_HIDDEN, len(values)),
            )
            for name, values in READ.items()
        }
    )
    return nn.ModuleDict({"trunk": trunk, "heads": heads})


class FactorReaders:
    """The trained attribute classifiers.

    Parameters
    ----------
    network : Module
        A network from `build_network`.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    def probabilities(self, pictures: NDArray[np.uint8], /) -> dict[str, NDArray[np.float32]]:
        """Predict the probability of every value of every attribute.

        Parameters
        ----------
        pictures : ndarray of uint8, shape (n, 64, 64, 3)

        Returns
        -------
        dict of ndarray, shape (n, values)
            The probabilities for every name in `READ`.

        Raises
        ------
        ShapeError
            The images do not have miniworld's size.
        """
        import torch

        from clipgeom._images import to_tensor

        if pictures.ndim != 4 or pictures.shape[1:] != (SIZE, SIZE, 3) or pictures.dtype != np.uint8:
            raise ShapeError(
                f"expected pictures as uint8 of shape (n, {SIZE}, {SIZE}, 3), got {pictures.dtype} of {pictures.shape}"
            )
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in READ}
        with torch.inference_mode():
            for start in range(0, len(pictures), _BATCH):
                batch = to_tensor(pictures[start : start + _BATCH])
                for name, logits in apply_network(self.network, batch).items():
                    parts[name].append(logits.softmax(-1))
        return {
            name: torch.cat(rows).numpy() if rows else np.empty((0, len(READ[name])), dtype=np.float32)
            for name, rows in parts.items()
        }

    def read(self, pictures: NDArray[np.uint8], /) -> dict[str, list[str]]:
        """Predict the likeliest value of every attribute for each image."""
        return {
            name: [READ[name][index] for index in rows.argmax(1)] for name, rows in self.probabilities(pictures).items()
        }

    def accuracy(self, pictures: NDArray[np.uint8], factors: Sequence[Mapping[str, str]], /) -> dict[str, float]:
        """Accuracy for every factor with a value in all of `factors`."""
        seen = self.read(pictures)
        known = [name for name in READ if all(name in scene for scene in factors)]
        return {
            name: float(np.mean([a == scene[name] for a, scene in zip(seen[name], factors, strict=True)]))
            for name in known
        }


def apply_network(network: torch.nn.Module, pictures: torch.Tensor, /) -> dict[str, torch.Tensor]:
    """Compute the logits of all attributes."""
    shared = network["trunk"](pictures)  # type: ignore[index]
    return {name: head(shared) for name, head in network["heads"].items()}  # type: ignore[index]


def entropy(values: Sequence[str], /) -> float:
    """Entropy of a sample's distribution, in bits (plug-in estimate)."""
    _, counts = np.unique(list(values), return_counts=True)
    return float(_distributions.entropy(counts / counts.sum(), log=np.log2))


def load_readers(folder: Path | None = None, /) -> FactorReaders:
    """Load the package's attribute classifiers, or those in a folder.

    Raises
    ------
    WeightsError
        The file is missing or damaged.
    MissingExtraError
        torch is not installed.
    """
    from clipgeom.miniworld.weights import checked_folder

    with needs_extra("report", "reading pictures"):
        import torch
        from safetensors.torch import load_file

    path = (checked_folder("readers") if folder is None else folder) / "readers.safetensors"
    network = build_network()
    network.load_state_dict({name: tensor.to(torch.float32) for name, tensor in load_file(path).items()})
    return FactorReaders(network)
