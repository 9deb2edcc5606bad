"""The numbers of every step, in a file that a killed process or a damaged disk leaves behind."""

import json

import pytest

from clipgeom._progress import Quiet
from pti.runs.metrics_log import MetricsLog
from pti.workflow import run_stages
from tests.tiny.runs import configuration

ROWS = [{"stage": stage, "step": step, "loss": 0.5 / step} for stage in ("invert", "tune") for step in (1, 2, 3)]


@pytest.fixture
def log(tmp_path):
    log = MetricsLog(tmp_path)
    for row in ROWS:
        log.append(row["stage"], {key: value for key, value in row.items() if key != "stage"})
    return log


def test_rows_are_cut_after_a_step(log):
    assert log.rows() == ROWS
    assert log.cut("tune", 1) == 0
    assert log.rows() == ROWS[:4]


def test_half_a_line_of_a_killed_process_is_left_out(log):
    log.lines.write_bytes(log.lines.read_bytes()[:-9])
    assert log.cut("tune", 3) == 0
    assert log.rows() == ROWS[:-1]


@pytest.mark.parametrize(
    "line", [b"{", b"[1]", b"7", b"\xff\xfe", b'{"step": 2}', b'{"stage": "invert", "step": "2"}', b"[" * 100_000, b""]
)
def test_a_damaged_line_is_left_out_and_counted(log, line):
    lines = log.lines.read_bytes().splitlines()
    log.lines.write_bytes(b"\n".join([lines[0], line, *lines[2:], b""]))
    assert log.rows() == [ROWS[0], *ROWS[2:]]
    assert log.cut("tune", 3) == 1
    assert [json.loads(text) for text in log.lines.read_text().splitlines()] == [ROWS[0], *ROWS[2:]]


def test_a_run_tells_of_damaged_lines(sd, tmp_path):
    notes = []

    class Told(Quiet):
        def note(self, text):
            notes.append(text)

    settings = configuration(sd, tmp_path / "run", "inversion.steps=2", "validation.prompts=[]")
    folder = run_stages(settings, ("invert",))
    path = folder / "metrics.jsonl"
    path.write_text("{}\n" + path.read_text())
    run_stages(settings, ("invert",), progress=Told())
    assert f"{path} has 1 damaged line(s); they are removed" in notes
    assert len(path.read_text().splitlines()) == 2
