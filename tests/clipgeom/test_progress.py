"""Progress of long work, where there is no terminal: a line now and then."""

import pytest

from clipgeom import _progress
from clipgeom._progress import Progress


@pytest.mark.parametrize(("seconds", "speed", "left"), [(40.0, "one in 4 s", "40"), (0.1, "100 a second", "0")])
def test_slow_and_fast_work(monkeypatch, capsys, seconds, speed, left):
    clock = [0.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(_progress, "_EVERY", 0.0)
    with Progress("done", "things") as progress:
        progress.expect(20, "drawn", "pictures")
        clock[0] = seconds
        progress(10)
    assert capsys.readouterr().err == f"drawn 10 of 20 pictures, {speed}, {left} s left\n"
