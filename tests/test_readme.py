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
    assert config.model.name == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert config.inversion.rate == 5e-4
    assert config.tuning.rate == 1e-4
    assert config.objective.max_timestep == 1000
    assert config.objective.unmasked_weight == 1
    assert config.data.fit_steps == config.data.tag_dropout == 0
    assert all(name.startswith("to_") for name in config.tuning.targets)
    assert config.sampling.guidance == 7
    assert config.engine.mixed_precision == "fp16"
    assert config.engine.gradient_checkpointing


def test_the_example_for_stable_diffusion_trains(stable_diffusion, tmp_path):
    pipeline = save_sd(tmp_path / "sd")
    small = (
        "inversion.steps=2",
        "tuning.steps=2",
        "sampling.count=1",
        "sampling.steps=2",
        "data.limit=3",
        "tuning.probes=2",
    )
    here = ("data.source=miniworld:ember", "concept.token=<tok>", "engine.mixed_precision=no", "engine.device=cpu")
    named = (f'model.name="{pipeline}"', f'run.folder="{tmp_path / "run"}"', "concept.class_word=dragon")
    run = load_run(run_stages(read_config(stable_diffusion, (*named, *here, *small)), ("invert", "tune")))
    assert run.record["stages"]["tune"]["stopped"]
    assert not run.lora.in_text
    assert all("attn" in name for name in run.lora.parameters)


def test_no_deleted_repository_is_named():
    assert "runwayml/" not in README
