"""vslerp and aslerp: the centre and its shapes, alpha, keep_norm, and the norms that each mode keeps."""

import doctest
import math

import array_api_compat
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import clipgeom.interpolation._centered
from clipgeom import ClipGeomError, DomainError, ShapeError, aslerp, slerp, vslerp
from tests.clipgeom.interpolation.references import CENTER, distance, loop, pairs, times, to_length, vectors


def test_a_center_per_vector_lies_along_the_same_axis(xp):
    a, b = pairs(9, 5)
    c, _ = pairs(10, 5)
    expected = np.stack([loop("vslerp", a[i], b[i], 0.3, c[i]) for i in range(5)])
    result = vslerp(xp.asarray(a.T.copy()), xp.asarray(b.T.copy()), 0.3, center=xp.asarray(c.T.copy()), axis=0)
    assert distance(np.asarray(result).T, expected) < 1e-13


@pytest.mark.parametrize("f", [vslerp, aslerp])
@pytest.mark.parametrize("center", [(), (7,), (3, 8), (2, 7)])
def test_center_of_the_wrong_shape(xp, f, center):
    with pytest.raises(ShapeError, match="center"):
        f(xp.ones((2, 8)), xp.ones((2, 8)), 0.5, center=xp.ones(center))


@pytest.mark.parametrize(
    ("alpha", "error"), [("1", TypeError), (None, TypeError), (math.nan, DomainError), (math.inf, DomainError)]
)
def test_alpha_is_a_finite_number(alpha, error):
    with pytest.raises(error, match="alpha"):
        vslerp(np.ones(3), np.ones(3), 0.5, center=np.ones(3), alpha=alpha)


def test_an_axis_needs_a_direction(xp):
    x = xp.ones((2, 3))
    for c in (xp.zeros(3), xp.asarray([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])):
        if xp is array_api_compat.array_namespace(np.ones(1)) or "torch" in xp.__name__:
            with pytest.raises(DomainError, match="centre that is not zero"):
                aslerp(x, x, 0.5, center=c)
    assert issubclass(DomainError, ClipGeomError)
    # Where values cannot be looked at, it is slerp.
    a, b = (torch.from_numpy(v) for v in pairs(11, 4))
    mapped = torch.func.vmap(lambda a, b: aslerp(a, b, 0.3, center=torch.zeros(8, dtype=a.dtype) * a))(a, b)
    assert distance(mapped, slerp(a, b, 0.3)) < 1e-14


def test_vslerp_without_a_center_is_slerp():
    a, b = pairs(17, 20)
    assert np.array_equal(vslerp(a, b, 0.3, center=np.zeros(8)), slerp(a, b, 0.3))
    assert np.array_equal(vslerp(a, b, 0.3, center=CENTER, alpha=0), slerp(a, b, 0.3))
    assert distance(vslerp(a, b, 0.3, center=CENTER, alpha=-0.5), vslerp(a, b, 0.3, center=-0.5 * CENTER)) < 1e-14


def test_keep_norm_at_the_origin_and_beyond():
    a = np.asarray([1.0, 2.0])
    assert np.array_equal(vslerp(a, -a, 0.5, center=np.zeros(2), keep_norm=True), np.zeros(2))
    assert np.array_equal(vslerp(a, 9 * a, -3.0, center=np.zeros(2), keep_norm=True), np.zeros(2))


@given(vectors, vectors, vectors, times)
def test_vslerp_stays_on_a_sphere_about_the_center(a, b, c, t):
    a, b = to_length(a, 3.0), to_length(b, 3.0)
    assume(a @ b > -0.999 * 9)
    assert abs(np.linalg.norm(vslerp(a + c, b + c, t, center=c) - c) / 3 - 1) < 1e-12


@given(vectors, vectors, vectors, st.floats(0, 1))
def test_keep_norm_keeps_the_norm(a, b, c, t):
    assume(min(np.linalg.norm(a - c), np.linalg.norm(b - c)) > 1e-2)
    assume(np.linalg.norm(vslerp(a, b, t, center=c)) > 1e-6)
    wanted = (1 - t) * np.linalg.norm(a) + t * np.linalg.norm(b)
    assert abs(np.linalg.norm(vslerp(a, b, t, center=c, keep_norm=True)) - wanted) < 1e-13 * (1 + wanted)


@settings(max_examples=300)
@given(vectors, vectors, vectors, times, st.floats(0.1, 10), st.floats(-10, 10), st.floats(0.1, 10))
def test_aslerp_keeps_both_norms(a, b, c, t, across, along, length):
    """Ends that share ‖x‖ and ‖x − c‖ have the same part along c, and parts of one length across it."""
    e = to_length(c, 1.0)
    a, b = to_length(a - (a @ e) * e, across), to_length(b - (b @ e) * e, across)
    a, b = (to_length(x - (x @ e) * e, across) for x in (a, b))
    assume(a @ b > -0.9999 * across**2)
    a, b, c = a + along * e, b + along * e, length * e
    r = aslerp(a, b, t, center=c)
    assert abs(np.linalg.norm(r) / np.linalg.norm(a) - 1) < 1e-12
    assert abs(np.linalg.norm(r - c) - np.linalg.norm(a - c)) < 1e-12 * max(np.linalg.norm(a - c), np.linalg.norm(a))
    assert np.allclose(r, aslerp(a, b, t, center=7 * c), rtol=0, atol=1e-13 * np.linalg.norm(a))


def test_examples():
    failed, attempted = doctest.testmod(clipgeom.interpolation._centered)
    assert attempted > 0
    assert failed == 0
