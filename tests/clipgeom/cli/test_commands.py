"""The command as its user meets it: exit codes, one clear line for bad input, nothing half-written."""

import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from clipgeom import Certificate
from tests.tiny.text_towers import save_projection


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "clip"
    save_projection(folder)
    return folder


def write_captions(path, n=40):
    path.write_text("".join(f"the cat and {'a dog ' * (i % 7)}on mat {i}\n" for i in range(n)))
    return path


def test_a_report_from_captions(run, tmp_path, model):
    path = write_captions(tmp_path / "c.txt")
    code, out, _ = run("report", "--model", model, "--captions", path, "--out", "r", "--limit", 30)
    assert code == 0
    assert "report: r/report.html" in out
    names = sorted(p.name for p in (tmp_path / "r").iterdir())
    assert names == ["centers.safetensors", "figures", "report.html", "report.json", "statistics.csv"]
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["schema"] == "clipgeom.report/1"
    assert [(r["representation"], r["position"], r["n"]) for r in report["statistics"]] == [
        ("hidden", "eos", 30),
        ("hidden", "5", 30),
        ("projected", "eos", 30),
        ("projected", "5", 30),
    ]
    assert report["provenance"]["command"].startswith("clipgeom report --model")
    assert "hidden.eos" in load_file(tmp_path / "r" / "centers.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.txt", "r"]


def test_encode_then_report_on_the_vectors(run, tmp_path, model):
    path = write_captions(tmp_path / "c.txt")
    code, out, _ = run("encode", "--model", model, "--captions", path, "--out", "v.safetensors")
    assert code == 0
    assert "hidden.eos: 40 vectors of dimension 32" in out
    code, _, _ = run(
        "report",
        "--embeddings",
        "v.safetensors::hidden.5",
        "--representation",
        "hidden",
        "--positions",
        "5",
        "--out",
        "a",
    )
    assert code == 0
    code, _, _ = run("report", "--model", model, "--captions", path, "--out", "b", "--representation", "hidden")
    assert code == 0
    first, second = (json.loads((tmp_path / name / "report.json").read_text()) for name in "ab")
    given = first["statistics"][0]
    encoded = next(r for r in second["statistics"] if r["position"] == "5")
    assert given["position"] == "5"
    for part in ("raw", "centered", "radial_terms"):
        assert given[part] == encoded[part]
    code, out, _ = run("compare", "a", "b", "--out", "c.html")
    assert code == 0
    assert (tmp_path / "c.html").is_file()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
def test_vectors_keep_the_images_of_their_captions(run, tmp_path, model, suffix):
    path = write_captions(tmp_path / "c.txt", n=60)
    options = ("--model", model, "--captions", path, "--positions", "5", "--representation", "hidden")
    assert run("encode", *options, "--group-size", 5, "--out", f"v{suffix}")[0] == 0
    # the one matrix in the file needs no name, and has the position and the images that it was encoded with
    code, out, _ = run("report", "--embeddings", f"v{suffix}", "--no-check", "--out", "a")
    assert code == 0
    assert "Intervals are by image" in out
    assert run("report", *options, "--group-size", 5, "--no-check", "--out", "b")[0] == 0
    first, second = (json.loads((tmp_path / name / "report.json").read_text())["statistics"][0] for name in "ab")
    assert first["position"] == "5"
    assert first["n_groups"] == second["n_groups"] < first["n"]
    assert first["raw"] == second["raw"]
    code, _, err = run("report", "--embeddings", f"v{suffix}", "--group-size", 5, "--out", "c")
    assert (code, "has the images of its captions; leave --group-size out" in err) == (2, True)
    assert run("check", "--embeddings", f"v{suffix}", "--out", "c.safetensors")[0] == 0
    assert Certificate.load(tmp_path / "c.safetensors").groups == "image ids"


def test_several_captions_of_one_image(run, tmp_path, model):
    path = write_captions(tmp_path / "c.txt", n=500)
    one_row = ("--model", model, "--captions", path, "--positions", "eos", "--representation", "hidden")
    code, out, _ = run("report", *one_row, "--limit", 40, "--no-check", "--out", "r")
    assert (code, "give --group-size N." in out) == (0, True)
    options = (*one_row, "--group-size", 5)
    code, out, _ = run("report", *options, "--no-check", "--out", "r")
    assert code == 0
    assert "Intervals are by image: 500 captions of 100 images (each 5 consecutive captions)." in out
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["captions"]["n_groups"] == report["statistics"][0]["n_groups"] == 100
    assert report["provenance"]["selection"]["group_size"] == 5
    code, out, _ = run("check", *options, "--out", "c.safetensors")
    assert code == 0
    assert "500 captions of 100 images" in out
    certificate = Certificate.load("c.safetensors")
    assert certificate.groups == "each 5 consecutive captions"
    assert certificate.entries[0].figures["n_groups"] == 100
    assert run("encode", *options, "--out", "v.npz")[0] == 0
    with np.load("v.npz") as stored:
        np.testing.assert_array_equal(stored["eos.images"], np.arange(500) // 5)
    vectors = ("--embeddings", "v.npz::hidden.eos", "--representation", "hidden")
    code, out, _ = run("report", *vectors, "--no-check", "--out", "r2")
    assert "500 vectors of 100 images." in out
    rows = json.loads((tmp_path / "r2" / "report.json").read_text())["statistics"]
    assert rows[0]["raw"] == report["statistics"][0]["raw"]
    code, out, _ = run("check", *vectors, "--out", "c2.safetensors")
    assert Certificate.load("c2.safetensors").groups == "image ids"


def test_texts_against_images(run, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "t.npy", rng.normal(size=(60, 8)) + 1)
    np.save(tmp_path / "i.npy", rng.normal(size=(50, 8)) - 1)
    code, _, _ = run(
        "report",
        "--embeddings",
        "t.npy",
        "--image-embeddings",
        "i.npy",
        "--representation",
        "projected",
        "--positions",
        "eos",
        "--out",
        "r",
    )
    assert code == 0
    modality = json.loads((tmp_path / "r" / "report.json").read_text())["modality"]
    assert modality["gap"] > 0.5
    assert modality["pairing"] is None
    assert len(modality["offsets"]) == 17


def bad_inputs(tmp_path, model):
    """(name, arguments, what the line must say)."""
    captions = write_captions(tmp_path / "c.txt")
    (tmp_path / "two.txt").write_text("a cat\nthe dog\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.txt").write_text("   \n \t\n")
    (tmp_path / "bytes.txt").write_bytes(b"fine\n\xff\xfe\n")
    (tmp_path / "other.json").write_text('{"images": []}')
    (tmp_path / "t.csv").write_text("name,words\na,b\n")
    np.save(tmp_path / "nan.npy", np.array([[1.0, np.nan]] * 5))
    np.save(tmp_path / "rank.npy", np.zeros(5))
    np.save(tmp_path / "object.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    (tmp_path / "pickled").mkdir()
    for file in ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / "pickled" / file).write_bytes((model / file).read_bytes())
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    base = ["report", "--model", model, "--captions"]
    vectors = ["report", "--representation", "projected", "--positions", "eos", "--embeddings"]
    return [
        ("missing file", [*base, "absent.txt"], "no file absent.txt"),
        ("empty set", [*base, "empty.txt"], "holds no captions"),
        ("only spaces", [*base, "blank.txt"], "all of them blank"),
        ("undecodable", [*base, "bytes.txt"], "line 2"),
        ("not COCO", [*base, "other.json"], "annotations"),
        ("wrong column", [*base, "t.csv", "--column", "caption"], "name, words|'name', 'words'"),
        ("few captions", [*base, "two.txt"], r"at least 3"),
        ("too short", [*base, captions, "--positions", "60"], "no caption is long enough"),
        ("beyond 76", [*base, captions, "--positions", "77"], "positions 0 to 76"),
        ("output taken", [*base, captions, "--out", "thesis"], "something other than a clipgeom report"),
        ("limit", [*base, captions, "--limit", "0"], "limit"),
        ("pickled", ["report", "--model", "pickled", "--captions", captions], "pickled weights only"),
        ("no model", ["report", "--model", "./absent", "--captions", captions], "no directory"),
        ("cannot give", [*base, captions, "--representation", "pooled"], "unknown representation"),
        ("NaN", [*vectors, "nan.npy"], "row 0 holds NaN"),
        ("rank", [*vectors, "rank.npy"], "matrix"),
        ("objects", [*vectors, "object.npy"], "refused"),
        ("no label", ["report", "--embeddings", "nan.npy"], "--representation"),
        ("contradiction", [*vectors, "nan.npy", "--padded"], "--padded applies to captions"),
        ("half a pair", [*base, captions, "--image-embeddings", "nan.npy"], "needs --embeddings"),
        (
            "encode ending",
            ["encode", "--model", model, "--captions", captions, "--out", "v.pt"],
            "no ending of embeddings",
        ),
        ("size 0", [*base, captions, "--group-size", "0"], "group_size must be a whole number of at least 1"),
        ("one image", [*base, captions, "--group-size", "99"], "40 vectors at position eos are all of one image"),
        ("size and ids", ["report", "--group-size", "5"], "group_size=5 does not apply to miniworld"),
        ("vectors, size -1", [*vectors, "nan.npy", "--group-size", "-1"], "--group-size must be at least 1, not -1"),
        ("compare", ["compare", "thesis", "thesis"], "thesis"),
    ]


def test_bad_input_is_one_line_and_leaves_nothing(run, tmp_path, model):
    cases = bad_inputs(tmp_path, model)
    before = sorted(tmp_path.rglob("*"))
    for name, arguments, expected in cases:
        code, out, err = run(*arguments)
        assert code == 2, (name, out, err)
        lines = [line for line in err.splitlines() if line]
        assert len(lines) == 1, (name, err)
        assert lines[0].startswith("clipgeom: "), name
        import re

        assert re.search(expected, lines[0]), (name, lines[0])
        assert sorted(tmp_path.rglob("*")) == before, name


def test_a_full_disk_is_one_line_and_leaves_nothing(run, tmp_path, model, monkeypatch):
    path = write_captions(tmp_path / "c.txt")

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    monkeypatch.setattr("clipgeom.encoder.storage.partial._allocate", full)
    code, _, err = run("report", "--model", model, "--captions", path, "--out", "deep/er/r")
    assert code == 2
    assert "no space left" in err
    assert [p.name for p in tmp_path.iterdir()] == ["c.txt"]


def test_encode_keeps_a_file_that_it_did_not_make(run, tmp_path, model):
    path = write_captions(tmp_path / "c.txt")
    shutil.copytree(model, tmp_path / "m")
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    command = ["encode", "--model", "m", "--captions", path, "--representation", "hidden", "--positions", "eos"]
    code, _, err = run(*command, "--out", "m/model.safetensors")
    assert code == 2
    assert err == (
        "clipgeom: m/model.safetensors was not made by `clipgeom encode` and will not be replaced; choose another --out, "
        "or add --overwrite\n"
    )
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before
    (tmp_path / "notes.npz").write_text("mine")
    (tmp_path / "v.npy").write_text("mine")
    for name in ("notes.npz", "v.npy"):
        assert run(*command, "--out", name)[0] == 2
        assert (tmp_path / name).read_text() == "mine"
        assert run(*command, "--out", name, "--overwrite")[0] == 0
    assert run(*command, "--out", "notes.npz")[0] == 0  # now it is one of its own
    assert run(*command, "--out", "v.npy")[0] == 2  # such a file says nothing about who made it
    code, _, err = run("encode", "--model", "miniworld", "--captions", path, "--out", "w.npy")
    assert (code, "one matrix, not 4" in err) == (2, True)
    assert not (tmp_path / "w.npy").exists()


def test_outputs_follow_links_which_stay(run, tmp_path, model):
    path = write_captions(tmp_path / "c.txt")
    (tmp_path / "disk").mkdir()
    options = ["--model", model, "--captions", path, "--representation", "hidden", "--positions", "eos"]
    for command, name in (("encode", "v.npz"), ("check", "c.safetensors")):
        (tmp_path / name).symlink_to(f"disk/{name}")
        for _ in range(2):
            code, _, err = run(command, *options, "--out", name)
            assert code == 0, err
            assert (tmp_path / name).is_symlink()
            assert (tmp_path / "disk" / name).is_file()
    (tmp_path / "r").symlink_to("disk/r")
    assert run("report", *options, "--no-check", "--out", "r")[0] == 0
    assert (tmp_path / "r").is_symlink()
    (tmp_path / "p.html").symlink_to("disk/p.html")
    assert run("compare", "r", "r", "--out", "p.html")[0] == 0
    assert sorted(p.name for p in (tmp_path / "disk").iterdir()) == ["c.safetensors", "p.html", "r", "v.npz"]
    assert (tmp_path / "p.html").is_symlink()


def test_a_folder_that_vanishes_during_the_work_is_one_line(run, tmp_path, model, monkeypatch):
    from clipgeom.encoder.storage.store import VectorStore

    honest = VectorStore.fill

    def vanishing(self, *arguments, **options):
        shutil.rmtree(tmp_path / "gone")
        return honest(self, *arguments, **options)

    monkeypatch.setattr(VectorStore, "fill", vanishing)
    path = write_captions(tmp_path / "c.txt")
    for command, name in (("encode", "v.npz"), ("check", "c.safetensors"), ("report", "r")):
        (tmp_path / "gone").mkdir(exist_ok=True)
        code, _, err = run(command, "--model", model, "--captions", path, "--no-cache", "--out", f"gone/{name}")
        assert code == 2
        assert err == (
            f"clipgeom: {tmp_path / 'gone'}, or temporary files in it, were deleted during the work; nothing was written\n"
        )
        assert [p.name for p in tmp_path.rglob("*") if p.name.startswith(".clipgeom-")] == []


def test_control_characters_in_names_do_not_reach_the_terminal(run, tmp_path):
    for name in ("\x1b]0;owned\x07.txt", "\x9b31m.txt", "a\u202etxt.exe"):
        code, _, err = run("report", "--model", "miniworld", "--captions", name)
        assert code == 2
        assert not set(err) & set("\x1b\x07\x9b\u202e")
        assert err.count("\n") == 1


def test_a_defect_of_ours_is_not_hidden(run, monkeypatch, tmp_path, model):
    def broken(*_args, **_kwargs):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("clipgeom.report.measure.build.measure_captions", broken)
    with pytest.raises(ZeroDivisionError):
        run("report", "--model", model, "--captions", write_captions(tmp_path / "c.txt"))


def test_the_command_in_a_fresh_process(tmp_path):
    version = subprocess.run(
        [sys.executable, "-m", "clipgeom", "--version"], capture_output=True, text=True, check=True
    )
    assert version.stdout.startswith("clipgeom ")
    command = [sys.executable, "-m", "clipgeom", "report", "--model", "absent/", "--captions", "miniworld"]
    wrong = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1


def test_importing_the_package_loads_neither_torch_nor_transformers():
    script = (
        "import sys, clipgeom; from clipgeom import Moments, measure_shells, conformity, slerp, check_centering; "
        "heavy = {'torch', 'transformers', 'sklearn', 'pandas', 'matplotlib'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", ["report", "check", "encode"])
def test_a_model_needs_captions_and_captions_need_a_model(run, tmp_path, name):
    out = ["--out", "v.npz"]
    code, stdout, err = run(name, "--model", "m", *out)
    assert (code, stdout) == (2, "")
    assert err.startswith("clipgeom: --model m needs --captions: add --captions FILE, or --captions miniworld")
    code, stdout, err = run(name, "--captions", "c.txt", *out)
    assert (code, stdout) == (2, "")
    assert err.startswith("clipgeom: --captions c.txt needs --model: add --model DIRECTORY, or --model miniworld")
    assert list(tmp_path.iterdir()) == []
    write_captions(tmp_path / "c.txt")
    options = ["--representation", "hidden", "--positions", "eos", "--no-cache"]
    code, stdout, err = run(name, "--captions", "c.txt", "--model", "miniworld", *options, *out)
    assert code == 0, err
    assert stdout.splitlines()[0] == "model miniworld, captions c.txt"


def test_the_miniworld_is_measured_by_another_model_when_asked(run, tmp_path, model):
    options = ["--representation", "hidden", "--positions", "eos", "--limit", 40, "--no-cache"]
    code, out, err = run("encode", "--model", model, "--captions", "miniworld", *options, "--out", "v.npz")
    assert code == 0, err
    assert out.splitlines()[0] == f"model {model}, captions miniworld"


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_vectors_have_the_position_and_provenance_of_their_name(run, tmp_path, model, suffix):
    from clipgeom.centering import Certificate

    path, file = write_captions(tmp_path / "c.txt", 80), f"v.{suffix}"
    about = ["--model", model, "--captions", path]
    assert run("encode", *about, "--representation", "hidden", "--out", file)[0] == 0
    assert run("check", *about, "--representation", "hidden", "--positions", "5", "--out", "own")[0] == 0
    code, out, err = run("check", "--embeddings", f"{file}::hidden.5", "--out", "given")
    assert code == 0, err
    assert out.splitlines()[0] == f"vectors {file}::hidden.5, model {model}, captions {path}"
    own, given = (Certificate.load(name) for name in ("own", "given"))
    assert [(e.representation, e.position) for e in given.entries] == [("hidden", "5")]
    assert given.encoder_fingerprint == own.encoder_fingerprint is not None
    assert given.captions_sha256 == own.captions_sha256 is not None
    assert (given.model, given.captions) == (own.model, own.captions)
    np.testing.assert_array_equal(given.entries[0].center, own.entries[0].center)
    code, _, err = run("report", "--embeddings", f"{file}::hidden.5", "--no-check", "--out", "r")
    assert code == 0, err
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["statistics"][0]["position"] == "5"
    assert report["provenance"]["fingerprint"] == own.encoder_fingerprint
    assert "hidden.5" in load_file(tmp_path / "r" / "centers.safetensors")
    assert f"vectors from {file}::hidden.5" in (tmp_path / "r" / "report.html").read_text()
    code, out, _ = run("compare", "r", "r", "--out", "c.html")
    one = f"vectors {file}::hidden.5, model {model}, captions {path}"
    assert out.splitlines()[0] == f"A: {one}; B: {one}"
    for wrong, message in (
        (["--positions", "eos"], "has the position 5 by its name, --positions is eos"),
        (["--representation", "projected"], "has the representation hidden by its name"),
        (["--positions", "5,6"], "has one position, --positions names 2"),
        (["--image-embeddings", f"{file}::hidden.eos"], "names vectors of captions, not of images"),
    ):
        code, _, err = run("report", "--embeddings", f"{file}::hidden.5", *wrong, "--out", "x")
        assert code == 2
        assert message in err


def test_vectors_without_such_a_name_need_their_labels(run, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 8)))
    for given, missing in (
        ([], "representation: add --representation"),
        (["--representation", "hidden"], "position: add --positions"),
        (["--positions", "eos"], "representation: add --representation"),
    ):
        code, _, err = run("check", "--embeddings", "x.npy", *given)
        assert code == 2
        assert f"the name of the vectors x.npy does not give their {missing}" in err
    code, out, _ = run("check", "--embeddings", "x.npy", "--representation", "hidden", "--position", "7")
    assert code == 0
    assert out.splitlines()[0] == "vectors x.npy, model unknown, captions unknown"
    assert out.splitlines()[1].startswith("hidden at 7 (n = 60)")
    code, out, _ = run("check", "--embeddings", "x.npy", "--representation", "projected", "--out", "p.safetensors")
    assert code == 0
    assert out.splitlines()[1].startswith("projected at eos (n = 60)")  # the one state that a model projects
