"""Views: image, crop, mirroring and caption variant of a training example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

__all__ = ["ImageView"]


@dataclass(frozen=True, slots=True, order=True)
class ImageView:
    """An image, a crop, mirrored or not, and a variant of its caption."""

    sample: int
    crop: int = 0
    mirrored: bool = False
    wording: int = 0
