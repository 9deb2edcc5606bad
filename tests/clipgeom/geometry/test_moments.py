from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipgeom import DomainError, Moments, ShapeError

RELATIVE = 1e-10


def exact_moments(rows):
    """Mean and covariance in extended precision, two passes."""
    wide = rows.astype(np.longdouble)
    mean = wide.mean(axis=0)
    centered = wide - mean
    return mean.astype(float), (centered.T @ centered / len(rows)).astype(float)


def assert_agrees(moments, rows):
    mean, covariance = exact_moments(rows)
    assert moments.n == len(rows)
    assert np.abs(moments.mean - mean).max() <= RELATIVE * np.abs(mean).max()
    assert np.abs(moments.covariance - covariance).max() <= RELATIVE * np.abs(covariance).max()


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e4])
@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, 400), max_size=12), order=st.randoms(use_true_random=False))
def test_any_split_and_merge_order_gives_the_moments_of_the_whole(offset, cuts, order):
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(400, 12)) @ rng.normal(size=(12, 12))
    direction = rng.normal(size=12)
    spread = np.sqrt((rows**2).sum(axis=1).mean())
    rows = rows + offset * spread * direction / np.linalg.norm(direction)
    edges = [0, *sorted(cuts), 400]
    parts = [Moments.of(rows[i:j]) for i, j in pairwise(edges)]
    order.shuffle(parts)
    while len(parts) > 1:  # a random merge tree, not only left to right
        left = parts.pop(order.randrange(len(parts)))
        right = parts.pop(order.randrange(len(parts)))
        parts.append(left + right)
    assert_agrees(parts[0], rows)


def test_single_rows_far_from_the_origin_lose_no_digits():
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(2000, 6)) + 1e4 * np.sqrt(6)
    assert_agrees(Moments.from_batches(row[None] for row in rows), rows)


def test_float32_batches_are_summed_in_float64():
    rows = (np.random.default_rng(0).normal(size=(5000, 4)) + 300).astype(np.float32)
    assert_agrees(Moments.of(rows), rows)


def test_empty_moments_are_neutral():
    part = Moments.of(np.arange(6.0).reshape(3, 2))
    for total in (part + Moments.empty(2), Moments.empty(2) + part, part + Moments.of(np.empty((0, 2)))):
        np.testing.assert_array_equal(total.covariance, part.covariance)
        assert total.n == 3


def test_offset_ratio_is_the_norm_of_the_mean_over_the_root_of_the_trace():
    moments = Moments.of(np.array([[3.0, 1.0], [3.0, -1.0]]))
    assert moments.offset_ratio == pytest.approx(3.0)
    assert moments.total_variance == pytest.approx(1.0)
    assert Moments.of(np.ones((4, 2))).offset_ratio == float("inf")


def test_bad_input_is_refused():
    with pytest.raises(ShapeError, match=r"shape \(n, d\)"):
        Moments.of(np.zeros(3))
    with pytest.raises(DomainError, match="NaN or infinity"):
        Moments.of(np.array([[1.0, np.nan]]))
    with pytest.raises(ShapeError, match="dimension 2 and 3"):
        Moments.of(np.zeros((1, 2))) + Moments.of(np.zeros((1, 3)))
    with pytest.raises(DomainError, match="at least one batch"):
        Moments.from_batches([])
    with pytest.raises(DomainError, match="at least 1 vector"):
        _ = Moments.empty(2).mean
    assert Moments.of(np.zeros((1, 2))).__add__(3) is NotImplemented
