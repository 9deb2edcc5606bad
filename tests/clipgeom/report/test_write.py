"""The report folder: every file in it, the same bytes each time, whole or not at all."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open

from clipgeom import ConfigError
from clipgeom.report.write import write_report
from tests.clipgeom.report.samples import NASTY, captioned, paired, tiny


@pytest.fixture(scope="module")
def measured():
    return captioned(captions=NASTY, profile=True)


@pytest.fixture(scope="module")
def folder(measured, tmp_path_factory):
    out = tmp_path_factory.mktemp("reports") / "report"
    write_report(measured, out)
    return out


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_folder_holds_the_files_it_promises(folder):
    names = set(contents(folder))
    assert {"report.html", "report.json", "statistics.csv", "centers.safetensors"} <= names
    figures = {name for name in names if name.startswith("figures/")}
    assert names - figures == {"report.html", "report.json", "statistics.csv", "centers.safetensors"}
    stems = {name.rsplit(".", 1)[0] for name in figures}
    assert figures == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    assert {"figures/norms-hidden-eos", "figures/radial", "figures/token-lengths"} <= stems


def test_the_same_report_gives_the_same_bytes(measured, folder, tmp_path):
    write_report(measured, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folder)


def test_json_is_the_report_with_every_caption_intact(measured, folder):
    text = (folder / "report.json").read_text(encoding="utf-8")
    content = json.loads(text)
    assert content.pop("files") == sorted(contents(folder))
    assert content == measured.report
    assert "NaN" not in text
    assert "🐈" in text  # written as it is, not escaped


def test_csv_has_one_row_each_with_its_intervals(measured, folder):
    with (folder / "statistics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    statistics = measured.report["statistics"]
    assert [(row["representation"], row["position"]) for row in rows] == [("hidden", "eos"), ("projected", "5")]
    for row, entry in zip(rows, statistics, strict=True):
        assert float(row["raw_mean_norm"]) == entry["raw"]["mean_norm"]
        assert [float(row[f"centered_cv_norm_{end}"]) for end in ("low", "high")] == entry["centered"]["ci95"][
            "cv_norm"
        ]
        assert float(row["radial_C"]) == entry["radial_terms"]["C"]
        assert float(row["raw_p05"]) == entry["raw"]["percentiles"]["5"]
        assert int(row["n_excluded"]) == entry["n_excluded"]


def test_csv_leaves_unknown_numbers_empty(tmp_path):
    write_report(tiny(), tmp_path / "tiny")
    with (tmp_path / "tiny" / "statistics.csv").open(newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert row["sphere_radius"] == row["top_share_50"] == ""
    assert "None" not in row.values()


def test_centers_keep_their_values_and_say_what_they_belong_to(measured, folder):
    with safe_open(folder / "centers.safetensors", "np") as file:
        assert set(file.keys()) == set(measured.centers)
        for name, center in measured.centers.items():
            tensor = file.get_tensor(name)
            assert tensor.dtype == np.float64
            np.testing.assert_array_equal(tensor, center)
        provenance = measured.report["provenance"]
        assert file.metadata() == {
            "schema": "clipgeom.report/1",
            "fingerprint": provenance["fingerprint"],
            "captions_sha256": provenance["captions_sha256"],
        }


def test_embeddings_need_no_captions(tmp_path):
    report = paired()
    write_report(report, tmp_path / "paired")
    files = contents(tmp_path / "paired")
    assert "figures/offset-contrastive-loss.svg" in files
    assert "figures/token-lengths.svg" not in files
    with safe_open(tmp_path / "paired" / "centers.safetensors", "np") as file:
        assert file.metadata()["embeddings_sha256"] == report.report["provenance"]["embeddings_sha256"]


def test_figures_of_an_earlier_report_vanish_and_those_of_the_user_stay(tmp_path):
    out = tmp_path / "report"
    write_report(paired(), out)
    (out / "figures" / "mine.png").write_bytes(b"mine")
    write_report(tiny(), out)
    write_report(tiny(), tmp_path / "fresh")
    assert contents(out) == {**contents(tmp_path / "fresh"), "figures/mine.png": b"mine"}


def test_a_text_in_a_table_is_no_formula(tmp_path):
    names = [f"{start}HYPERLINK(1)" for start in "=+-@"]
    write_report(captioned([(name, "eos", "ball") for name in names], n=40), tmp_path / "report")
    with (tmp_path / "report" / "statistics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["representation"] for row in rows] == [f"'{name}" for name in names]
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    for row, entry in zip(rows, report["statistics"], strict=True):
        assert float(row["radial_C"]) == entry["radial_terms"]["C"]  # a number stays one, also below zero


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious", encoding="utf-8")
    with pytest.raises(ConfigError, match="something other"):
        write_report(tiny(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_nothing_is_left_behind_when_drawing_fails(tmp_path, monkeypatch):
    def broken(*_arguments):
        raise RuntimeError("no ink")

    monkeypatch.setattr("clipgeom.report.render.page.render_report", broken)
    with pytest.raises(RuntimeError, match="no ink"):
        write_report(tiny(), tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


def test_a_name_with_slashes_stays_inside_the_folder(tmp_path):
    names = [("../../up", "eos", "sphere"), ("..\\..\\up", "eos", "sphere"), ("$x^2$<b>", "eos", "ball")]
    write_report(captioned(names, n=40), tmp_path / "report")
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    norms = [
        name for name in contents(tmp_path / "report") if name.startswith("figures/norms-") and name.endswith("svg")
    ]
    assert len(norms) == 3  # two names that look alike as file names do not overwrite each other


def test_importing_the_writer_loads_no_plotting():
    code = (
        "import sys, clipgeom.report.write, clipgeom.report.compare; print({'matplotlib', 'jinja2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
