"""COCO captions, as JSON, in a zip, or fetched."""

import hashlib
import json
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clipgeom.captions import Caption, coco, json_text, open_captions
from clipgeom.errors import CaptionError, ClipGeomError, ConfigError
from tests.clipgeom.captions.sources import ROWS, TEXTS, coco_json, pack, read, write, write_json, write_zip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON.*cut off, or empty"),
        ("nonsense", "not valid JSON"),
        (json.dumps(coco_json(ROWS))[:-60], "not valid JSON.*cut off"),
        (json.dumps(coco_json(ROWS)).encode().replace(b"red", b"r\xffd"), "not valid JSON: byte .*0xff.* is not UTF-8"),
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
        ('{"annotations": [{"caption": "a"}, {"caption": 5}]}', "annotation 2: expected a caption .*int: 5"),
        ('{"annotations": [{"caption": null}]}', "1 read, all of them blank"),
        ('{"annotations": [{"caption": ["a"]}]}', "annotation 1: expected a caption .*list"),
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
    with pytest.raises(CaptionError, match="caption 2 has no usable image id"):
        read(path, per_image="first")


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
    pytest.importorskip("httpx2")
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


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, '{"annotations": [{"caption": ' + "[" * 100_000])
def test_deep_nesting_is_refused_in_little_memory(content: str, tmp_path: Path) -> None:
    path = write(tmp_path / "deep.json", content)
    tracemalloc.start()
    try:
        with pytest.raises(CaptionError, match="not valid JSON: lists and objects are nested too deeply"):
            open_captions(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_a_value_without_an_end_is_refused_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "_LONGEST", 1 << 20)
    path = write(tmp_path / "long.json", '{"annotations": [{"caption": "' + "a" * (4 << 20))
    with pytest.raises(CaptionError, match="a value is longer than 1,048,576 characters"):
        open_captions(path)


def test_values_may_end_anywhere_in_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {
        "numbers": [1.5e-300, -12, True, None, '\\"]}', {"\u00e9": [[], {}]}],
        "depth": {"a": [1.25]},
        "annotations": [
            {"id": 1, "caption": "un caf\u00e9 \U0001f408", "image_id": 12.0},
            {"caption": "b", "score": 1e22},
        ],
        "last": 17,
    }
    for chunk in range(1, 40):
        monkeypatch.setattr(json_text, "_CHUNK", chunk)
        for ascii_only in (True, False):
            text = json.dumps(content, ensure_ascii=ascii_only, indent=chunk % 3 or None)
            captions, _ = read(write(tmp_path / "a.json", text))
            assert captions == [Caption("1", "un caf\u00e9 \U0001f408", "12"), Caption("2", "b")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"annotations": [{"caption": "a"}, {"caption": "b"]}', "annotation 2 is not valid JSON"),
        ('{"annotations": [{"caption": "a"} {"caption": "b"}]}', "annotation 2 is not valid JSON: expected ',' or ']'"),
        ('{"annotations": [{"caption": "a"}],}', "is not valid JSON: expected '\"', found '}'"),
        ('{"annotations": [{"caption": "a"}], "x": tru}', "is not valid JSON"),
        ('{"annotations": [{"caption": "a"}]} x', "more follows after its end"),
        ('{"annotations": [{"caption": "a"}]', "cut off"),
    ],
)
def test_json_is_checked_to_its_end(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CaptionError, match=message):
        read(write(tmp_path / "a.json", content))
