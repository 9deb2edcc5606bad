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

    shutil.copytree(kept / "raw", tmp_path / "raw", ignore=lambda _, names: [name for name in names if "-1" in name])
    pivotal_tuning_report.write(tmp_path / "raw", tmp_path)  # without the runs from another pivot
    alone = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## From another pivot" in made
    assert "## From another pivot" not in alone
    assert alone.split("## Where it was never shown")[1] == made.split("## Where it was never shown")[1]
