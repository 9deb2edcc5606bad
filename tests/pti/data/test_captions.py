"""Captions with parts left out."""

import numpy as np
import pytest
import torch

from clipgeom.errors import ConfigError
from pti.config.schema import DataSection
from pti.data.captions import drop_tags, mix_captions
from pti.data.dataset import read_images
from pti.data.latent_cache import CAPTION_VARIANTS, LatentCache
from pti.data.views import ImageView
from pti.models.pipeline import load_pipeline
from tests.tiny.runs import write_pictures

CAPTION = "ink, a {token}, facing left , at night"


def worded(caption=CAPTION, dropout=0.5, count=200, seed=0, templates=()):
    return drop_tags(caption, dropout=dropout, count=count, rng=np.random.default_rng(seed), templates=templates)


def test_the_caption_itself_comes_first_and_the_word_is_never_left_out():
    found = worded()
    assert found[0] == CAPTION
    assert len(found) == 200
    assert all("{token}" in text for text in found)
    assert len(set(found[1:])) == 8  # every subset of three parts


def test_each_part_is_left_out_as_often_as_asked():
    for dropout in (0.2, 0.8):
        shares = [
            np.mean([part in text for text in worded(dropout=dropout, count=2001)[1:]]) for part in ("ink", "night")
        ]
        np.testing.assert_allclose(shares, 1 - dropout, atol=0.05)


def test_order_is_kept_and_nothing_but_whole_parts_is_left_out():
    for text in worded()[1:]:
        parts = text.split(", ")
        assert parts == [part for part in ("ink", "a {token}", "facing left", "at night") if part in parts]


def test_the_ends_of_the_scale():
    assert worded(dropout=0.0) == (CAPTION,)
    assert set(worded(dropout=1.0)[1:]) == {"a {token}"}
    assert set(worded("a {token} at night")) == {"a {token} at night"}
    assert set(worded("dog, sea", dropout=1.0)[1:]) == {"dog"}  # pictures of the class name no new word
    assert worded() == worded()
    assert worded() != worded(seed=1)


def test_templates_take_the_place_of_the_part_with_the_word_as_often_as_others_are_left_out():
    style = "an ink drawing of {token}, facing left, at night"
    templates = ("a picture of {token}", "this is {token}")
    for dropout in (0.2, 0.8):
        found = worded(style, dropout=dropout, count=2001, templates=templates)
        assert found[0] == style
        first = [text.split(", ")[0] for text in found[1:]]
        shares = [np.mean([part == said for part in first]) for said in ("an ink drawing of {token}", *templates)]
        np.testing.assert_allclose(shares, (1 - dropout, dropout / 2, dropout / 2), atol=0.05)
    assert set(worded("an ink drawing of {token}", templates=templates)) == {"an ink drawing of {token}"}
    assert all("{token}" not in text for text in worded("dog, sea", templates=templates))


def test_a_template_without_the_placeholder_is_refused(sd, tmp_path):
    folder = write_pictures(tmp_path / "pictures", (CAPTION,))
    data = DataSection(source=str(folder))
    with pytest.raises(ConfigError, match=r"experimental\.prompt_templates: 'a picture' lacks \{token\}"):
        LatentCache(load_pipeline(str(sd)), read_images(data).samples, data, seed=0, templates=("a picture",))


def test_wordings_share_the_picture_and_have_captions_of_their_own(sd, tmp_path):
    folder = write_pictures(tmp_path / "pictures", (CAPTION, "a {token}, by the sea"))
    data = DataSection(source=str(folder), caption_tag_dropout_rate=0.5)
    model = load_pipeline(str(sd))
    latents = LatentCache(model, read_images(data).samples, data, seed=0)
    assert latents.wordings == CAPTION_VARIANTS == 8
    texts = [latents.caption(ImageView(0, wording=i)) for i in range(8)]
    assert texts[0] == CAPTION
    assert len(set(texts)) > 1
    assert set(texts) <= set(latents.captions())
    noise = torch.zeros(1, *latents.shape)
    assert torch.equal(latents.of([ImageView(0)], noise)[0], latents.of([ImageView(0, wording=3)], noise)[0])
    plain = DataSection(source=str(folder), caption_tag_dropout_rate=0.0)
    assert LatentCache(model, read_images(plain).samples, plain, seed=0).captions() == sorted(
        (CAPTION, "a {token}, by the sea")
    )


def test_parts_are_exchanged_among_captions():
    captions = (
        "a drawing of {token}, top left, at night",
        "{token}, bottom right",
        "a photo of {token}, middle, by day, alone",
    )
    made = mix_captions(captions, rng=np.random.default_rng(0))
    assert [text.count(",") for text in made] == [2, 1, 3]
    assert made != captions
    seen = set()
    for seed in range(200):
        for text in mix_captions(captions, rng=np.random.default_rng(seed)):
            first, second, *rest = text.split(", ")
            assert first in ("a drawing of {token}", "{token}", "a photo of {token}")
            assert second in ("top left", "bottom right", "middle")
            assert rest in ([], ["at night"], ["by day"], ["at night", "alone"], ["by day", "alone"])
            seen.add((first, second))
    assert len(seen) == 9  # every style with every place


def test_a_caption_has_the_word_once_whatever_is_exchanged():
    """Where it stands in different places, a part that holds it is exchanged for such a part only."""
    for seed in range(50):
        for text in mix_captions(("at night, {token}", "{token}, by day"), rng=np.random.default_rng(seed)):
            assert text.count("{token}") == 1
            assert text in ("at night, {token}", "{token}, by day")
    assert mix_captions(("{token}",), rng=np.random.default_rng(0)) == ("{token}",)
