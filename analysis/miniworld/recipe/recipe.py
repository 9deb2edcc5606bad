"""The stages in their order, each with its plan, and how a stage finds what earlier ones made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPModel, CLIPTokenizer

from analysis.miniworld.recipe.loop import Plan, Record, append_line, latest_step
from analysis.miniworld.recipe.stages.autoencoder import build_autoencoder, train_autoencoder
from analysis.miniworld.recipe.stages.clip import build_clip, recall_at_1, train_clip
from analysis.miniworld.recipe.stages.details import train_details
from analysis.miniworld.recipe.stages.diffusion import build_unet, prepare, train_diffusion
from analysis.miniworld.recipe.stages.patches import train_patches
from analysis.miniworld.recipe.stages.readers import train_readers
from clipgeom.errors import ConfigError
from clipgeom.miniworld.readers import FactorReaders, build_network
from clipgeom.miniworld.tokenizer import build_tokenizer

__all__ = [
    "PLANS",
    "STAGES",
    "run_stage",
    "trained_autoencoder",
    "trained_clip",
    "trained_readers",
    "trained_unet",
]

PLANS: Mapping[str, Plan] = MappingProxyType(
    {
        "patches": Plan(steps=1200, rate=1e-3, warmup=50, save_every=100, weight_decay=0.05),
        "clip": Plan(steps=1600, rate=1e-3, warmup=100, save_every=100, weight_decay=0.05),
        "autoencoder": Plan(steps=2600, rate=2e-3, matrix_rate=0.02, warmup=50, save_every=100, ema=0.995),
        "details": Plan(steps=2500, rate=1e-3, matrix_rate=0.01, warmup=50, save_every=100, ema=0.995),
        "decoder": Plan(steps=2400, rate=1e-3, matrix_rate=0.01, warmup=50, save_every=100, ema=0.995),
        "readers": Plan(steps=5000, rate=1e-3, matrix_rate=0.02, warmup=50, ema=0.99),
        "diffusion": Plan(steps=4000, rate=1e-3, matrix_rate=0.02, warmup=100, save_every=100, ema=0.998),
    }
)
_CURVE = "curve.jsonl"
_EVERY = 20  # steps between two points of a curve
_VALIDATION = 2  # seed of the scenes that are looked at while CLIP trains


def run_stage(name: str, folder: Path, /, *, plan: Plan | None = None) -> Iterator[Record]:
    """Train one stage to the end of its plan, from its checkpoint if there is one; its curve grows beside that.

    Raises
    ------
    ConfigError
        No such stage, or one that it needs has not run.
    """
    if name not in STAGES:
        raise ConfigError(f"no stage {name!r}; there are: {', '.join(STAGES)}.")
    plan = PLANS[name] if plan is None else plan
    for record in STAGES[name](folder, plan):
        if record.step % _EVERY == 0 or record.step == plan.steps:
            append_line(folder / name / _CURVE, asdict(record))
        yield record


def trained_clip(folder: Path, /) -> tuple[CLIPModel, CLIPTokenizer]:
    """CLIP as its last checkpoint has it."""
    tokenizer = build_tokenizer()
    model = build_clip(tokenizer)
    model.load_state_dict(_weights(folder / "clip"))
    return model.train(False).requires_grad_(False), tokenizer


def trained_autoencoder(folder: Path, /) -> AutoencoderKL:
    """The autoencoder after its last round, weights averaged."""
    model = build_autoencoder()
    model.load_state_dict(_weights(folder / "decoder"))
    return model.eval().requires_grad_(False)


def trained_readers(folder: Path, /) -> FactorReaders:
    """The readers, weights averaged."""
    network = build_network()
    network.load_state_dict(_weights(folder / "readers"))
    return FactorReaders(network)


def trained_unet(folder: Path, /) -> UNet2DConditionModel:
    """The U-Net, weights averaged."""
    model = build_unet()
    model.load_state_dict(_weights(folder / "diffusion"))
    return model.eval().requires_grad_(False)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of a checkpoint, averaged where an average is kept."""
    if not latest_step(folder):
        raise ConfigError(f"the stage {folder.name!r} has not run yet: {folder} holds no checkpoint.")
    with safe_open(folder / "checkpoint.safetensors", framework="pt") as file:
        keys = list(file.keys())
        return {
            key.removeprefix(prefix): file.get_tensor(key)
            for prefix in ("module.", "average.")  # what is averaged comes second and stays
            for key in keys
            if key.startswith(prefix)
        }


def _tower(folder: Path) -> dict[str, torch.Tensor]:
    """The image tower that has been taught patches."""
    prefix = "tower."
    found = _weights(folder / "patches")
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}


def _patches(folder: Path, plan: Plan) -> Iterator[Record]:
    yield from train_patches(folder / "patches", plan, folder / "pools")


def _clip(folder: Path, plan: Plan) -> Iterator[Record]:
    tokenizer = build_tokenizer()
    for record in train_clip(folder / "clip", plan, folder / "pools", tokenizer, seeing=_tower(folder)):
        yield record
        if record.step % (4 * plan.save_every) == 0 or record.step == plan.steps:
            model, _ = trained_clip(folder)
            recall = recall_at_1(model, tokenizer, 1000, _VALIDATION)
            append_line(folder / "clip" / "recall.jsonl", {"step": record.step, "recall": recall})


def _autoencoder(folder: Path, plan: Plan) -> Iterator[Record]:
    yield from train_autoencoder(folder / "autoencoder", plan, folder / "pools")


def _details(folder: Path, plan: Plan) -> Iterator[Record]:
    autoencoder, tower = build_autoencoder(), build_clip(build_tokenizer()).vision_model
    autoencoder.load_state_dict(_weights(folder / "autoencoder"))
    tower.load_state_dict(_tower(folder))
    yield from train_details(folder / "details", plan, folder / "pools", autoencoder, tower)


def _decoder(folder: Path, plan: Plan) -> Iterator[Record]:
    autoencoder, tower = build_autoencoder(), build_clip(build_tokenizer()).vision_model
    autoencoder.load_state_dict(_weights(folder / "details"))
    tower.load_state_dict(_tower(folder))
    yield from train_details(folder / "decoder", plan, folder / "pools", autoencoder, tower, decoder_only=True)


def _readers(folder: Path, plan: Plan) -> Iterator[Record]:
    yield from train_readers(folder / "readers", plan, folder / "pools", trained_autoencoder(folder))


def _diffusion(folder: Path, plan: Plan) -> Iterator[Record]:
    clip, tokenizer = trained_clip(folder)
    cached = prepare(folder / "pools", trained_autoencoder(folder), clip, tokenizer)
    yield from train_diffusion(folder / "diffusion", plan, cached)


STAGES: Mapping[str, Callable[[Path, Plan], Iterator[Record]]] = MappingProxyType(
    {
        "patches": _patches,
        "clip": _clip,
        "autoencoder": _autoencoder,
        "details": _details,
        "decoder": _decoder,
        "readers": _readers,
        "diffusion": _diffusion,
    }
)
