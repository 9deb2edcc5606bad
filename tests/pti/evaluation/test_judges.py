"""Judges against transformers' own outputs, on tiny networks made on the spot."""

import json
import shutil
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clipgeom.errors import ConfigError, EncoderError, ShapeError
from pti.evaluation.attributes import (
    VOCABULARY,
    AttributeClassifier,
    ZeroShotClassifier,
    check_vocabulary,
    mentions,
)
from pti.evaluation.judges import ClipJudge, DinoJudge, ImageJudge, TextJudge
from tests.tiny.judges import save_clip, save_dino

PICTURES = np.random.default_rng(0).integers(0, 256, (40, 48, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory):
    return save_dino(tmp_path_factory.mktemp("dino"))


def test_clip_is_transformers_own(clip_folder):
    judge = ClipJudge.load(clip_folder)
    assert isinstance(judge, TextJudge)
    embedded = judge.embed_images(PICTURES)
    with torch.inference_mode():
        whole = judge.model.get_image_features(pixel_values=judge.preprocess(PICTURES)).pooler_output.numpy()
    np.testing.assert_allclose(embedded, whole, atol=1e-5)
    assert embedded.dtype == np.float64

    texts = ["the cat", "a dog and the cat " * 40]
    found = judge.embed_texts(texts)
    with torch.inference_mode():
        encoded = judge.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        wanted = judge.model.get_text_features(**encoded).pooler_output.numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert not np.allclose(found[0], found[1])


def test_pictures_are_resized_as_the_model_wants_and_alone_as_in_company(clip_folder):
    judge = ClipJudge.load(clip_folder)
    assert judge.preprocess(PICTURES[:2]).shape == (2, 3, 32, 32)
    np.testing.assert_allclose(judge.embed_images(PICTURES)[35:36], judge.embed_images(PICTURES[35:36]), atol=1e-5)


def test_dinov2_gives_its_class_token(dino_folder):
    judge = DinoJudge.load(dino_folder)
    assert isinstance(judge, ImageJudge)
    assert not isinstance(judge, TextJudge)
    with torch.inference_mode():
        wanted = judge.model(pixel_values=judge.preprocess(PICTURES[:3])).pooler_output.numpy()
    np.testing.assert_allclose(judge.embed_images(PICTURES[:3]), wanted, atol=1e-5)


def test_what_is_no_judge_or_no_picture_is_refused(clip_folder, tmp_path):
    with pytest.raises(EncoderError, match=r"config\.json cannot be read"):
        ClipJudge.load(tmp_path)
    judge = ClipJudge.load(clip_folder)
    for wrong in (PICTURES[0], PICTURES.astype(np.float32), PICTURES[:0], PICTURES[..., :2]):
        with pytest.raises(ShapeError, match="expected images as uint8"):
            judge.embed_images(wrong)
    with pytest.raises(ConfigError, match="at least one text"):
        judge.embed_texts([])


def test_a_judge_that_lacks_tensors_is_refused_by_their_names(clip_folder, dino_folder, tmp_path):
    for kind, folder, part in ((ClipJudge, clip_folder, "visual_projection"), (DinoJudge, dino_folder, "layernorm")):
        broken = shutil.copytree(folder, tmp_path / part)
        tensors = load_file(broken / "model.safetensors")
        save_file({k: v for k, v in tensors.items() if not k.startswith(part)}, broken / "model.safetensors")
        with pytest.raises(EncoderError, match=rf"lacks \d tensor\(s\): {part}"):
            kind.load(broken)
        config = json.loads((broken / "config.json").read_text())
        inner = config.get("vision_config", config)
        inner["hidden_size"] = 2**19
        (broken / "config.json").write_text(json.dumps(config))
        with pytest.raises(EncoderError, match=r"config\.json describes|lacks"):  # and not gigabytes
            kind.load(broken)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_judge_cannot_choose_its_attention(clip_folder, dino_folder, tmp_path, key):
    for kind, folder in ((ClipJudge, clip_folder), (DinoJudge, dino_folder)):
        changed = shutil.copytree(folder, tmp_path / kind.__name__)
        config = json.loads((changed / "config.json").read_text())
        (changed / "config.json").write_text(json.dumps({**config, key: "nobody/kernel", "quantization_config": {}}))
        np.testing.assert_array_equal(
            kind.load(changed).embed_images(PICTURES[:2]), kind.load(folder).embed_images(PICTURES[:2])
        )


class Colors:
    """A judge whose embedding of a picture is its mean color, and of a text the color it names."""

    name = "colors"
    named: ClassVar = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "violet": (1, 0, 1)}

    def embed_images(self, pictures):
        return pictures.reshape(len(pictures), -1, 3).mean(axis=1).astype(np.float64) + 1e-3

    def embed_texts(self, texts):
        return np.array(
            [sum(np.array(self.named[w]) for w in text.split() if w in self.named) for text in texts], float
        )


def plain(*colors):
    return np.stack([np.full((4, 4, 3), color, np.uint8) for color in colors])


def test_a_zero_shot_reader_takes_the_mean_of_phrases():
    vocabulary = {"color": {"reddish": ("in red", "violet light"), "green": ("in green",), "blue": ("in blue",)}}
    reader = ZeroShotClassifier(Colors(), vocabulary, subject="knight")
    assert isinstance(reader, AttributeClassifier)
    seen = reader.classify(plain((250, 0, 10), (0, 200, 0), (0, 10, 250), (200, 0, 150)))
    assert seen == {"color": ["reddish", "green", "blue", "reddish"]}


@pytest.mark.parametrize(
    "vocabulary",
    [{}, {"color": {"red": ("red",)}}, {"color": {"red": "red", "blue": ("blue",)}}, {"c": {"a": (), "b": ("b",)}}],
)
def test_vocabularies_without_a_choice_or_without_words_are_refused(vocabulary):
    with pytest.raises(ConfigError):
        check_vocabulary(vocabulary)


def test_the_default_vocabulary_is_one():
    check_vocabulary(VOCABULARY)
    phrases = [p for values in VOCABULARY.values() for many in values.values() for p in many]
    assert len(set(phrases)) == len(phrases)


def test_a_prompt_says_what_its_words_say():
    values = VOCABULARY["background"]
    assert mentions("a picture of {token}, in a forest", values)
    assert mentions("{token}, SNOW", values)
    assert not mentions("a picture of {token}, snowman", values)
    assert not mentions("a picture of {token}", values)
