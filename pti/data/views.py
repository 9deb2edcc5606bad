"""Which image, crop, mirroring and caption variant a latent belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

__all__ = ["ImageView"]


@dataclass(frozen=True, slots=True, order=True)
class ImageView:
    """One picture, one way of cutting it out, mirrored or not, and one wording of its caption."""

    sample: int
    crop: int = 0
    mirrored: bool = False
    wording: int = 0
