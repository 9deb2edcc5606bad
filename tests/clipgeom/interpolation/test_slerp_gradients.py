"""Derivatives: right where they exist, finite everywhere, in every transform."""

import math

import numpy as np
import pytest
import torch

from clipgeom import aslerp, lerp, slerp, vslerp

# torch's own forward mode compiles its decompositions with what it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def _random(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


CENTER = _random(0, 6)
MODES = {
    "lerp": (lerp, ()),
    "slerp": (slerp, ()),
    "vslerp": (lambda a, b, t, c: vslerp(a, b, t, center=c), (CENTER,)),
    "vslerp_norm": (lambda a, b, t, c: vslerp(a, b, t, center=c, keep_norm=True), (CENTER,)),
    "aslerp": (lambda a, b, t, c: aslerp(a, b, t, center=c), (CENTER,)),
}


@pytest.mark.parametrize("mode", MODES)
def test_gradcheck(mode):
    f, center = MODES[mode]
    inputs = [_random(1, 4, 6), _random(2, 4, 6), torch.tensor([0.2, 0.5, 1.1, -0.1], dtype=torch.float64), *center]
    inputs = [x.clone().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(f, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 0.1, 0.249, 0.251, 2.0, 2.0945, 2.5, 3.0])
@pytest.mark.parametrize("scale", [1.0, 1e-40, 1e30, 1e100])
def test_gradients_match_finite_differences(angle, scale):
    """At both seams of the formula, at ω = 0, and where the vectors are scaled."""
    rng = np.random.default_rng(3)
    q, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    a = torch.from_numpy(2 * q[0])
    b = torch.from_numpy(1.5 * (math.cos(angle) * q[0] + math.sin(angle) * q[1]))
    weight = _random(4, 6)
    for t in (0.3, 0.8):
        x, y = (v.mul(scale).requires_grad_() for v in (a, b))
        gradients = torch.autograd.grad((slerp(x, y, t) * weight).sum(), (x, y))
        h = 1e-6
        for vary, gradient in zip((0, 1), gradients, strict=True):
            for i in range(6):
                step = torch.zeros(6, dtype=torch.float64)
                step[i] = h
                up, down = ([v + k * step * (j == vary) for j, v in enumerate((a, b))] for k in (1, -1))
                numeric = ((slerp(*up, t) - slerp(*down, t)) * weight).sum() / (2 * h)
                assert abs(float(gradient[i] - numeric)) <= 1e-7 / (math.pi - angle) ** 2


def test_gradients_keep_their_digits_at_small_angles():
    """∂r/∂b at b = a is t times the identity, by the limit; next to it the difference is of the order of the angle."""
    a = _random(5, 8)
    for angle in (0.0, 1e-15, 1e-12, 1e-8, 1e-5):
        b = a + angle * _random(6, 8)
        jacobian = torch.autograd.functional.jacobian(lambda b: slerp(a, b, 0.3), b)
        assert torch.max(torch.abs(jacobian - 0.3 * torch.eye(8, dtype=torch.float64))) < 1e-14 + 10 * angle


def _adversarial(dtype, n, d):
    """Pairs of every awkward kind at every length, in random combinations."""
    rng = np.random.default_rng(7)
    limits = np.finfo(dtype)
    largest = 10.0 ** math.floor(math.log10(limits.max))
    scales = [limits.smallest_subnormal, limits.tiny * 1e-3, limits.tiny, limits.tiny**0.5, 1e-8, 1, 1, 1, 3]
    scales += [1e8, largest**0.5, largest * 1e-8, largest]
    scales = np.asarray([float(x) for x in scales])

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    u = unit(rng.standard_normal((n, d)))
    other = rng.standard_normal((n, d))
    p = unit(other - np.sum(other * u, -1, keepdims=True) * u)
    tilt = 10.0 ** rng.uniform(-18, 0, (n, 1))
    kind = rng.integers(0, 7, (n, 1))
    v = np.select(
        [kind == 0, kind == 1, kind == 2, kind == 3, kind == 4, kind == 5],
        [u, unit(u + tilt * p), p, -u, unit(tilt * p - u), 0 * u],
        unit(other),
    )
    one, two = (scales[rng.integers(0, len(scales), (n, 1))] for _ in range(2))
    a, b = (u * one).astype(dtype), (v * np.where(rng.random((n, 1)) < 0.5, one, two)).astype(dtype)
    b = np.where((kind == 3) & (rng.random((n, 1)) < 0.5), -a, b)
    swap = rng.random((n, 1)) < 0.5
    t = rng.choice([0.0, 0.25, 0.5, 1.0, -0.1, 1.1, 1e-3], n).astype(dtype)
    return np.where(swap, b, a), np.where(swap, a, b), t


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_hundred_thousand_adversarial_pairs(dtype):
    """Neither value nor derivative is NaN or infinite, in any library, with and without autograd."""
    a, b, t = _adversarial(dtype, 100_000, 6)  # enough numbers for blocks
    value = slerp(a, b, t)
    assert np.isfinite(value).all()
    assert torch.isfinite(slerp(*map(torch.from_numpy, (a, b, t)))).all()
    inputs = [torch.from_numpy(x).requires_grad_() for x in (a, b, t)]
    result = slerp(*inputs)
    assert torch.isfinite(result).all()
    for gradient in torch.autograd.grad(result, inputs, torch.ones_like(result)):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("mode", ["vslerp", "vslerp_norm", "aslerp"])
def test_singular_points_of_the_centred_modes(mode):
    f, (c,) = MODES[mode]
    a = _random(8, 6)
    e = c / c.norm()
    across = a - (a @ e) * e
    for x, y in (
        (a, a),
        (c, a),
        (c, c),
        (a, 2 * c - a),
        (a, a - 2 * across),
        (2 * e, a),
        (2 * e, 3 * e),
        (a, 0 * a),
        (0 * a, 0 * a),
    ):
        inputs = [v.clone().requires_grad_() for v in (x, y, torch.tensor(0.5, dtype=torch.float64), c)]
        result = f(*inputs)
        assert torch.isfinite(result).all()
        for gradient in torch.autograd.grad(result.sum(), inputs):
            assert torch.isfinite(gradient).all()


def test_float32_and_half_precision_take_part():
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        a, b = (_random(k, 3, 6).to(dtype).requires_grad_() for k in (9, 10))
        result = slerp(a, b, 0.5)
        assert result.dtype == dtype
        exact_a, exact_b = (x.detach().double().requires_grad_() for x in (a, b))
        exact = torch.autograd.grad(slerp(exact_a, exact_b, 0.5).sum(), (exact_a, exact_b))
        for gradient, wanted in zip(torch.autograd.grad(result.sum(), (a, b)), exact, strict=True):
            assert gradient.dtype == dtype
            assert torch.max(torch.abs(gradient.double() - wanted)) < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("mode", MODES)
def test_torch_func(mode):
    """vmap, forward and reverse mode: here no branch can look at the values, and the results must be the same."""
    f, center = MODES[mode]
    a, b, t = _random(11, 5, 6), _random(12, 5, 6), torch.linspace(-0.1, 1.1, 5, dtype=torch.float64)
    b[1], b[2], b[3] = -a[1], a[2], -2 * a[3] + 1e-2 * b[3]
    expected = f(a, b, t, *center)
    assert torch.allclose(torch.func.vmap(lambda *x: f(*x, *center))(a, b, t), expected, rtol=1e-12, atol=1e-13)
    forward, reverse = (jac(lambda b: f(a, b, t, *center))(b) for jac in (torch.func.jacfwd, torch.func.jacrev))
    assert torch.allclose(forward, reverse, rtol=1e-9, atol=1e-9)
    assert f(a.to("meta"), b.to("meta"), 0.5, *(c.to("meta") for c in center)).shape == a.shape


@pytest.mark.parametrize("mode", MODES)
def test_t_without_axes_need_not_lie_on_the_device_of_the_vectors(mode):
    f, center = MODES[mode]
    a, b = _random(15, 5, 6), _random(16, 5, 6)
    elsewhere = [x.to("meta") for x in (a, b, *center)]
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    for given in (t, torch.tensor(1), np.array(0.3)):
        result = f(*elsewhere[:2], given, *elsewhere[2:])
        assert result.shape == a.shape
        assert result.device.type == "meta"
    expected = f(a, b, 0.3, *center)
    assert torch.equal(f(a, b, np.array(0.3), *center), expected)
    assert torch.allclose(f(a, b, t, *center), expected, rtol=1e-14, atol=1e-14)


def test_large_arrays_with_gradients_are_not_worked_through_in_blocks():
    a, b = _random(13, 3000, 400), _random(14, 3000, 400)  # more numbers than a block has
    x = a.clone().requires_grad_()
    result = slerp(x, b, 0.5)
    assert torch.allclose(result.detach(), slerp(a, b, 0.5), rtol=1e-12, atol=1e-14)
    assert torch.autograd.grad(result.sum(), x)[0].shape == a.shape
    with torch.no_grad():
        assert not slerp(x, b, 0.5).requires_grad


def test_jax_under_jit_and_grad():
    jax = pytest.importorskip("jax")
    a, b = (x.numpy().astype(np.float32) for x in (_random(15, 7, 6), _random(16, 7, 6)))
    b[0], b[1], b[2] = a[0], -a[1], 0
    compiled = jax.jit(slerp)(jax.numpy.asarray(a), jax.numpy.asarray(b), 0.3)
    assert np.max(np.abs(np.asarray(compiled) - slerp(a, b, 0.3))) < 1e-5
    gradients = jax.jit(jax.grad(lambda a, b: slerp(a, b, 0.3).sum(), (0, 1)))(
        jax.numpy.asarray(a), jax.numpy.asarray(b)
    )
    x, y = (torch.from_numpy(v).requires_grad_() for v in (a, b))
    for got, wanted in zip(gradients, torch.autograd.grad(slerp(x, y, 0.3).sum(), (x, y)), strict=True):
        assert np.max(np.abs(np.asarray(got) - wanted.numpy())) < 1e-4
