"""Every kind of source gives the same stream; every wrong input gives one sentence."""

import csv
import gc
import hashlib
import json
import os
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipgeom.captions import Caption, CaptionStream, coco, open_captions
from clipgeom.captions.sampling import sample_uniformly
from clipgeom.errors import CaptionError, ClipGeomError, ConfigError, MissingExtraError

ijson = pytest.importorskip("ijson", reason="caption files need ijson (the extra `report`)")
pa = pytest.importorskip("pyarrow", reason="caption files need pyarrow (the extra `report`)")
pq = pytest.importorskip("pyarrow.parquet")

Row = tuple[str, str | None]  # text, image id

ROWS: list[Row] = [
    ("a red bus", "7"),
    ("  a blue bus\n", "7"),
    (" \t", "8"),
    ("un café, « à côté »", "9"),
    ("a red bus", "9"),
    ('she said "go"\nand went', "10"),
    ("日本の猫 🐈", "11"),
]
TEXTS = [text.strip() for text, _ in ROWS if text.strip()]


# --- the same captions in every format --------------------------------------------------------------------------------


def coco_json(rows: Sequence[Row]) -> dict[str, Any]:
    annotations = [
        {"image_id": image and int(image), "id": n, "caption": text} for n, (text, image) in enumerate(rows, 1)
    ]
    return {"info": {}, "images": [{"id": 7, "file_name": "7.jpg"}], "licenses": [], "annotations": annotations}


def write_json(folder: Path, rows: Sequence[Row]) -> Path:
    path = folder / "captions.json"
    path.write_text(json.dumps(coco_json(rows)), "utf-8")
    return path


def write_zip(folder: Path, rows: Sequence[Row]) -> Path:
    path = folder / "captions.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations/instances_x.json", "{}")
        archive.writestr("__MACOSX/annotations/captions_x.json", "not this")
        archive.writestr("annotations/captions_x.json", json.dumps(coco_json(rows)))
    return path


def write_csv(folder: Path, rows: Sequence[Row], delimiter: str = ",", suffix: str = "csv", mark: str = "") -> Path:
    path = folder / f"captions.{suffix}"
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(mark)
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["image_id", "caption", "other"])
        writer.writerows([image, text, "x"] for text, image in rows)
    return path


def write_tsv(folder: Path, rows: Sequence[Row]) -> Path:
    return write_csv(folder, rows, "\t", "tsv", "\ufeff")


def write_jsonl(folder: Path, rows: Sequence[Row]) -> Path:
    path = folder / "captions.jsonl"
    lines = [json.dumps({"caption": text, "image_id": image and int(image)}) for text, image in rows]
    path.write_text("\ufeff" + "\r\n".join(lines), "utf-8", newline="")
    return path


def write_parquet(folder: Path, rows: Sequence[Row]) -> Path:
    path = folder / "captions.parquet"
    images = pa.array(
        [image and float(image) for _, image in rows], pa.float64()
    )  # as pandas writes integers with gaps
    pq.write_table(
        pa.table({"other": [1] * len(rows), "caption": [text for text, _ in rows], "image_id": images}), path
    )
    return path


WRITERS = [write_json, write_zip, write_csv, write_tsv, write_jsonl, write_parquet]
Writer = Callable[[Path, Sequence[Row]], Path]


def read(source: str | os.PathLike[str], **options: Any) -> tuple[list[Caption], CaptionStream]:
    stream = open_captions(source, **options)
    return list(stream), stream


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


# --- streaming --------------------------------------------------------------------------------------------------------


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
    assert not {"torch", "pyarrow", "datasets", "httpx", "ijson", "pandas"} & set(run.stdout.split())


@pytest.mark.parametrize("package", ["ijson", "pyarrow", "datasets"])
def test_a_missing_package_names_the_extra(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    folder = tmp_path / "folder"
    folder.mkdir()
    write_csv(folder, ROWS)
    source = {
        "ijson": write_json(tmp_path, ROWS),
        "pyarrow": tmp_path / "captions.parquet",
        "datasets": folder,
    }[package]
    (tmp_path / "captions.parquet").touch()
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*pip install 'clipgeom\[report\]'"):
        open_captions(source)


# --- text files -------------------------------------------------------------------------------------------------------

UNBROKEN = st.text(st.characters(codec="utf-8", exclude_characters="\n\x00"))


@given(
    lines=st.lists(UNBROKEN, min_size=1), mark=st.booleans(), end=st.sampled_from(["\n", "\r\n"]), last=st.booleans()
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
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


# --- sampling ---------------------------------------------------------------------------------------------------------


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


# --- COCO -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON.*cut off, or empty"),
        ("nonsense", "not valid JSON"),
        (json.dumps(coco_json(ROWS))[:-60], "not valid JSON.*cut off"),
        (json.dumps(coco_json(ROWS)).encode().replace(b"red", b"r\xffd"), "not valid JSON.*UTF8"),
        ("[1, 2]", "is JSON, but a list; expected COCO captions"),
        ("3", "is JSON, but a single value"),
        ('{"images": [], "sentences": {"annotations": 3}}', "the keys images, sentences; expected"),
        ('{"annotations": {"1": {"caption": "a"}}}', "'annotations' are no list"),
        ('{"annotations": []}', "holds no captions"),
        ('{"annotations": [3]}', "annotation 1: found int"),
        (
            '{"annotations": [{"id": 1, "image_id": 2, "bbox": [0.5]}]}',
            "annotation 1: no 'caption', only id, image_id, bbox",
        ),
        ('{"annotations": [{"caption": "a"}, {"caption": null}]}', "annotation 2: .*null"),
        ('{"annotations": [{"caption": ["a"]}]}', "annotation 1: expected a caption .*list"),
        ('{"annotations": [{"caption": "a", "image_id": [1]}]}', "annotation 1: expected an image id"),
        ('{"caption": "a"}\n{"caption": "b"}\n', r"\.jsonl"),
    ],
)
def test_what_is_not_coco_is_explained(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CaptionError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_before_json_is_skipped(tmp_path: Path) -> None:
    path = write_json(tmp_path, ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [caption.text for caption in open_captions(path)] == TEXTS


def test_an_image_id_is_needed_only_for_the_first_of_each(tmp_path: Path) -> None:
    path = write_json(tmp_path, [("a", "1"), ("b", None)])
    assert [caption.image_id for caption in open_captions(path)] == ["1", None]
    with pytest.raises(CaptionError, match="caption 2 has no image id"):
        read(path, per_image="first")


def pack(path: Path, **members: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(f"annotations/{name}.json", text)
    return path


def test_a_member_is_chosen_by_name(tmp_path: Path) -> None:
    train, val = ([(text, "1")] for text in ("a train", "a valley"))
    both = {"captions_train": json.dumps(coco_json(train)), "captions_val": json.dumps(coco_json(val))}
    path = pack(tmp_path / "both.zip", **both)
    with pytest.raises(ConfigError, match=r"several captions files .*captions_train.json, .*captions_val.json.*choose"):
        open_captions(path)
    captions, stream = read(f"{path}::annotations/captions_val.json")
    assert [caption.text for caption in captions] == ["a valley"]
    assert stream.source == f"{path}::annotations/captions_val.json"
    with pytest.raises(ConfigError, match=r"did you mean both.zip::annotations/captions_val.json"):
        open_captions(f"{path}::annotations/captions_vel.json")
    with pytest.raises(ConfigError, match=r"no member 'zzz'; it holds annotations/captions_train.json"):
        open_captions(f"{path}::zzz")


def test_a_zip_without_captions_lists_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for n in range(20):
            archive.writestr(f"{n}.jpg", "")
    with pytest.raises(CaptionError, match=r"no captions JSON, only 0\.jpg.* and 8 more"):
        open_captions(path)


def test_a_damaged_zip_is_told_from_wrong_json(tmp_path: Path) -> None:
    rows = [(hashlib.md5(str(n).encode()).hexdigest(), "1") for n in range(3000)]
    content = write_zip(tmp_path, rows).read_bytes()
    path = tmp_path / "damaged.zip"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CaptionError, match="not a whole zip archive"):
        open_captions(path)
    middle = len(content) // 2
    path.write_bytes(
        content[:middle] + bytes(byte ^ 0x55 for byte in content[middle : middle + 50]) + content[middle + 50 :]
    )
    with pytest.raises(CaptionError, match="not a whole zip archive"):
        read(path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "secret.zip", captions_val=json.dumps(coco_json(ROWS)))
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # bit 0 of the flags says "encrypted"
        content[content.index(signature) + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(CaptionError, match=r"cannot be unpacked: .*encrypted"):
        open_captions(path)


@pytest.fixture
def archive_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serve an archive like the official one from this machine, and return the list of requests it gets."""
    pytest.importorskip("httpx")
    pytest.importorskip("filelock")
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    sets = {f"captions_{split}2014": json.dumps(coco_json([(f"a {split} photo", "3")])) for split in ("train", "val")}
    body = pack(tmp_path / "served.zip", instances_val2014="{}", **sets).read_bytes()
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/annotations_trainval2014.zip"
        checksum = f"md5:{hashlib.md5(body).hexdigest()}"
        monkeypatch.setattr(coco, "COCO_2014", coco.Archive(url, len(body), checksum))
        monkeypatch.setenv("CLIPGEOM_CACHE", str(tmp_path / "cache"))
        yield requests
        server.shutdown()


def test_coco_2014_is_fetched_once_and_read_in_place(archive_server: list[str], tmp_path: Path) -> None:
    captions, stream = read("coco2014:val")
    assert captions == [Caption("1", "a val photo", "3")]
    assert stream.source == "coco2014:val"
    assert [caption.text for caption in open_captions("coco2014:train")] == ["a train photo"]
    assert archive_server == ["/annotations_trainval2014.zip"]
    assert (tmp_path / "cache" / "coco2014" / "annotations_trainval2014.zip").is_file()


def test_coco_2014_of_the_wrong_checksum_is_refused(archive_server: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "COCO_2014", coco.Archive(coco.COCO_2014.url, coco.COCO_2014.size, "md5:0"))
    with pytest.raises(
        ClipGeomError, match=r"checksum.*by hand and pass --captions .*zip::annotations/captions_val2014"
    ):
        open_captions("coco2014:val")


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_csv, write_tsv, write_jsonl, write_parquet])
def test_columns_are_chosen_by_name(write: Writer, tmp_path: Path) -> None:
    path = write(tmp_path, [("a bus", "7"), ("a car", "8")])
    with pytest.raises(ConfigError, match=r"no column 'bus'; its columns: .*'caption'"):
        open_captions(path, column="bus")
    with pytest.raises(ConfigError, match="no column 'picture'"):
        open_captions(path, image_column="picture")
    assert open_captions(path).source == f"{path} (column caption)"
    captions, _ = read(path, column="caption", image_column="image_id")
    assert captions == [Caption("1", "a bus", "7"), Caption("2", "a car", "8")]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_text_stands_in_for_caption(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,text\n5,a bus\n")
    assert read(path)[0] == [Caption("1", "a bus", None)]
    path = write(tmp_path / "b.csv", "text,caption\nno,yes\n")
    assert [caption.text for caption in open_captions(path)] == ["yes"]
    path = write(tmp_path / "c.csv", "sentence,id\na bus,5\n")
    with pytest.raises(ConfigError, match=r"neither a column 'caption' nor 'text'.*'sentence', 'id'"):
        open_captions(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "holds no captions: it is empty"),
        ("a.txt", b" \n\t\n", "holds no captions: 2 read, all of them blank"),
        ("a.txt", b"fine\nca\xe9\n", r"line 2: byte 3 of the line \(0xe9\) is not UTF-8"),
        ("a.txt", "two\nlines".encode("utf-16"), "line 1: found a NUL"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"caption\n", "is empty"),
        ("a.csv", b"caption\na\n\xff\n", "line 3"),
        ("a.csv", b"caption,x\na,1\na, b,1\n", "row 2: found 3 values under 2"),
        ("a.csv", b'caption,x\n"a" b,1\n', "line 2: .*double quote"),
        ("a.csv", b'caption,x\n"a,1\n', "line 2: .*double quote"),
        ("a.csv", b"caption,caption\na,b\n", "several columns 'caption'"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b'{"caption": "a"}\n{"caption": \n', "line 2 is not valid JSON"),
        ("a.jsonl", b'{"caption": "a"}\n["b"]\n', "line 2: expected a JSON object .*list"),
        ("a.jsonl", b'{"caption": "a"}\n{"text": "b"}\n', "line 2: no 'caption', only 'text'"),
        ("a.jsonl", b'{"caption": "a"}\n{"caption": null}\n', r"row 2, column caption: .*\(null\)"),
        ("a.jsonl", b'{"caption": 5}\n', "row 1, column caption: .*int: 5"),
        ("a.jsonl", b'{"caption": "\\ud800"}\n', "row 1, column caption: .*surrogate"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not valid JSON"),
        ("a.jsonl", b'{"caption": "a", "image_id": true}', "row 1, column image_id: expected an image id .*bool"),
        ("a.parquet", b"", "cannot be read as parquet"),
        ("a.parquet", b"PAR1 nonsense PAR1", "cannot be read as parquet"),
        ("a.zip", b"PK nonsense", "not a whole zip"),
    ],
)
def test_bad_content_is_one_sentence_with_its_place(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises((CaptionError, ConfigError), match=message) as caught:
        read(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "caption,x\na,1\n\nb,2\n"), ("a.jsonl", '{"caption": "a"}\n\n{"caption": "b"}\n')]
)
def test_an_empty_line_is_a_blank_caption(name: str, content: str, tmp_path: Path) -> None:
    captions, stream = read(write(tmp_path / name, content))
    assert captions == [Caption("1", "a"), Caption("3", "b")]
    assert (stream.counts.n_read, stream.counts.n_blank) == (3, 1)


@pytest.mark.parametrize("values", [["a", None], [1, 2], [b"a"], [["a"]]], ids=["null", "numbers", "bytes", "lists"])
def test_parquet_values_must_be_text(values: list[object], tmp_path: Path) -> None:
    pq.write_table(pa.table({"caption": values}), tmp_path / "a.parquet")
    with pytest.raises(CaptionError, match=r"row \d, column caption: expected a caption"):
        read(tmp_path / "a.parquet")


def test_parquet_text_must_be_utf8(tmp_path: Path) -> None:
    raw = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")])
    pq.write_table(pa.table({"caption": raw}), tmp_path / "a.parquet")
    with pytest.raises(CaptionError, match="rows 1 to 1: a text is not UTF-8"):
        read(tmp_path / "a.parquet")


# --- folders and the hub ----------------------------------------------------------------------------------------------


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    module = pytest.importorskip("datasets", reason="data sets need `datasets` (the extra `report`)")
    monkeypatch.setattr(module.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    yield module
    gc.collect()  # its abandoned readers are in reference cycles; they should not warn during a later test


leaves_files_open = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@leaves_files_open
@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])
def test_a_folder_gives_the_same_stream(write: Writer, datasets: Any, tmp_path: Path) -> None:
    rows = [row for row in ROWS if row[0].strip()]
    folder = tmp_path / "set"
    folder.mkdir()
    path = write(folder, rows)
    expected, from_file = read(path, per_image="first")
    captions, stream = read(folder, per_image="first")
    assert captions == expected
    assert stream.counts == from_file.counts
    assert stream.source == f"{folder}[train] (column caption)"


@leaves_files_open
def test_several_splits_need_a_choice(datasets: Any, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write_csv(folder, [("a train", "1")]).rename(folder / "train.csv")
    write_csv(folder, [("a test", "1")]).rename(folder / "test.csv")
    with pytest.raises(ConfigError, match="several splits; choose one with --split: train, test"):
        open_captions(folder)
    assert [caption.text for caption in open_captions(folder, split="test")] == ["a test"]
    with pytest.raises(CaptionError, match="cannot be read as a data set: ValueError: Bad split: val"):
        open_captions(folder, split="val")


def test_a_hub_id_is_streamed(datasets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load_dataset(path: str, **options: Any) -> Any:
        calls.append((path, options))
        table = datasets.Dataset.from_dict({"text": ["a", "b"], "image": [1, 2], "image_id": [5, 6]})
        return datasets.IterableDatasetDict({"train": table.to_iterable_dataset()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    captions, _ = read("owner/name")
    assert captions == [Caption("1", "a", "5"), Caption("2", "b", "6")]
    assert calls == [("owner/name", {"split": None, "streaming": True})]


def test_a_hub_that_fails_is_one_sentence(datasets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(path: str, **options: Any) -> Any:
        raise ConnectionError("Couldn't reach the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        CaptionError, match=r"no file or folder owner/name, and .* ConnectionError: Couldn't reach the Hub.$"
    ):
        open_captions("owner/name")


def test_the_embedded_world_captions_its_own_pictures() -> None:
    from clipgeom.miniworld.default import SEED
    from clipgeom.miniworld.scenery import captions

    stream = open_captions("miniworld", limit=40)
    read = list(stream)
    assert [caption.text for caption in read] == list(captions(40, SEED))
    assert [caption.id for caption in read] == [caption.image_id for caption in read] == [str(i) for i in range(40)]
    assert stream.source == "miniworld"
    assert [c.text for c in stream] == [c.text for c in read]


# --- the wrong source, the wrong option -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "is empty; expected a file"),
        ("coco2014", "coco2014:val, coco2014:train"),
        ("coco2014:test", "coco2014:val, coco2014:train"),
        ("coco2017:val", "coco2014:val, coco2014:train"),
        ("https://example.org/captions.txt", "addresses are not fetched"),
        ("captiosn.txt", "did you mean captions.txt"),
        ("nowhere/captions.txt", "nor a folder nowhere"),
        ("nowhere/or/elsewhere", "nor a folder"),
        ("imdb", "owner/name"),
        ("x" * 5000, "cannot be opened"),
        ("empty", "The folder empty is empty"),
        ("data.bin", r"should end in one of \.txt"),
        ("archive.txt.gz", r"should end in one of \.txt"),
    ],
)
def test_a_source_that_is_none(source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("captions.txt", "data.bin", "archive.txt.gz"):
        (tmp_path / name).write_text("a bus\n")
    with pytest.raises(ConfigError, match=message):
        open_captions(source)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("captions.txt", {"column": "caption"}, "column='caption' does not apply"),
        ("captions.json", {"image_column": "image_id"}, "image_column='image_id' does not apply"),
        ("captions.csv", {"split": "train"}, "split='train' does not apply"),
        ("coco2014:val", {"split": "val"}, "part of the name"),
        ("coco2014:val", {"column": "caption"}, "no columns"),
        ("miniworld", {"column": "text"}, "drawn, not read from a table"),
        ("miniworld", {"split": "train"}, "it is one set"),
        ("captions.txt", {"per_image": "first"}, "no image ids.*COCO captions.*image_id"),
        ("plain.csv", {"per_image": "first"}, "no image ids"),
        ("captions.txt", {"per_image": "second"}, "per_image must be one of 'all', 'first'"),
        ("captions.txt", {"sample": "last", "limit": 1}, "sample must be one of 'first', 'random'"),
        ("captions.txt", {"sample": "random"}, "needs a limit"),
        ("captions.txt", {"limit": 0}, "at least 1, not 0"),
        ("captions.txt", {"limit": -3}, "at least 1, not -3"),
        ("captions.txt", {"limit": 2.5}, "at least 1, not 2.5"),
        ("captions.txt", {"limit": True}, "not True"),
        ("captions.txt", {"seed": -1}, "seed must be a whole number of at least 0"),
    ],
)
def test_no_option_is_ignored(
    name: str, options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path, ROWS)
    write_csv(tmp_path, ROWS)
    write(tmp_path / "captions.txt", "a bus\n")
    write(tmp_path / "plain.csv", "caption\na bus\n")
    with pytest.raises(ConfigError, match=message):
        open_captions(name, **options)


def test_numpy_integers_are_whole_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "captions.txt", "a\nb\nc\n")
    assert len(read(path, limit=np.int64(2), seed=np.uint8(3), sample="random")[0]) == 2


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "captions.txt", "a\n")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ConfigError, match="cannot be opened: Permission denied"):
        open_captions(path)


# --- real captions ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def karpathy() -> Path:
    shared = Path(os.environ.get("CLIPGEOM_SHARED", Path(__file__).parents[2] / "shared"))
    path = shared / "data" / "coco2014_karpathy_test_captions.txt"
    if not path.is_file():
        pytest.skip(f"{path} is not there (set CLIPGEOM_SHARED)")
    return path


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
