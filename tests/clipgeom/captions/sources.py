"""The same captions in every format, for the tests."""

import csv
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from clipgeom.captions import Caption, CaptionStream, open_captions

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


def pack(path: Path, **members: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(f"annotations/{name}.json", text)
    return path


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
