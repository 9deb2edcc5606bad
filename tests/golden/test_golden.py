"""Nothing has changed that should not. After a change that should: `python -m tests.golden.update`."""

import pytest

from .compare import differences
from .compute import PARTS, TOLERANCES, fresh, stored

_SHOWN = 30


@pytest.mark.parametrize("part", PARTS)
def test_values_are_the_golden_ones(part):
    """Bit for bit in the circumstances of the stored values, and within a tolerance in others."""
    before, now = stored(part), fresh(part)
    assert before, f"values/{part}.json is absent; write it with: python -m tests.golden.update {part}"
    there, here = before.pop("circumstances", None), now.pop("circumstances", None)
    assert list(before) == list(now)
    if there == here:
        lines = differences(before, now)
    else:
        lines = [
            line for key in before for line in differences(before[key], now[key], rtol=TOLERANCES[key], path=f"/{key}")
        ]
    how = "bit for bit" if there == here else f"within tolerances, since these differ: {differences(there, here)}"
    shown = "\n".join(lines[:_SHOWN])
    assert not lines, f"{len(lines)} golden value(s) of {part} differ ({how}):\n{shown}"


def test_a_tolerance_takes_rounding_and_nothing_else():
    digest = "float32[2,3] 0.5 1.25 9f86d081884c7d65"
    near, far = "float32[2,3] 0.50000001 1.2500001 0000000000000000", "float32[2,3] 0.501 1.25 0000000000000000"
    assert differences(digest, near, rtol=1e-4) == []
    for other in (far, near.replace("2,3", "3,2"), near.replace("float32", "float64")):
        assert len(differences(digest, other, rtol=1e-4)) == 1
    assert len(differences(digest, near)) == 1
    assert differences("mean 0.918 [0.881, 0.945]", "mean 0.918 [0.882, 0.945]", rtol=1e-4) == []
    assert len(differences("mean 0.918", "mean 0.920", rtol=1e-4)) == 1
    assert len(differences("12 steps", "13 steps", rtol=1e-4)) == 1
    assert len(differences({"a": 1, "b": [1.0, True]}, {"a": 2, "b": [1.0, 1], "c": None}, rtol=1e-4)) == 3
