"""README's configurations are accepted, and mean what they say."""

import re

import pytest

from pti.config.toml_io import read_config
from pti.runs.run import load_run
from pti.workflow import run_stages
from tests.conftest import ROOT
from tests.tiny.runs import save_sd

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def stable_diffusion(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(next(block for block in BLOCKS if "stable-diffusion-v1-5" in block), encoding="utf-8")
    return path


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_block_is_accepted(tmp_path, number):
    (tmp_path / "my.toml").write_text(BLOCKS[number], encoding="utf-8")
    read_config(tmp_path / "my.toml")


def test_the_example_for_stable_diffusion_has_its_usual_values(stable_diffusion):
    config = read_config(stable_diffusion)
    assert config.model.pretrained_model == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert config.inversion.learning_rate == 5e-4
    assert config.lora.learning_rate == 1e-4
    assert config.loss.max_timestep == 1000
    assert config.loss.unmasked_weight == 1
    assert config.data.latent_refinement_steps == config.data.caption_tag_dropout_rate == 0
    assert all(name.startswith("to_") for name in config.lora.target_modules)
    assert config.sampler.guidance_scale == 7
    assert config.runtime.mixed_precision == "fp16"
    assert config.runtime.gradient_checkpointing


def test_the_example_for_stable_diffusion_trains(stable_diffusion, tmp_path):
    pipeline = save_sd(tmp_path / "sd")
    small = (
        "inversion.steps=2",
        "lora.steps=2",
        "validation.images_per_prompt=1",
        "sampler.num_inference_steps=2",
        "data.max_images=3",
    )
    here = (
        "data.source=miniworld:ember",
        "concept.placeholder_token=<tok>",
        "runtime.mixed_precision=no",
        "runtime.device=cpu",
    )
    named = (f'model.pretrained_model="{pipeline}"', f'output.dir="{tmp_path / "run"}"', "concept.class_word=dragon")
    run = load_run(run_stages(read_config(stable_diffusion, (*named, *here, *small)), ("invert", "tune")))
    assert run.record["stages"]["tune"]["stopped"]
    assert not run.lora.in_text
    assert all("attn" in name for name in run.lora.parameters)


def test_no_deleted_repository_is_named():
    assert "runwayml/" not in README
