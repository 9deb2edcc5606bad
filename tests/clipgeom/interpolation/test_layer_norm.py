"""vslerp_ln: on the surface of the LayerNorm's outputs, in every library, with gradients."""

import doctest
import math

import array_api_compat
import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import clipgeom
from clipgeom import DomainError, ShapeError, vslerp, vslerp_ln
from clipgeom.interpolation import _backend, _layer_norm

# torch's own forward mode compiles its decompositions with what it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

D = 8
GAMMA, BETA = np.linspace(0.4, 2.5, D), np.linspace(1.0, -0.6, D)
CENTER = 0.3 * np.cos(np.arange(D)) + BETA


def _outputs(seed, *batch, d=D, gamma=GAMMA, beta=BETA):
    """Outputs of a LayerNorm without epsilon."""
    z = np.random.default_rng(seed).standard_normal((*batch, d))
    z -= z.mean(-1, keepdims=True)
    return gamma * z / np.sqrt(np.mean(z**2, -1, keepdims=True)) + beta


def _loop(a, b, t, c, gamma, beta):
    """The definition for one pair, in plain float64."""
    u, v = a - c, b - c
    unit = u / np.linalg.norm(u), v / np.linalg.norm(v)
    omega = 2 * math.atan2(np.linalg.norm(unit[0] - unit[1]), np.linalg.norm(unit[0] + unit[1]))
    r = c + (math.sin((1 - t) * omega) * u + math.sin(t * omega) * v) / math.sin(omega)
    z = (r - beta) / gamma
    z = z - z.mean()
    return gamma * z * math.sqrt(len(z)) / np.linalg.norm(z) + beta


def _mode(xp, a, b, t, **kw):
    like = array_api_compat.array_namespace(a)
    vectors = {k: like.asarray(v, dtype=a.dtype) for k, v in (("center", CENTER), ("gamma", GAMMA), ("beta", BETA))}
    return vslerp_ln(a, b, t, **vectors, **kw)


def test_matches_the_definition(xp):
    a, b = _outputs(0, 20), _outputs(1, 20)
    t = np.linspace(-0.2, 1.2, 20)
    expected = np.stack([_loop(*row, CENTER, GAMMA, BETA) for row in zip(a, b, t, strict=True)])
    found = _mode(xp, xp.asarray(a), xp.asarray(b), xp.asarray(t))
    assert type(found) is type(xp.asarray(a))
    assert found.dtype == xp.float64
    assert np.max(np.abs(np.asarray(found) - expected)) < 1e-13
    across = _mode(xp, xp.asarray(a.T.copy()), xp.asarray(b.T.copy()), xp.asarray(t), axis=0)
    assert np.max(np.abs(np.asarray(across).T - expected)) < 1e-13


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matches_fifty_digits(dtype):
    rng = np.random.default_rng(2)
    for seed in range(8):
        d = 16
        gamma, beta = rng.uniform(0.2, 3, d).astype(dtype), rng.standard_normal(d).astype(dtype)
        a, b = (_outputs(s, d=d, gamma=gamma, beta=beta).astype(dtype) for s in (seed, 100 + seed))
        c, t = beta.copy(), float(rng.uniform(0.1, 0.9))
        with mp.workdps(50):
            exact = [mp.matrix([mp.mpf(float(v)) for v in x]) for x in (a, b, c, gamma, beta)]
            u, v = exact[0] - exact[2], exact[1] - exact[2]
            omega = mp.acos(mp.fdot(u, v) / mp.sqrt(mp.fdot(u, u) * mp.fdot(v, v)))
            r = exact[2] + (mp.sin((1 - t) * omega) * u + mp.sin(t * omega) * v) / mp.sin(omega)
            z = [(r[i] - exact[4][i]) / exact[3][i] for i in range(d)]
            mean = mp.fsum(z) / d
            z = [x - mean for x in z]
            norm = mp.sqrt(mp.fsum(x * x for x in z))
            expected = np.asarray([float(exact[3][i] * z[i] * mp.sqrt(d) / norm + exact[4][i]) for i in range(d)])
        found = vslerp_ln(a, b, t, center=c, gamma=gamma, beta=beta)
        assert found.dtype == dtype
        assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 20 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    a, b = (torch.from_numpy(_outputs(s, 50)).to(dtype) for s in (3, 4))
    vectors = [torch.from_numpy(x).float() for x in (CENTER, GAMMA, BETA)]
    found = vslerp_ln(a, b, 0.3, center=vectors[0], gamma=vectors[1], beta=vectors[2])
    single = vslerp_ln(a.float(), b.float(), 0.3, center=vectors[0], gamma=vectors[1], beta=vectors[2])
    assert found.dtype == dtype
    assert torch.equal(found, single.to(dtype))


def test_results_are_outputs_of_the_layer_norm():
    """torch's LayerNorm gives the same vector for a result, mapped back to its input: it is a fixed point."""
    layer = torch.nn.LayerNorm(D, eps=0.0, dtype=torch.float64)
    layer.weight.data, layer.bias.data = torch.from_numpy(GAMMA), torch.from_numpy(BETA)
    a, b = (layer(torch.from_numpy(np.random.default_rng(s).standard_normal((40, D)))).detach() for s in (5, 6))
    c = a.mean(0)
    found = vslerp_ln(a, b, 0.5, center=c, gamma=layer.weight.detach(), beta=layer.bias.detach())
    again = layer((found - layer.bias.detach()) / layer.weight.detach())
    torch.testing.assert_close(again, found, rtol=0, atol=1e-12)
    with_norm = vslerp(a, b, 0.5, center=c, keep_norm=True)
    assert (layer((with_norm - layer.bias) / layer.weight) - with_norm).norm(dim=-1).min() > 1e-3


@given(st.integers(0, 2**32 - 1), st.floats(-0.25, 1.25), st.floats(0.01, 100))
def test_the_surface_is_kept(seed, t, scale):
    rng = np.random.default_rng(seed)
    gamma, beta = scale * rng.uniform(0.2, 3, D), rng.standard_normal(D)
    a, b = (_outputs(s, gamma=gamma, beta=beta) for s in (seed, seed + 1))
    c = beta + scale * rng.standard_normal(D)
    u, v = a - c, b - c
    assume(u @ v > -0.99 * np.linalg.norm(u) * np.linalg.norm(v))
    plain = (vslerp(a, b, t, center=c) - beta) / gamma
    assume(np.linalg.norm(plain - plain.mean()) > 1e-3)
    z = (vslerp_ln(a, b, t, center=c, gamma=gamma, beta=beta) - beta) / gamma
    assert abs(z.mean()) < 1e-9 * (1 + 1 / scale)
    assert abs(np.linalg.norm(z) / math.sqrt(D) - 1) < 1e-9 * (1 + 1 / scale)


def test_ends_and_symmetry(xp):
    a, b = (xp.asarray(_outputs(s, 30)) for s in (7, 8))
    for t, end in ((0, a), (1, b)):
        assert np.max(np.abs(np.asarray(_mode(xp, a, b, t)) - np.asarray(end))) < 1e-13
    there, back = np.asarray(_mode(xp, a, b, 0.2)), np.asarray(_mode(xp, b, a, 0.8))
    assert np.max(np.abs(there - back)) < 1e-13


def test_the_epsilon_of_a_layer_norm_moves_the_ends_by_its_share():
    layer = torch.nn.LayerNorm(D, eps=1e-5, dtype=torch.float64)
    layer.weight.data, layer.bias.data = torch.from_numpy(GAMMA), torch.from_numpy(BETA)
    a, b = (layer(torch.from_numpy(np.random.default_rng(s).standard_normal((40, D)))).detach() for s in (9, 10))
    found = vslerp_ln(a, b, 0.0, center=a.mean(0), gamma=layer.weight.detach(), beta=layer.bias.detach())
    shift = ((found - a) / (a - layer.bias.detach())).abs().max()
    assert 0 < shift < 1e-4


@pytest.mark.parametrize("library", [np, torch], ids=["numpy", "torch"])
def test_blocks_give_what_single_vectors_give(library, monkeypatch):
    monkeypatch.setattr(_backend, "BLOCK", 64)
    a, b = (library.asarray(_outputs(s, 5, 41)) for s in (11, 12))
    found = _mode(library, a, b, 0.3)
    for i, j in ((0, 0), (3, 17), (4, 40)):
        np.testing.assert_allclose(found[i, j], _mode(library, a[i, j], b[i, j], 0.3), atol=1e-13)


def test_gradients():
    rng = np.random.default_rng(13)
    a, b = (torch.from_numpy(_outputs(s, 3)) for s in (14, 15))
    t = torch.tensor([0.2, 0.5, 1.1], dtype=torch.float64)
    inputs = [x.clone().requires_grad_() for x in (a, b, t, *(torch.from_numpy(v) for v in (CENTER, GAMMA, BETA)))]
    call = lambda a, b, t, c, g, h: vslerp_ln(a, b, t, center=c, gamma=g, beta=h)  # noqa: E731
    assert torch.autograd.gradcheck(call, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, inputs)
    same = torch.from_numpy(_outputs(16)).requires_grad_()  # parallel ends, a point with no direction
    for x in (same, torch.from_numpy(BETA).requires_grad_()):
        found = vslerp_ln(x, x, 0.5, center=inputs[3].detach(), gamma=inputs[4].detach(), beta=inputs[5].detach())
        (gradient,) = torch.autograd.grad((found * torch.from_numpy(rng.standard_normal(D))).sum(), x)
        assert torch.isfinite(gradient).all()
    mapped = torch.func.vmap(lambda a, b: call(a, b, 0.3, *(v.detach() for v in inputs[3:])))(a, b)
    torch.testing.assert_close(mapped, call(a, b, 0.3, *(v.detach() for v in inputs[3:])))


def test_jax_under_jit():
    jax = pytest.importorskip("jax")
    a, b = (_outputs(s, 4).astype(np.float32) for s in (17, 18))
    vectors = {"center": CENTER, "gamma": GAMMA, "beta": BETA}
    vectors = {k: jax.numpy.asarray(v, dtype="float32") for k, v in vectors.items()}
    found = jax.jit(lambda a, b: vslerp_ln(a, b, 0.3, **vectors))(a, b)
    expected = vslerp_ln(a, b, 0.3, **{k: np.asarray(v) for k, v in vectors.items()})
    np.testing.assert_allclose(np.asarray(found), expected, rtol=2e-5, atol=2e-6)


def test_what_is_refused(xp):
    a = xp.asarray(_outputs(19, 2))
    good = {"center": xp.asarray(CENTER), "gamma": xp.asarray(GAMMA), "beta": xp.asarray(BETA)}
    for name in good:
        with pytest.raises(TypeError, match=rf"expected {name} to be an array, got list"):
            vslerp_ln(a, a, 0.5, **{**good, name: [1.0] * D})
        with pytest.raises(ShapeError, match=name):
            vslerp_ln(a, a, 0.5, **{**good, name: xp.ones(D - 1)})
    if array_api_compat.is_array_api_strict_namespace(xp):
        return
    with pytest.raises(DomainError, match="gamma without zeros"):
        vslerp_ln(a, a, 0.5, **{**good, "gamma": xp.zeros(D)})


def test_the_example():
    assert doctest.testmod(_layer_norm).attempted > 0
    assert doctest.testmod(_layer_norm).failed == 0
    assert clipgeom.vslerp_ln is vslerp_ln
