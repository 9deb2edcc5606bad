"""What the four functions promise about shapes, dtypes, errors, special points and symmetries."""

import doctest
import math
import subprocess
import sys

import array_api_compat
import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import clipgeom.interpolation._slerp
from clipgeom import ShapeError, aslerp, lerp, slerp, vslerp
from clipgeom.interpolation import _backend as _arrays
from tests.clipgeom.interpolation.references import CENTER, distance, like, loop, pairs, times, to_length, vectors

ALL = {
    "lerp": lerp,
    "slerp": slerp,
    "vslerp": lambda a, b, t, **kw: vslerp(a, b, t, center=like(a, CENTER), **kw),
    "vslerp_norm": lambda a, b, t, **kw: vslerp(a, b, t, center=like(a, CENTER), keep_norm=True, **kw),
    "aslerp": lambda a, b, t, **kw: aslerp(a, b, t, center=like(a, CENTER), **kw),
}
every_mode = pytest.mark.parametrize("mode", ALL)


# --- against the definition, in every library ---


@every_mode
def test_matches_the_definition(xp, mode):
    a, b = pairs(0, 20)
    t = np.linspace(-0.2, 1.2, 20)
    expected = np.stack([loop(mode, *row, CENTER) for row in zip(a, b, t, strict=True)])
    result = ALL[mode](xp.asarray(a), xp.asarray(b), xp.asarray(t))
    assert type(result) is type(xp.asarray(a))
    assert result.dtype == xp.float64
    assert tuple(result.shape) == (20, 8)
    assert distance(result, expected) < 1e-13


@every_mode
def test_keeps_float32(xp, mode):
    a, b = (xp.asarray(x) for x in pairs(1, 5, dtype=np.float32))
    result = ALL[mode](a, b, 0.3)
    assert result.dtype == xp.float32
    assert array_api_compat.device(result) == array_api_compat.device(a)


@every_mode
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_float32_rounded_once(mode, dtype):
    a, b = (torch.from_numpy(x).to(dtype) for x in pairs(2, 50))
    result = ALL[mode](a, b, 0.3)
    assert result.dtype == dtype
    if mode in ("lerp", "slerp"):
        assert torch.equal(result, ALL[mode](a.float(), b.float(), 0.3).to(dtype))


def test_numpy_float16():
    a, b = pairs(3, 50, dtype=np.float16)
    assert np.array_equal(slerp(a, b, 0.3), slerp(a.astype(np.float32), b.astype(np.float32), 0.3).astype(np.float16))
    assert np.isfinite(slerp(np.float16([6e4, 0]), np.float16([-6e4, 6e3]), 0.5)).all()  # the exact one is 6e5 long


def test_dtypes_promote_and_t_and_center_do_not_count():
    a, b = pairs(4, 5)
    assert slerp(a.astype(np.float32), b, 0.5).dtype == np.float64
    single = a.astype(np.float32), b.astype(np.float32)
    assert slerp(*single, np.float64(0.5)).dtype == np.float32
    assert slerp(*single, np.full(5, 0.5)).dtype == np.float32
    assert slerp(*single, np.ones(5, dtype=np.int64)).dtype == np.float32
    assert vslerp(*single, 0.5, center=CENTER).dtype == np.float32


@every_mode
def test_inputs_are_not_written_to(mode):
    a, b = pairs(5, 40_000, d=8)
    copies = a.copy(), b.copy()
    for batch in (slice(None), slice(10)):
        ALL[mode](a[batch], b[batch], 0.5)
    assert np.array_equal(a, copies[0])
    assert np.array_equal(b, copies[1])


# --- shapes ---


@every_mode
@pytest.mark.parametrize("library", [np, torch], ids=["numpy", "torch"])
def test_blocks_give_what_single_vectors_give(mode, library, monkeypatch):
    monkeypatch.setattr(_arrays, "BLOCK", 64)
    a, b = (library.asarray(x) for x in pairs(6, 5, 41))
    b[3, 7] = -a[3, 7]  # one block needs care, the others do not
    a[1, 5] *= 1e200
    a[2, 2] = 0
    t = library.asarray(np.random.default_rng(6).uniform(-0.1, 1.1, 41))
    result = ALL[mode](a, b, t)
    for i in range(5):
        for j in range(41):
            one = np.asarray(ALL[mode](a[i, j], b[i, j], t[j]))
            assert np.max(np.abs(np.asarray(result[i, j]) - one)) <= 1e-13 * max(1, np.max(np.abs(one)))
    half = [x.astype(np.float16) if library is np else x.half() for x in (a[3:], b[3:])]
    assert np.array_equal(
        np.asarray(ALL[mode](*half, 0.3))[1, 5], np.asarray(ALL[mode](half[0][1, 5], half[1][1, 5], 0.3))
    )


@every_mode
def test_broadcasting(xp, mode):
    a, b = pairs(7, 3, 4)
    f = ALL[mode]
    full = np.asarray(f(xp.asarray(a), xp.asarray(np.tile(b[0, :1], (3, 4, 1))), xp.asarray(np.full((3, 4), 0.3))))
    assert np.allclose(np.asarray(f(xp.asarray(a), xp.asarray(b[0, 0]), 0.3)), full, rtol=1e-14, atol=1e-14)
    assert np.allclose(
        np.asarray(f(xp.asarray(a), xp.asarray(b[:1, :1]), xp.asarray([0.3], dtype=xp.float64))),
        full,
        rtol=1e-14,
        atol=1e-14,
    )
    path = f(
        xp.asarray(a[0, 0]), xp.asarray(b[0, 0]), xp.asarray([0.0, 0.5, 1.0], dtype=xp.float64)
    )  # t may add to the batch
    assert tuple(path.shape) == (3, 8)
    assert np.allclose(np.asarray(path)[1], np.asarray(f(xp.asarray(a[0, 0]), xp.asarray(b[0, 0]), 0.5)), atol=1e-14)


@every_mode
@pytest.mark.parametrize("axis", [0, 1, -2, -3, 2])
def test_axis(xp, mode, axis):
    a, b = pairs(8, 3, 4)
    t = np.linspace(0, 1, 12).reshape(3, 4)
    moved = (xp.asarray(np.ascontiguousarray(np.moveaxis(x, -1, axis))) for x in (a, b))
    result = ALL[mode](*moved, xp.asarray(t), axis=axis)
    expected = ALL[mode](xp.asarray(a), xp.asarray(b), xp.asarray(t))
    assert np.allclose(np.moveaxis(np.asarray(result), axis, -1), np.asarray(expected), rtol=1e-14, atol=1e-14)


def test_no_vectors_at_all(xp):
    empty = xp.zeros((0, 8))
    for f in ALL.values():
        assert tuple(f(empty, empty, 0.5).shape) == (0, 8)


# --- what is refused ---


@pytest.mark.parametrize(
    ("a", "b", "t", "axis"),
    [
        ((3,), (4,), (), -1),
        ((2, 3), (2, 1), (), -1),  # the vectors' own axis never broadcasts
        ((2, 3), (4, 3), (), -1),
        ((2, 3), (2, 3), (3,), -1),
        ((2, 3), (2, 3), (), 2),
        ((2, 3), (2, 3), (), -3),
        ((), (), (), -1),
        ((2, 0), (2, 0), (), -1),
    ],
)
def test_shapes_that_do_not_fit(xp, a, b, t, axis):
    with pytest.raises(ShapeError, match=r"slerp: expected .*, got .*; \w+"):
        slerp(xp.ones(a), xp.ones(b), xp.ones(t), axis=axis)


@every_mode
@pytest.mark.parametrize("dtype", ["int64", "bool", "complex128"])
def test_dtypes_that_are_refused(xp, mode, dtype):
    with pytest.raises(TypeError, match=r"expected \w in real floating point"):
        ALL[mode](xp.ones(8, dtype=getattr(xp, dtype)), xp.ones(8), 0.5)
    if dtype != "int64":
        with pytest.raises(TypeError, match="expected t in real floating point"):
            slerp(xp.ones(8), xp.ones(8), xp.ones((), dtype=getattr(xp, dtype)))


def test_what_is_not_an_array():
    x = np.ones(3)
    for a, b, t in ([1.0, 2.0, 3.0], x, 0.5), (x, (1.0, 2.0, 3.0), 0.5), (x, x, [0.5]), (x, None, 0.5), (x, x, "0.5"):
        with pytest.raises(TypeError, match=r"slerp: expected (a|b|t) to be .* got (list|tuple|NoneType|str); convert"):
            slerp(a, b, t)
    with pytest.raises(TypeError, match="center"):
        vslerp(x, x, 0.5, center=[1.0, 2.0, 3.0])
    with pytest.raises(TypeError, match="center"):
        aslerp(x, x, 0.5, center=None)
    with pytest.raises(TypeError, match="axis"):
        slerp(x, x, 0.5, axis=0.5)
    if np.finfo(np.longdouble).bits > 64:
        with pytest.raises(TypeError, match="64 bits"):
            slerp(x.astype(np.longdouble), x, 0.5)


def test_mixed_libraries():
    x = np.ones(3)
    for a, b, t in (x, torch.ones(3), 0.5), (x, array_api_strict.ones(3), 0.5), (x, x, torch.tensor(0.5)):
        with pytest.raises(TypeError, match=r"arrays of one library, got a: numpy\.ndarray"):
            slerp(a, b, t)
    with pytest.raises(TypeError, match="one library"):
        vslerp(x, x, 0.5, center=torch.ones(3))


# --- special points ---


@every_mode
def test_ends(xp, mode):
    a, b = (xp.asarray(x) for x in pairs(12, 30))
    for t, end in ((0, a), (1, b), (xp.zeros(30), a), (xp.ones(30), b)):
        assert distance(ALL[mode](a, b, t), end) <= (0 if mode in ("lerp", "slerp") else 1e-14)


def test_midpoint_length_and_angle():
    a, b = pairs(13, 200)
    b *= 3
    r = slerp(a, b, 0.5)
    cos = np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    assert np.allclose(r, (a + b) / (2 * np.cos(np.arccos(cos) / 2))[:, None], rtol=1e-12)
    half = slerp(a, b / np.linalg.norm(b, axis=-1, keepdims=True) * np.linalg.norm(a, axis=-1, keepdims=True), 0.25)
    turned = np.arccos(np.sum(a * half, -1) / np.sum(a * a, -1))
    assert np.allclose(turned, np.arccos(cos) / 4, rtol=1e-10)


@pytest.mark.parametrize("t", [-0.1, 0.0, 0.25, 0.5, 1.0, 1.1])
def test_where_there_is_no_plane_slerp_is_lerp(xp, t):
    a, b = pairs(14, 6, d=5)
    for x, y in ((a, a), (a, 3 * a), (a, 0 * b), (0 * a, b), (0 * a, 0 * b), (a, -a), (a, -2 * a), (1e-200 * a, b)):
        result = np.asarray(slerp(xp.asarray(x), xp.asarray(y), t))
        assert distance(result, (1 - t) * x + t * y) <= 1e-14


def test_the_opposite_vector_is_a_matter_of_rounding_not_of_a_tolerance():
    # Ends of one length have a plane of rotation down to very small deviations, and slerp keeps the length there.
    for phi in (1e-3, 1e-7, 1e-12, 1e-20):
        r = slerp(np.asarray([1.0, 0.0]), np.asarray([-1.0, phi]), 0.5)
        assert np.allclose(r, [0.0, 1.0], atol=1e-3)
        assert abs(np.linalg.norm(r) - 1) < 1e-15 + phi**2
    # -3a, rounded, deviates from the opposite of a by rounding only.
    for d in (2, 8, 768):
        a, _ = pairs(15, 1000, d=d)
        for k in (3.0, 1e-3, 1e6):
            for x in (a, a.astype(np.float32)):
                r = slerp(x, -k * x, 0.5)
                assert r.dtype == x.dtype
                assert distance(r, 0.5 * (x - k * x)) < 4 * np.finfo(x.dtype).eps * (1 + k) * np.max(
                    np.linalg.norm(x, axis=-1)
                )


@every_mode
def test_nan_spoils_its_own_vector_only(xp, mode):
    a, b = pairs(16, 6)
    clean = np.asarray(ALL[mode](xp.asarray(a), xp.asarray(b), 0.3))
    a[1, 2], b[4, 0] = np.nan, np.nan
    a[2, 3] = np.inf
    t = np.full(6, 0.3)
    t[5] = np.nan
    result = np.asarray(ALL[mode](xp.asarray(a), xp.asarray(b), xp.asarray(t)))
    assert np.isnan(result).any(axis=-1).tolist() == [False, True, mode != "lerp", False, True, True]
    if mode != "lerp":
        assert np.isnan(result[[1, 4]]).all()
    assert np.allclose(result[[0, 3]], clean[[0, 3]], rtol=1e-14)


def test_t_next_to_one_is_not_rounded_to_the_dtype_of_the_vectors():
    a, b = np.asarray([1e6, 0], np.float32), np.asarray([0, 1], np.float32)
    for t in (1 - 1e-6, np.asarray(1 - 1e-6)):
        assert abs(slerp(a, b, t)[0] / (1e6 * math.sin(1e-6 * math.pi / 2)) - 1) < 1e-6


# --- symmetries ---


def _in_general_position(mode, a, b):
    """The angle that the mode turns by is neither undefined nor within 0.05 of π."""
    if mode.startswith("vslerp"):
        a, b = a - CENTER, b - CENTER
    if mode == "aslerp":
        e = CENTER / np.linalg.norm(CENTER)
        a, b = a - (a @ e) * e, b - (b @ e) * e
    norms = np.linalg.norm(a), np.linalg.norm(b)
    assume(mode == "lerp" or (min(norms) > 1e-2 and a @ b > -0.999 * norms[0] * norms[1]))


@every_mode
@given(vectors, vectors, times)
def test_symmetric(mode, a, b, t):
    _in_general_position(mode, a, b)
    assume(mode != "vslerp_norm" or np.linalg.norm(vslerp(a, b, t, center=CENTER)) > 1e-2)
    assert np.allclose(ALL[mode](a, b, t), ALL[mode](b, a, 1 - t), rtol=0, atol=1e-11)


@every_mode
@given(vectors, vectors, times, st.integers(0, 2**32 - 1))
def test_commutes_with_rotations(mode, a, b, t, seed):
    _in_general_position(mode, a, b)
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((8, 8)))
    turned = {
        "lerp": lerp,
        "slerp": slerp,
        "vslerp": lambda *x: vslerp(*x, center=q @ CENTER),
        "vslerp_norm": lambda *x: vslerp(*x, center=q @ CENTER, keep_norm=True),
        "aslerp": lambda *x: aslerp(*x, center=q @ CENTER),
    }[mode]
    assume(mode != "vslerp_norm" or np.linalg.norm(vslerp(a, b, t, center=CENTER)) > 1e-2)
    assert np.allclose(turned(q @ a, q @ b, t), q @ ALL[mode](a, b, t), rtol=0, atol=1e-10)


@given(vectors, vectors, times, st.floats(1e-3, 1e3))
def test_slerp_is_homogeneous(a, b, t, k):
    _in_general_position("slerp", a, b)
    assert np.allclose(slerp(k * a, k * b, t), k * slerp(a, b, t), rtol=0, atol=1e-11 * k)


@given(vectors, vectors, times, st.floats(1e-2, 1e2))
def test_slerp_stays_on_a_sphere(a, b, t, radius):
    a, b = to_length(a, radius), to_length(b, radius)
    assume(a @ b > -0.999999 * radius**2)
    assert abs(np.linalg.norm(slerp(a, b, t)) / radius - 1) < 1e-12


# --- the price of the import ---


def test_import_is_light():
    code = "import sys, numpy; before = set(sys.modules); from clipgeom import slerp; print(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added = run.stdout.split()
    assert not {"torch", "transformers", "scipy", "jaxtyping"} & set(added)
    assert len(added) < 40


def test_use_with_numpy_loads_no_torch():
    use = "import sys, numpy as np; from clipgeom import slerp; slerp(np.ones(3), np.ones(3), 0.5)"
    statement = f"{use}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", statement], check=True)


def test_examples():
    failed, attempted = doctest.testmod(clipgeom.interpolation._slerp)
    assert attempted > 0
    assert failed == 0
