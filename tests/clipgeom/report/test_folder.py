"""The folder of a report: whole, and beside the files of the user."""

import errno
import json
import os
import resource
from pathlib import Path

import pytest

from clipgeom import ConfigError
from clipgeom.errors import OutputError
from clipgeom.report import folder as folders
from clipgeom.report.folder import check_output_folder, files_in, output_folder

REPORT = ["figures/a.png", "report.html", "report.json"]


def write_report(path, text="x", figures=("a",)):
    with output_folder(path) as partial:
        (partial / "figures").mkdir()
        for name in figures:
            (partial / "figures" / f"{name}.png").write_text(text)
        (partial / "report.html").write_text(text)
        content = {"schema": "clipgeom.report/1", "text": text, "files": files_in(partial)}
        (partial / "report.json").write_text(json.dumps(content))


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_a_folder_appears_whole(tmp_path):
    target = tmp_path / "deep" / "er" / "report"
    write_report(target)
    assert listing(target) == REPORT
    assert [p.name for p in target.parent.iterdir()] == ["report"]
    assert target.stat().st_mode & 0o777 == (tmp_path / "deep").stat().st_mode & 0o777


def test_an_earlier_report_is_replaced_and_files_of_the_user_stay(tmp_path):
    target = tmp_path / "report"
    write_report(target, "first", figures=("a", "b"))
    (target / "mystuff").mkdir()
    (target / "mystuff" / "notes.txt").write_text("mine")
    (target / "figures" / "mine.png").write_text("mine")
    (target / "thesis.tex").write_text("mine")
    write_report(target, "second", figures=("a", "c"))
    assert listing(target) == sorted(
        ["figures/a.png", "figures/c.png", "figures/mine.png", "mystuff/notes.txt", "thesis.tex", *REPORT[1:]]
    )
    assert {(target / name).read_text() for name in ("report.html", "figures/a.png", "figures/c.png")} == {"second"}
    for name in ("mystuff/notes.txt", "figures/mine.png", "thesis.tex"):
        assert (target / name).read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


def test_a_figure_of_the_user_is_not_replaced_by_a_new_one(tmp_path):
    target = tmp_path / "report"
    write_report(target, "first")
    (target / "figures" / "c.png").write_text("mine")
    with pytest.raises(ConfigError, match=r"c\.png was not made by `clipgeom report`"):
        write_report(target, "second", figures=("a", "c"))
    assert (target / "figures" / "c.png").read_text() == "mine"
    assert json.loads((target / "report.json").read_text())["text"] == "first"
    assert (target / "figures" / "a.png").read_text() == "first"
    (target / "statistics.csv").write_text(
        "mine"
    )  # an own file that this report does not have: refused before the work
    with pytest.raises(ConfigError, match=r"statistics\.csv was not made by"):
        check_output_folder(target)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
def test_a_failure_leaves_what_was_there(tmp_path, failure):
    target = tmp_path / "report"
    write_report(target, "first")

    def fail():
        with output_folder(target) as partial:
            (partial / "half").write_text("…")
            raise failure

    with pytest.raises((KeyboardInterrupt, OutputError)):
        fail()
    assert listing(target) == REPORT
    assert (target / "report.html").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("moves", range(4))
def test_a_process_killed_between_two_moves_leaves_whole_files_and_no_mixture(tmp_path, monkeypatch, moves):
    """Numbers of one report beside figures of another are never taken for a report; the same command repairs them."""
    target, done = tmp_path / "report", []
    write_report(target, "first", figures=("a", "b"))
    (target / "mine.txt").write_text("mine")
    honest = Path.replace

    def until(self, place):
        if self.parent.name != "report":  # the rename of the list itself happens within the folder
            done.append(self)
        if len(done) > moves:
            os._exit(9)
        return honest(self, place)

    process = os.fork()
    if not process:
        try:
            monkeypatch.setattr(Path, "replace", until)
            write_report(target, "second", figures=("a", "c"))
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9
    texts = {path.read_text() for path in (target / "figures").iterdir()} | {(target / "report.html").read_text()}
    assert texts <= {"first", "second"}  # each whole
    assert "text" not in json.loads((target / "report.json").read_text())
    write_report(target, "second", figures=("a", "c"))
    assert [name for name in listing(target) if not name.startswith(".clipgeom-")] == sorted(
        ["figures/a.png", "figures/c.png", "mine.txt", *REPORT[1:]]
    )
    assert json.loads((target / "report.json").read_text())["text"] == "second"


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis").mkdir()
    check_output_folder(tmp_path / "thesis")  # empty: welcome
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="contains something other than a clipgeom report"):
        write_report(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"
    with pytest.raises(ConfigError, match="is a file"):
        check_output_folder(tmp_path / "thesis" / "chapter.tex")
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        check_output_folder(tmp_path / "thesis" / "chapter.tex" / "report")
    for foreign in ('["not ours"]', '{"schema": "mine/1"}', "{", '{"schema": "clipgeom.report/1", "files": 3}'):
        (tmp_path / "thesis" / "report.json").write_text(foreign)
        with pytest.raises(ConfigError, match="something other"):
            check_output_folder(tmp_path / "thesis")
    write_report(tmp_path / "thesis" / "report")  # what the message recommends


def test_a_list_of_files_that_lead_out_of_the_folder_deletes_none(tmp_path):
    target = tmp_path / "report"
    write_report(target, figures=("a",))
    for name in ("precious.png", "report/precious.txt"):
        (tmp_path / name).write_text("mine")
    forged = json.loads((target / "report.json").read_text())
    forged["files"] += ["../precious.png", "figures/../../precious.png", "precious.txt", str(tmp_path / "precious.png")]
    (target / "report.json").write_text(json.dumps(forged))
    write_report(target)
    assert (tmp_path / "precious.png").read_text() == (target / "precious.txt").read_text() == "mine"


def test_links_lead_to_the_folder_that_is_written(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    (tmp_path / "ahead").symlink_to(tmp_path / "later" / "report")  # points to nothing yet
    for name, place in (("link", "disk"), ("ahead", "later/report")):
        for text in ("first", "second"):
            write_report(tmp_path / name, text)
            assert (tmp_path / name).is_symlink()
            assert (tmp_path / place / "report.html").read_text() == text
            assert listing(tmp_path / place) == REPORT
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigError, match="leads back to itself"):
        check_output_folder(tmp_path / "a")
    (tmp_path / "disk" / "figures").rename(tmp_path / "elsewhere")
    (tmp_path / "disk" / "figures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="figures is not a folder of"):
        check_output_folder(tmp_path / "disk")


def test_the_current_folder_stays_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for text in ("first", "second"):
        write_report(Path(), text)
        assert Path("report.html").read_text() == text
        assert listing(Path()) == REPORT
    assert Path.cwd().samefile(tmp_path / "here")


def test_a_folder_that_cannot_be_renamed_is_written_into(tmp_path, monkeypatch):
    """As a mount point: its rename fails, and its parent is another file system."""
    mount, honest = tmp_path / "mount", Path.rename
    mount.mkdir()

    def rename(self, place):
        if mount in (self, Path(place)):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return honest(self, place)

    monkeypatch.setattr(Path, "rename", rename)
    for text in ("first", "second"):
        write_report(mount, text)
        assert listing(mount) == REPORT
        assert (mount / "report.html").read_text() == text


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    def refused(*_arguments, **_options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    (tmp_path / "report").mkdir()
    monkeypatch.setattr(Path, "open", refused)
    for path in (tmp_path / "report", tmp_path / "new", tmp_path / "new" / "er"):
        with pytest.raises(ConfigError, match=r"cannot write to .* \(Read-only file system\); choose another place"):
            check_output_folder(path)


def test_a_name_that_no_file_may_have_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has 256 bytes, more than 255"):
        check_output_folder(tmp_path / "new" / ("é" * 128))


def test_a_full_disk_is_one_line_and_leaves_the_earlier_report(tmp_path):
    target = tmp_path / "report"
    write_report(target, "first")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(OutputError, match="no space left on the disk"):
            write_report(target, "second" * (1 << 16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert listing(target) == REPORT
    assert json.loads((target / "report.json").read_text())["text"] == "first"


def test_the_fixed_files_are_those_that_a_report_has():
    assert set(folders._FIXED) == {"report.html", "report.json", "statistics.csv", "centers.safetensors"}
