import doctest

import numpy as np
import pytest

import clipgeom
from clipgeom import ConfigError, aslerp, interpolate, lerp, slerp, vslerp
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


def test_unknown_modes_and_a_missing_center_are_named():
    a = np.ones((2, 3))
    with pytest.raises(ConfigError, match="expected a mode of lerp, slerp, vslerp, vslerp_norm, aslerp, got 'nlerp'"):
        interpolate(a, a, 0.5, mode="nlerp")
    for mode in _modes.CENTERED_MODES:
        with pytest.raises(ConfigError, match=f"{mode} needs a center"):
            interpolate(a, a, 0.5, mode=mode)


def test_the_example():
    assert doctest.testmod(_modes).failed == 0
    assert clipgeom.interpolate is _modes.interpolate
