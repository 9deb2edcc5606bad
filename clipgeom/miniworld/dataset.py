"""Export of scenes as a Hugging Face data set or a folder of images."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipgeom._extras import needs_extra
from clipgeom._io.files import check_folder, filling, resolved
from clipgeom.errors import ConfigError
from clipgeom.miniworld.factors import FACTORS
from clipgeom.miniworld.scenery import Scenes

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["METADATA", "to_dataset", "write_image_folder"]

METADATA = "metadata.jsonl"


def to_dataset(scenes: Scenes, /) -> Dataset:
    """Convert scenes to a data set with the columns ``image``, ``text`` and one for each factor.

    Raises
    ------
    MissingExtraError
        datasets is not installed.
    """
    with needs_extra("report", "making a data set"):
        from datasets import Dataset, Features, Image, Value
        from PIL import Image as Pictures

    columns: dict[str, list[Any]] = {
        "image": [Pictures.fromarray(pixels) for pixels in scenes.pictures],
        "text": list(scenes.captions),
        **{name: [scene[name] for scene in scenes.factors] for name in FACTORS},
    }
    features = Features({"image": Image(), **{name: Value("string") for name in ("text", *FACTORS)}})
    return Dataset.from_dict(columns, features=features)


def write_image_folder(scenes: Scenes, folder: str | os.PathLike[str], /) -> Path:
    """Write PNG files and ``metadata.jsonl`` (``file_name``, ``text`` and the factors), the layout of ``imagefolder``.

    The folder is written atomically.

    Raises
    ------
    ConfigError
        The folder is there already and not empty, or cannot be made.
    OutputError
        The disk is full.
    """
    from PIL import Image

    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} is there already; give the name of a new or empty folder.")
    check_folder(resolved(target))
    width = max(4, len(str(len(scenes) - 1)))
    with filling(resolved(target)) as partial, (partial / METADATA).open("w", encoding="utf-8") as lines:
        for index, (pixels, text, scene) in enumerate(
            zip(scenes.pictures, scenes.captions, scenes.factors, strict=True)
        ):
            name = f"{index:0{width}}.png"
            Image.fromarray(pixels).save(partial / name)
            lines.write(json.dumps({"file_name": name, "text": text, **scene}) + "\n")
    return target
