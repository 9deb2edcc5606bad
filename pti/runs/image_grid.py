"""Image grids as PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipgeom._io.files import write_whole

__all__ = ["is_grid", "save_image_grid"]

_MAKER = "pti"


def save_image_grid(path: Path, images: np.ndarray[Any, Any], columns: int, marks: Sequence[str] = ()) -> None:
    """Write images, shape (n, h, w, 3), as one PNG grid; marks become text chunks of the file."""
    from PIL import Image, PngImagePlugin

    n, height, width, _ = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * height, i % columns * width
        sheet[top : top + height, left : left + width] = image
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", _MAKER)
    for mark in marks:
        text.add_text("pti", mark)
    content = io.BytesIO()
    Image.fromarray(sheet).save(content, "png", pnginfo=text)
    write_whole(path, content.getvalue())


def is_grid(path: Path) -> bool:
    """Return whether `save_image_grid` wrote a file."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return bool(opened.info.get("Software") == _MAKER)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
