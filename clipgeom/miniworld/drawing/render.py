"""Rendering of scenes: background, figure, and style."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from clipgeom.miniworld.drawing.backgrounds import paint_background
from clipgeom.miniworld.drawing.canvas import PALETTE, SIZE, SUPERSAMPLING, Canvas, Color, mix, oval
from clipgeom.miniworld.drawing.figures import Appearance, add_figure
from clipgeom.miniworld.factors import Scene, position_of

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Jitter", "appearance", "middle", "render"]

_LARGE = SIZE * SUPERSAMPLING
_COLUMNS, _ROWS = (14.0, 32.0, 50.0), (18.5, 33.5, 48.5)  # centres of the nine positions, in pixels
_PAPER: Color = (246, 238, 218)
_WHITE_PAPER: Color = (255, 253, 248)
_INK: Color = (28, 24, 34)


@dataclass(frozen=True, slots=True)
class Jitter:
    """Random variation without meaning: position by a pixel, size and light by some per cent."""

    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    light: float = 1.0
    shift: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator, /) -> Jitter:
        """Choose five uniform random values."""
        x, y, scale, light, shift = (2 * rng.random() - 1 for _ in range(5))
        return cls(x=1.0 * x, y=0.8 * y, scale=1 + 0.04 * scale, light=1 + 0.05 * light, shift=round(5 * shift) / 2)


def appearance(scene: Scene, /) -> Appearance:
    """The part of a figure's appearance that captions can describe."""
    return Appearance(
        kind=scene["class"],
        body=PALETTE[scene["body"]],
        headgear=scene["headgear"],
        headgear_color=PALETTE[scene["headgear_color"]],
    )


def middle(position: str, /) -> tuple[float, float]:
    """Centre of a figure without jitter, (x, y) in pixels."""
    row, column = position_of(position)
    return _COLUMNS[column], _ROWS[row]


def render(scene: Scene, jitter: Jitter, look: Appearance | None = None, /) -> NDArray[np.uint8]:
    """Render a scene.

    Parameters
    ----------
    scene : Scene
        A value for every factor.
    jitter : Jitter
    look : Appearance, optional
        A figure with its own appearance; `scene` then determines only its position, facing, background and style.

    Returns
    -------
    ndarray of uint8, shape (64, 64, 3)
    """
    x, y = middle(scene["position"])
    canvas = Canvas(
        x=x + jitter.x,
        y=y + jitter.y,
        facing=1 if scene["facing"] == "right" else -1,
        scale=0.88 * jitter.scale,
    )
    add_figure(canvas, look if look is not None else appearance(scene))
    style = _STYLES[scene["style"]]
    image = style.figure(_place(scene["background"], scene["style"], jitter.shift).copy(), canvas)
    pixels = np.asarray(image, dtype=np.float32) * np.float32(jitter.light)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _shadow(image: Image.Image, canvas: Canvas, share: float) -> None:
    """Darken the ground under the feet."""
    from PIL import Image, ImageDraw

    mask = Image.new("L", image.size)
    under = Canvas(canvas.x, canvas.y, canvas.facing, canvas.scale)
    points = [under._place(p) for p in oval(-9, 11.2, 9, 15)]
    ImageDraw.Draw(mask).polygon(points, fill=round(255 * share))
    image.paste((20, 20, 30), (0, 0), mask)


@lru_cache(maxsize=512)  # 6 places, 4 styles, 11 shifts
def _place(background: str, style: str, shift: float) -> Image.Image:
    """A background in a style, without the figure."""
    from PIL import Image

    image = Image.new("RGB", (_LARGE, _LARGE))
    paint_background(image, background, shift=shift)
    return _STYLES[style].ground(image)


class _InkIllustration:
    """Paper, washed-out colours, and black lines round everything."""

    @staticmethod
    def ground(image: Image.Image) -> Image.Image:
        from PIL import Image

        image = Image.blend(image, Image.new("RGB", image.size, _PAPER), 0.4)
        image.paste(mix(_PAPER, _INK, 0.6), (0, 0), _hatching())
        return image

    @staticmethod
    def figure(image: Image.Image, canvas: Canvas) -> Image.Image:
        _shadow(image, canvas, 0.5)
        canvas.paint(image, inner=0.75, outer=0, ink=_INK, halo=None)
        return _small(image)


class _PixelDrawing:
    """Blocks of two pixels, and a place chequered in two tones."""

    @staticmethod
    def ground(image: Image.Image) -> Image.Image:
        dark = image.point([round(0.82 * v) for v in range(256)] * 3)
        image.paste(dark, (0, 0), _chequers())
        return image

    @staticmethod
    def figure(image: Image.Image, canvas: Canvas) -> Image.Image:
        from PIL import Image

        _shadow(image, canvas, 0.35)
        canvas.paint(image, inner=0, outer=0.8, ink=None, halo=(40, 30, 60))
        coarse = image.reduce(2 * SUPERSAMPLING)
        return coarse.resize((SIZE, SIZE), Image.Resampling.NEAREST)


class _FlatPoster:
    """Full colours, a white band round the figure, and a dark frame round the sheet."""

    @staticmethod
    def ground(image: Image.Image) -> Image.Image:
        from PIL import ImageDraw

        image = image.point([min(255, round((v - 128) * 1.12 + 124)) if v > 16 else v for v in range(256)] * 3)
        edge = (0, 0, _LARGE - 1, _LARGE - 1)
        ImageDraw.Draw(image).rectangle(edge, outline=(44, 36, 60), width=2 * SUPERSAMPLING + 2)
        return image

    @staticmethod
    def figure(image: Image.Image, canvas: Canvas) -> Image.Image:
        canvas.paint(image, inner=0, outer=1.3, ink=None, halo=(255, 255, 255))
        return _small(image)


class _WatercolorPainting:
    """Soft colours that fade into white paper, and no line."""

    @staticmethod
    def ground(image: Image.Image) -> Image.Image:
        from PIL import Image, ImageFilter

        blurred = _small(image).filter(ImageFilter.GaussianBlur(1.6))
        paper = Image.new("RGB", image.size, _WHITE_PAPER)
        image = Image.blend(blurred.resize(image.size, Image.Resampling.BILINEAR), paper, 0.28)
        return Image.composite(image, paper, _vignette())

    @staticmethod
    def figure(image: Image.Image, canvas: Canvas) -> Image.Image:
        from PIL import Image

        canvas.paint(image, inner=0.35, outer=0, ink=None, halo=None)
        return Image.blend(_small(image), Image.new("RGB", (SIZE, SIZE), _WHITE_PAPER), 0.10)


class _Style(Protocol):
    """Style: how the background is painted (`ground`, cached), and the figure on it (`figure`)."""

    @staticmethod
    def ground(image: Image.Image) -> Image.Image: ...

    @staticmethod
    def figure(image: Image.Image, canvas: Canvas) -> Image.Image: ...


_STYLES: dict[str, type[_Style]] = {
    "ink illustration": _InkIllustration,
    "pixel drawing": _PixelDrawing,
    "flat poster": _FlatPoster,
    "watercolor painting": _WatercolorPainting,
}


def _small(image: Image.Image) -> Image.Image:
    return image.reduce(SUPERSAMPLING)


@lru_cache
def _hatching() -> Image.Image:
    from PIL import Image, ImageDraw

    mask = Image.new("L", (_LARGE, _LARGE))
    draw = ImageDraw.Draw(mask)
    for start in range(-_LARGE, _LARGE, 8 * SUPERSAMPLING):
        draw.line((start, _LARGE, start + _LARGE, 0), fill=110, width=3)
    return mask


@lru_cache
def _chequers() -> Image.Image:
    from PIL import Image

    cell = 4 * SUPERSAMPLING
    lines = np.arange(_LARGE) // cell % 2
    return Image.fromarray(((lines[:, None] ^ lines[None, :]) * 255).astype(np.uint8))


@lru_cache
def _vignette() -> Image.Image:
    """White at the edge, by a wavy line six pixels in."""
    from PIL import Image, ImageDraw, ImageFilter

    mask = Image.new("L", (SIZE, SIZE))
    points = []
    for k in range(48):
        along, side = 52 * (k % 12) / 12 + 6, k // 12
        wave = 5.0 + (1.5, -1.0, 0.5, 2.0, -0.5)[k % 5]
        points.append([(along, wave), (SIZE - wave, along), (SIZE - along, SIZE - wave), (wave, SIZE - along)][side])
    ImageDraw.Draw(mask).polygon([(round(x), round(y)) for x, y in points], fill=255)
    return mask.filter(ImageFilter.GaussianBlur(1.5)).resize((_LARGE, _LARGE), Image.Resampling.BILINEAR)
