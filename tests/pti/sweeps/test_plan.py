"""Sweeps: which runs there are, and what is no plan."""

import os
import subprocess
import sys

import numpy as np
import pytest

from clipgeom.errors import ConfigError
from pti.config.toml_io import read_config
from pti.sweeps.plan import read_together, read_vary
from pti.sweeps.sweep import Sweep, sweep
from tests.conftest import ROOT

RATES = {"tuning.rate": [0.01, 0.02]}
SEEDS = {"engine.seed": [0, 1]}


def names(points):
    return [point.name for point in points]


def test_the_grid_times_the_groups():
    plan = Sweep(
        vary={"inversion.rate": np.logspace(-4, -3, 2), "tuning.alpha": [None, 4]},
        together=[[{"engine.seed": i, "data.source": f"miniworld:{c}"} for i, c in enumerate(("bramble", "comet"))]],
    )
    points = plan.points()
    assert len(points) == 8
    assert points[1].values == {
        "inversion.rate": 1e-4,
        "tuning.alpha": None,
        "engine.seed": 1,
        "data.source": "miniworld:comet",
    }
    assert points[1].config.data.source == "miniworld:comet"
    assert points[7].config.tuning.alpha == 4.0
    assert points[1].label == "rate=0.0001-alpha=off-seed=1-source=miniworld-comet"
    assert len(set(names(points))) == 8
    assert type(points[0].values["inversion.rate"]) is float
    assert len({point.inversion for point in points}) == 4  # alpha is stage 2's


def test_names_hold_when_the_grid_grows():
    small = Sweep(vary={"inversion.rate": [1e-4], **SEEDS}).points()
    large = Sweep(vary={"inversion.rate": [1e-2, 1e-4, 1], "engine.seed": range(4)}).points()
    assert set(names(small)) < set(names(large))
    assert {p.digest for p in Sweep(vary={"inversion.rate": [1e-4]}).points()} < {p.digest for p in small}
    assert names(Sweep(vary={"inversion.rate": [1]}).points()) == names(Sweep(vary={"inversion.rate": [1.0]}).points())
    same_last = Sweep(vary={"inversion.rate": [1.0], "tuning.rate": [2.0]}).points()
    assert same_last[0].label == "inversion.rate=1.0-tuning.rate=2.0"
    long = Sweep(vary={"sampling.prompts": [["é/" * 300]]}).points()[0].name
    assert len(long) < 130
    assert "/" not in long


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"vary": {"tuning.rnak": [4]}}, r"tuning.rnak=4: \[tuning\] has no setting 'rnak' \(did you mean 'rank'"),
        ({"vary": {"rank": [4]}}, "named section.key"),
        ({"vary": {"tuning.rank": [4, 0]}}, "at tuning.rank=0: tuning.rank is at least 1"),
        ({"vary": {"tuning.rank": [None]}}, "tuning.rank is a whole number; got None"),
        ({"vary": {"tuning.rank": []}}, "tuning.rank has no values"),
        ({"vary": {"tuning.rank": 4}}, "varies over a list of values; got 4"),
        ({"vary": {"data.source": "bramble"}}, "varies over a list"),
        ({"vary": {"run.folder": ["a"]}}, "run.folder cannot vary"),
        ({"vary": {"tuning.rank": [4, 8, 4]}}, "the same run twice: tuning.rank=4"),
        ({"together": [[]]}, "is empty"),
        ({"together": [[{"tuning.rank": 4}, {"tuning.rate": 1.0}]]}, "name the same settings; got tuning.rank and tun"),
        ({"vary": SEEDS, "together": [[{"engine.seed": 1}]]}, "engine.seed varies twice"),
        ({"together": [[{"engine.seed": 1}]] * 2}, "engine.seed varies twice"),
        ({"overrides": ("tuning.rank=x",), "vary": SEEDS}, "tuning.rank is a whole number"),
        ({"base": read_config(), "overrides": ("tuning.rank=3",), "vary": SEEDS}, "overrides are for a file"),
    ],
)
def test_a_wrong_plan_is_refused_before_anything_is_run(plan, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        sweep(Sweep(**plan), tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": ("tune",)}, "the first of invert, tune, evaluate, export; got tune"),
        ({"stages": ()}, "got none"),
        ({"jobs": 0}, "jobs is at least 1"),
        ({"measure": lambda folder: {}}, "must be a function of a module"),
    ],
)
def test_wrong_options_too(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        sweep(Sweep(vary=SEEDS), tmp_path / "sweep", **options)
    assert not (tmp_path / "sweep").exists()


def test_values_of_a_command_line():
    assert read_vary("tuning.rank=4,8") == ("tuning.rank", [4, 8])
    assert read_vary("engine.seed=0..3, 7") == ("engine.seed", [0, 1, 2, 3, 7])
    assert read_vary("tuning.alpha=,4") == ("tuning.alpha", [None, 4])
    assert read_vary("data.source=a b,../c..d,7") == ("data.source", ["a b", "../c..d", "7"])
    assert read_vary('tuning.targets=["a,[b","c"],["d"]') == ("tuning.targets", [["a,[b", "c"], ["d"]])
    assert read_vary('prior.prompt="a, b",the knight\'s, c') == ("prior.prompt", ["a, b", "the knight's", "c"])
    assert read_together('engine.seed=0,1;prior.prompt="a;b",c') == [
        {"engine.seed": 0, "prior.prompt": "a;b"},
        {"engine.seed": 1, "prior.prompt": "c"},
    ]
    for text in ("tuning.rank", "tuning.rank=", "=4"):
        with pytest.raises(ConfigError, match=r"--vary takes section\.key=value"):
            read_vary(text)
    with pytest.raises(ConfigError, match=r"engine.seed has 2, data.source has 1"):
        read_together("engine.seed=0,1;data.source=a")
    with pytest.raises(ConfigError, match=r"names engine\.seed twice"):
        read_together("engine.seed=0;engine.seed=1")


def test_reading_a_plan_needs_no_torch():
    code = "import sys, pti.sweeps.sweep, pti.sweeps.plan; pti.Sweep(vary={'engine.seed': [0]}).points()"
    code += "; assert not {'torch', 'pandas', 'filelock'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
