"""The evaluation on pictures whose truth is known: plain colors, read off their pixels."""

import json
from typing import ClassVar

import numpy as np
import pytest

from clipgeom.errors import ConfigError, ShapeError
from pti.evaluation.evaluate import ALL_ATTRIBUTES, Evaluation, EvaluationImages, Judges, evaluate_images
from tests.pti.evaluation.test_judges import Colors

PLAIN, SAID = "a picture of {token}", "{token} at night"
RED, BLUE, VIOLET = (250, 5, 5), (5, 5, 250), (250, 5, 250)


class Pixels:
    """Classifies the color of an image, its light (the top left pixel's green), and its size, which never changes."""

    vocabulary: ClassVar = {
        "color": {"red": ("red",), "blue": ("blue",)},
        "light": {"night": ("night",), "day": ("day",)},
        "size": {"small": ("small",), "large": ("large",)},
    }

    def classify(self, images):
        return {
            "color": ["red" if p[2, 2, 0] > p[2, 2, 2] else "blue" for p in images],
            "light": ["day" if p[0, 0, 1] > 100 else "night" for p in images],
            "size": ["small" for _ in images],
        }


def stack(colors, days):
    pictures = np.stack([np.full((4, 4, 3), color, np.uint8) for color in colors])
    pictures[:, 0, 0, 1] = [200 if day else 0 for day in days]
    return pictures


# the token: always red, and where the light is unsaid it is always night; the class word: half red, half day
TOKEN = {PLAIN: stack([RED] * 40, [False] * 40), SAID: stack([RED] * 40, [False] * 40)}
CLASS = {PLAIN: stack([RED, BLUE] * 20, [True, True, False, False] * 10), SAID: stack([RED, BLUE] * 20, [False] * 40)}
TRAINING = stack([RED] * 5, [True] * 5)


def evaluate(token=TOKEN, pictures=CLASS, training=TRAINING, tuned=None, **changes):
    settings = {
        "class_word": "red",
        "judges": Judges(text=(Colors(),), classifier=Pixels()),
        "concept_attributes": {"color": "red"},
        "seed": 1,
    }
    return evaluate_images(EvaluationImages(token, pictures, training, tuned), **{**settings, **changes})


def test_what_was_learnt_and_what_leaked():
    found = evaluate()
    assert (found.n_token, found.n_class_word, found.n_training) == (80, 80, 5)
    assert found.prompts == (PLAIN, SAID)
    close = found.reconstruction["colors"]
    assert close.token.value > 0.99
    assert close.difference.ci95[0] > 0.3
    assert found.ceiling["colors"].value == pytest.approx(1)
    assert found.editability["colors"].token.value > found.editability["colors"].class_word.value
    assert found.diversity["colors"].difference.ci95[1] < 0
    assert found.recognition["color"].token.value == 1
    assert found.recognition["color"].class_word.value == 0.5
    assert ALL_ATTRIBUTES not in found.recognition  # one attribute alone
    leak = found.leakage["light"]
    assert leak.distance.n == 40  # only the prompt that does not say the light
    assert leak.distance.value == 0.5
    assert leak.p_value < 0.01
    assert (leak.token, leak.class_word) == ({"night": 1.0, "day": 0.0}, {"night": 0.5, "day": 0.5})
    assert found.entropy["light"].value == pytest.approx(0, abs=1e-9)
    assert found.leakage["size"].distance.value == 0
    assert "size" not in found.entropy
    assert "at least two values" in found.left_out["entropy of size"]
    assert "color" not in found.leakage


def test_nothing_leaks_from_the_class_word_to_itself():
    found = evaluate(token=CLASS)
    assert all(leak.distance.value == 0 for leak in found.leakage.values())
    assert found.entropy["light"].value == 1
    assert found.reconstruction["colors"].difference.value == 0


def test_what_becomes_of_the_class_word():
    """The tuned class word draws what the token does, red ones at night: everything has moved that the prompts do not say."""
    assert not evaluate().class_word_moved
    found = evaluate(tuned=TOKEN)
    assert set(found.class_word_moved) == {"color", "light", "size"}  # learnt or not
    assert found.class_word_moved["color"].distance.value == 0.5
    assert found.class_word_moved["light"].token == {"night": 1.0, "day": 0.0}
    assert found.class_word_moved["light"].distance.n == 40
    assert found.class_word_moved["size"].distance.value == 0
    assert found.leakage == evaluate().leakage  # what is drawn beside them changes nothing
    assert evaluate(tuned=CLASS).class_word_moved["color"].distance.value == 0
    with pytest.raises(ConfigError, match="images of the same prompts"):
        evaluate(tuned={PLAIN: CLASS[PLAIN]})
    content = json.loads(json.dumps(found.to_json()))
    assert Evaluation.from_json(content) == found
    del content["class_word_moved"]  # as it was written before it was measured
    assert not Evaluation.from_json(content).class_word_moved


def test_what_prompts_say_can_be_told():
    every = evaluate(prompt_attributes={PLAIN: (), SAID: ()})
    assert every.leakage["light"].distance.n == 80
    assert every.leakage["light"].distance.value == 0.25
    none = evaluate(prompt_attributes={PLAIN: ("light",), SAID: ("light", "size")})
    assert none.left_out["leakage of light"] == "every prompt contains it"
    assert none.leakage["size"].distance.n == 40
    with pytest.raises(ConfigError, match="not among those"):
        evaluate(prompt_attributes={PLAIN: ()})
    with pytest.raises(ConfigError, match="no attribute 'mood'"):
        evaluate(prompt_attributes={PLAIN: ("mood",), SAID: ()})


def test_attributes_are_right_together_or_not_at_all():
    found = evaluate(concept_attributes={"color": "red", "light": "day", "size": None})
    assert found.recognition["color"].class_word.value == 0.5
    assert found.recognition["light"].class_word.value == 0.25
    assert found.recognition[ALL_ATTRIBUTES].class_word.value == 0.125
    assert "size" not in found.recognition
    assert not found.leakage


def test_it_is_reproducible_and_plain_json():
    found = evaluate()
    assert found == evaluate()
    assert found != evaluate(seed=2)
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["leakage"]["light"]["distance"]["n"] == 40
    single = {prompt: pictures[:1] for prompt, pictures in TOKEN.items()}
    alone = evaluate(token={PLAIN: single[PLAIN]}, pictures={PLAIN: CLASS[PLAIN][:1]})
    assert alone.to_json()["reconstruction"]["colors"]["token"]["ci95"] == [None, None]
    assert "only one training image" in evaluate(training=TRAINING[:1]).left_out["ceiling by colors"]
    assert "at least two images" in alone.left_out["diversity by colors"]


def test_judges_of_pictures_alone_judge_no_texts():
    found = evaluate(judges=Judges(images=(Colors(),)), concept_attributes=None)
    assert set(found.reconstruction) == {"colors"}
    assert not found.editability
    assert not found.leakage


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"token": {}, "pictures": {}}, ConfigError, "at least one prompt"),
        ({"pictures": {PLAIN: CLASS[PLAIN]}}, ConfigError, "same prompts"),
        ({"token": {"no place": TOKEN[PLAIN]}, "pictures": {"no place": CLASS[PLAIN]}}, ConfigError, "has no {token}"),
        ({"training": TRAINING.astype(float)}, ShapeError, "uint8"),
        ({"training": TRAINING[:0]}, ShapeError, "uint8"),
        ({"concept_attributes": {"mood": None}}, ConfigError, "has no attribute 'mood'"),
        ({"concept_attributes": {"color": "green"}}, ConfigError, "no value 'green'; it has: red, blue"),
        ({"judges": Judges(text=(Colors(),), images=(Colors(),))}, ConfigError, "two judges"),
        ({"judges": Judges(text=(Colors(),))}, ConfigError, "need an attribute classifier"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        evaluate(**changes)
