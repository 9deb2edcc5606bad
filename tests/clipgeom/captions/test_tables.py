"""Captions in the columns of a table."""

from pathlib import Path

import numpy as np
import pytest

from clipgeom.captions import Caption, open_captions
from clipgeom.errors import CaptionError, ConfigError
from tests.clipgeom.captions.sources import Writer, read, write, write_csv, write_jsonl, write_parquet, write_tsv

pa = pytest.importorskip("pyarrow", reason="caption files need pyarrow (the extra `report`)")
pq = pytest.importorskip("pyarrow.parquet")


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
        ("a.jsonl", b'{"caption": 5}\n', "row 1, column caption: .*int: 5"),
        ("a.jsonl", b'{"caption": "\\ud800"}\n', "row 1, column caption: .*surrogate"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not valid JSON"),
        (
            "a.jsonl",
            b'{"caption": "a", "n": ' + b"1" * 4301 + b"}",
            "line 1 is not valid JSON: an integer has too many",
        ),
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


@pytest.mark.parametrize("values", [[1, 2], [b"a"], [["a"]]], ids=["numbers", "bytes", "lists"])
def test_parquet_values_must_be_text(values: list[object], tmp_path: Path) -> None:
    pq.write_table(pa.table({"caption": values}), tmp_path / "a.parquet")
    with pytest.raises(CaptionError, match=r"row \d, column caption: expected a caption"):
        read(tmp_path / "a.parquet")


def test_parquet_text_must_be_utf8(tmp_path: Path) -> None:
    raw = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")])
    pq.write_table(pa.table({"caption": raw}), tmp_path / "a.parquet")
    with pytest.raises(CaptionError, match="row 1: a text is not UTF-8"):
        read(tmp_path / "a.parquet")
