"""What the studies share: intervals over characters and seeds, two-segment fits, and the check of a report's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from analysis.common.citations import tell, untold
from analysis.common.resampling import estimate
from analysis.common.study import main
from analysis.inversion_distance.segments import fit
from clipgeom.geometry.estimate import Estimate
from pti.sweeps.sweep import Sweep
from pti.sweeps.worker import Task

FACTS = {"rate": Estimate(0.4321, 0.4, 0.46, 5), "runs": Estimate(50)}


def test_an_interval_covers_the_mean_of_the_population() -> None:
    """Ten characters of three runs each; a one-level bootstrap over all runs would cover far less."""
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(60):
        level = rng.normal(0, 1, 10)
        runs = {(s, str(c)): level[c] + rng.normal(0, 0.3) for c in range(10) for s in range(3)}
        fact = estimate(runs, resamples=150, seed=trial)
        assert fact.has_interval
        held += fact.low <= 0 <= fact.high
    assert 0.8 <= held / 60 < 1  # percentile intervals of ten are a little narrow


def test_an_estimate_knows_its_value_and_its_runs() -> None:
    fact = estimate({(0, "a"): 1.0, (1, "a"): 3.0, (0, "b"): 5.0})
    assert (fact.value, fact.n) == (3.0, 3)
    assert fact.above(0.5)
    assert not fact.above(4)
    assert fact.below(5.5)


def test_two_segments_find_the_bend() -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(-3, 1, 200)
    y = 1 - 0.02 * x - 0.5 * np.maximum(0, x + 0.7) + rng.normal(0, 0.02, 200)
    found = fit(x, y)
    assert found is not None
    assert found.breakpoint == pytest.approx(-0.7, abs=0.06)
    assert (found.before, found.after) == pytest.approx((-0.02, -0.52), abs=0.04)
    assert found.error**0.5 == pytest.approx(0.02, abs=0.004)
    np.testing.assert_allclose(found(x), 1 - 0.02 * x - 0.5 * np.maximum(0, x + 0.7), atol=0.03)


def test_a_straight_line_has_no_bend_that_matters() -> None:
    x = np.linspace(0, 1, 50)
    found = fit(x, 2 * x)
    assert found is None or found.before == pytest.approx(found.after, abs=1e-6)


def _report(answer: str) -> str:
    return (
        f"# Title\n\n## Answer\n\n{answer}\n\n## Findings\n\nIt is {tell(FACTS, 'rate')}.\n\n## Limits\n\n12 things.\n"
    )


def test_a_report_whose_numbers_are_facts_passes() -> None:
    assert untold(_report(f"Of {tell(FACTS, 'runs', '.0f')} runs, {tell(FACTS, 'rate', '.1%')} do."), FACTS) == []


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (f"It is {tell(FACTS, 'rate').replace('0.43', '0.44')}.", "0.44 [0.40, 0.46] tells rate"),
        (f"It is {tell(FACTS, 'rate').replace('0.46]', '0.47]')}.", "which is 0.43 [0.40, 0.46]"),
        (f"It is {tell(FACTS, 'rate')} in 7 of them.", "7 is no fact"),
        (f"It is {tell(FACTS, 'rate').replace('rate', 'speed')}.", "which is no fact"),
        (f"There are {tell(FACTS, 'runs', '.0f')}. It is {tell(FACTS, 'rate')}.", "no number with an interval"),
        ("It works.", "no number with an interval"),
    ],
)
def test_a_report_that_tells_something_else_is_found(answer: str, told: str) -> None:
    assert any(told in line for line in untold(_report(answer), FACTS))


def test_a_report_without_an_answer_is_found() -> None:
    assert any("no section Answer" in line for line in untold("# Title\n", FACTS))


def _measured(folder: Path) -> dict[str, int]:
    return {"letters": len(folder.name)}


def test_a_sweep_goes_on_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finished runs come with the raw results; only what is missing is run."""
    done: list[str] = []

    def run_once(task: Task) -> str:
        done.append(task.name)
        failed = len(done) == 2
        result = {"run": task.name, "status": "failed" if failed else "done", **task.identity, "rows": [{"letters": 1}]}
        task.folder.mkdir(parents=True, exist_ok=True)
        (task.folder / "result.json").write_text(json.dumps(result | {"error": {"type": "E", "message": "m"}}))
        return result["status"]

    def invert_once(task: Task) -> None:
        task.inversion.mkdir(parents=True)

    monkeypatch.setattr("pti.sweeps.worker.run_once", run_once)
    monkeypatch.setattr("pti.sweeps.worker.invert_once", invert_once)
    plan, out = Sweep(vary={"runtime.seed": [0, 1, 2]}), tmp_path / "report"

    def study(runs: str) -> None:
        monkeypatch.setattr("sys.argv", ["study", "--runs", str(tmp_path / runs)])
        main("About.", plan, _measured, ("invert",), out, "study", lambda out: None)

    study("here")
    assert len(done) == 3
    assert len((out / "raw" / "results.jsonl").read_text().splitlines()) == 2
    kept = out / "raw" / "sweep.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"removed_settings": {"lora.probes": 8}}))
    study("elsewhere")
    assert json.loads(kept.read_text())["removed_settings"] == {"lora.probes": 8}
    assert done[3:] == [done[1]]  # the one that failed
    assert len((out / "raw" / "results.jsonl").read_text().splitlines()) == 3
    study("elsewhere")
    assert len(done) == 4
    assert "report: " in capsys.readouterr().out
