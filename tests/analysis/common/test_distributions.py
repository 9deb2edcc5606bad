"""Distances of distributions and curves, against what can be computed otherwise."""

import numpy as np
import pytest
from scipy.stats import hypergeom

from analysis.common.curves import Curves, crossing
from analysis.common.distributions import corrected_distance, distance, permuted, significance


def test_distance():
    assert distance(np.array([3, 1]), np.array([2, 6])) == pytest.approx(0.5)
    assert distance(np.array([5, 0]), np.array([0, 7])) == 1
    assert distance(np.array([2, 4]), np.array([5, 10])) == pytest.approx(0)


def test_significance_is_that_of_every_deal():
    a, b = np.array([9, 3]), np.array([6, 14])
    first = np.arange(13)
    dealt = np.stack([first, 12 - first], axis=1)
    possible = hypergeom(32, 15, 12).pmf(first)
    distances = np.abs(dealt[:, 0] / 12 - (15 - dealt[:, 0]) / 20)
    exact = possible[distances >= distance(a, b) - 1e-12].sum()
    assert significance(a, b) == pytest.approx(exact, abs=3 * np.sqrt(exact * (1 - exact) / 9999))


def test_samples_of_one_distribution_have_no_corrected_distance_in_the_mean():
    rng = np.random.default_rng(0)
    shares = np.array([0.3, 0.3, 0.1, 0.1, 0.05, 0.05, 0.04, 0.03, 0.03])
    found = [
        corrected_distance(rng.multinomial(40, shares), rng.multinomial(96, shares), count=200) for _ in range(200)
    ]
    plain = [distance(rng.multinomial(40, shares), rng.multinomial(96, shares)) for _ in range(200)]
    assert np.mean(found) == pytest.approx(0, abs=3 * np.std(found) / np.sqrt(200))
    assert np.mean(plain) > 0.1
    assert corrected_distance(np.array([40, 0]), np.array([0, 96])) == pytest.approx(1)


def test_deals_keep_the_sizes():
    assert len(permuted(np.array([4, 0]), np.array([0, 6]), count=50)) == 50
    assert distance(np.array([4, 0]), np.array([0, 6])) == permuted(np.array([4, 0]), np.array([0, 6])).max()


def test_crossing():
    grid = np.array([0.0, 1.0, 2.0, 3.0])
    assert crossing(grid, np.array([0.0, 0.0, 4.0, 1.0]), 1.0) == pytest.approx(1.25)
    assert crossing(grid, np.array([2.0, 0.0, 4.0, 1.0]), 1.0) == 0
    assert np.isnan(crossing(grid, np.zeros(4), 1.0))


def test_pooled_curves_are_those_of_the_runs_chosen():
    x = np.logspace(-2, 1, 13)
    curves = Curves.of([x, x], [np.full((13, 1), 1.0), np.full((13, 1), 3.0)])
    np.testing.assert_allclose(curves.pooled(), 2.0)
    np.testing.assert_allclose(curves.pooled([0, 0]), 1.0)
    np.testing.assert_allclose(curves.pooled([0, 1, 1]), 7 / 3)
    assert (10 ** curves.grid[0], 10 ** curves.grid[-1]) == pytest.approx((0.01, 10))


def test_curves_do_not_follow_which_run_has_more_points():
    low, high = np.logspace(-2, 1, 7), np.logspace(-1.9, 1, 40)
    curves = Curves.of([low, high], [np.full((7, 1), 1.0), np.full((40, 1), 3.0)])
    np.testing.assert_allclose(curves.pooled(), 2.0)
    far = Curves.of([np.array([1e-6]), np.array([1e6])], [np.array([[1.0]]), np.array([[3.0]])])
    np.testing.assert_allclose(far.pooled(), 2.0)  # however far from a run's points
