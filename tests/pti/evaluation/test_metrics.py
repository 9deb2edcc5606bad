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
    attribute_distribution,
    attribute_rate,
    compare,
    diversity,
    entropy_ratio,
    image_similarity,
    leakage,
    likeness_within,
    mean_estimate,
    text_similarity,
    zero_shot,
)

VALUES = tuple("abcdefghi")
UNIFORM = np.full(9, 1 / 9)
SKEWED = np.array([0.6, *[0.05] * 8])

few = settings(max_examples=20)
vectors = arrays.arrays(np.float64, (4, 3), elements=st.floats(-5, 5)).filter(
    lambda a: bool((np.linalg.norm(a, axis=1) > 0.1).all())
)


def draw(shares, n, seed):
    return [VALUES[i] for i in np.random.default_rng(seed).choice(len(VALUES), size=n, p=shares)]


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
    with pytest.raises(DomainError, match="at least two pictures"):
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


def test_shares_and_rates():
    values = ["a", "a", "c", "a"]
    assert attribute_distribution(values, ("a", "b", "c")) == {"a": 0.75, "b": 0.0, "c": 0.25}
    rate = attribute_rate(["x"] * 90 + ["y"] * 10, "x")
    assert (rate.value, rate.n) == (0.9, 100)
    assert rate.ci95 == pytest.approx((0.8256, 0.9448), abs=1e-4)  # Wilson's, by hand
    assert attribute_rate(["x"] * 10, "x").ci95[0] < 0.75  # ten of ten is not certainty
    with pytest.raises(DomainError, match="'z' is none of"):
        attribute_distribution(["z"], ("a", "b"))


def test_the_difference_of_two_rates_is_newcombes():
    """56/70 against 48/80: Newcombe 1998, Statistics in Medicine 17, 873, method 10, example (a)."""
    rates = compare(attribute_rate(["x"] * 56 + ["y"] * 14, "x"), attribute_rate(["x"] * 48 + ["y"] * 32, "x"))
    assert rates.difference.value == pytest.approx(0.2)
    assert rates.difference.ci95 == pytest.approx((0.0524, 0.3339), abs=1e-4)


@few
@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=30), st.lists(st.sampled_from("abc"), min_size=1, max_size=30)
)
def test_leakage_is_a_distance(p, q):
    one, other = leakage(p, q, "abc", seed=0), leakage(q, p, "abc", seed=0)
    assert one.distance.value == pytest.approx(other.distance.value)
    assert one.distance.value == pytest.approx(max(sum(one.token[v] - one.class_word[v] for v in s) for s in subsets()))
    assert 0 <= one.distance.ci95[0] <= one.distance.value <= one.distance.ci95[1] <= 1
    assert leakage(p, p, "abc", seed=0).distance.value == 0


def subsets():
    return [[v for i, v in enumerate("abc") if mask >> i & 1] for mask in range(8)]


@pytest.mark.parametrize(
    ("p", "q"), [(UNIFORM, UNIFORM), (SKEWED, SKEWED), (SKEWED, UNIFORM)], ids=["alike", "alike, skewed", "apart"]
)
def test_the_interval_of_leakage_holds_and_chance_is_what_it_says(p, q):
    truth = 0.5 * np.abs(p - q).sum()
    leaks = [leakage(draw(p, 50, 2 * s), draw(q, 50, 2 * s + 1), VALUES, seed=s) for s in range(60)]
    assert np.mean([leak.distance.ci95[0] <= truth <= leak.distance.ci95[1] for leak in leaks]) >= 0.9
    if truth == 0:
        assert np.mean([leak.distance.value for leak in leaks]) == pytest.approx(
            np.mean([leak.chance for leak in leaks]), abs=0.03
        )
        assert np.mean([leak.distance.value for leak in leaks]) > 0.1  # what would be told without looking at chance
        assert np.mean([leak.p_value < 0.05 for leak in leaks]) <= 0.15
    else:
        assert np.mean([leak.p_value < 0.05 for leak in leaks]) > 0.9
        assert np.mean([leak.distance.ci95[0] > 0 for leak in leaks]) > 0.9


def test_permutations_stay_within_a_prompt():
    """One prompt shows a, the other b, on both sides, but in other numbers: nothing leaks, and only the prompts tell."""
    token, class_word = ["a"] * 30 + ["b"] * 10, ["a"] * 10 + ["b"] * 30
    prompts = (token, class_word)
    assert leakage(token, class_word, "ab", seed=0).p_value < 0.01
    assert leakage(token, class_word, "ab", seed=0, groups=prompts).p_value == 1
    with pytest.raises(ShapeError, match="one a picture"):
        leakage(token, class_word, "ab", seed=0, groups=(token, class_word[1:]))


def test_few_pictures_that_all_agree_are_not_certainty():
    """Eight of eight: the other value may still have a fifth of each, on one side or on both."""
    agreed = leakage(["a"] * 8, ["a"] * 8, "ab", seed=0).distance
    assert agreed.value == 0
    assert 0.15 < agreed.ci95[1] < 0.4
    assert 0.01 < leakage(["a"] * 100, ["a"] * 100, "ab", seed=0).distance.ci95[1] < 0.04
    low, high = leakage(["a"], ["b"], "ab", seed=0).distance.ci95
    assert low < 0.5
    assert high == 1
    collapsed = entropy_ratio(["a"] * 8, ["a", "b"] * 4, "ab", seed=0)
    assert collapsed.value == 0
    assert 0.1 < collapsed.ci95[1] < 0.8


def entropy(shares):
    return -(shares * np.log(shares)).sum()


@pytest.mark.parametrize(
    ("p", "q"), [(UNIFORM, UNIFORM), (SKEWED, SKEWED), (SKEWED, UNIFORM)], ids=["alike", "alike, skewed", "apart"]
)
def test_the_ratio_of_entropies_is_unbiased_and_its_interval_holds(p, q):
    truth = entropy(p) / entropy(q)
    ratios = [entropy_ratio(draw(p, 60, 2 * s), draw(q, 240, 2 * s + 1), VALUES, seed=s) for s in range(60)]
    assert np.mean([ratio.value for ratio in ratios]) == pytest.approx(truth, abs=0.03)
    assert np.mean([ratio.ci95[0] <= truth <= ratio.ci95[1] for ratio in ratios]) >= 0.85
    plain = [
        entropy_of(draw(p, 60, 2 * s)) / entropy_of(draw(q, 240, 2 * s + 1)) for s in range(60)
    ]  # what the correction is for
    assert abs(np.mean(plain) - truth) > abs(np.mean([ratio.value for ratio in ratios]) - truth)


def entropy_of(values):
    shares = np.unique(values, return_counts=True)[1] / len(values)
    return entropy(shares)


def test_a_collapsed_attribute_has_no_entropy():
    assert entropy_ratio(["a"] * 20, ["a", "b"] * 10, "ab", seed=0).value == 0
    with pytest.raises(DomainError, match="all show one value"):
        entropy_ratio(["a", "b"], ["a", "a"], "ab", seed=0)


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


def test_the_same_seed_gives_the_same_interval_and_another_another():
    p, q = draw(SKEWED, 40, 0), draw(UNIFORM, 40, 1)
    assert leakage(p, q, VALUES, seed=3) == leakage(p, q, VALUES, seed=3)
    assert entropy_ratio(p, q, VALUES, seed=3) == entropy_ratio(p, q, VALUES, seed=3)
    assert entropy_ratio(p, q, VALUES, seed=3).ci95 != entropy_ratio(p, q, VALUES, seed=4).ci95
