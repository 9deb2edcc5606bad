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
from tests.conftest import ROOT


@pytest.mark.parametrize("name", STUDIES)
def test_every_number_of_a_report_is_that_of_its_raw_results(name):
    assert wrong(name) == []


@pytest.mark.parametrize("study", [inversion_distance, locality], ids=lambda module: module.OUT.name)
def test_a_sweep_begun_today_is_that_of_the_raw_results(study):
    """Otherwise the command of a report would train everything again, with other settings."""
    assert _finished(study) == {point.digest for point in study.PLAN.points()}


def test_a_sweep_that_reads_its_own_images_is_that_of_the_raw_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the settings have the folder's path from here
    plan = finetuning_distance.plan(Path("finetuning-distance"))
    assert _finished(finetuning_distance) == {point.digest for point in plan.points()}


def _finished(study):
    lines = (study.OUT / "raw" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return {json.loads(line)["digest"] for line in lines}


@pytest.mark.parametrize("seed", pivotal_tuning.CHARACTERS)
def test_a_run_begun_today_has_the_settings_of_the_raw_results(seed, tmp_path):
    kept = json.loads((pivotal_tuning.OUT / "raw" / f"run-{seed}.json").read_text(encoding="utf-8"))
    flat = read_config(None, pivotal_tuning.settings(seed, tmp_path)).flat()
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
