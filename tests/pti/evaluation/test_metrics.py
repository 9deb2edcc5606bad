"""Measures against what is known: closed forms, invariances, and how often intervals hold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from jaxtyping import config

from clipgeom.errors import DomainError, ShapeError
from pti.evaluation.metrics import (
    diversity,
    image_similarity,
    likeness_within,
    mean_estimate,
    text_similarity,
    zero_shot,
)

few = settings(max_examples=20)
vectors = arrays.arrays(np.float64, (4, 3), elements=st.floats(-5, 5)).filter(
    lambda a: bool((np.linalg.norm(a, axis=1) > 0.1).all())
)


def cosine(a, b):
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


@few
@given(vectors, vectors)
def test_similarities_are_plain_means_of_cosines(a, b):
    pairs = [cosine(x, y) for x in a for y in b]
    assert image_similarity(a, b, seed=0).value == pytest.approx(np.mean(pairs), abs=1e-12)
    own = [cosine(x, y) for x, y in zip(a, b, strict=True)]
    assert text_similarity(a, b, seed=0).value == pytest.approx(np.mean(own), abs=1e-12)
    between = [cosine(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j]
    assert diversity([a], seed=0).value == pytest.approx(1 - np.mean(between), abs=1e-12)


@few
@given(vectors, st.floats(0.1, 50))
def test_lengths_do_not_matter(a, factor):
    for one, other in (
        (image_similarity(a, a, seed=1), image_similarity(a * factor, a, seed=1)),
        (diversity([a, a[:2]], seed=1), diversity([a * factor, a[:2]], seed=1)),
    ):
        assert one.value == pytest.approx(other.value, abs=1e-12)
        assert one.ci95 == pytest.approx(other.ci95, abs=1e-9)


def test_a_mean_has_the_interval_of_its_standard_error():
    scores = np.random.default_rng(0).normal(0.3, 0.1, 400)
    estimate = mean_estimate(scores, seed=0)
    half = 1.96 * scores.std() / 20
    assert estimate.ci95 == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.15 * half)
    assert estimate.n == 400
    assert mean_estimate(scores[:1], seed=0).ci95 == (-math.inf, math.inf)


def test_diversity_knows_copies_from_strangers_and_leaves_single_pictures_out():
    same, apart = np.ones((5, 4)), np.eye(4)
    copies = diversity([same], seed=0)
    assert (copies.value, *copies.ci95) == pytest.approx((0, 0, 0), abs=1e-12)
    assert copies.n == 5
    assert diversity([apart], seed=0).value == 1
    assert diversity([apart, same], seed=0).value == 0.5
    assert diversity([apart, same[:1]], seed=0).n == 4
    assert diversity([apart[:2]], seed=0).ci95 == (0.0, 2.0)
    with pytest.raises(DomainError, match="at least two images"):
        diversity([same[:1]], seed=0)


def test_likeness_is_what_diversity_lacks():
    pictures = np.random.default_rng(0).normal(size=(6, 4))
    alike, apart = likeness_within(pictures, seed=0), diversity([pictures], seed=0)
    assert alike.value == pytest.approx(1 - apart.value)
    assert alike.ci95[0] < alike.value < alike.ci95[1]


def test_the_interval_of_diversity_holds():
    """Pictures about a prompt's own direction: the truth is known, and nine of ten intervals or more must hold it."""
    rng = np.random.default_rng(0)
    hold = []
    for seed in range(40):
        groups = [rng.normal(size=(6, 8)) + 2 * np.eye(8)[prompt] for prompt in range(8)]
        low, high = diversity(groups, seed=seed).ci95
        hold.append(low <= truth_of_diversity() <= high)
    assert np.mean(hold) >= 0.85


def truth_of_diversity(cache=[]):  # noqa: B006 - computed once
    if not cache:
        rng = np.random.default_rng(1)
        units = rng.normal(size=(200_000, 8)) + 2 * np.eye(8)[0]
        mean = (units / np.linalg.norm(units, axis=1, keepdims=True)).mean(axis=0)
        cache.append(1 - mean @ mean)
    return cache[0]


def test_zero_shot_takes_the_nearest_text():
    texts = {
        "color": {"red": np.array([1.0, 0, 0]), "blue": np.array([0, 9.0, 0])},
        "side": {"left": np.array([1, 1, 0.0]), "right": np.array([-1, -1, 0.0])},
    }
    pictures = np.array([[3.0, 1, 5], [-1, 0.5, 0]])
    assert zero_shot(pictures, texts) == {"color": ["red", "blue"], "side": ["left", "right"]}


@pytest.fixture
def unchecked():
    """Shapes as users have them: nobody looks at the annotations."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("bad", [np.ones(3), np.ones((0, 3))])
def test_what_is_no_set_of_embeddings_is_refused(unchecked, bad):
    with pytest.raises(ShapeError):
        image_similarity(bad, np.ones((2, 3)), seed=0)


def test_embeddings_without_direction_or_of_two_judges_are_refused(unchecked):
    for spoilt in (np.zeros((1, 3)), np.full((1, 3), np.nan)):
        with pytest.raises(DomainError, match="no direction"):
            image_similarity(np.ones((2, 3)), spoilt, seed=0)
    with pytest.raises(ShapeError, match="dimensions 3 and 4"):
        image_similarity(np.ones((2, 3)), np.ones((2, 4)), seed=0)
    with pytest.raises(ShapeError, match="a text for each of 2"):
        text_similarity(np.ones((2, 3)), np.ones((1, 3)), seed=0)
