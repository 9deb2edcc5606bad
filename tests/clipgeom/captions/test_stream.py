"""Every kind of source gives the same stream, which reads no more than it must."""

import hashlib
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipgeom.captions import open_captions
from clipgeom.captions.sampling import sample_uniformly
from clipgeom.errors import CaptionError, ClipGeomError, MissingExtraError
from tests.clipgeom.captions.sources import (
    ROWS,
    TEXTS,
    WRITERS,
    Writer,
    read,
    write_csv,
    write_json,
    write_jsonl,
    write_parquet,
)


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same_stream(write: Writer, tmp_path: Path) -> None:
    captions, stream = read(write(tmp_path, ROWS))
    assert [caption.text for caption in captions] == TEXTS
    assert [caption.id for caption in captions] == ["1", "2", "4", "5", "6", "7"]
    assert [caption.image_id for caption in captions] == ["7", "7", "9", "9", "10", "11"]
    counts = stream.counts
    assert (counts.n_read, counts.n_blank, counts.n_duplicates, counts.n_used) == (7, 1, 1, 6)
    framed = b"".join(len(text.encode()).to_bytes(8, "little") + text.encode() for text in TEXTS)
    assert counts.sha256 == hashlib.sha256(framed).hexdigest()


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({"per_image": "first"}, "1 4 6 7"),
        ({"unique": True}, "1 2 4 6 7"),
        ({"limit": 2}, "1 2"),
        ({"limit": 2, "per_image": "first"}, "1 4"),
        ({"limit": 99, "sample": "random"}, "1 2 4 5 6 7"),
        ({"limit": 3, "sample": "random", "seed": 1}, None),
    ],
)
def test_every_format_selects_alike(
    write: Writer, options: dict[str, Any], ids: str | None, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    captions, stream = read(write(tmp_path, ROWS), **options)
    if ids is None:
        reference, _ = read(write_json(tmp_path_factory.mktemp("reference"), ROWS), **options)
        assert captions == reference
        assert len(captions) == 3
    else:
        assert [caption.id for caption in captions] == ids.split()
    counts = stream.counts
    left_out = (
        counts.n_blank + counts.n_same_image + counts.n_unsampled + options.get("unique", 0) * counts.n_duplicates
    )
    assert counts.n_read == left_out + counts.n_used


def test_two_captions_are_not_one(tmp_path: Path) -> None:
    # The framing: without lengths these two sets would have one hash.
    (tmp_path / "a.txt").write_text("ab\nc\n")
    (tmp_path / "b.txt").write_text("a\nbc\n")
    assert read(tmp_path / "a.txt")[1].counts.sha256 != read(tmp_path / "b.txt")[1].counts.sha256


def test_ids_do_not_enter_the_hash(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a red bus\na blue bus")
    (tmp_path / "b.txt").write_text("\r\na red bus  \r\n\r\na blue bus\r\n")
    assert read(tmp_path / "a.txt")[1].counts.sha256 == read(tmp_path / "b.txt")[1].counts.sha256


def test_a_limit_stops_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_bytes(b"one\ntwo\n\xff\n")  # the third line cannot be read
    captions, stream = read(path, limit=2)
    assert [caption.text for caption in captions] == ["one", "two"]
    assert stream.counts.n_read == 2
    with pytest.raises(CaptionError, match="line 3"):
        read(path)


def test_a_stream_can_be_read_again(tmp_path: Path) -> None:
    stream = open_captions(write_json(tmp_path, ROWS), limit=3, sample="random")
    first = list(stream)
    counts = stream.counts
    assert list(stream) == first
    assert stream.counts == counts


def test_counts_wait_for_the_end(tmp_path: Path) -> None:
    stream = open_captions(write_json(tmp_path, ROWS))
    assert len(list(islice(stream, 2))) == 2
    with pytest.raises(ClipGeomError, match="only after"):
        _ = stream.counts


@pytest.mark.parametrize("write", [write_json, write_csv, write_jsonl, write_parquet])
def test_memory_does_not_grow_with_the_file(write: Writer, tmp_path: Path) -> None:
    # One text over and over, so that the digests of the texts do not count.
    path = write(tmp_path, [("a bus " * 20, "7")] * 40_000)
    open_captions(path, limit=1)  # the imports are not the stream's memory
    tracemalloc.start()
    try:
        n = sum(1 for _ in open_captions(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n == 40_000
    assert peak < 4e6 < 40_000 * 160


def test_importing_is_light() -> None:
    code = "import clipgeom.captions, sys; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pyarrow", "datasets", "httpx2", "pandas"} & set(run.stdout.split())


@pytest.mark.parametrize("package", ["pyarrow", "datasets"])
def test_a_missing_package_names_the_extra(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    folder = tmp_path / "folder"
    folder.mkdir()
    write_csv(folder, ROWS)
    source = {
        "pyarrow": tmp_path / "captions.parquet",
        "datasets": folder,
    }[package]
    (tmp_path / "captions.parquet").touch()
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*pip install .*\[report\]'"):
        open_captions(source)


UNBROKEN = st.text(st.characters(codec="utf-8", exclude_characters="\n\x00"))


@given(
    lines=st.lists(UNBROKEN, min_size=1), mark=st.booleans(), end=st.sampled_from(["\n", "\r\n"]), last=st.booleans()
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_text_lines_come_back(lines: list[str], mark: bool, end: str, last: bool, tmp_path: Path) -> None:
    lines[0] = lines[0].removeprefix("\ufeff")
    path = tmp_path / "captions.txt"
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + (end.join(lines) + end * last).encode())
    expected = [(str(n), line.strip()) for n, line in enumerate(lines, 1) if line.strip()]
    if not expected:
        with pytest.raises(CaptionError, match="holds no captions"):
            read(path)
        return
    captions, stream = read(path)
    assert [(caption.id, caption.text) for caption in captions] == expected
    assert stream.counts.n_duplicates == len(expected) - len({text for _, text in expected})
    # An empty last line is no line.
    assert stream.counts.n_read == len(lines) - (not last and lines[-1] == "" and len(lines) > 1)


def test_only_a_line_end_ends_a_caption(tmp_path: Path) -> None:
    odd = "one\x0btwo\x85three\u2028four\rfive"
    (tmp_path / "captions.txt").write_bytes(odd.encode() + b"\n")
    assert [caption.text for caption in open_captions(tmp_path / "captions.txt")] == [odd]


@given(n=st.integers(0, 60), size=st.integers(1, 70), seed=st.integers(0, 2**32))
def test_a_sample_is_an_ordered_subset_of_its_size(n: int, size: int, seed: int) -> None:
    sample = sample_uniformly(range(n), size, seed=seed)
    assert len(sample) == min(n, size)
    assert sample == sorted(set(sample))
    assert sample == sample_uniformly(iter(range(n)), size, seed=seed)
    assert set(sample) <= set(sample_uniformly(range(n), size + 1, seed=seed))


def test_every_subset_is_equally_likely() -> None:
    # 10 subsets of 2 of 5. Chi-squared with 9 degrees of freedom exceeds 27.9 once in a thousand; the seeds are fixed.
    trials = 5000
    seen = Counter(tuple(sample_uniformly(range(5), 2, seed=seed)) for seed in range(trials))
    assert len(seen) == 10
    assert sum((count - trials / 10) ** 2 / (trials / 10) for count in seen.values()) < 27.9


def test_the_sample_over_blocks_of_keys_takes_the_smallest() -> None:
    n, size = 10_000, 100
    keys = np.random.Generator(np.random.PCG64(5)).random(n)
    assert sample_uniformly(range(n), size, seed=5) == sorted(np.argsort(keys)[:size].tolist())


@pytest.fixture
def karpathy(shared: Callable[[str], Path]) -> Path:
    return shared("data/coco2014_karpathy_test_captions.txt")


def test_the_karpathy_test_captions(karpathy: Path) -> None:
    lines = karpathy.read_text("utf-8").split("\n")[:-1]
    captions, stream = read(karpathy)
    assert [caption.text for caption in captions] == [line.strip() for line in lines]
    assert stream.counts.n_used == stream.counts.n_read == 25_000
    assert stream.counts.n_duplicates == 25_000 - len({line.strip() for line in lines})
    unique, _ = read(karpathy, unique=True)
    assert len(unique) == 25_000 - stream.counts.n_duplicates


def test_a_real_sample_is_the_same_from_json(karpathy: Path, tmp_path: Path) -> None:
    rows = [(line, str(n // 5)) for n, line in enumerate(karpathy.read_text("utf-8").split("\n")[:-1])]
    path = write_json(tmp_path, rows)
    options = {"limit": 500, "sample": "random", "seed": 3}
    assert read(path, **options)[1].counts == read(karpathy, **options)[1].counts
    firsts, stream = read(path, per_image="first")
    assert len(firsts) == 5000
    assert stream.counts.n_same_image == 20_000
