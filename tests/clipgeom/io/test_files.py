"""Output files appear whole or not at all, and never take the place of what something else made."""

import errno
import os
import resource
import stat
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from clipgeom import ConfigError
from clipgeom._io.files import check_output_file, filling, replacing, resolved, workspace, write_whole
from clipgeom.errors import OutputError


@contextmanager
def small_disk(size=1 << 16):
    """A limit that makes the system itself refuse to write more, in every library."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def umask(mask):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder):
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


def check(path, made=False):
    return check_output_file(path, lambda _: made, maker="clipgeom thing")


def test_a_file_is_replaced_when_the_block_ends_well(tmp_path):
    target = tmp_path / "deep" / "file"
    write_whole(target, b"first")

    def fail(error):
        with replacing(target) as partial:
            partial.write_bytes(b"half")
            raise error

    for error, expected in ((KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.EIO, "I/O error"), OutputError)):
        with pytest.raises(expected):
            fail(error)
        assert target.read_bytes() == b"first"
    write_whole(target, b"second")
    assert target.read_bytes() == b"second"
    assert list(target.parent.iterdir()) == [target]


def test_the_longest_name_of_a_file_can_be_written(tmp_path):
    target = tmp_path / ("x" * 255)
    write_whole(check(target), b"whole")
    assert target.read_bytes() == b"whole"
    with pytest.raises(ConfigError, match="256 bytes"):
        check(tmp_path / ("x" * 256))


@pytest.mark.parametrize("mask", [0o077, 0o002])
def test_modes_follow_the_umask(tmp_path, mask):
    from clipgeom.geometry.embedding_files import save_embeddings
    from clipgeom.report.write import write_report
    from pti.export.files import save_embedding
    from tests.clipgeom.report.samples import tiny
    from tests.pti.export.test_model_card import certificate

    with umask(mask):
        for suffix in ("npy", "npz", "safetensors", "parquet"):
            save_embeddings(tmp_path / f"v.{suffix}", {"hidden.eos": np.ones((3, 2), np.float32)})
        certificate().save(tmp_path / "certificate.safetensors")
        save_embedding(tmp_path / "word.safetensors", "<w>", np.ones((1, 4)))
        write_report(tiny(), tmp_path / "report")
    for name, mode in modes(tmp_path).items():
        assert mode == (0o777 if (tmp_path / name).is_dir() or name == "figures" else 0o666) & ~mask, name


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet"])
def test_a_full_disk_is_one_error_for_every_format(tmp_path, suffix):
    from clipgeom.geometry.embedding_files import save_embeddings

    path = tmp_path / f"v{suffix}"
    rng = np.random.default_rng(0)
    save_embeddings(path, {"hidden.eos": rng.normal(size=(5, 2))})
    before = path.read_bytes()
    with small_disk(), pytest.raises(OutputError, match="no space left on the disk") as caught:
        save_embeddings(path, {"hidden.eos": rng.normal(size=(20000, 2))})
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_disk_that_is_full_at_the_last_moment(tmp_path, monkeypatch):
    """Some file systems notice on fsync only."""
    write_whole(tmp_path / "file", b"first")

    def full(_handle):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="no space left") as caught:
        write_whole(tmp_path / "file", b"second")
    assert caught.value.errno == errno.EDQUOT
    assert (tmp_path / "file").read_bytes() == b"first"
    assert len(list(tmp_path.iterdir())) == 1


def test_only_own_files_may_be_replaced(tmp_path):
    path = tmp_path / "file"
    assert check(path) == path
    path.write_text("mine")
    with pytest.raises(ConfigError, match="was not made by `clipgeom thing` and will not be replaced"):
        check(path)
    assert check(path, made=True) == path
    path.chmod(0o444)
    with pytest.raises(ConfigError, match="is write-protected"):
        check(path, made=True)
    path.chmod(0o644)
    path.write_text("")  # as mktemp leaves it
    assert check(path) == path


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ConfigError, match="is a device or a pipe"):
            check(path, made=True)
    with pytest.raises(ConfigError, match="is a folder; name a file"):
        check(tmp_path, made=True)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        check(tmp_path / "file" / "below")
    with pytest.raises(ConfigError, match="null character"):
        check(Path("a\0b"))


def test_links_stay_and_their_targets_are_replaced(tmp_path):
    (tmp_path / "real").write_text("first")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "ahead").symlink_to("later/file")
    for link, real in (("link", "real"), ("ahead", "later/file")):
        write_whole(check(tmp_path / link, made=True), b"second")
        assert (tmp_path / link).is_symlink()
        assert (tmp_path / real).read_bytes() == b"second"
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(ConfigError, match="leads back to itself"):
        resolved(tmp_path / "circle")


def test_a_new_folder_appears_whole_and_an_existing_one_is_filled(tmp_path, monkeypatch):
    for target in (tmp_path / "new" / "folder", tmp_path / "there"):
        (tmp_path / "there").mkdir(exist_ok=True)
        with filling(target) as partial:
            (partial / "sub").mkdir()
            (partial / "sub" / "file").write_text("x")
        assert sorted(str(p.relative_to(target)) for p in target.rglob("*")) == ["sub", "sub/file"]

    def fail():
        with filling(tmp_path / "failed") as partial:
            (partial / "file").write_text("x")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OutputError, match="no space left"):
        fail()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "there"]


def test_a_workspace_vanishes_after_an_error_and_says_when_it_was_deleted(tmp_path):
    def fail(error, vanish=False):
        with workspace(tmp_path / "deep" / "er" / "out") as folder:
            assert folder == tmp_path / "deep" / "er"
            if vanish:
                folder.rmdir()
                (folder / ".clipgeom-spool").read_text()
            raise error

    with pytest.raises(ZeroDivisionError):
        fail(ZeroDivisionError())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="were deleted during the work; nothing was written"):
        fail(ZeroDivisionError(), vanish=True)
    with workspace(tmp_path) as folder:  # an output folder that exists, such as a mount point, is its own workspace
        assert folder == tmp_path
