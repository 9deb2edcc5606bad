"""The figures that the world is judged by, on scenes of seeds that no stage trained on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from analysis.common.resampling import bca_estimate
from analysis.miniworld.recipe.stages.autoencoder import psnr
from analysis.miniworld.recipe.stages.clip import recall_at_1, tokenize
from analysis.miniworld.recipe.stages.diffusion import sample
from clipgeom.miniworld.characters import NEW_CHARACTERS
from clipgeom.miniworld.codec import decode, encode
from clipgeom.miniworld.factors import FACTORS
from clipgeom.miniworld.readers import FactorReaders, entropy
from clipgeom.miniworld.scenery import scenes

__all__ = [
    "GUIDANCE",
    "PAIRS",
    "PROMPTS",
    "STEPS",
    "TEST_SEED",
    "UNSAID",
    "Generator",
    "measure_autoencoder",
    "measure_clip",
    "measure_readers",
    "measure_said",
    "measure_speed",
    "measure_unsaid",
]

TEST_SEED = 21  # fixed before the last round, the readers of more pictures; choices were made looking at others
GUIDANCE = 3.0
_HELD_OUT = 2000
PROMPTS, PAIRS, STEPS = 500, 100, 30
UNSAID = ("position", "background", "facing")


class Generator:
    """Text to pictures with the parts of the pipeline, in large batches."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        autoencoder: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scaling_factor: float,
    ) -> None:
        self.unet, self.autoencoder, self.text_encoder, self.tokenizer = unet, autoencoder, text_encoder, tokenizer
        self.scaling_factor = scaling_factor

    @classmethod
    def of(cls, pipeline: Any, /) -> Generator:
        """With the parts of a `StableDiffusionPipeline`."""
        factor = pipeline.vae.config.scaling_factor
        return cls(pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, factor)

    @torch.no_grad()
    def states(self, texts: Sequence[str]) -> torch.Tensor:
        """What conditions the U-Net, shape (n, 77, width)."""
        ids = tokenize(self.tokenizer, texts, whole=True)
        return torch.cat([self.text_encoder(input_ids=part).last_hidden_state for part in torch.split(ids, 100)])

    def draw(
        self, texts: Sequence[str], *, seed: int, guidance: float = GUIDANCE, steps: int = STEPS
    ) -> NDArray[np.uint8]:
        """A picture for every text."""
        latents = sample(self.unet, self.states(texts), self.states([""]), seed=seed, guidance=guidance, steps=steps)
        return decode(self.autoencoder, latents / self.scaling_factor)


def measure_clip(clip: CLIPModel, tokenizer: CLIPTokenizer, /) -> dict[str, float]:
    """Picture to caption, among 1,000 fully specified ones."""
    return {"recall_at_1": recall_at_1(clip, tokenizer, 1000, TEST_SEED)}


def measure_autoencoder(autoencoder: AutoencoderKL, /) -> dict[str, float]:
    """Mean PSNR of held-out scenes, and of new characters, in decibels."""
    plain = scenes(_HELD_OUT // 4, TEST_SEED).pictures
    new = np.concatenate([scenes(40, TEST_SEED, character=name).pictures for name in NEW_CHARACTERS])
    return {
        name: float(psnr(pictures, decode(autoencoder, encode(autoencoder, pictures))).mean())
        for name, pictures in (("psnr", plain), ("psnr_new_characters", new))
    }


def measure_readers(readers: FactorReaders, autoencoder: AutoencoderKL, /) -> dict[str, dict[str, float]]:
    """Share of held-out scenes read right, for each factor: renders, reconstructions, and both of new characters."""
    plain = scenes(_HELD_OUT, TEST_SEED)
    figures = {}
    new = [scenes(40, TEST_SEED, character=name) for name in NEW_CHARACTERS]
    pictures = np.concatenate([drawn.pictures for drawn in new])
    factors = [scene for drawn in new for scene in drawn.factors]
    for name, (shown, true) in {"": (plain.pictures, plain.factors), "new_": (pictures, factors)}.items():
        figures[name + "renders"] = readers.accuracy(shown, true)
        figures[name + "reconstructions"] = readers.accuracy(decode(autoencoder, encode(autoencoder, shown)), true)
    return figures


def measure_said(
    generator: Generator,
    readers: FactorReaders,
    /,
    *,
    prompts: int = PROMPTS,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    seed: int = TEST_SEED,
) -> dict[str, float]:
    """For each factor, the share of pictures of full captions in which it is read as the caption says."""
    full = scenes(prompts, seed, said=tuple(FACTORS))
    return readers.accuracy(generator.draw(full.captions, seed=seed, guidance=guidance, steps=steps), full.factors)


def measure_unsaid(
    name: str,
    generator: Generator,
    readers: FactorReaders,
    /,
    *,
    prompts: int = PROMPTS,
    pairs: int = PAIRS,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    seed: int = TEST_SEED + 1,
) -> dict[str, Any]:
    """What becomes of a factor that captions leave out, and say everything but.

    Returns
    -------
    dict
        ``entropy``, in units of the training distribution's (uniform), plug-in, with a 95 % bootstrap interval; ``counts``
        of its values; ``differ``, the share of the first captions whose pictures of two seeds differ in it, and
        ``independent``, what that would be if they had nothing to do with each other.
    """
    values = FACTORS[name]
    silent = scenes(prompts, seed, said=[factor for factor in FACTORS if factor != name])
    first, second = (
        readers.read(generator.draw(texts, seed=noise, guidance=guidance, steps=steps))[name]
        for texts, noise in ((silent.captions, seed), (silent.captions[:pairs], seed + 1))
    )
    return {
        "entropy": _relative_entropy(first, len(values)),
        "counts": {value: first.count(value) for value in values},
        "differ": float(np.mean([a != b for a, b in zip(first, second, strict=False)])),
        "independent": 1 - 1 / len(values),
        "pairs": len(second),
    }


def _relative_entropy(values: Sequence[str], kinds: int) -> dict[str, Any]:
    def ratio(sample: NDArray[np.str_]) -> float:
        return entropy(sample.tolist()) / float(np.log2(kinds))

    found = np.asarray(values)
    estimate = bca_estimate(found, ratio, seed=TEST_SEED, vectorized=False)
    return {"estimate": estimate.value, "ci95": list(estimate.ci95), "n": estimate.n}


def measure_speed(pipeline: Any, /, *, n: int = 64, steps: int = STEPS) -> dict[str, float]:
    """Pictures a second through the pipeline itself, and the share of the time that its U-Net takes."""
    captions = list(scenes(n, TEST_SEED, said=tuple(FACTORS)).captions)
    spent = 0.0
    unet = pipeline.unet
    forward = unet.forward

    def timed(*args: object, **kwargs: object) -> object:
        nonlocal spent
        start = time.perf_counter()
        out = forward(*args, **kwargs)
        spent += time.perf_counter() - start
        return out

    unet.forward = timed
    try:
        start = time.perf_counter()
        pipeline(captions, num_inference_steps=steps, guidance_scale=GUIDANCE, height=64, width=64, output_type="np")
        whole = time.perf_counter() - start
    finally:
        unet.forward = forward
    return {"pictures_per_second": n / whole, "unet_share": spent / whole}
