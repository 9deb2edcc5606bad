"""The study of the finetuning distance, on tables whose truth is known."""

import json
import re
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.common.citations import untold
from analysis.finetuning_distance import report as finetuning_distance_report
from analysis.finetuning_distance.facts import LEARNT, _holm, facts
from analysis.finetuning_distance.report import write
from analysis.finetuning_distance.run import PAIRS, PLACES, RATES, STEPS, plan, taught_places, training_scenes
from clipgeom.miniworld import FACTORS, NEW_CHARACTERS
from tests.conftest import ROOT

PICTURES, OF_CLASS = 40, 96


def even(factor, count):
    values = FACTORS[factor]
    return {value: count // len(values) + (i < count % len(values)) for i, value in enumerate(values)}


def mixed(factor, share, values, count=PICTURES):
    """A share of the pictures evenly at some values, the others evenly at all."""
    at = round(share * count)
    found = Counter(even(factor, count - at))
    for i in range(at):
        found[values[i % len(values)]] += 1
    return dict(found)


def rising(at):
    """A share that goes from 0 to 1 around a distance, within about a decade."""
    return lambda distance: 0.0 if distance == 0 else 1 / (1 + (at / distance) ** 3)


def suddenly(at):
    return lambda distance: float(distance >= at)


def never(_distance):
    return 0.0


def written(folder, appearance, position, *, scatter=0.0):
    """A sweep's table: shares of the pictures with the character's looks and in the taught places, by distance in weights."""
    rng = np.random.default_rng(0)
    rows = []
    for places in PLACES:
        for seed, character in PAIRS:
            factor_of_pair = 10 ** (scatter * rng.standard_normal())
            for rate in RATES:
                for step in (0, *STEPS):
                    distance = rate * step * factor_of_pair
                    wanted = NEW_CHARACTERS[character].factors
                    taught = taught_places(places, seed)
                    seen = {factor: mixed(factor, appearance(distance), [value]) for factor, value in wanted.items()}
                    seen |= {factor: even(factor, PICTURES) for factor in ("background", "facing", "style")}
                    seen["position"] = mixed("position", position(distance), taught)
                    rows.append(
                        {
                            "run": f"{places}-{seed}-{rate}",
                            "status": "done",
                            "lora.learning_rate": rate,
                            "runtime.seed": seed,
                            "seconds.invert": 60.0,
                            "seconds.tune": 45.0,
                            "step": step,
                            "places": places,
                            "character": character,
                            "taught": json.dumps(taught),
                            "weight_distance": distance,
                            "function_distance": 2 * distance,
                            "seen": json.dumps(seen),
                            "base": None if step else json.dumps({f: even(f, OF_CLASS) for f in FACTORS}),
                            **{f"placed.{factor}": 1.0 for factor in ("position", "background", "style")},
                            "held_out_loss": 0.2 - 0.1 * appearance(distance),
                        }
                    )
    (folder / "raw").mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(folder / "raw" / "sweep.parquet", index=False)
    return folder


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """A report's folder and its facts, for each truth."""
    truths = {
        "predicted": (rising(0.01), rising(0.5)),
        "reversed": (rising(0.5), rising(0.01)),
        "unmoved": (rising(0.01), never),
        "at once": (rising(0.01), lambda _distance: 0.9),
        "sudden": (rising(0.01), suddenly(0.09)),
    }
    made = {}
    for name, (appearance, position) in truths.items():
        folder = written(
            tmp_path_factory.mktemp("study") / "report", appearance, position, scatter=0.05 * (name != "sudden")
        )
        made[name] = (folder, facts(folder / "raw"))
    return made


def test_distances_at_which_half_is_learnt(worlds):
    _, found = worlds["predicted"]
    for axis, unit in (("weight", 1), ("function", 2)):
        assert found[f"one.appearance.half.{axis}"].value == pytest.approx(0.01 * unit, rel=0.3)
        assert found[f"one.position.half.{axis}"].value == pytest.approx(0.5 * unit, rel=0.3)
        assert found[f"one.position.after.{axis}"].value == pytest.approx(np.log10(50), abs=0.25)


def test_the_order_is_the_truth_and_not_the_prediction(worlds):
    assert worlds["predicted"][1]["one.position.after.weight"].above(1)
    assert worlds["reversed"][1]["one.position.after.weight"].below(-1)


def test_hours_count_a_shared_inversion_once(worlds):
    assert worlds["predicted"][1]["hours"].value == pytest.approx((15 * 60 + 60 * 45) / 3600)


def test_what_does_not_move_is_not_learnt(worlds):
    found = worlds["unmoved"][1]
    assert not found["one.position.change"].above(LEARNT)
    assert (found["one.base.never"].value, found["one.base.departing"].value) == (5, 0)
    assert np.isnan(found["one.base.departs.weight"].value)
    assert found["one.appearance.change"].above(LEARNT)


def test_first_departure_is_the_first_measured_distance_past_the_jump(worlds):
    found = worlds["sudden"][1]
    measured = sorted(rate * step for rate in RATES for step in STEPS)
    first = next(distance for distance in measured if distance >= 0.09)
    for reference in ("base", "pivot"):
        assert found[f"one.{reference}.departs.weight"].value == pytest.approx(first)
        assert found[f"one.{reference}.departs.function"].value == pytest.approx(2 * first)
        assert found[f"one.{reference}.still.weight"].value == pytest.approx(measured[measured.index(first) - 1])
    assert found["one.base.departing"].value == 5


def test_all_places_equally_often_are_no_departure(worlds):
    found = worlds["predicted"][1]
    assert found["nine.base.never"].value == 5
    assert not found["nine.position.change"].above(LEARNT)


def test_a_word_that_has_left_before_any_tuning(worlds):
    found = worlds["at once"][1]
    assert (found["one.base.at_pivot"].value, found["one.pivot.never"].value) == (5, 5)


def test_windows(worlds):
    """0.95 of 1 / (1 + (a / d)³) is reached at 2.67 a; the kernel widens that a little."""
    sudden, turned = worlds["sudden"][1], worlds["reversed"][1]
    still = sudden["one.base.still.weight"].value
    assert sudden["one.base.window.weight"].value == pytest.approx(np.log10(still / (0.01 * 2.67)), abs=0.25)
    assert sudden["one.base.window.weight"].above(0)
    assert sudden["one.base.light.weight"].value > 0.95
    assert turned["one.base.window.weight"].below(0)
    assert turned["one.base.light.weight"].value < 0.5


def test_leakage_is_the_mean_over_what_was_not_asked_for(worlds):
    found = worlds["predicted"][1]
    others = [found[f"one.{factor}.largest"].value for factor in ("position", "background", "facing")]
    # style is even, as background is, so its part lies near theirs
    assert found["one.leakage.largest"].value == pytest.approx((sum(others) + others[1]) / 4, abs=0.05)


def test_one_chance_significance_of_many_is_no_departure():
    p = np.ones(17)
    p[7] = 0.01
    assert not _holm(p).any()
    p[7] = 0.001
    assert np.flatnonzero(_holm(p)).tolist() == [7]


@pytest.mark.parametrize("name", ["predicted", "reversed", "unmoved", "at once"])
def test_every_number_of_the_report_is_a_fact(worlds, name, monkeypatch):
    folder, found = worlds[name]
    monkeypatch.setattr(finetuning_distance_report, "facts_of", lambda _table: found)  # not twice: they take a while
    write(folder)
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert untold(text, found) == []
    assert "nan" not in text
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert titles == ["Question", "Answer", "Findings", "Table", "Limits", "Commands"]
    answer = re.search(r"## Answer\n\n(.*?)\n", text)[1]
    bare = re.sub(r"<!--.*?-->", "", answer)
    assert len(re.findall(r"[.](?=\s|$)", bare)) == 3
    predicted = {
        "predicted": ("as the notes predict", "exists"),
        "reversed": ("against what the notes predict", "does not exist"),
        "unmoved": ("no order to tell", "exists"),
        "at once": ("no order to tell", "measured from the inverted word's"),
    }
    assert all(words in answer for words in predicted[name])


def test_training_pictures_differ_in_their_places_alone():
    drawn = {places: training_scenes(places, 3, "gambit") for places in PLACES}
    for places, some in drawn.items():
        counts = Counter(scene["position"] for scene in some.factors)
        assert counts == dict.fromkeys(taught_places(places, 3), 9 // places)
    plain = [[{**scene, "position": ""} for scene in some.factors] for some in drawn.values()]
    assert plain[0] == plain[1] == plain[2]
    assert len({scene["background"] for scene in plain[0]}) > 1
    assert {taught_places(1, seed)[0] for seed in range(5)} != {taught_places(1, 0)[0]}


def test_a_plan_names_no_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    points = plan(Path("kept")).points()
    assert len(points) == 60
    sources = {point.config.data.source for point in points}
    assert sources == {f"kept/pictures/{places}-{character}-{seed}" for places in PLACES for seed, character in PAIRS}
    assert all(len([*Path(source).glob("*.png")]) == 9 for source in sources)
    assert {point.config.data.instance_prompt for point in points} == {"a picture of {token}"}
    assert len({point.inversion for point in points}) == 15
    assert [point.digest for point in plan(tmp_path / "kept").points()] == [point.digest for point in points]


def test_the_command_for_stable_diffusion_is_a_plan(monkeypatch):
    from typer.testing import CliRunner

    import pti.sweeps.sweep
    from pti.cli.commands import app

    plans = []
    monkeypatch.setattr(pti.sweeps.sweep, "sweep", lambda plan, *_args, **_kwargs: plans.append(plan) or 1 / 0)
    report = (ROOT / "reports" / "finetuning-distance" / "report.md").read_text(encoding="utf-8")
    command = re.search(r"```sh\n(pti sweep .*?)\n```", report, re.DOTALL)[1]
    CliRunner().invoke(app, shlex.split(command.replace("\\\n", " "))[1:])
    assert len(plans[0].points()) == 60
