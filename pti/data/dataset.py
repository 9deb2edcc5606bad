"""Training images and captions from a folder, a character of miniworld, or a data set.

All images are read at the start. A damaged one is then named before an hour of training, and checkpoints record a
digest of the data.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipgeom._extras import needs_extra
from clipgeom._text import PLACEHOLDER
from clipgeom.errors import ConfigError, first_line
from pti._miniworld import character_of, training_images
from pti.config.schema import DataSection
from pti.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageSet", "Sample", "read_images"]

_FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image: its source, its caption with ``{token}``, and how to decode it (RGB, upright)."""

    name: str
    caption: str
    decode: Callable[[], Image]


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """The images of a run.

    Attributes
    ----------
    samples, held_out : tuple of Sample
        The images for training, and those excluded from it.
    digest : str
        SHA-256 over the encoded images and captions, held-out ones included.
    class_word : str or None
        The class word, if the source defines one.
    notes : tuple of str
        Notes for the user.
    """

    samples: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    digest: str
    class_word: str | None = None
    notes: tuple[str, ...] = ()


def read_images(data: DataSection, *, needs_token: bool = True) -> ImageSet:
    """Read and check all images and captions.

    Parameters
    ----------
    data : DataSection
    needs_token : bool
        Whether every caption must contain ``{token}``; captions of class images need not.

    Raises
    ------
    DataError
        There are no images, one cannot be decoded or has no caption, or a caption lacks ``{token}``; each is named.
    ConfigError
        There are fewer images than `holdout`.
    """
    with needs_extra("pti", "reading images"):
        import PIL.Image  # noqa: F401
    class_word = None
    found: Iterable[tuple[str, bytes, str | None]]
    if (character := character_of(data.source)) is not None:
        found, class_word = training_images(character, data.source, data.max_images), character.kind
    elif Path(data.source).expanduser().is_dir():
        found = _folder(Path(data.source).expanduser(), data)
    elif Path(data.source).expanduser().exists() or data.source.startswith((".", "/", "~")) or "/" not in data.source:
        # without a slash it is more likely a misspelt folder than one of the hub's oldest data sets
        raise DataError(f"expected a folder, miniworld:NAME, or the id of a data set, owner/name; got {data.source}")
    else:
        found = _hub(data)
    samples: list[Sample] = []
    total = hashlib.sha256()
    for name, content, caption in found:
        if len(samples) == data.max_images:
            break
        caption = data.instance_prompt if data.instance_prompt is not None else caption
        _check_caption(name, caption, needs_token)
        assert caption is not None
        _decode(name, content)
        samples.append(Sample(name, caption, _decoder(name, content)))
        total.update(hashlib.sha256(content).digest() + caption.encode())
    if not samples:
        raise DataError(f"{data.source} has no images ({', '.join(_FORMATS)})")
    kept = len(samples) - data.holdout
    if kept < 1:
        raise ConfigError(
            f"data.holdout = {data.holdout} leaves nothing to train on: {data.source} has {len(samples)} image(s)"
        )
    notes = []
    if kept == 1:
        notes.append(
            "training on a single image: the concept cannot be separated from its pose, position and background"
        )
    return ImageSet(tuple(samples[:kept]), tuple(samples[kept:]), total.hexdigest(), class_word, tuple(notes))


def _check_caption(name: str, caption: str | None, needs_token: bool) -> None:
    if not caption or not caption.strip():
        raise DataError(
            f"{name} has no caption: give it a line in metadata.jsonl or a .txt file beside it, or set data.instance_prompt"
        )
    if needs_token and PLACEHOLDER not in caption:
        raise DataError(
            f"the caption of {name} lacks {PLACEHOLDER}, the place of the placeholder token: {caption[:100]!r}"
        )


def _folder(folder: Path, data: DataSection) -> Iterator[tuple[str, bytes, str | None]]:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _FORMATS and not p.name.startswith("."))
    metadata = folder / "metadata.jsonl"
    listed: dict[str, str] | None = None
    if metadata.is_file() and data.instance_prompt is None:
        listed = {}
        for name, text in _metadata(metadata, data.caption_column):
            if name in listed:
                raise DataError(f"{metadata} has two lines for {name}; keep one")
            listed[name] = text
        absent = [name for name in listed if not (folder / name).is_file()]
        if absent:
            raise DataError(f"{metadata} names {absent[0]}, which is not there")
    for path in paths:
        name = path.relative_to(folder).as_posix()
        caption: str | None = None
        if listed is not None:
            if name not in listed:
                raise DataError(f"{metadata} has no line for {name}")
            caption = listed[name]
        elif path.with_suffix(".txt").is_file():
            caption = _text(path.with_suffix(".txt")).strip()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        yield str(path), content, caption


def _metadata(path: Path, column: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_text(path).split("\n"), start=1):  # a caption file may contain other line ends
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, caption = str(row["file_name"]), row[column]
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, line {number} is no JSON object: {error}") from error
        except KeyError as error:
            raise DataError(f"{path}, line {number} lacks {error}; it needs file_name and {column}") from error
        if not isinstance(caption, str):
            raise DataError(f"{path}, line {number}: {column} is a text in quotes; got {json.dumps(caption)}")
        yield name, caption


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not in UTF-8 ({error.reason} at byte {error.start}); save it in that encoding"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _hub(data: DataSection) -> Iterator[tuple[str, bytes, str | None]]:
    with needs_extra("pti", "reading a data set"):
        import datasets

    try:
        table: Any = datasets.load_dataset(data.source, split=data.split)
    except Exception as error:  # the hub's client raises a dozen unrelated kinds of errors
        raise DataError(
            f"{data.source!r} is no folder here, and loading it as a data set failed ({first_line(error)}); check the name"
        ) from error
    for column in (data.image_column, *(() if data.instance_prompt is not None else (data.caption_column,))):
        if column not in table.column_names:
            raise DataError(f"{data.source} has no column {column!r}; it has {', '.join(table.column_names)}")
    table = table.cast_column(data.image_column, datasets.Image(decode=False))
    for index, row in enumerate(table):
        image = row[data.image_column]
        content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
        yield f"{data.source}[{index}]", content, row.get(data.caption_column)


def _decoder(name: str, content: bytes) -> Callable[[], Image]:
    return lambda: _decode(name, content)


def _decode(name: str, content: bytes) -> Image:
    """Decode to RGB, upright: transparency becomes white; of an animation the first frame is used."""
    import PIL.Image
    import PIL.ImageOps

    try:
        with PIL.Image.open(io.BytesIO(content)) as opened:
            image = _eight_bits(PIL.ImageOps.exif_transpose(opened))
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
                page = PIL.Image.new("RGBA", image.size, "white")
                image = PIL.Image.alpha_composite(page, image)
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise DataError(f"{name} cannot be decoded as an image ({error}); replace it or take it out") from error


def _eight_bits(image: Image) -> Image:
    """Convert to eight bits; Pillow alone would clip deeper greys to white."""
    import numpy as np
    import PIL.Image

    if image.mode.startswith("I;16"):
        return PIL.Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its mode is {image.mode}, with no known black and white; save it with 8 bits a channel")
    return image
