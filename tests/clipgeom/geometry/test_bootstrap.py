import numpy as np
import pytest
from scipy.stats import norm

from clipgeom import DomainError, ShapeError
from clipgeom.geometry.bootstrap import (
    MAX_UNITS,
    Features,
    bootstrap_means,
    grouped_quantile_interval,
    interval,
    jackknife_interval,
    mean_intervals,
    quantile_interval,
    resample_groups,
)
from clipgeom.geometry.groups import consecutive, group_codes, merge_groups


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


# --- rows in groups


def clustered(seed, groups=60, rows=5):
    """Values with an effect of the group, of the group's size, and of the row; the groups' rows lie anywhere."""
    rng = np.random.default_rng([9, seed])
    codes = np.repeat(np.arange(groups), rng.integers(1, 2 * rows, groups))
    values = rng.normal(size=groups)[codes] + 0.7 * rng.normal(size=len(codes))
    mixed = rng.permutation(len(codes))
    return values[mixed], codes[mixed]


def test_groups_are_drawn_as_a_whole():
    values, codes = clustered(0, groups=400)
    means = bootstrap_means(values[:, None], seed=1, resamples=4000, codes=codes)
    deviations = np.bincount(codes, values - values.mean())
    assert means.std() == pytest.approx(np.sqrt(np.sum(deviations**2)) / len(values), rel=0.05)
    assert means.std() > 1.5 * values.std() / np.sqrt(len(values))
    assert means.mean() == pytest.approx(values.mean(), abs=means.std() / 10)


def test_many_groups_are_joined_as_a_whole(monkeypatch):
    monkeypatch.setattr("clipgeom.geometry.bootstrap.MAX_UNITS", 150)
    values, codes = clustered(1, groups=400)
    joined = merge_groups(codes, 150)
    assert len(np.unique(joined)) <= 150
    for group in range(400):
        assert len(set(joined[codes == group])) == 1
    means = bootstrap_means(values[:, None], seed=1, resamples=4000, codes=codes)
    deviations = np.bincount(codes, values - values.mean())
    assert means.std() == pytest.approx(np.sqrt(np.sum(deviations**2)) / len(values), rel=0.15)


def test_jackknife_intervals_of_a_variance_cover_the_truth():
    covered = 0
    for trial in range(400):
        values, codes = clustered(trial)
        left_out = np.array([values[codes != group].var() for group in range(60)])
        low, high = jackknife_interval(float(values.var()), left_out, scale="log")
        covered += low <= 1.49 <= high
    assert 0.90 <= covered / 400 <= 0.975


def test_a_jackknife_interval_stays_in_the_range_of_its_scale():
    low, high = jackknife_interval(0.01, np.array([0.001, 0.05, 0.01, 0.02]), scale="log")
    assert 0 < low < 0.01 < high
    low, high = jackknife_interval(-1.0, np.full(5, -1.0), scale="atanh")
    assert (low, high) == pytest.approx((-1, -1), abs=1e-12)
    assert jackknife_interval(0.0, np.array([0.0, 2.0]), scale="log") == (0.0, 2.0)
    assert np.isnan(jackknife_interval(1.0, np.array([np.nan, 2.0]))).all()


def test_grouped_quantile_intervals_cover_the_truth():
    covered = np.zeros(3)
    for trial in range(300):
        values, codes = clustered(trial)
        for k, q in enumerate((0.05, 0.5, 0.95)):
            low, high = grouped_quantile_interval(values, codes, q)
            covered[k] += low <= norm.ppf(q) * 1.49**0.5 <= high
    assert (covered / 300 >= 0.90).all()
    assert (covered / 300 <= 0.99).all()


def test_group_codes_number_groups_in_order():
    np.testing.assert_array_equal(group_codes(["b", "a", "b", None, None], 5), [0, 1, 0, 2, 3])
    np.testing.assert_array_equal(group_codes(np.array([7, 7, 3]), 3), [0, 0, 1])
    np.testing.assert_array_equal(consecutive(5, 2), [0, 0, 1, 1, 2])
    assert group_codes(None, 3) is None
    assert group_codes(["a", "b", "c"], 3) is None


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a"] * 3, r"one id a vector, got shape \(3,\)"),
        (np.zeros((4, 1)), "one id a vector"),
        ([1.0, 1.0, 2.0, np.nan], "text or whole numbers, got 1.0 for vector 0"),
        ([5, 5, 5, 5], "all 4 vectors are of one group"),
    ],
)
def test_wrong_groups_are_refused(groups, message):
    with pytest.raises((ShapeError, DomainError), match=message):
        group_codes(groups, 4)


def test_resamples_keep_the_rows_of_a_group_together():
    groups = ["a", "a", "b", "c"]
    for rows in resample_groups(groups, resamples=200):
        names = [groups[i] for i in rows]
        assert names.count("a") % 2 == 0
        assert sum({"a": 0.5, "b": 1, "c": 1}[name] for name in names) == 3
