"""The reports in the repository tell their own raw results."""

import json
import shutil
from pathlib import Path

import pytest

from analysis.check_numbers import STUDIES, wrong
from analysis.finetuning_distance import run as finetuning_distance
from analysis.inversion_distance import run as inversion_distance
from analysis.locality import run as locality
from analysis.pivotal_tuning import report as pivotal_tuning_report
from analysis.pivotal_tuning import run as pivotal_tuning
from pti.config.toml_io import read_config
from pti.sweeps.plan import digest_of
from tests.conftest import ROOT


@pytest.mark.parametrize("name", STUDIES)
def test_every_number_of_a_report_is_that_of_its_raw_results(name):
    assert wrong(name) == []


def _finetuning_plan():
    return finetuning_distance.plan(Path("finetuning-distance"))  # settings have the folder's path from here


SWEEPS = {
    inversion_distance: (lambda: inversion_distance.PLAN, 50),
    locality: (lambda: locality.PLAN, 85),
    finetuning_distance: (_finetuning_plan, 60),
}


@pytest.mark.parametrize("study", SWEEPS, ids=lambda module: module.OUT.name)
def test_every_finished_run_is_a_run_of_the_plan(study, tmp_path, monkeypatch):
    """Otherwise the command of a report would train it again, with other settings."""
    monkeypatch.chdir(tmp_path)
    plan, number = SWEEPS[study]
    points = plan().points()
    finished = _finished(study)
    assert len(finished) == len(points) == number
    assert {(point.name, point.digest) for point in points} == {(run["run"], run["digest"]) for run in finished}
    values = {point.digest: json.loads(json.dumps(point.values)) for point in points}
    assert all(values[run["digest"]] == run["values"] for run in finished)


@pytest.mark.parametrize("study", SWEEPS, ids=lambda module: module.OUT.name)
def test_the_stored_settings_have_the_stored_digests(study):
    stored = json.loads((study.OUT / "raw" / "sweep.json").read_text(encoding="utf-8"))
    frozen = json.loads(json.dumps(read_config(study.BASE).flat()))
    for name in {"output.dir"} | set(stored["varies"]):
        frozen.pop(name)
    base = {name: value for name, value in stored["base"].items() if name != "output.dir"}
    assert base == frozen
    assert all(digest_of(base | run["values"]) == run["digest"] for run in stored["runs"])


def _finished(study):
    lines = (study.OUT / "raw" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return [run for run in map(json.loads, lines) if run["status"] == "done"]


@pytest.mark.parametrize("seed", pivotal_tuning.CHARACTERS)
def test_a_run_begun_today_has_the_settings_of_the_raw_results(seed, tmp_path):
    kept = json.loads((pivotal_tuning.OUT / "raw" / f"run-{seed}.json").read_text(encoding="utf-8"))
    flat = read_config(pivotal_tuning.BASE, pivotal_tuning.settings(seed, tmp_path)).flat()
    changed = {name for name, value in kept["settings"].items() if json.loads(json.dumps(flat[name])) != value}
    assert changed == {"concept.class_word"}  # which a run takes from the data


def test_the_trainers_report_is_that_of_its_raw_results(tmp_path):
    kept = ROOT / "reports" / "pivotal-tuning"
    pivotal_tuning_report.write(kept / "raw", tmp_path)
    made = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert made == (kept / "report.md").read_text(encoding="utf-8")

    (tmp_path / "raw").mkdir()
    for path in (kept / "raw").glob("run-*"):
        if int(path.stem.removeprefix("run-")) in range(pivotal_tuning.TODAY, pivotal_tuning.TODAY + 5):
            shutil.copy(path, tmp_path / "raw")
    pivotal_tuning_report.write(tmp_path / "raw", tmp_path)  # without the runs of other settings
    alone = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## With other settings" in made
    assert "## With other settings" not in alone
    assert alone.split("## Where it was never shown")[1] == made.split("## Where it was never shown")[1]
