"""Measures of attributes against closed forms, and the coverage of their intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipgeom.errors import DomainError, ShapeError
from pti.evaluation.attribute_metrics import (
    attribute_distribution,
    attribute_rate,
    entropy_ratio,
    leakage,
)
from pti.evaluation.metrics import compare

few = settings(max_examples=20)

VALUES = tuple("abcdefghi")


UNIFORM = np.full(9, 1 / 9)


SKEWED = np.array([0.6, *[0.05] * 8])


def draw(shares, n, seed):
    return [VALUES[i] for i in np.random.default_rng(seed).choice(len(VALUES), size=n, p=shares)]


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
    with pytest.raises(ShapeError, match="one for each image"):
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
    with pytest.raises(DomainError, match="at least two values"):
        entropy_ratio(["a", "b"], ["a", "a"], "ab", seed=0)


def test_the_same_seed_gives_the_same_interval_and_another_another():
    p, q = draw(SKEWED, 40, 0), draw(UNIFORM, 40, 1)
    assert leakage(p, q, VALUES, seed=3) == leakage(p, q, VALUES, seed=3)
    assert entropy_ratio(p, q, VALUES, seed=3) == entropy_ratio(p, q, VALUES, seed=3)
    assert entropy_ratio(p, q, VALUES, seed=3).ci95 != entropy_ratio(p, q, VALUES, seed=4).ci95
