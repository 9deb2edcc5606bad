"""The special cases of miniworld, clipgeom's synthetic world: its pipeline, and its characters as training images."""

from __future__ import annotations

import io
from pathlib import Path

from clipgeom.encoder.files import MINIWORLD
from clipgeom.errors import ConfigError
from clipgeom.miniworld.characters import NewCharacter, character

__all__ = ["SOURCE", "captions_to_check", "character_of", "is_miniworld", "pipeline_folder", "training_images"]

SOURCE = f"{MINIWORLD}:"  # data.source = "miniworld:NAME" is a new character
_COUNT = 6
_SEED = 77  # seed of a new character's images; no training of miniworld used it


def is_miniworld(pipeline: str, /) -> bool:
    """Return whether a pipeline's name is that of miniworld's own."""
    return pipeline == MINIWORLD


def pipeline_folder(revision: str | None, variant: str | None, root: Path | None) -> Path:
    """Return the folder of miniworld's pipeline, below `root` or in the package."""
    from clipgeom.miniworld.weights import checked_folder

    if revision is not None or variant is not None:
        raise ConfigError("model.revision and model.variant apply to a hub id, not to miniworld")
    return checked_folder("pipeline", root=root)


def captions_to_check(pipeline: str, /) -> str:
    """Return the caption source for a centering check of a pipeline's text encoders."""
    return MINIWORLD if is_miniworld(pipeline) else "coco2014:val"


def character_of(source: str, /) -> NewCharacter | None:
    """Return the character of a data source ``miniworld:NAME``; None for other sources."""
    return character(source.removeprefix(SOURCE)) if source.startswith(SOURCE) else None


def training_images(new: NewCharacter, source: str, count: int | None) -> list[tuple[str, bytes, str | None]]:
    """Render images of a character; return the name, the PNG and the caption of each."""
    import PIL.Image

    from clipgeom.miniworld.scenery import scenes

    rendered = scenes(count or _COUNT, _SEED, character=new)
    images: list[tuple[str, bytes, str | None]] = []
    for index, (pixels, caption) in enumerate(zip(rendered.pictures, rendered.captions, strict=True)):
        encoded = io.BytesIO()
        PIL.Image.fromarray(pixels).save(encoded, "png")
        images.append((f"{source}/{index}", encoded.getvalue(), caption))
    return images
