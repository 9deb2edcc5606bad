import errno

import pytest

from clipgeom import ConfigError
from clipgeom.report.folder import check_output_folder, output_folder


def write_report(path, text="{}"):
    with output_folder(path) as partial:
        (partial / "report.json").write_text('{"schema": "clipgeom.report/1"}')
        (partial / "mark").write_text(text)


def test_a_folder_appears_whole(tmp_path):
    target = tmp_path / "deep" / "er" / "report"
    write_report(target)
    assert sorted(p.name for p in target.iterdir()) == ["mark", "report.json"]
    assert [p.name for p in target.parent.iterdir()] == ["report"]
    assert target.stat().st_mode & 0o777 == (tmp_path / "deep").stat().st_mode & 0o777


def test_an_earlier_report_is_replaced_and_nothing_else(tmp_path):
    target = tmp_path / "report"
    write_report(target, "first")
    write_report(target, "second")
    assert (target / "mark").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
def test_a_failure_leaves_what_was_there(tmp_path, failure):
    target = tmp_path / "report"
    write_report(target, "first")

    def fail():
        with output_folder(target) as partial:
            (partial / "half").write_text("…")
            raise failure

    with pytest.raises((KeyboardInterrupt, OSError)):
        fail()
    assert (target / "mark").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis").mkdir()
    check_output_folder(tmp_path / "thesis")  # empty: welcome
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="holds something other than a clipgeom report"):
        write_report(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"
    with pytest.raises(ConfigError, match="is a file"):
        check_output_folder(tmp_path / "thesis" / "chapter.tex")
    (tmp_path / "thesis" / "report.json").write_text('["not ours"]')
    with pytest.raises(ConfigError, match="something other"):
        check_output_folder(tmp_path / "thesis")
