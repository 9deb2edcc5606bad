import math

import numpy as np

from clipgeom.geometry.estimate import Estimate


def test_an_interval_is_above_a_limit_or_below_it_as_a_whole():
    one = Estimate(0.5, 0.4, 0.6, 9)
    assert one.above(0.3)
    assert one.below(0.7)
    assert not one.above(0.4)
    assert not one.below(0.5)
    assert one.to_json() == {"value": 0.5, "ci95": (0.4, 0.6), "n": 9}


def test_no_interval_is_on_neither_side():
    bare, unknown = Estimate(3.0), Estimate(3.0, math.nan, math.nan)
    assert (bare.has_interval, unknown.has_interval) == (False, True)
    assert not any(side(0.0) for one in (bare, unknown) for side in (one.above, one.below))


def test_undefined_resamples_are_left_out():
    found = Estimate.from_resamples(0.5, np.array([*np.linspace(0, 1, 1001), np.nan, np.inf]), 7)
    np.testing.assert_allclose((*found.ci95, found.n), (0.025, 0.975, 7))
    assert math.isnan(Estimate.from_resamples(0.5, np.array([np.nan]), 7).low)
