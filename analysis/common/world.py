"""What every study of the trainer sees: pictures of the embedded world, drawn by a run's model and told by the readers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import PIL.Image
import torch

from clipgeom.miniworld import FACTORS, FactorReaders, load_readers, scenes
from pti._random import rng_for
from pti.config.schema import DataSection
from pti.data.dataset import Sample
from pti.data.latent_cache import LatentCache
from pti.data.views import ImageView
from pti.losses import add_noise, denoising_loss, predict_noise, prediction_target
from pti.models.pipeline import DiffusionModel
from pti.models.prompt_embeds import encode_prompts
from pti.models.sampling import sample_images
from pti.runs import checkpoint
from pti.runs.run import Run

__all__ = [
    "GUIDANCE",
    "PLACES",
    "SAID",
    "STEPS",
    "counted",
    "held_out",
    "looks",
    "placed",
    "readers",
    "restore",
    "seen",
]

GUIDANCE, STEPS = 3.0, 30
SAID = ("position", "background", "style")
# what the prompts of `placed` say, in the order of SAID
PLACES: Mapping[str, tuple[str, str, str]] = {
    "an ink illustration of {}, top left, in the snow": ("top left", "snow", "ink illustration"),
    "a flat poster of {}, bottom right, by the sea": ("bottom right", "sea", "flat poster"),
    "a pixel drawing of {}, top right, in the desert": ("top right", "desert", "pixel drawing"),
    "a watercolor painting of {}, bottom left, at night": ("bottom left", "night", "watercolor painting"),
}
_HELD_OUT, _HELD_OUT_SEED, _LEVELS = 32, 4000, 8


@cache
def readers() -> FactorReaders:
    """The factor readers, loaded once in a process."""
    return load_readers()


def looks(model: DiffusionModel, count: int, *, seed: int, word: str = "{token}") -> dict[str, list[str]]:
    """What the readers see in pictures of "a picture of …", where all but the character is left to chance."""
    pictures = sample_images(model, [f"a picture of {word}"] * count, seed=seed, steps=STEPS, guidance=GUIDANCE)
    return {factor: list(values) for factor, values in readers().read(pictures).items()}


def placed(model: DiffusionModel, each: int, *, seed: int, word: str = "{token}") -> dict[str, float]:
    """Share of pictures whose place, background and style are what the prompt says; `each` pictures of each prompt."""
    prompts = [prompt.format(word) for prompt in PLACES for _ in range(each)]
    seen = readers().read(sample_images(model, prompts, seed=seed, steps=STEPS, guidance=GUIDANCE))
    wanted = [values for values in PLACES.values() for _ in range(each)]
    return {
        factor: float(np.mean([value == told[i] for value, told in zip(seen[factor], wanted, strict=True)]))
        for i, factor in enumerate(SAID)
    }


def seen(model: DiffusionModel, count: int, each: int, *, seed: int) -> dict[str, Any]:
    """Of a study's row: what is counted in `count` pictures of `looks`, and as ``placed.FACTOR`` the shares of `placed`."""
    shares = placed(model, each, seed=seed)
    return {
        "seen": counted(looks(model, count, seed=seed)),
        **{f"placed.{factor}": share for factor, share in shares.items()},
    }


def counted(seen: Mapping[str, Sequence[str]]) -> str:
    """How often each value of each factor was read, as JSON."""
    return json.dumps({factor: dict(sorted(Counter(seen[factor]).items())) for factor in FACTORS}, sort_keys=True)


@torch.no_grad()
def restore(run: Run, step: int) -> None:
    """Put the low-rank changes of an earlier step of a run in place."""
    stored = checkpoint.load(run.folder / "checkpoints" / f"tune-{step:07d}.safetensors").tensors
    for name, parameter in run.lora.parameters.items():
        parameter.copy_(stored[f"parameter.{name}"])


@torch.no_grad()
def held_out(models: Sequence[DiffusionModel], data: DataSection, character: str) -> list[dict[str, float]]:
    """How well some models denoise pictures of a new character that none was trained on, and how much the prompt says to them.

    The same pictures, whole captions, noise and noise levels (eight, evenly spread over the schedule) for every model.

    Returns
    -------
    list of dict
        For each model ``loss``, the mean squared error, and ``control``, by how much the error grows with the caption of another
        picture of the character, which says another place, background, style and facing: the margin of a diffusion classifier
        (arXiv 2303.16203). A word whose own picture drowns the rest of the prompt has none.
    """
    drawn = scenes(_HELD_OUT, _HELD_OUT_SEED, character=character)
    samples = [
        Sample(f"{character}/{i}", caption, partial(PIL.Image.fromarray, pixels))
        for i, (pixels, caption) in enumerate(zip(drawn.pictures, drawn.captions, strict=True))
    ]
    first = models[0]
    latents = LatentCache(first, samples, replace(data, vae_encoding="mode", caption_tag_dropout_rate=0.0), seed=0)
    clean, _sizes = latents.of([ImageView(i) for i in range(_HELD_OUT)], torch.zeros(_HELD_OUT, *latents.shape))
    rng = rng_for(_HELD_OUT_SEED, "held-out")
    own, other = np.zeros((2, len(models), _LEVELS))
    for level in range(_LEVELS):
        times = torch.full((_HELD_OUT,), int((level + 0.5) * len(first.alphas_cumprod) / _LEVELS))
        noise = torch.from_numpy(rng.standard_normal(tuple(clean.shape), dtype=np.float32))
        noisy = add_noise(first.alphas_cumprod, clean, noise, times)
        target = prediction_target(first.prediction, first.alphas_cumprod, clean, noise, times)
        for number, model in enumerate(models):
            assert model.placeholder is not None
            conditions = encode_prompts(model, [model.placeholder.in_prompt(sample.caption) for sample in samples])
            shifted = conditions[torch.arange(_HELD_OUT).roll(1)]
            for losses, some in ((own, conditions), (other, shifted)):
                losses[number, level] = float(denoising_loss(predict_noise(model, noisy, times, some), target))
    return [
        {"loss": float(right.mean()), "control": float((wrong - right).mean())}
        for right, wrong in zip(own, other, strict=True)
    ]
