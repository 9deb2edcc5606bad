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

RATES = {"lora.learning_rate": [0.01, 0.02]}
SEEDS = {"runtime.seed": [0, 1]}


def names(points):
    return [point.name for point in points]


def test_the_grid_times_the_groups():
    plan = Sweep(
        vary={"inversion.learning_rate": np.logspace(-4, -3, 2), "lora.alpha": [None, 4]},
        together=[[{"runtime.seed": i, "data.source": f"miniworld:{c}"} for i, c in enumerate(("bramble", "comet"))]],
    )
    points = plan.points()
    assert len(points) == 8
    assert points[1].values == {
        "inversion.learning_rate": 1e-4,
        "lora.alpha": None,
        "runtime.seed": 1,
        "data.source": "miniworld:comet",
    }
    assert points[1].config.data.source == "miniworld:comet"
    assert points[7].config.lora.alpha == 4.0
    assert points[1].label == "learning_rate=0.0001-alpha=off-seed=1-source=miniworld-comet"
    assert len(set(names(points))) == 8
    assert type(points[0].values["inversion.learning_rate"]) is float
    assert len({point.inversion for point in points}) == 4  # alpha is stage 2's


def test_names_hold_when_the_grid_grows():
    small = Sweep(vary={"inversion.learning_rate": [1e-4], **SEEDS}).points()
    large = Sweep(vary={"inversion.learning_rate": [1e-2, 1e-4, 1], "runtime.seed": range(4)}).points()
    assert set(names(small)) < set(names(large))
    assert {p.digest for p in Sweep(vary={"inversion.learning_rate": [1e-4]}).points()} < {p.digest for p in small}
    assert names(Sweep(vary={"inversion.learning_rate": [1]}).points()) == names(
        Sweep(vary={"inversion.learning_rate": [1.0]}).points()
    )
    same_last = Sweep(vary={"inversion.learning_rate": [1.0], "lora.learning_rate": [2.0]}).points()
    assert same_last[0].label == "inversion.learning_rate=1.0-lora.learning_rate=2.0"
    long = Sweep(vary={"validation.prompts": [["é/" * 300]]}).points()[0].name
    assert len(long) < 130
    assert "/" not in long


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"vary": {"lora.rnak": [4]}}, r"lora.rnak=4: \[lora\] has no setting 'rnak' \(did you mean 'rank'"),
        ({"vary": {"rank": [4]}}, "named section.key"),
        ({"vary": {"lora.rank": [4, 0]}}, "at lora.rank=0: lora.rank is at least 1"),
        ({"vary": {"lora.rank": [None]}}, "lora.rank is a whole number; got None"),
        ({"vary": {"lora.rank": []}}, "lora.rank has no values"),
        ({"vary": {"lora.rank": 4}}, "varies over a list of values; got 4"),
        ({"vary": {"data.source": "bramble"}}, "varies over a list"),
        ({"vary": {"output.dir": ["a"]}}, "output.dir cannot vary"),
        ({"vary": {"lora.rank": [4, 8, 4]}}, "the same run twice: lora.rank=4"),
        ({"together": [[]]}, "is empty"),
        (
            {"together": [[{"lora.rank": 4}, {"lora.learning_rate": 1.0}]]},
            "name the same settings; got lora.rank and lora.learning_rate",
        ),
        ({"vary": SEEDS, "together": [[{"runtime.seed": 1}]]}, "runtime.seed varies twice"),
        ({"together": [[{"runtime.seed": 1}]] * 2}, "runtime.seed varies twice"),
        ({"overrides": ("lora.rank=x",), "vary": SEEDS}, "lora.rank is a whole number"),
        ({"base": read_config(), "overrides": ("lora.rank=3",), "vary": SEEDS}, "overrides are for a file"),
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
    assert read_vary("lora.rank=4,8") == ("lora.rank", [4, 8])
    assert read_vary("runtime.seed=0..3, 7") == ("runtime.seed", [0, 1, 2, 3, 7])
    assert read_vary("lora.alpha=,4") == ("lora.alpha", [None, 4])
    assert read_vary("data.source=a b,../c..d,7") == ("data.source", ["a b", "../c..d", "7"])
    assert read_vary('lora.target_modules=["a,[b","c"],["d"]') == ("lora.target_modules", [["a,[b", "c"], ["d"]])
    assert read_vary('prior_preservation.class_prompt="a, b",the knight\'s, c') == (
        "prior_preservation.class_prompt",
        ["a, b", "the knight's", "c"],
    )
    assert read_together('runtime.seed=0,1;prior_preservation.class_prompt="a;b",c') == [
        {"runtime.seed": 0, "prior_preservation.class_prompt": "a;b"},
        {"runtime.seed": 1, "prior_preservation.class_prompt": "c"},
    ]
    for text in ("lora.rank", "lora.rank=", "=4"):
        with pytest.raises(ConfigError, match=r"--vary takes section\.key=value"):
            read_vary(text)
    with pytest.raises(ConfigError, match=r"runtime.seed has 2, data.source has 1"):
        read_together("runtime.seed=0,1;data.source=a")
    with pytest.raises(ConfigError, match=r"names runtime\.seed twice"):
        read_together("runtime.seed=0;runtime.seed=1")


def test_reading_a_plan_needs_no_torch():
    code = "import sys, pti.sweeps.sweep, pti.sweeps.plan; pti.Sweep(vary={'runtime.seed': [0]}).points()"
    code += "; assert not {'torch', 'pandas', 'filelock'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
