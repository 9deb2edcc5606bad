"""The reports in the repository tell their own raw results."""

import json
import shutil

import pytest

from analysis.check_numbers import STUDIES, wrong
from analysis.inversion_distance import run as inversion_distance
from analysis.locality import run as locality
from analysis.pivotal_tuning import report as pivotal_tuning_report
from analysis.pivotal_tuning import run as pivotal_tuning
from tests.conftest import ROOT


@pytest.mark.parametrize("name", STUDIES)
def test_every_number_of_a_report_is_that_of_its_raw_results(name):
    assert wrong(name) == []


@pytest.mark.parametrize("study", [inversion_distance, locality], ids=lambda module: module.OUT.name)
def test_a_sweep_begun_today_is_that_of_the_raw_results(study):
    """Or the command of a report would train everything anew, at other settings. (The third sweep knows its folder.)"""
    lines = (study.OUT / "raw" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["digest"] for line in lines} == {point.digest for point in study.PLAN.points()}


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
