"""slerp, vslerp and aslerp against their formulas in 50 digits, evaluated on the very floats that the functions got."""

import math

import array_api_compat
import array_api_strict
import mpmath as mp
import numpy as np
import pytest
import torch

from clipgeom import aslerp, slerp, vslerp
from clipgeom.interpolation import _backend as _arrays

DIGITS = 50
SMALL_ANGLES = ["1e-12", "1e-9", "1e-7", "1e-5", "1e-3", "1e-2", "0.1", "0.2", "0.3", "1", "1.57", "2.09", "2.1", "2.8"]
LIBRARIES = {"numpy": np.asarray, "torch": torch.from_numpy, "strict": array_api_strict.asarray}
DTYPES = [np.float32, np.float64]


def _exact(x):
    return mp.matrix([mp.mpf(float(v)) for v in x])


def _dot(x, y):
    return mp.fdot(x, y)


def _slerp(a, b, t):
    u, v = a / mp.sqrt(_dot(a, a)), b / mp.sqrt(_dot(b, b))
    omega = 2 * mp.atan2(mp.norm(u - v), mp.norm(u + v))
    if omega == 0:
        return (1 - t) * a + t * b
    return (mp.sin((1 - t) * omega) * a + mp.sin(t * omega) * b) / mp.sin(omega)


def _error(result, reference, dtype):
    """In eps of the length of the result."""
    with mp.workdps(DIGITS):
        return float(
            mp.norm(_exact(np.asarray(result)) - reference) / mp.norm(reference) / mp.mpf(float(np.finfo(dtype).eps))
        )


def _pair(rng, d, angle, ratio, dtype):
    """Two vectors at a given angle, built in 50 digits and rounded once to the dtype."""
    with mp.workdps(DIGITS):
        u = _exact(rng.standard_normal(d))
        u /= mp.norm(u)
        p = _exact(rng.standard_normal(d))
        p -= _dot(u, p) * u
        p /= mp.norm(p)
        length = mp.mpf(float(rng.uniform(0.5, 20)))
        v = length * ratio * (mp.cos(angle) * u + mp.sin(angle) * p)
        return tuple(np.asarray([float(x) for x in w]).astype(dtype) for w in (length * u, v))


def _cases(angle, dtype, seed, n=16):
    rng = np.random.default_rng(seed)
    for i in range(n):
        d = 768 if i == 0 else 1024 if i == 1 else int(rng.choice([2, 2, 3, 8, 32]))
        ratio = float(rng.choice([1.0, 1.0, 1.3, 1e6, 1e-6, 10.0 ** rng.uniform(-6, 6)]))
        t = float(dtype(rng.choice([0.5, 0.25, 0.9, 1e-3, 1 - 1e-3, -0.1, 1.1, 1.2, rng.uniform(), rng.uniform()])))
        yield *_pair(rng, d, angle, ratio, dtype), t


def _largest_error(angle, dtype, seed, **options):
    largest = 0.0
    with mp.workdps(DIGITS):
        for a, b, t in _cases(angle, dtype, seed, **options):
            reference = _slerp(_exact(a), _exact(b), mp.mpf(t))
            for convert in LIBRARIES.values():
                largest = max(largest, _error(slerp(convert(a), convert(b), t), reference, dtype))
            tracked = slerp(torch.from_numpy(a).requires_grad_(), torch.from_numpy(b), t)
            largest = max(largest, _error(tracked.detach(), reference, dtype))
    return largest


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("angle", [*SMALL_ANGLES, "pi-0.1"])
def test_eight_eps(angle, dtype):
    with mp.workdps(DIGITS):
        omega = mp.pi - mp.mpf("0.1") if angle == "pi-0.1" else mp.mpf(angle)
    assert _largest_error(omega, dtype, seed=len(angle)) <= 8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exponent", range(1, 8))
def test_towards_pi_the_error_grows_as_the_condition(exponent, dtype):
    # Rounding one end turns it by up to eps, which the quotient by sin ω ≈ π − ω magnifies: the condition is 1/(π − ω).
    with mp.workdps(DIGITS):
        omega = mp.pi - mp.mpf(10) ** -exponent
    bound = 1.5 * 10**exponent if dtype is np.float64 else min(1.5 * 10**exponent, 2 / np.finfo(dtype).eps)
    assert _largest_error(omega, dtype, seed=exponent, n=12) <= max(8, bound)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ends_of_one_length_lose_nothing_towards_pi(dtype):
    # a + b is exact then, whatever the angle, and so there is nothing to magnify.
    for phi in (1e-2, 1e-4, 1e-7):
        a, b = np.asarray([1.0, 0.0], dtype), np.asarray([-1.0, phi], dtype)
        for t in (0.1, 0.5, 0.8):
            with mp.workdps(DIGITS):
                reference = _slerp(_exact(a), _exact(b), mp.mpf(float(dtype(t))))
            assert _error(slerp(a, b, dtype(t)), reference, dtype) <= 4


@pytest.mark.parametrize(
    ("library", "axis"), [("numpy", 0), ("numpy", -1), ("torch", 0), ("torch", -1), ("strict", -1)]
)
def test_blocks_of_long_float32_vectors(library, axis, monkeypatch):
    """The sums over a thousand components, where float32 could lose digits; all three kinds of rows in each block."""
    monkeypatch.setattr(_arrays, "BLOCK", 1 << 14)
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((300, 1024)) + shift for shift in (0.0, 1.0))
    b[::3] = a[::3] + 1e-3 * b[::3]
    b[1::30] = -1.7 * a[1::30] + 0.2 * b[1::30]
    a, b = a.astype(np.float32), b.astype(np.float32)
    convert = LIBRARIES[library]
    x, y = (convert(np.ascontiguousarray(np.moveaxis(v, -1, axis))) for v in (a, b))
    result = np.moveaxis(np.asarray(slerp(x, y, 0.25, axis=axis)), axis, -1)
    reference = slerp(a.astype(np.float64), b.astype(np.float64), 0.25)
    error = np.linalg.norm(result - reference, axis=-1) / np.linalg.norm(reference, axis=-1)
    assert np.max(error) <= 8 * np.finfo(np.float32).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_centred_modes(dtype):
    """To within what rounding the differences costs: an eps of the largest vector, magnified as in slerp."""
    rng = np.random.default_rng(5)
    with mp.workdps(DIGITS):
        for d in (3, 64):
            for _ in range(8):
                a, b, c = (x.astype(dtype) for x in rng.standard_normal((3, d)))
                t = float(dtype(rng.uniform(-0.1, 1.1)))
                x, y, z = map(_exact, (a, b, c))
                e = z / mp.norm(z)
                across = x - _dot(x, e) * e, y - _dot(y, e) * e
                reference = {
                    "vslerp": (x - z, y - z, z + _slerp(x - z, y - z, mp.mpf(t))),
                    "aslerp": (*across, ((1 - t) * _dot(x, e) + t * _dot(y, e)) * e + _slerp(*across, mp.mpf(t))),
                }
                for name, f in (("vslerp", vslerp), ("aslerp", aslerp)):
                    p, q, exact = reference[name]
                    cosine = _dot(p, q) / mp.norm(p) / mp.norm(q)
                    condition = (
                        max(mp.norm(v) for v in (x, y, z)) / min(mp.norm(p), mp.norm(q)) / mp.sqrt((1 + cosine) / 2)
                    )
                    scale = max(mp.norm(v) for v in (x, y, z, exact)) / mp.norm(exact)
                    for convert in LIBRARIES.values():
                        error = _error(f(convert(a), convert(b), t, center=convert(c)), exact, dtype)
                        assert error <= 8 * float(scale * condition)


def test_half_precision_is_the_exact_result_rounded_once():
    rng = np.random.default_rng(6)
    for dtype in (torch.float16, torch.bfloat16):
        a, b = (torch.from_numpy(x).to(dtype) for x in rng.standard_normal((2, 500, 64)))
        exact = slerp(a.double(), b.double(), 0.3)
        rounded = 0.5 * torch.finfo(dtype).eps * exact.abs().clamp_min(torch.finfo(dtype).smallest_normal)
        computed = 4 * torch.finfo(torch.float32).eps * exact.norm(dim=-1, keepdim=True)
        assert torch.all((slerp(a, b, 0.3).double() - exact).abs() <= rounded + computed)


def test_the_series_and_the_quotient_agree():
    """What is differentiated takes a power series below 1/4 rad: the same function on both sides of the seam."""
    for omega in (0.0, 1e-8, 1e-3, 0.24, 0.2501, 0.2503, 0.26, 1.0):
        a, b = (torch.tensor(x, dtype=torch.float64) for x in ([1.0, 0.0], [math.cos(omega), math.sin(omega)]))
        for t in (-0.1, 0.3, 1.4, 3.0):
            r = slerp(a.clone().requires_grad_(), b, t).detach()
            assert torch.allclose(
                r, torch.tensor([math.cos(t * omega), math.sin(t * omega)], dtype=torch.float64), atol=2e-15
            )


def test_values_beyond_the_range_saturate():
    """Opposite ends of unequal length are joined by an arc as long as you like."""
    for xp in map(array_api_compat.array_namespace, (np.ones(1), torch.ones(1))):
        a, b = xp.asarray([1e300, 0.0], dtype=xp.float64), xp.asarray([-5e299, 5e287], dtype=xp.float64)
        assert np.max(np.asarray(slerp(a, b, 0.5))) == np.finfo(np.float64).max
