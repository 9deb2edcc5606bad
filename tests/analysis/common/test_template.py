import pytest
from jinja2 import UndefinedError

from analysis.common import template
from analysis.common.template import claim, fill_in, markdown_rows
from clipgeom.errors import ClipGeomError


def test_a_template_takes_names_and_refuses_unknown_ones(tmp_path, monkeypatch):
    (tmp_path / "analysis" / "study").mkdir(parents=True)
    path = tmp_path / "analysis" / "study" / "report.md.j2"
    monkeypatch.setattr(template, "ROOT", tmp_path)
    path.write_text(
        "# {{ title }} <{{ form(x, '.2f') }}>\n{% if x %}\n{{ rows([['a', 1]]) }}\n{% endif %}\n", encoding="utf-8"
    )
    assert fill_in("study", title="T", x=1.234) == "# T <1.23>\n| a | 1 |\n"
    with pytest.raises(UndefinedError):
        fill_in("study", x=1)


def test_rows_of_a_markdown_table():
    assert markdown_rows([["a", 1], ["b", ""]]) == "| a | 1 |\n| b |  |"


def test_a_claim_that_the_facts_do_not_support_stops_the_report():
    assert claim(True, "x rises") == ""
    with pytest.raises(ClipGeomError, match=r"support a sentence of report\.md\.j2: x rises"):
        claim(False, "x rises")
