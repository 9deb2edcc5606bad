"""The reports in the repository tell their own raw results."""

import pytest

from analysis.check_numbers import STUDIES, wrong


@pytest.mark.parametrize("name", STUDIES)
def test_every_number_of_a_report_is_that_of_its_raw_results(name):
    assert wrong(name) == []
