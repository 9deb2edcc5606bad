import doctest

import numpy as np
import pytest

import clipgeom
from clipgeom import ConfigError, aslerp, interpolate, lerp, slerp, vslerp, vslerp_ln
from clipgeom.interpolation import _modes

EXPECTED = {
    "lerp": lambda a, b, t, c: lerp(a, b, t),
    "slerp": lambda a, b, t, c: slerp(a, b, t),
    "vslerp": lambda a, b, t, c: vslerp(a, b, t, center=c),
    "vslerp_norm": lambda a, b, t, c: vslerp(a, b, t, center=c, keep_norm=True),
    "aslerp": lambda a, b, t, c: aslerp(a, b, t, center=c),
}


@pytest.mark.parametrize("mode", EXPECTED)
def test_each_mode_is_its_function(xp, mode):
    rng = np.random.default_rng(0)
    a, b, center = (xp.asarray(rng.normal(size=(4, 6))) for _ in range(3))
    t = xp.asarray([0.0, 0.25, 0.5, 1.0])
    found = interpolate(a, b, t, mode=mode, center=center)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(EXPECTED[mode](a, b, t, center)))
    across = interpolate(a.T, b.T, t, mode=mode, center=center.T, axis=0)
    np.testing.assert_allclose(np.asarray(across.T), np.asarray(found), rtol=1e-12)
    np.testing.assert_allclose(np.asarray(found)[0], np.asarray(a)[0], rtol=1e-12)
    np.testing.assert_allclose(np.asarray(found)[3], np.asarray(b)[3], rtol=1e-12)


def test_the_modes_are_all_of_them():
    assert tuple(EXPECTED) == _modes.MODES
    assert _modes.CENTERED_MODES == ("vslerp", "vslerp_norm", "aslerp")
    assert _modes.LAYER_NORM_MODES == ("vslerp_ln",)


def test_the_layer_norm_mode_is_its_function(xp):
    rng = np.random.default_rng(1)
    a, b, center, beta = (xp.asarray(rng.normal(size=(4, 6))) for _ in range(4))
    gamma = xp.asarray(rng.uniform(0.5, 2, size=6))
    found = interpolate(a, b, 0.25, mode="vslerp_ln", center=center, gamma=gamma, beta=beta)
    expected = vslerp_ln(a, b, 0.25, center=center, gamma=gamma, beta=beta)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    with pytest.raises(ConfigError, match=r"vslerp_ln needs a gamma, the scale \(weight\) of the LayerNorm; got None"):
        interpolate(a, b, 0.5, mode="vslerp_ln", center=center)


def test_unknown_modes_and_a_missing_center_are_named():
    a = np.ones((2, 3))
    with pytest.raises(
        ConfigError, match="expected a mode of lerp, slerp, vslerp, vslerp_norm, aslerp, vslerp_ln, got 'nlerp'"
    ):
        interpolate(a, a, 0.5, mode="nlerp")
    for mode in _modes.CENTERED_MODES:
        with pytest.raises(ConfigError, match=f"{mode} needs a center"):
            interpolate(a, a, 0.5, mode=mode)


def test_the_example():
    assert doctest.testmod(_modes).failed == 0
    assert clipgeom.interpolate is _modes.interpolate
