import numpy as np
import pytest

from clipgeom import DomainError, conformity


def test_equals_the_mean_of_all_pairwise_cosines():
    x = np.random.default_rng(0).normal(size=(60, 7)) + 0.5
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = u @ u.T
    expected = (cosines.sum(axis=1) - 1) / 59
    result = conformity(x)
    np.testing.assert_allclose(result.values, expected, rtol=1e-12, atol=1e-14)
    m = x.mean(axis=0)
    np.testing.assert_allclose(result.cosines, u @ m / np.linalg.norm(m), rtol=1e-12)
    slope, intercept = np.polyfit(result.cosines, expected, 1)
    assert result.slope == pytest.approx(slope)
    assert result.intercept == pytest.approx(intercept)
    assert result.pearson == pytest.approx(np.corrcoef(result.cosines, expected)[0, 1])
    assert result.ci95["pearson"][0] <= result.pearson <= result.ci95["pearson"][1]


def test_the_interval_of_the_mean_knows_that_pairs_share_their_members():
    def mean_and_interval(seed):
        x = np.random.default_rng([3, seed]).normal(size=(200, 8)) + 0.6
        result = conformity(x, seed=seed)
        return result.mean, result.ci95["mean"]

    results = [mean_and_interval(seed) for seed in range(300)]
    truth = np.mean([mean for mean, _ in results])  # an unbiased estimate of the mean cosine of two strangers
    covered = np.mean([low <= truth <= high for _, (low, high) in results])
    assert 0.91 <= covered <= 0.98


def test_intervals_by_group_cover_the_mean_cosine_of_strangers():
    covered = np.zeros(2)
    truths = []
    for seed in range(80):
        rng = np.random.default_rng([4, seed])
        groups = np.repeat(np.arange(60), rng.integers(1, 9, 60))
        x = rng.normal(size=(60, 8))[groups] + 0.5 * rng.normal(size=(len(groups), 8)) + 0.6
        by_group = conformity(x, groups=groups)
        truths.append((by_group.ci95["mean"], conformity(x).ci95["mean"], by_group.mean))
        u = x / np.linalg.norm(x, axis=1, keepdims=True)
        strangers = groups[:, None] != groups
        middle = np.mean(by_group.ci95["mean"])
        assert middle == pytest.approx((u @ u.T)[strangers].mean(), abs=0.01)
        assert by_group.mean == conformity(x).mean
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(400_000, 8)) * 1.25**0.5 + 0.6 for _ in range(2))
    truth = np.mean(np.vecdot(x, y) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1))
    for by_group, alone, _ in truths:
        covered += by_group[0] <= truth <= by_group[1], alone[0] <= truth <= alone[1]
    assert covered[0] / 80 >= 0.88
    assert covered[1] / 80 < 0.7


def test_sums_of_groups_are_taken_in_parts(monkeypatch):
    x = np.random.default_rng(0).normal(size=(50, 7)) + 1
    groups = np.random.default_rng(1).integers(0, 20, 50)
    whole = conformity(x, groups=groups)
    monkeypatch.setattr("clipgeom.geometry._conformity._HELD", 7 * 6)
    assert conformity(x, groups=groups).ci95["mean"] == pytest.approx(whole.ci95["mean"], rel=1e-12)


def test_real_text_embeddings_follow_the_published_law(shared):
    result = conformity(np.load(shared("data/vitb32_text_projected_lvis.npy")))
    assert result.pearson > 0.999


def test_bad_input_is_refused():
    with pytest.raises(DomainError, match="vector 1 is zero"):
        conformity(np.array([[1.0, 2], [0, 0], [2, 1]]))
    with pytest.raises(DomainError, match="mean of the vectors is zero"):
        conformity(np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]]))
    with pytest.raises(DomainError, match="at least 3"):
        conformity(np.ones((2, 2)))
