"""Two reports side by side."""

import json

import pytest

from clipgeom import ConfigError
from clipgeom.report.compare import compare_reports, read_report, write_comparison
from clipgeom.report.write import write_report
from tests.clipgeom.report.samples import captioned, paired

ROWS = [("hidden", "eos", "sphere"), ("projected", "5", "shell")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("reports")
    write_report(captioned(ROWS), root / "first")
    write_report(captioned([ROWS[0], ("projected", "eos", "ball")], seed=5), root / "second")
    return root / "first", root / "second"


def test_a_report_differs_from_itself_in_nothing():
    report = captioned(ROWS).report
    comparison = compare_reports(report, report)
    assert {item.difference for item in comparison.differences} == {0.0}
    assert {item.overlaps for item in comparison.differences if item.first_ci95 and None not in item.first_ci95} == {
        True
    }
    assert (comparison.only_first, comparison.only_second) == ((), ())
    assert (comparison.provenance, comparison.warnings) == ((), ())
    assert len(comparison.differences) == 2 * 10


def test_differences_are_second_minus_first_with_the_verdict_of_the_intervals():
    a = captioned([("hidden", "eos", "sphere")]).report
    b = captioned([("hidden", "eos", "ball")]).report
    found = {item.statistic: item for item in compare_reports(a, b).differences}
    variance = found["raw variance"]
    assert variance.difference == b["statistics"][0]["raw"]["var_norm"] - a["statistics"][0]["raw"]["var_norm"]
    assert variance.difference > 0
    assert variance.overlaps is False
    assert found["effective rank"].overlaps is None  # it has no interval
    back = {item.statistic: item.difference for item in compare_reports(b, a).differences}
    assert back == {name: -item.difference for name, item in found.items()}


def test_rows_without_a_partner_are_listed(folders):
    comparison = compare_reports(*map(read_report, folders))
    assert comparison.only_first == (("projected", "5"),)
    assert comparison.only_second == (("projected", "eos"),)
    assert {(item.representation, item.position) for item in comparison.differences} == {("hidden", "eos")}


def test_what_makes_numbers_incomparable_is_said(folders):
    first, second = map(read_report, folders)
    assert [warning.split(" ")[1] for warning in compare_reports(first, second).warnings] == ["encoders"]
    second["provenance"]["captions_sha256"] = "d" * 64
    comparison = compare_reports(first, second)
    assert "The captions differ" in comparison.warnings[0]
    assert ("captions sha256", "c" * 64, "d" * 64) in comparison.provenance
    nothing = compare_reports(first, paired().report)
    assert "share no row" in nothing.warnings[0]
    assert nothing.differences == ()


def test_the_page_is_one_file_and_says_it(folders, tmp_path):
    out = tmp_path / "new" / "compare.html"
    write_comparison(*folders, out)
    html = out.read_text(encoding="utf-8")
    assert [path.name for path in out.parent.iterdir()] == ["compare.html"]
    assert "The encoders differ" in html
    assert "Over one shared row" in html
    assert "projected · eos" in html
    write_comparison(folders[0], folders[0], out)  # an earlier comparison is replaced
    assert "The encoders differ" not in out.read_text(encoding="utf-8")
    assert "Nothing but the time" in out.read_text(encoding="utf-8")


def test_reports_that_share_nothing_still_make_a_page(folders, tmp_path):
    write_report(paired(), tmp_path / "paired")
    write_comparison(folders[0], tmp_path / "paired", tmp_path / "compare.html")
    assert "share no row" in (tmp_path / "compare.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a report: expected a folder"),
        ("not json", "cannot read"),
        ("[1, 2]", "expected schema"),
        ('{"schema": "clipgeom.report/99"}', "expected schema"),
        ('{"schema": "clipgeom.report/1"}', "missing"),
    ],
)
def test_a_folder_that_is_no_report_is_refused(folders, tmp_path, content, message):
    other = tmp_path / "other"
    other.mkdir()
    if content is not None:
        (other / "report.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        write_comparison(folders[0], other, tmp_path / "compare.html")
    assert not (tmp_path / "compare.html").exists()


def test_a_file_of_something_else_is_not_replaced(folders, tmp_path):
    (tmp_path / "notes.html").write_text("<p>precious", encoding="utf-8")
    with pytest.raises(ConfigError, match="will not be replaced"):
        write_comparison(*folders, tmp_path / "notes.html")
    with pytest.raises(ConfigError, match="is a folder"):
        write_comparison(*folders, tmp_path)
    assert (tmp_path / "notes.html").read_text(encoding="utf-8") == "<p>precious"


def test_null_numbers_are_compared_as_unknown(folders):
    first = read_report(folders[0])
    second = json.loads(json.dumps(first))
    second["statistics"][0]["raw"]["cv_norm"] = None
    second["statistics"][0]["raw"]["ci95"]["cv_norm"] = [None, None]
    found = next(item for item in compare_reports(first, second).differences if item.statistic == "raw CV")
    assert (found.second, found.difference, found.overlaps) == (None, None, None)
