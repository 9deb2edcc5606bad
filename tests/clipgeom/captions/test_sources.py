"""Folders, the hub, the embedded world; every wrong source or option gives one sentence."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipgeom.captions import Caption, open_captions
from clipgeom.captions.hub import HubTable
from clipgeom.errors import CaptionError, ConfigError
from tests.clipgeom.captions.sources import ROWS, Writer, read, write, write_csv, write_json, write_jsonl, write_parquet


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


def test_a_data_set_is_read_by_batches(datasets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": f"caption {n}", "more": n} for n in range(250)]
    table = datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=2)
    monkeypatch.setattr(datasets, "load_dataset", lambda _path, **_options: table)
    sizes = []
    honest = datasets.IterableDataset.iter

    def spy(self: Any, batch_size: int, **options: Any) -> Any:
        for batch in honest(self, batch_size, **options):
            sizes.append(len(batch["text"]))
            yield batch

    monkeypatch.setattr(datasets.IterableDataset, "iter", spy)
    values = list(HubTable("owner/name", None).values(["more", "text"]))
    assert values == [(n, f"caption {n}") for n in range(250)]
    assert sum(sizes) == 250
    assert len(sizes) <= 4


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
