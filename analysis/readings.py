"""What the studies of the trainer share: whom they teach, what they ask for, and how the readers judge what is drawn.

A study keeps a row for every picture (`read`), and computes every figure from those rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from clipgeom import Certificate, load_text_encoder
from clipgeom import encode as encode_captions
from clipgeom.centering.shells import FittedShells, Whitening
from clipgeom.miniworld import NEW_CHARACTERS, checked_folder, load_readers, scenes
from clipgeom.miniworld.readers import FactorReaders
from clipgeom.miniworld.scenery import captions
from pti.conditioning import encode
from pti.judges import character_values
from pti.models import Model
from pti.objective import denoising_loss, noised, predict, target_of
from pti.run import Run
from pti.sampling import draw

__all__ = [
    "ASKED", "GUIDANCE", "LEFT_OPEN", "LOOKS", "PAIRS", "STEPS", "certificate", "held_out_loss", "read", "readers", "shells",
    "with_rows",
]  # fmt: skip

ROOT = Path(__file__).resolve().parent.parent

# Seed and character of each run: those of reports/pivotal-tuning are others, and no choice is made on them
PAIRS = ((0, "gambit"), (1, "harbor"), (2, "ivory"), (3, "gambit"), (4, "harbor"))
LOOKS = ("class", "body", "headgear", "headgear_color", "pattern", "emblem", "two_tone")
LEFT_OPEN = ("position", "background", "facing", "style")
GUIDANCE, STEPS = 3.0, 15
OPEN = "a picture of {}"  # everything but the character is left to chance

_DRAWING_SEED = 5000
_ASKED = 12
_ASKED_SEED = 7
_PLACES = {
    "meadow": "in a meadow",
    "night": "at night",
    "desert": "in the desert",
    "sea": "by the sea",
    "snow": "in the snow",
    "castle": "in a castle",
}
_HELD_OUT, _HELD_OUT_SEED, _LEVELS = 16, 77, 8
_CAPTIONS = 2000


def _asked() -> tuple[tuple[str, dict[str, str]], ...]:
    found = []
    for scene in scenes(_ASKED, _ASKED_SEED).factors:
        wanted = {name: scene[name] for name in ("style", "position", "background")}
        article = "an" if wanted["style"][0] in "aeiou" else "a"
        text = f"{article} {wanted['style']} of {{}}, {wanted['position']}, {_PLACES[wanted['background']]}"
        found.append((text, wanted))
    return tuple(found)


ASKED = _asked()  # prompts that ask for a style, a position and a background, and what they ask for


@cache
def certificate() -> Certificate:
    """The centering check's verdicts on the world's text encoder."""
    return Certificate.load(ROOT / "reports" / "miniworld" / "certificate.safetensors")


@cache
def shells(position: str) -> tuple[Whitening, FittedShells]:
    """The three shells of real captions at a position of the encoder's hidden states."""
    encoder = load_text_encoder(str(checked_folder("pipeline")), subfolder="text_encoder")
    vectors, _ = encode_captions(encoder, list(captions(_CAPTIONS)), representations="hidden", positions=position)[
        "hidden", position
    ]
    whitening = Whitening.fit(np.asarray(vectors, dtype=np.float64))
    return whitening, FittedShells.of(whitening.radii(np.asarray(vectors, dtype=np.float64)))


@cache
def readers() -> FactorReaders:
    """The readers of the package, once."""
    return load_readers()


def read(
    model: Model, character: str, seed: int, *, word: str = "{token}", scale: float = 1.0, n_open: int, n_asked: int
) -> pd.DataFrame:
    """Draw pictures of "a picture of …" and of the prompts that ask for more, and read them: a row for each.

    Columns: ``kind`` (open or asked), ``index``, ``looks`` (how many of `LOOKS` are the character's), a column for
    each of `LOOKS` (whether it is right), what is read of each of `LEFT_OPEN`, and ``followed`` (which share of what
    was asked for is there).
    """
    texts = [OPEN] * n_open + [ASKED[i % len(ASKED)][0] for i in range(n_asked)]
    wanted = [{}] * n_open + [ASKED[i % len(ASKED)][1] for i in range(n_asked)]
    pictures = draw(
        model,
        [text.format(word) for text in texts],
        seed=_DRAWING_SEED + seed,
        steps=STEPS,
        guidance=GUIDANCE,
        lora_scale=scale,
    )
    seen = readers().read(pictures)
    true = character_values(NEW_CHARACTERS[character])
    rows = []
    for i, asked in enumerate(wanted):
        right = {name: seen[name][i] == true[name] for name in LOOKS}
        followed = float(np.mean([seen[name][i] == value for name, value in asked.items()])) if asked else None
        rows.append(
            {
                "kind": "asked" if asked else "open",
                "index": i,
                **right,
                "looks": sum(right.values()) / len(LOOKS),
                **{name: seen[name][i] for name in LEFT_OPEN},
                "followed": followed,
            }
        )
    return pd.DataFrame(rows)


@torch.no_grad()
def held_out_loss(run: Run, model: Model, character: str) -> float:
    """Mean denoising loss on fresh pictures of the character, on fixed noise at levels spread over the schedule."""
    drawn = scenes(_HELD_OUT, _HELD_OUT_SEED, character=character)
    latents = _latents_of(run, character)
    n_times, total = len(model.alphas), 0.0
    for level in range(_LEVELS):
        rng = np.random.default_rng((_HELD_OUT_SEED, level))
        times = torch.full((_HELD_OUT,), int((level + 0.5) / _LEVELS * n_times))
        noise = torch.from_numpy(rng.standard_normal(tuple(latents.shape), dtype=np.float32))
        conditions = encode(model, [model.pivot.in_prompt(text) for text in drawn.captions])
        said = predict(model, noised(model.alphas, latents, noise, times), times, conditions)
        total += float(denoising_loss(said, target_of(model.prediction, model.alphas, latents, noise, times), None))
    return total / _LEVELS


_KEPT: dict[str, torch.Tensor] = {}


def _latents_of(run: Run, character: str) -> torch.Tensor:
    if character not in _KEPT:
        drawn = scenes(_HELD_OUT, _HELD_OUT_SEED, character=character)
        pixels = torch.from_numpy(drawn.pictures.astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1)
        vae = run.model.vae
        _KEPT[character] = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
    return _KEPT[character]


def with_rows(model: Model, rows: Sequence[torch.Tensor]) -> Model:
    """The model with other embeddings of the new word."""
    assert model.pivot is not None
    return replace(model, pivot=model.pivot.with_rows(list(rows)))
