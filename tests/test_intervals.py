import numpy as np
import pytest

from clipgeom import DomainError, ShapeError
from clipgeom.intervals import MAX_UNITS, Features, bootstrap_means, interval, mean_intervals, quantile_interval


def test_the_spread_of_resampled_means_is_the_standard_error():
    rows = np.random.default_rng(0).normal(size=(800, 2)) * [1.0, 30.0] + [0.0, 1e6]
    means = bootstrap_means(rows, seed=1, resamples=4000)
    np.testing.assert_allclose(means.std(axis=0), rows.std(axis=0) / np.sqrt(800), rtol=0.05)
    np.testing.assert_allclose(means.mean(axis=0), rows.mean(axis=0), atol=rows.std(axis=0).max() / 400)


def test_many_rows_are_grouped_without_changing_the_interval():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4 * MAX_UNITS + 7, 1)) ** 2
    means = bootstrap_means(rows, seed=1, resamples=1000)
    assert means.std() == pytest.approx(rows.std() / np.sqrt(len(rows)), rel=0.1)
    assert means.mean() == pytest.approx(rows.mean(), rel=1e-3)


def test_same_seed_same_resamples_other_seed_others():
    rows = np.random.default_rng(0).normal(size=(50, 3))
    np.testing.assert_array_equal(bootstrap_means(rows, seed=4), bootstrap_means(rows, seed=4))
    assert (bootstrap_means(rows, seed=4) != bootstrap_means(rows, seed=5)).any()


def test_intervals_cover_the_truth():
    covered = 0
    for trial in range(400):
        rows = np.random.default_rng([7, trial]).gamma(4.0, size=(300, 1))
        mean = Features(rows, {"mean": lambda f: f[0]})
        low, high = mean_intervals(mean, seed=trial, resamples=500)[0]["mean"]
        covered += low <= 4.0 <= high
    assert 0.92 <= covered / 400 <= 0.975  # 95 % ± three standard errors


def test_quantile_intervals_cover_the_truth():
    covered = np.zeros(3)
    for trial in range(600):
        ordered = np.sort(np.random.default_rng([8, trial]).uniform(size=250))
        for k, q in enumerate((0.05, 0.5, 0.95)):
            low, high = quantile_interval(ordered, q)
            covered[k] += low <= q <= high
    assert (covered / 600 >= 0.93).all()
    assert (covered / 600 <= 0.985).all()


def test_bad_input_is_refused():
    with pytest.raises(ShapeError):
        bootstrap_means(np.empty((0, 2)), seed=0)
    with pytest.raises(DomainError, match="between 0 and 1"):
        interval(np.arange(5.0), level=1.5)
