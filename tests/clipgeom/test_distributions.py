import numpy as np
import pytest

from clipgeom._distributions import entropy, total_variation


def test_total_variation():
    assert total_variation(np.array([0.75, 0.25]), np.array([0.25, 0.75])) == 0.5
    assert total_variation(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1
    np.testing.assert_array_equal(total_variation(np.eye(3), np.eye(3)), np.zeros(3))


def test_entropy_of_rows_of_shares():
    shares = np.array([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(entropy(shares, log=np.log2), [2, 1, 0])
    np.testing.assert_allclose(entropy(shares), np.log(2) * np.array([2, 1, 0]))
    np.testing.assert_allclose(entropy(shares, n=10), entropy(shares) + np.array([3, 1, 0]) / 20)


def test_the_correction_removes_most_of_the_bias():
    rng = np.random.default_rng(0)
    samples = rng.multinomial(48, np.full(9, 1 / 9), size=2000) / 48
    plain, corrected = entropy(samples).mean(), entropy(samples, n=48).mean()
    assert abs(corrected - np.log(9)) < 0.1 * abs(plain - np.log(9))
    assert plain == pytest.approx(np.log(9) - 8 / 96, abs=0.01)
