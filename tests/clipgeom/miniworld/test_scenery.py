"""The world is what it says: independent factors, the same pictures for the same seed, captions that keep to them."""

import json
from collections import Counter

import numpy as np
import pytest

from clipgeom.errors import ConfigError
from clipgeom.miniworld import FACTORS, NEW_CHARACTERS, entropy, scenes, to_dataset, write_image_folder
from clipgeom.miniworld.captions import draw_caption, full_caption, vocabulary
from clipgeom.miniworld.scenery import captions, picture

GOLDEN = [
    [[181.67, 182.76, 183.55], [183.04, 186.33, 185.14]],
    [[167.51, 176.43, 163.1], [163.01, 168.49, 159.49]],
]  # Pillow 13.0, numpy 2.4


def test_a_scene_depends_on_its_seed_and_number_alone():
    few, many = scenes(3, 11), scenes(7, 11)
    np.testing.assert_array_equal(few.pictures, many.pictures[:3])
    assert few.captions == many.captions[:3]
    assert few.factors == many.factors[:3]
    assert list(captions(7, 11)) == list(many.captions)
    np.testing.assert_array_equal(picture(5, 11), many.pictures[5])
    assert scenes(3, 12).captions != few.captions
    assert few.pictures.shape == (3, 64, 64, 3)
    assert few.pictures.dtype == np.uint8


def test_pictures_are_those_that_the_weights_were_trained_on():
    """Means of channels and quarters, to a tenth of a level: a change of the renderer must be seen here first."""
    pictures = scenes(40, 2024).pictures.astype(np.float64)
    quarters = pictures.reshape(40, 2, 32, 2, 32, 3).mean(axis=(0, 2, 4))
    expected = np.array(GOLDEN)
    np.testing.assert_allclose(quarters, expected, atol=0.1)


def test_fixing_one_factor_changes_no_other():
    free, fixed = scenes(30, 4), scenes(30, 4, fixed={"background": "night", "facing": ("left",)})
    for a, b in zip(free.factors, fixed.factors, strict=True):
        assert b["background"] == "night"
        assert b["facing"] == "left"
        assert {k: v for k, v in a.items() if k not in ("background", "facing")} == {
            k: v for k, v in b.items() if k not in ("background", "facing")
        }


def test_factors_are_uniform_and_independent():
    from clipgeom.miniworld.factors import draw_factors

    rng = np.random.default_rng(0)
    drawn = [draw_factors(rng) for _ in range(6000)]
    for name, values in FACTORS.items():
        counts = Counter(scene[name] for scene in drawn)
        for value in values:
            assert counts[value] / 6000 == pytest.approx(1 / len(values), abs=0.03)
    pairs = Counter((scene["body"], scene["headgear_color"]) for scene in drawn)
    assert max(abs(count / 6000 - 1 / 25) for count in pairs.values()) < 0.015


@pytest.mark.parametrize("factor", FACTORS)
def test_every_value_of_a_factor_changes_the_picture(factor):
    base = scenes(1, 9).factors[0]
    seen = {scenes(1, 9, fixed={**base, factor: value}).pictures.tobytes() for value in FACTORS[factor]}
    assert len(seen) == len(FACTORS[factor])


def test_captions_say_nothing_that_is_not_so():
    """A caption names values of the scene only, and about half of them name all."""
    drawn = scenes(400, 21)
    full = 0
    for text, scene in zip(drawn.captions, drawn.factors, strict=True):
        words = text.replace(",", " ").split()
        others = {v for v in FACTORS["class"] if v != scene["class"]}
        assert not others & set(words)
        colors = {word for word in words if word in FACTORS["body"]}
        assert colors <= {scene["body"], scene["headgear_color"]}
        for position in FACTORS["position"]:
            assert position == scene["position"] or f" {position}" not in text
        full += all(
            value in text for name, value in scene.items() if name not in ("background", "body", "headgear_color")
        ) and colors == {scene["body"], scene["headgear_color"]}
        assert len(words) + text.count(",") <= 38
    assert 0.4 < full / 400 < 0.65


def test_position_5_holds_the_class_word():
    rng = np.random.default_rng(0)
    scene = scenes(1, 0, fixed={"style": "ink illustration", "class": "wizard"}).factors[0]
    assert full_caption(scene).split()[:5] == ["an", "ink", "illustration", "of", "wizard,"]
    assert draw_caption(scene, rng, said=["style"], word="{token}").split()[-1] in ("{token}", "illustration")
    for style in FACTORS["style"]:
        assert len(style.split()) == 2


def test_said_limits_what_is_said():
    drawn = scenes(60, 3, said=["position"])
    for text, scene in zip(drawn.captions, drawn.factors, strict=True):
        assert scene["position"] in text
        assert "character" in text
        assert not set(text.split()) & set(FACTORS["body"])


def test_vocabulary_covers_the_captions():
    words = {word for text in captions(500, 8) for word in text.replace(",", " , ").split()}
    assert words <= set(vocabulary())


def test_new_characters_keep_their_looks_and_stand_anywhere():
    drawn = scenes(60, 5, character="ember")
    assert {scene["class"] for scene in drawn.factors} == {"knight"}
    assert len({scene["position"] for scene in drawn.factors}) == 9
    assert all("{token}" in text for text in drawn.captions)
    assert not any("knight" in text or "red" in text.split() for text in drawn.captions)
    plain = scenes(60, 5, fixed=NEW_CHARACTERS["ember"].factors)
    assert drawn.factors == plain.factors
    assert all((a != b).any() for a, b in zip(drawn.pictures, plain.pictures, strict=True))


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((0,), {}, "n must be a whole number of at least 1"),
        ((-3,), {}, "n must be"),
        ((2.5,), {}, "n must be"),
        ((1, -1), {}, "seed must be"),
        ((1,), {"fixed": {"colour": "red"}}, "no factor 'colour'.*body, headgear"),
        ((1,), {"fixed": {"body": "orange"}}, "body has no value 'orange'.*'purple'"),
        ((1,), {"fixed": {"class": "night"}}, "did you mean 'knight'"),
        ((1,), {"fixed": {"body": ()}}, "no value at all"),
        ((1,), {"said": ["mood"]}, "no factor 'mood'"),
        ((1,), {"character": "embers"}, "did you mean 'ember'"),
        ((1,), {"character": "ember", "fixed": {"class": "wizard"}}, "part of the character 'ember'"),
    ],
)
def test_bad_input(arguments, keywords, message):
    with pytest.raises(ConfigError, match=message):
        scenes(*arguments, **keywords)


def test_as_a_data_set():
    drawn = scenes(4, 6)
    data = to_dataset(drawn)
    assert data.column_names == ["image", "text", *FACTORS]
    assert data["text"][:] == list(drawn.captions)
    np.testing.assert_array_equal(np.asarray(data[2]["image"]), drawn.pictures[2])


def test_as_a_folder(tmp_path):
    from PIL import Image

    drawn = scenes(3, 6)
    folder = write_image_folder(drawn, tmp_path / "w")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == list(drawn.captions)
    assert rows[1]["body"] == drawn.factors[1]["body"]
    with Image.open(folder / rows[2]["file_name"]) as image:
        np.testing.assert_array_equal(np.asarray(image), drawn.pictures[2])
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
    with pytest.raises(ConfigError, match="there already"):
        write_image_folder(drawn, tmp_path / "w")


def test_entropy_in_bits():
    assert entropy(["a", "b", "c", "d"] * 5) == pytest.approx(2.0)
    assert entropy(["a"] * 9) == 0.0
