"""From checkpoints to a folder of weights that diffusers, transformers and our loaders take as it is."""

import json

import numpy as np
import pytest
import torch

from analysis.miniworld.recipe import pack as packing
from analysis.miniworld.recipe.loop import Plan, Training
from analysis.miniworld.recipe.measure import Generator, measure_speed
from analysis.miniworld.recipe.stages.autoencoder import build_autoencoder
from analysis.miniworld.recipe.stages.clip import build_clip
from analysis.miniworld.recipe.stages.diffusion import build_unet
from clipgeom import load_text_encoder
from clipgeom.errors import ConfigError, WeightsError
from clipgeom.miniworld import load_clip, load_pipeline
from clipgeom.miniworld.readers import build_network, load_readers
from clipgeom.miniworld.tokenizer import build_tokenizer
from clipgeom.miniworld.weights import CHECKSUMS, checked_folder, digests


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training folder as the stages leave it, of networks that were trained for one step on nothing."""
    folder = tmp_path_factory.mktemp("training")
    torch.manual_seed(0)
    networks = {
        "clip": build_clip(build_tokenizer()),
        "decoder": build_autoencoder(),
        "readers": build_network(),
        "diffusion": build_unet(),
    }
    for name, network in networks.items():
        training = Training(network, Plan(steps=1, rate=1e-3, ema=0.0 if name == "clip" else 0.9), folder / name)
        training.step = 1
        training.save()
    (folder / "pools").mkdir()
    np.save(folder / "pools" / "latents.npy", np.random.default_rng(0).normal(0, 2, (50, 4, 8, 8)).astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def packed(trained, tmp_path_factory):
    target = tmp_path_factory.mktemp("packed") / "weights"
    packing.pack(trained, target)
    return target


def test_what_is_packed_is_listed_and_small(packed):
    listed = json.loads((packed / CHECKSUMS).read_text())
    assert listed == digests(packed)
    assert {name.split("/")[0] for name in listed} == {"README.md", "clip", "pipeline", "readers"}
    assert not any(word in path.read_text() for path in packed.rglob("*.json") for word in ("/root", "/home", "/tmp"))


def test_the_parts_load_and_draw(packed):
    clip, _ = load_clip(root=packed)
    pipeline = load_pipeline(root=packed)
    for name, value in clip.text_model.state_dict().items():
        assert torch.equal(pipeline.text_encoder.state_dict()[name], value), name
    assert pipeline.vae.config.scaling_factor == pytest.approx(0.5, rel=0.02)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(["a red knight"] * 2, num_inference_steps=2, output_type="np").images
    assert drawn.shape == (2, 64, 64, 3)
    assert load_readers(packed / "readers").read((drawn * 255).astype(np.uint8))["facing"]
    assert load_text_encoder(packed / "pipeline").representations[-1] == "hidden"
    assert load_text_encoder(packed / "clip").representations[-1] == "normalized"


def test_the_pipeline_and_the_large_batches_of_the_study_draw_the_same(packed):
    """Same noise, same steps: diffusers' own loop and ours."""
    pipeline = load_pipeline(root=packed)
    pipeline.set_progress_bar_config(disable=True)
    texts = ["a red knight at night", "ghost"]
    start = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(4))
    theirs = pipeline(texts, num_inference_steps=3, guidance_scale=3.0, latents=start, output_type="np").images
    ours = Generator.of(pipeline).draw(texts, seed=4, steps=3, guidance=3.0)
    assert np.abs(theirs * 255 - ours).max() <= 1.0


def test_speed_is_told_with_the_share_of_the_unet(packed):
    pipeline = load_pipeline(root=packed)
    pipeline.set_progress_bar_config(disable=True)
    told = measure_speed(pipeline, n=2, steps=2)
    assert told["pictures_per_second"] > 0
    assert 0 < told["unet_share"] < 1


def test_too_much_is_refused_and_the_old_weights_stay(trained, packed, monkeypatch):
    before = digests(packed)
    monkeypatch.setattr(packing, "LARGEST", 1000)
    with pytest.raises(ConfigError, match="more than 1,000"):
        packing.pack(trained, packed)
    assert digests(packed) == before


def test_a_folder_of_something_else_is_not_replaced(trained, packed, tmp_path):
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path, tmp_path / "file"):
        with pytest.raises(ConfigError, match="something other than packed weights"):
            packing.pack(trained, target)
    (packed / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="something other than packed weights"):
        packing.pack(trained, packed)
    (packed / "notes.txt").unlink()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_is_not_there_is_told_from_one_that_is_not_whole(tmp_path):
    with pytest.raises(WeightsError, match="are not there"):
        checked_folder("clip", root=tmp_path / "absent")
    with pytest.raises(WeightsError, match="not whole"):
        checked_folder("clip", root=tmp_path)
