"""Odd captions and ids: one answer in every format."""

import json
import math
from decimal import Decimal
from pathlib import Path

import pytest

from clipgeom.captions import open_captions
from clipgeom.captions.lines import usable_id
from clipgeom.errors import CaptionError
from tests.clipgeom.captions.sources import WRITERS, Writer, pack, read, write

pa = pytest.importorskip("pyarrow", reason="caption files need pyarrow (the extra `report`)")
pq = pytest.importorskip("pyarrow.parquet")


def json_files(folder: Path, value: str, image: str = "7") -> list[Path]:
    """Write JSON files of every kind, whose second caption and image id are these pieces of JSON."""
    first, second = '{"caption": "a", "image_id": 7}', f'{{"caption": {value}, "image_id": {image}}}'
    coco = f'{{"annotations": [{first}, {second}]}}'
    return [
        write(folder / "a.json", coco),
        pack(folder / "a.zip", captions_a=coco),
        write(folder / "a.jsonl", f"{first}\n{second}\n"),
    ]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_missing_caption_is_blank(writer: Writer, tmp_path: Path) -> None:
    captions, stream = read(writer(tmp_path, [("a", "1"), (None, "2"), ("", "3"), (" \t\u3000", "4"), ("b", "5")]))  # type: ignore[list-item]
    assert [(caption.text, caption.image_id) for caption in captions] == [("a", "1"), ("b", "5")]
    assert (stream.counts.n_read, stream.counts.n_blank, stream.counts.n_used) == (5, 3, 2)


def test_not_a_number_in_a_table_is_blank(tmp_path: Path) -> None:
    pq.write_table(pa.table({"caption": [math.nan]}), tmp_path / "a.parquet")
    with pytest.raises(CaptionError, match="1 read, all of them blank"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (r'"x \ud83d"', "half of a surrogate pair"),
        (r'"\ude00"', "half of a surrogate pair"),
        (r'"\ud83d\u0041"', "half of a surrogate pair"),
        (r'"a\u0000b"', "a NUL character"),
        ("5", "expected a caption .*int: 5"),
        ("1e400", "expected a caption .*float: inf"),
        ("true", "expected a caption .*bool: True"),
        ('["a"]', "expected a caption .*list"),
        ("{}", "expected a caption .*dict"),
        ("NaN", "not valid JSON: NaN is not a JSON value"),
        ("-Infinity", "not valid JSON: -Infinity is not a JSON value"),
        ("9" * 4301, "not valid JSON: an integer has too many digits"),
        ("[" * 100_000, "not valid JSON: lists and objects are nested too deeply"),
        ('"a\tb"', "not valid JSON: Invalid control character"),
    ],
)
def test_wrong_captions_are_refused_alike_with_their_place(value: str, message: str, tmp_path: Path) -> None:
    for path in json_files(tmp_path, value):
        with pytest.raises(CaptionError, match=rf"(annotation|line|row) 2.*{message}") as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 400 + len(str(path))
        assert "\n" not in str(caught.value)


def test_whole_surrogate_pairs_are_text(tmp_path: Path) -> None:
    for path in json_files(tmp_path, r'"\\ud800 \ud83d\ude00"'):
        assert [caption.text for caption in open_captions(path)] == ["a", "\\ud800 \U0001f600"]


def test_nul_and_bytes_that_are_not_utf8_are_refused_in_every_format(tmp_path: Path) -> None:
    table = pa.table({"caption": ["a", "b\0c"]})
    pq.write_table(table, tmp_path / "a.parquet")
    for path in (
        tmp_path / "a.parquet",
        write(tmp_path / "a.txt", b"a\nb\0c\n"),
        write(tmp_path / "a.csv", b"caption\na\nb\0c\n"),
    ):
        with pytest.raises(CaptionError, match=r"(row 2, column caption|line 2|line 3).* a NUL character"):
            read(path)
    raw = b"\xed\xa0\x80"  # half of a surrogate pair, as some programs write it
    for name, content in (
        ("b.txt", raw),
        ("b.csv", b"caption\n" + raw),
        ("b.jsonl", b'{"caption": "' + raw + b'"}'),
        ("b.json", b'{"annotations": [{"caption": "' + raw + b'"}]}'),
    ):
        with pytest.raises(CaptionError, match=r"byte \d+ .*\(0xed\) is not UTF-8; save the file as UTF-8"):
            read(write(tmp_path / name, content))


@pytest.mark.parametrize("image", ["1.5", "1e400", "1e300", "true", "[1]", r'"\ud800"', '""', "null"])
def test_an_unusable_image_id_does_not_matter_until_it_is_used(image: str, tmp_path: Path) -> None:
    for path in json_files(tmp_path, '"b"', image):
        assert [(caption.text, caption.image_id) for caption in open_captions(path)] == [("a", "7"), ("b", None)]
        with pytest.raises(CaptionError, match="caption 2 has no usable image id"):
            read(path, per_image="first")


@pytest.mark.parametrize("image", ["1.5", "1e400", "true", "[1]"])
def test_ids_of_a_column_that_the_user_names_are_checked(image: str, tmp_path: Path) -> None:
    path = json_files(tmp_path, '"b"', image)[-1]
    with pytest.raises(CaptionError, match="row 2, column image_id: expected an image id"):
        read(path, image_column="image_id")


def test_an_id_is_text_or_a_whole_number() -> None:
    good = [(7, "7"), (7.0, "7"), ("7", "7"), (Decimal("7.0"), "7"), (10**30, str(10**30)), (-1, "-1")]
    assert [(value, usable_id(value)) for value, _ in good] == good
    for bad in (None, "", 1.5, math.nan, math.inf, True, Decimal("NaN"), Decimal("sNaN"), Decimal("1e400"), [], b"7"):
        assert usable_id(bad) is None


def test_an_id_of_an_annotation_that_is_no_id_is_its_number(tmp_path: Path) -> None:
    annotations = [{"id": value, "caption": "a"} for value in ("x", 5, None, [1], 1.5)]
    path = write(tmp_path / "a.json", json.dumps({"annotations": annotations}))
    assert [caption.id for caption in open_captions(path)] == ["x", "5", "3", "4", "5"]
