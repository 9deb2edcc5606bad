"""The tiny pipelines have what they are there for."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors import safe_open

from tests.tiny.pipelines import LEGACY_EOS, SIDE, save_sd1, save_sd2, save_sdxl

LAYOUTS = {
    "sd1": (save_sd1, StableDiffusionPipeline, "epsilon"),
    "sd2": (save_sd2, StableDiffusionPipeline, "v_prediction"),
    "sdxl": (save_sdxl, StableDiffusionXLPipeline, "epsilon"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_loads_draws_and_has_the_published_oddities(tmp_path, layout):
    save, kind, prediction = LAYOUTS[layout]
    folder = save(tmp_path / "model")
    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    assert type(pipeline) is kind
    assert pipeline.scheduler.config.prediction_type == prediction
    assert not any(path.suffix in (".bin", ".pt", ".ckpt") for path in folder.rglob("*"))
    pipeline.set_progress_bar_config(disable=True)
    shapes = []
    drawn = pipeline(
        "a knight at night",
        num_inference_steps=1,
        output_type="np",
        callback_on_step_end=lambda *a: shapes.append(a[3]["latents"].shape) or {},
    ).images
    assert drawn.shape == (1, SIDE, SIDE, 3)
    assert drawn.std() > 0.01
    assert shapes == [(1, 4, 8, 8)]
    for name in ("text_encoder", "text_encoder_2"):
        if (folder / name).exists():
            assert json.loads((folder / name / "config.json").read_text())["eos_token_id"] == LEGACY_EOS
            with safe_open(folder / name / "model.safetensors", framework="pt") as file:
                assert all(key.startswith(("text_model.", "text_projection")) for key in file.keys())  # noqa: SIM118
            assert pipeline.tokenizer.eos_token_id == len(pipeline.tokenizer) - 1 != LEGACY_EOS
    if layout == "sdxl":
        assert pipeline.tokenizer.pad_token != pipeline.tokenizer_2.pad_token
    assert sum(p.numel() for part in (pipeline.unet, pipeline.vae) for p in part.parameters()) < 150_000


def test_the_seed_decides(tmp_path):
    tables = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save_sd1(tmp_path / name, seed=seed)
        with safe_open(tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors", framework="pt") as file:
            tables.append(file.get_tensor("conv_in.weight"))
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])
