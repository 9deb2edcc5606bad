"""Masked training: where the concept is, what its places weigh, and that only the loss upon pictures knows of it."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import pti.training.trainer
from clipgeom.miniworld import NEW_CHARACTERS, scenes
from clipgeom.miniworld.drawing.render import middle
from pti.config.toml_io import read_config
from pti.data.views import ImageView
from pti.losses import denoising_loss
from pti.training.concept_mask import class_word_saliency, loss_weights, overlay
from pti.workflow import run_stages
from tests.tiny.runs import configuration, session

REACH = (10.0, 14.0)  # of a figure from its middle, in pixels, (x, y)
CELL = 8


@pytest.mark.parametrize("name", sorted(NEW_CHARACTERS))
def test_the_class_word_is_seen_where_the_figure_stands(name, tmp_path):
    """The truth is the renderer's, which the trainer never sees; to a mask that knew nothing, all places would be alike."""
    made = session(
        read_config(None, [f"data.source=miniworld:{name}", f"output.dir={tmp_path}", "data.latent_refinement_steps=0"])
    )
    centers = np.arange(8) * CELL + CELL / 2
    upon, beside = [], []
    for view, factors in zip(made.latents.unmirrored_views, scenes(6, 77, character=name).factors, strict=True):
        x, y = middle(factors["position"])
        touched, figure = (
            (abs(centers - y) < REACH[1] + more)[:, None] & (abs(centers - x) < REACH[0] + more)
            for more in (CELL / 2, 0)
        )
        found = class_word_saliency(made.engine, made.model, made.latents, view, seed=0)
        mask = loss_weights(found, 0.0)[0].numpy()
        upon.append(mask[figure].mean() / mask.max())
        beside.append(mask[~touched].mean() / mask.max())
        assert found.numpy()[figure].min() > np.median(found.numpy()[~touched])
    assert np.mean(upon) > 0.8
    assert np.mean(beside) < 0.4


def test_weights_by_hand():
    found = torch.tensor([[4.0, 1.0], [0.5, 0.0]])  # a quarter of the strongest weighs fully
    by_hand = torch.tensor([[[1.0, 1.0], [0.1 + 0.9 * 0.5, 0.1]]])
    torch.testing.assert_close(loss_weights(found, 0.1), by_hand / by_hand.mean())
    assert torch.equal(loss_weights(found, 1.0), torch.ones(1, 2, 2))
    assert torch.equal(loss_weights(torch.zeros(2, 2), 0.1), torch.ones(1, 2, 2))  # a word without any effect


def test_the_loss_weighs_places():
    rng = np.random.default_rng(0)
    said, target, cells = rng.normal(size=(3, 2, 4, 4)), rng.normal(size=(3, 2, 4, 4)), rng.random((3, 1, 4, 4))
    levels = rng.random(3)
    by_hand = sum(w * (c * (a - b) ** 2).mean() for a, b, c, w in zip(said, target, cells, levels, strict=True)) / 3
    tensors = [torch.from_numpy(x) for x in (said, target, levels, cells)]
    assert float(denoising_loss(*tensors)) == pytest.approx(by_hand, rel=1e-6)
    assert float(denoising_loss(*tensors[:2], mask=torch.ones(3, 1, 4, 4))) == pytest.approx(
        float(denoising_loss(*tensors[:2])), rel=1e-6
    )


def test_a_mirrored_picture_has_mirrored_places(any_pipeline, tmp_path):
    config = configuration(
        any_pipeline, tmp_path, "data.random_flip=true", "data.resize_mode=random_crop", "data.num_random_crops=2"
    )
    latents = session(config).latents
    assert latents.loss_weights([ImageView(0)]) is None
    for number, view in enumerate(latents.unmirrored_views):
        latents.set_loss_weights(view, torch.arange(16.0).view(1, 4, 4) + 100 * number)
    plain, mirrored, other = latents.loss_weights([ImageView(0, 1), ImageView(0, 1, True), ImageView(1, 0)])
    assert torch.equal(plain.flip(-1), mirrored)
    assert not torch.equal(plain, other)


def test_a_run_looks_once_and_shows_what_it_found(sd, tmp_path, monkeypatch):
    looks = []
    monkeypatch.setattr(
        pti.training.trainer, "class_word_saliency", lambda *a, **k: looks.append(a[3]) or class_word_saliency(*a, **k)
    )
    few = ("inversion.steps=1", "lora.steps=1", "validation.prompts=[]", "loss.unmasked_weight=0.1")

    def run(name, *changes):
        """How often it has looked by then."""
        run_stages(configuration(sd, tmp_path / name, *few, *changes), ("invert", "tune"))
        return len(looks)

    assert run("one") == 3
    with Image.open(tmp_path / "one" / "previews" / "focus.png") as shown:
        assert shown.size == (3 * 8, 8)
    assert run("one") == 3  # it is kept
    assert run("two", "loss.unmasked_weight=1.0") == 3
    assert not (tmp_path / "two" / "previews").exists()
    assert run("three", "runtime.seed=1") == 6


def test_both_stages_weigh_places(tmp_path):
    """The loss of the first step, before anything has moved, is another one."""
    losses = {}
    for unmasked in (1.0, 0.1):
        folder = tmp_path / str(unmasked)
        few = ("inversion.steps=1", "lora.steps=1", "validation.prompts=[]", "locality.interpolation=none")
        run_stages(configuration("miniworld", folder, *few, f"loss.unmasked_weight={unmasked}"), ("invert", "tune"))
        table = pd.read_parquet(folder / "metrics.parquet")
        losses[unmasked] = table.groupby("stage").loss.first()
    for stage in ("invert", "tune"):
        assert losses[0.1][stage] != pytest.approx(losses[1.0][stage], rel=1e-3)


def test_places_that_do_not_weigh_are_dark():
    weights = torch.tensor([[[2.0, 1.0], [0.0, 0.0]]])
    shown = overlay(torch.ones(3, 4, 4), weights)
    assert shown.shape == (4, 4, 3)
    assert np.unique(shown[:2, :2]) == 255
    assert np.unique(shown[:2, 2:]) == 153  # half the weight, of which a fifth of the light never goes
    assert np.unique(shown[2:]) == 51
