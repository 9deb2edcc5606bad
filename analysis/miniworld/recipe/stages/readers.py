"""Training the factor readers: renders under noise and blur, and what the autoencoder makes of renders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from analysis.miniworld.recipe.loop import Plan, Record, Training, generator_of
from analysis.miniworld.recipe.pools import draw_pool, pool_marks
from clipgeom._images import to_tensor
from clipgeom._io.files import replacing
from clipgeom.miniworld.codec import decode, encode
from clipgeom.miniworld.readers import READ, apply_network, build_network

__all__ = ["train_readers"]

_SEED = 301
_POOL, _NEW = 60_000, 0.5  # fewer, and the readers learn them by heart: a new headgear is read wrong one time in eight
_REBUILT_SHARE = 0.6  # of the batches: pictures as the autoencoder rebuilds them
_BATCH = 64
_NOISE = 0.12  # largest standard deviation of added noise, of a range of 2
_SMOOTHING = 0.05  # of the labels, so that confidences stay readable


def train_readers(
    folder: Path, plan: Plan, pool_folder: Path, autoencoder: AutoencoderKL | None, /
) -> Iterator[Record]:
    """Train them, in `folder`; without an autoencoder on renders alone."""
    pictures, factors = draw_pool(pool_folder, _POOL, _SEED, new_characters=_NEW)
    marks = pool_marks(_POOL, _SEED, _NEW)
    labels = {
        name: torch.tensor([values.index({**scene, **mark}[name]) for scene, mark in zip(factors, marks, strict=True)])
        for name, values in READ.items()
    }
    rebuilt = None if autoencoder is None else _rebuilt(pool_folder, pictures, autoencoder)
    torch.manual_seed(_SEED)
    network = build_network()
    training = Training(network, plan, folder)

    def loss(step: int) -> dict[str, torch.Tensor]:
        rng = generator_of(_SEED, step)
        if rebuilt is not None and rng.random() < _REBUILT_SHARE:
            rows = np.sort(rng.choice(_POOL, _BATCH, replace=False))
            batch = to_tensor(rebuilt[rows]).contiguous()  # as blurred as they come
        else:
            rows = np.sort(rng.choice(_POOL, _BATCH, replace=False))
            batch = _disturbed(to_tensor(pictures[rows]).contiguous(), rng)
        logits = apply_network(network, batch)
        wanted = {name: labels[name][torch.from_numpy(rows)] for name in READ}
        terms = {
            name: torch.nn.functional.cross_entropy(logits[name], wanted[name], label_smoothing=_SMOOTHING)
            for name in READ
        }
        right = torch.stack([(logits[name].argmax(1) == wanted[name]).float().mean() for name in READ])
        return {"loss": torch.stack(list(terms.values())).mean(), **terms, "right": right.mean(), "worst": right.min()}

    yield from training.run(loss)


def _disturbed(batch: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A blurred share of every picture, and noise."""
    blur = torch.from_numpy((0.7 * rng.random((len(batch), 1, 1, 1))).astype(np.float32))
    batch = torch.lerp(
        batch, torch.nn.functional.avg_pool2d(batch, 3, stride=1, padding=1, count_include_pad=False), blur
    )
    size = torch.from_numpy((_NOISE * rng.random((len(batch), 1, 1, 1)) ** 2).astype(np.float32))
    return batch + size * torch.from_numpy(rng.standard_normal(tuple(batch.shape), dtype=np.float32))


def _rebuilt(folder: Path, pictures: NDArray[np.uint8], autoencoder: AutoencoderKL) -> NDArray[np.uint8]:
    path = folder / f"rebuilt-{_SEED}-{len(pictures)}.npy"
    if not path.exists():
        with replacing(path) as partial, partial.open("wb") as file:
            np.save(file, decode(autoencoder, encode(autoencoder, pictures)))
    return np.load(path, mmap_mode="r")
