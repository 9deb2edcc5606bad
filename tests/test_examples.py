"""The two examples that need no training run, print what they promise, and leave nothing where they are run."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def run_example(name, folder, *arguments):
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_interpolate_embeddings(tmp_path):
    output = run_example("interpolate_embeddings.py", tmp_path)
    rows = {line[:18].strip(): [float(x) for x in line[18:].split()] for line in output.splitlines()[1:7]}
    (norm, distance), lerp, slerp = rows["ends"], rows["lerp"], rows["slerp"]
    assert max(lerp[0] / norm, lerp[1] / distance) < 0.95  # shorter by both
    assert slerp[0] == pytest.approx(norm, rel=0.01)
    assert slerp[1] < 0.95 * distance
    for mode in ("vslerp", "vslerp, keep_norm", "aslerp"):
        assert rows[mode] == pytest.approx([norm, distance], rel=0.01)
    assert "path of five points: (5, 64)" in output
    assert list(tmp_path.iterdir()) == []


def test_report_from_python(tmp_path):
    output = run_example("report_from_python.py", tmp_path, tmp_path / "report")
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["statistics"][0]["n"] == 300
    assert f"mean raw norm {report['statistics'][0]['raw']['mean_norm']:.3f}" in output
    assert (tmp_path / "report" / "report.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("name", ["interpolate_embeddings.py", "report_from_python.py", "miniworld_in_5_minutes.sh"])
def test_examples_have_a_header(name):
    text = (ROOT / "examples" / name).read_text(encoding="utf-8")
    assert f"examples/{name}" in text.split("set -euo" if name.endswith("sh") else "\nimport", 1)[0]
