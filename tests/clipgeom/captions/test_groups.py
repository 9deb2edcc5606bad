"""Which captions describe one image: by their ids, or by their order in the file."""

from pathlib import Path

import pytest

from clipgeom.captions import open_captions
from clipgeom.errors import ConfigError
from tests.clipgeom.captions.sources import ROWS, write_csv, write_json


def lines(path: Path, n: int = 13) -> Path:
    path.write_text("".join("\n" if i == 3 else f"caption {i}\n" for i in range(n)))
    return path


def test_consecutive_lines_are_of_one_image_counted_before_any_is_left_out(tmp_path: Path) -> None:
    stream = open_captions(lines(tmp_path / "c.txt"), group_size=5)
    images = {caption.text: caption.image_id for caption in stream}
    assert "caption 3" not in images  # a blank line keeps its place
    assert [images[f"caption {i}"] for i in (0, 2, 4, 5, 9, 10, 12)] == ["0", "0", "0", "1", "1", "2", "2"]
    assert stream.groups_by == "each 5 consecutive captions"


def test_a_sample_keeps_the_images_of_the_whole_file(tmp_path: Path) -> None:
    path = lines(tmp_path / "c.txt")
    images = {caption.text: caption.image_id for caption in open_captions(path, group_size=5)}
    sample = list(open_captions(path, group_size=5, limit=6, sample="random", seed=3))
    assert [caption.image_id for caption in sample] == [images[caption.text] for caption in sample]


def test_the_first_caption_of_each_image_of_a_text_file(tmp_path: Path) -> None:
    stream = open_captions(lines(tmp_path / "c.txt"), group_size=5, per_image="first")
    assert [caption.text for caption in stream] == ["caption 0", "caption 5", "caption 10"]


def test_how_images_are_known(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("caption,picture\na,1\nb,1\n")
    assert open_captions(write_csv(tmp_path, ROWS)).groups_by == "image ids"
    assert open_captions(write_json(tmp_path, ROWS)).groups_by == "image ids"
    assert open_captions("miniworld", limit=3).groups_by == "image ids"
    assert open_captions(table).groups_by is None
    assert open_captions(table, image_column="picture").groups_by == "image ids"
    assert open_captions(table, group_size=2).groups_by == "each 2 consecutive captions"
    assert open_captions(lines(tmp_path / "c.txt")).groups_by is None


@pytest.mark.parametrize("size", [0, -5, 2.5, True])
def test_a_size_that_is_none_is_refused(size: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="group_size must be a whole number of at least 1"):
        open_captions(lines(tmp_path / "c.txt"), group_size=size)


def test_ids_and_a_size_contradict_each_other(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("caption,picture\na,1\nb,1\n")
    for source in (write_json(tmp_path, ROWS), write_csv(tmp_path, ROWS), "miniworld"):
        with pytest.raises(ConfigError, match=r"group_size=5 does not apply to .*have image ids"):
            open_captions(source, group_size=5)
    with pytest.raises(ConfigError, match="group_size=5 does not apply"):
        open_captions(table, image_column="picture", group_size=5)
