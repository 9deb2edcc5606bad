"""The study of the inversion distance on a table whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.common.citations import untold
from analysis.inversion_distance import facts as study
from analysis.inversion_distance.report import write
from analysis.inversion_distance.run import PAIRS, PLAN, STEPS, WAYS

BEND, LOST = 0.8, 0.4  # where editability begins to be paid for, and what a decade beyond costs


def _distance(rate: float, step: int) -> float:
    """As AdamW moves: 8 × rate a step while small, then as the root of the steps."""
    return 8 * rate * min(step, 10 * (step / 10) ** 0.5)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the sweep would write."""
    rng = np.random.default_rng(0)
    rows = []
    for way in WAYS:
        for seed, character in PAIRS:
            for step in STEPS:
                distance = _distance(way.rate, step) * np.exp(rng.normal(0, 0.05)) if step else 0.0
                fixed = way.norm == "fixed"
                decades = max(0.0, np.log10(max(distance, 1e-9) / BEND))
                edit = 1 - LOST * decades * (0.5 if fixed else 1) + (rng.normal(0, 0.01) if step else 0)
                loss = 0.2 - (0.01 * (np.log10(distance / 1e-3) - decades) if step else 0)
                rows.append(
                    {
                        "run": f"{way}-{seed}",
                        "status": "done",
                        **way.settings,
                        "runtime.seed": seed,
                        "data.source": f"miniworld:{character}",
                        "seconds.invert": 72.0,
                        "step": step,
                        "held_out_loss": loss,
                        "control": 0.8 * edit,
                        **{f"free.{name}": 2.0 * edit for name in ("position", "background", "facing", "style")},
                        "distance": distance,
                        "path": 8 * way.rate * step,
                        "norm": 0.4,
                        **{f"looks.{name}": 0.5 for name in ("class", "body", "headgear", "headgear_color")},
                        **{f"placed.{name}": edit for name in ("position", "background", "style")},
                        "word.distance": 5 * distance,
                        "word.angle": 20 * distance * np.exp(rng.normal(0, 1)),
                        "word.on_shell": 0.2 if step else 0.9,
                        "eos.distance": 2 * distance,
                        "eos.angle": 10 * distance,
                        "eos.on_shell": 0.9,
                    }
                )
    folder = tmp_path_factory.mktemp("study") / "raw"
    folder.mkdir()
    pd.DataFrame(rows).to_parquet(folder / "sweep.parquet")
    return folder


@pytest.fixture(scope="module")
def found(raw: Path) -> dict[str, study.Estimate]:
    return study.facts(raw, fits=40)


def test_the_plan_has_every_way_for_every_pair() -> None:
    points = PLAN.points()
    assert len(points) == len(WAYS) * len(PAIRS)
    assert len({point.inversion for point in points}) == len(points)
    assert len({character for _, character in PAIRS}) >= 3
    assert len(PAIRS) >= 5


def test_the_boundary_is_found(found: dict[str, study.Estimate]) -> None:
    fact = found["control_kept.distance.boundary"]
    assert fact.value == pytest.approx(BEND, rel=0.1)
    assert fact.low < BEND * 1.1
    assert fact.high > BEND * 0.9
    assert fact.high < 1.5 * fact.low
    assert found["control_kept.distance.before"].value == pytest.approx(0, abs=0.01)
    assert found["control_kept.distance.after"].value == pytest.approx(-LOST, abs=0.05)


def test_the_rule_gives_the_rate_that_moves_to_the_boundary(found: dict[str, study.Estimate]) -> None:
    assert found["rule.rate"].value == pytest.approx(BEND / (8 * 100), rel=0.15)  # 1000 steps move as far as 100


def test_ratios_and_exponents(found: dict[str, study.Estimate]) -> None:
    assert found["adamw-0.001.early"].value == pytest.approx(8, rel=0.1)
    assert found["adamw-0.001.ratio"].value == pytest.approx(0.8, rel=0.1)
    assert found["adamw-0.001.path_ratio"].value == pytest.approx(8)
    assert found["adamw-0.001.straight"].value == pytest.approx(0.1, rel=0.1)
    assert found["exponent_late"].value == pytest.approx(1, abs=0.03)


def test_a_noisy_predictor_is_worse_and_a_multiple_is_as_good(found: dict[str, study.Estimate]) -> None:
    assert found["gain.word.angle.minus"].below(0)
    assert found["gain.eos.distance.minus"].value == pytest.approx(0, abs=1e-6)
    assert found["gain.distance.rank"].value > 0.9
    assert found["control_kept.distance.rank"].value < -0.7


def test_norm_control_is_compared_by_pair(found: dict[str, study.Estimate]) -> None:
    assert found["fixed-0.01.minus.control_kept"].above(0)
    assert not found["decay-0.01.minus.gain"].above(0.002)
    assert not found["decay-0.01.minus.gain"].below(-0.002)


def test_the_report_tells_the_facts(raw: Path, found: dict[str, study.Estimate]) -> None:
    write(raw.parent, fits=40)
    text = (raw.parent / "report.md").read_text(encoding="utf-8")
    assert untold(text, found) == []
    assert (raw.parent / "figures" / "distance.png").stat().st_size > 20_000
