"""From checkpoints to the folder that comes with the package: half precision, safetensors, checksums, a model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from analysis.miniworld.recipe.recipe import trained_autoencoder, trained_clip, trained_readers, trained_unet
from analysis.miniworld.recipe.stages.diffusion import build_scheduler, scaling_factor
from clipgeom.errors import ConfigError
from clipgeom.miniworld.drawing.canvas import SIZE
from clipgeom.miniworld.weights import CHECKSUMS, digests

__all__ = ["LARGEST", "pack"]

LARGEST = 20_000_000  # bytes of everything
_PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "crop_size": {"height": SIZE, "width": SIZE},
    "do_center_crop": False,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": False,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "rescale_factor": 1 / 255,
    "size": {"height": SIZE, "width": SIZE},
}


def pack(folder: Path, target: Path, /) -> int:
    """Write the weights that a training folder holds, and return their size in bytes.

    `target` is replaced as a whole, once everything has been written.

    Raises
    ------
    ConfigError
        A stage has not run; the weights take more room than they may; `target` contains something other than weights.
    """
    if target.exists() and not _only_weights(target):
        raise ConfigError(f"{target} contains something other than packed weights; choose another place.")
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _write(folder, partial)
    card = files("analysis.miniworld.recipe") / "card.md"
    (partial / "README.md").write_text(card.read_text(encoding="utf-8"), encoding="utf-8")
    (partial / CHECKSUMS).write_text(json.dumps(digests(partial), indent=1) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    if size > LARGEST:
        raise ConfigError(f"the weights take {size:,} bytes, more than {LARGEST:,}; they are left in {partial}.")
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)
    return size


def _only_weights(target: Path) -> bool:
    """Whether every file of a folder is listed in its checksums."""
    if not target.is_dir():
        return False
    try:
        listed = json.loads((target / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        listed = {}
    return digests(target).keys() <= set(listed)


def _write(folder: Path, target: Path) -> None:
    clip, tokenizer = trained_clip(folder)
    autoencoder = trained_autoencoder(folder)
    autoencoder.register_to_config(scaling_factor=scaling_factor(folder / "pools"))
    text = CLIPTextModel(CLIPTextConfig(**clip.text_model.config.to_dict()))
    text.load_state_dict(clip.text_model.state_dict())
    pipeline = StableDiffusionPipeline(
        vae=autoencoder.half(),
        text_encoder=text.half(),  # type: ignore[no-untyped-call]
        tokenizer=tokenizer,
        unet=trained_unet(folder).half(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(target / "pipeline", safe_serialization=True)
    clip.half().save_pretrained(target / "clip")  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(target / "clip")
    (target / "clip" / "preprocessor_config.json").write_text(
        json.dumps(_PREPROCESSOR, indent=2) + "\n", encoding="utf-8"
    )
    (target / "readers").mkdir()
    _save_half(trained_readers(folder).network.state_dict(), target / "readers" / "readers.safetensors")


def _save_half(tensors: Mapping[str, Any], path: Path) -> None:
    save_file({name: tensor.to(torch.float16).contiguous() for name, tensor in tensors.items()}, path)
