"""The cache through the commands that use it."""

import errno
import json
import os
import re
import subprocess
import sys

import pytest

from clipgeom.encoder.tower import Tower


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("".join(f"the cat and {'a dog ' * (i % 7)}on mat {i}\n" for i in range(60)))
    return path


@pytest.fixture
def packs(monkeypatch):
    """How many packs any tower was run on, those of the probes at loading left out."""
    ran = []
    run = Tower.run
    monkeypatch.setattr(
        Tower, "run", lambda self, pack, *rest: (ran.append(1) if pack.n > 7 else None, run(self, pack, *rest))[1]
    )
    return ran


def rows(folder):
    return json.loads((folder / "report.json").read_text())["statistics"]


def test_a_second_report_encodes_nothing(run, tmp_path, tower_folder, captions, packs):
    base = ["report", "--model", tower_folder, "--captions", captions]
    assert run(*base, "--out", "a")[0] == 0
    assert packs
    packs.clear()
    assert run(*base, "--out", "b")[0] == 0
    assert packs == []
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert run(*base, "--out", "d", "--no-cache")[0] == 0
    assert packs
    assert rows(tmp_path / "a") == rows(tmp_path / "d")


def test_other_captions_another_dtype_or_encoder_are_encoded(run, tmp_path, tower_folder, captions, packs):
    base = ["encode", "--model", tower_folder, "--out", "v.safetensors", "--captions"]
    assert run(*base, captions)[0] == 0
    other = tmp_path / "d.txt"
    other.write_text(captions.read_text().replace("cat", "dog"))
    for arguments in ([*base, other], [*base, captions, "--limit", 50], [*base, captions, "--dtype", "bfloat16"]):
        packs.clear()
        assert run(*arguments)[0] == 0
        assert packs, arguments


def test_list_and_clear(run, own_cache, tower_folder, captions):
    assert run("cache", "list")[1].startswith("0 caption set(s), 0.0 MB in")
    run("encode", "--model", tower_folder, "--captions", captions, "--out", "v.safetensors")
    code, out, _ = run("cache", "list")
    assert code == 0
    assert re.search(rf"MB +60 captions +float32 +{tower_folder} +{captions}\n", out)
    code, out, _ = run("cache", "clear")
    assert code == 0
    assert out.startswith("deleted 1 caption set(s)")
    assert run("cache", "list")[1].startswith("0 caption set(s)")


def test_a_set_in_use_is_not_cleared(run, own_cache, tower_folder, captions):
    import filelock

    run("encode", "--model", tower_folder, "--captions", captions, "--out", "v.safetensors")
    [folder] = [path for path in (own_cache / "encodings").iterdir() if path.is_dir()]
    with filelock.FileLock(folder.with_suffix(".lock")):
        assert "deleted 0 caption set(s)" in run("cache", "clear")[1]
    assert folder.exists()


def test_a_cache_that_cannot_be_written_is_said_and_done_without(
    run, own_cache, tmp_path, tower_folder, captions, monkeypatch
):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("CLIPGEOM_CACHE", str(blocked))
    code, _, err = run("encode", "--model", tower_folder, "--captions", captions, "--out", "v.safetensors")
    assert code == 0
    assert "cannot be written (Not a directory); nothing is kept of this run" in err


def test_a_read_only_cache_is_read(run, own_cache, tmp_path, tower_folder, captions, monkeypatch, packs):
    command = ["encode", "--model", tower_folder, "--captions", captions, "--out"]
    assert run(*command, "a.safetensors")[0] == 0
    packs.clear()

    def refused(*_arguments, **_options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("filelock.FileLock.acquire", refused)
    code, _, err = run(*command, "b.safetensors")
    assert (code, err, packs) == (0, "", [])
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    # what it does not hold is encoded beside it
    code, _, err = run(*command, "d.safetensors", "--positions", "3")
    assert code == 0
    assert "Read-only file system" in err
    assert packs


def test_a_full_cache_is_one_line_and_leaves_no_half(run, own_cache, tower_folder, captions, monkeypatch, tmp_path):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("clipgeom.encoder.storage.partial._allocate", full)
    code, _, err = run("encode", "--model", tower_folder, "--captions", captions, "--out", "v.safetensors")
    assert code == 2
    [line] = err.strip().splitlines()
    assert "no space left for the vectors in" in line
    assert "clipgeom cache clear" in line
    assert "--no-cache" in line
    assert not (tmp_path / "v.safetensors").exists()
    assert list(own_cache.rglob("*.f32")) == []


def test_clear_leaves_what_clipgeom_did_not_make(run, own_cache, tower_folder, captions):
    run("encode", "--model", tower_folder, "--captions", captions, "--out", "v.safetensors")
    root = own_cache / "encodings"
    [made] = [path for path in root.iterdir() if path.is_dir()]
    outside = own_cache / "outside"
    for folder in (root / "photos", root / ("a" * 32), outside):
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
    (root / ("b" * 32)).symlink_to(outside)
    code, out, _ = run("cache", "clear")
    assert code == 0
    assert out.splitlines() == [
        f"deleted 1 caption set(s) from {root}",
        f"left {root / ('a' * 32)}: it contains files that clipgeom did not write",
    ]
    assert not made.exists()
    assert all((folder / "mine.txt").exists() for folder in (root / "photos", root / ("a" * 32), outside))


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"n": "many"}', '{"model": "m", "captions": "c", "dtype": "float32", "n": 61}', "[" * 100_000],
)
def test_a_damaged_description_is_listed_as_unknown(run, own_cache, tower_folder, captions, content):
    run("encode", "--model", tower_folder, "--captions", captions, "--out", "v.safetensors")
    [path] = (own_cache / "encodings").glob("*/about.json")
    path.write_text(content)
    code, out, err = run("cache", "list")
    assert (code, err) == (0, "")
    assert re.search(r"MB +\? captions +\? +\?  \?\n", out)


@pytest.mark.parametrize("name", ["about.json", "store.json", "store.json.new", "partial", "hidden.eos.f32"])
def test_links_in_the_cache_are_not_followed(run, own_cache, tmp_path, tower_folder, captions, name):
    command = ["encode", "--model", tower_folder, "--captions", captions, "--out"]
    assert run(*command, "a.safetensors")[0] == 0
    [folder] = [path for path in (own_cache / "encodings").iterdir() if path.is_dir()]
    outside = tmp_path / "outside"
    if name == "partial":
        outside.mkdir()
        (outside / "mine").write_text("mine")
        (folder / "store.json").unlink()
    else:
        outside.write_text("mine")
        (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    code, _, _ = run(*command, "b.safetensors")
    assert code == 0
    assert (outside / "mine" if name == "partial" else outside).read_text() == "mine"
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.slow
def test_two_processes_on_one_cache(own_cache, tmp_path, tower_folder, captions):
    command = [sys.executable, "-m", "clipgeom", "encode", "--model", str(tower_folder), "--captions", str(captions)]
    both = [subprocess.Popen([*command, "--out", str(tmp_path / f"{name}.safetensors")]) for name in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    first, second = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "ab")
    assert first == second
    assert len([path for path in (own_cache / "encodings").iterdir() if path.is_dir()]) == 1
    subprocess.run([*command, "--no-cache", "--out", str(tmp_path / "c.safetensors")], check=True)
    assert (tmp_path / "c.safetensors").read_bytes() == first
