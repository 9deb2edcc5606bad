"""The reports in the repository tell their own raw results."""

import shutil

import pytest

from analysis import pivotal_tuning_report
from analysis.check_numbers import STUDIES, wrong
from tests.conftest import ROOT


@pytest.mark.parametrize("name", STUDIES)
def test_every_number_of_a_report_is_that_of_its_raw_results(name):
    assert wrong(name) == []


def test_the_trainers_report_is_that_of_its_raw_results(tmp_path):
    kept = ROOT / "reports" / "pivotal-tuning"
    pivotal_tuning_report.write(kept / "raw", tmp_path)
    made = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert made == (kept / "report.md").read_text(encoding="utf-8")

    shutil.copytree(kept / "raw", tmp_path / "raw", ignore=shutil.ignore_patterns("run-??.*"))
    pivotal_tuning_report.write(tmp_path / "raw", tmp_path)  # the defaults alone
    alone = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## With other settings" in made
    assert "## With other settings" not in alone
    assert alone.split("## Where it was never shown")[1] == made.split("## Where it was never shown")[1]
