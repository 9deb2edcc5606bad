"""Drawing of shapes: recorded once and painted in one of the styles.

Pillow's integer rasteriser paints at four times the size, and the result is averaged down. An image therefore depends
neither on the platform's floating point nor on fonts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["PALETTE", "SIZE", "SUPERSAMPLING", "Canvas", "Color", "Point", "mix", "oval", "shade"]

SIZE = 64  # pixels a side
SUPERSAMPLING = 4  # sub-pixels a side of a pixel

Color = tuple[int, int, int]
Point = tuple[float, float]

PALETTE: dict[str, Color] = {
    "red": (218, 40, 52),
    "yellow": (252, 206, 30),
    "green": (40, 158, 66),
    "blue": (36, 92, 222),
    "purple": (140, 58, 188),
    "white": (250, 248, 242),
    "black": (34, 32, 42),
    "orange": (244, 128, 36),
    "cyan": (90, 220, 230),
    "steel": (168, 178, 192),
    "skin": (244, 206, 170),
    "brown": (120, 78, 48),
}


def mix(first: Color, second: Color, share: float) -> Color:
    """Mix `first` with a share of `second`."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))  # type: ignore[return-value]


def shade(color: Color, factor: float) -> Color:
    """Darken (factor below 1) or lighten (above) a colour, channel by channel."""
    return tuple(min(255, round(channel * factor)) for channel in color)  # type: ignore[return-value]


def oval(left: float, top: float, right: float, bottom: float, *, points: int = 20) -> list[Point]:
    """Approximate an ellipse by a polygon, so that all shapes are polygons."""
    cx, cy, rx, ry = (left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2
    return [(cx + rx * x, cy + ry * y) for x, y in _circle(points)]


@lru_cache
def _circle(points: int) -> tuple[Point, ...]:
    return tuple((math.cos(2 * math.pi * k / points), math.sin(2 * math.pi * k / points)) for k in range(points))


@dataclass(frozen=True, slots=True)
class _Shape:
    points: list[tuple[int, int]]
    color: Color
    second: Color | None
    pattern: str | None
    outlined: bool


@dataclass(slots=True)
class Canvas:
    """Shapes of one figure, in its own coordinates: pixels from its middle, x towards where it faces, y down.

    Attributes
    ----------
    x, y : float
        Middle of the figure on the image, in pixels.
    facing : int
        1 for right, −1 for left.
    scale : float
        Size of the figure.
    """

    x: float
    y: float
    facing: int = 1
    scale: float = 1.0
    shapes: list[_Shape] = field(default_factory=list)

    def add(
        self,
        points: Iterable[Point],
        color: Color,
        *,
        pattern: str | None = None,
        second: Color | None = None,
        outlined: bool = True,
    ) -> None:
        """Record a polygon; with a `pattern`, its `second` colour is laid over the first in that pattern."""
        self.shapes.append(_Shape([self._place(p) for p in points], color, second, pattern, outlined))

    def _place(self, point: Point) -> tuple[int, int]:
        x = (self.x + self.facing * self.scale * point[0]) * SUPERSAMPLING
        y = (self.y + self.scale * point[1]) * SUPERSAMPLING
        return round(x), round(y)

    def paint(self, image: Image.Image, *, inner: float, outer: float, ink: Color | None, halo: Color | None) -> None:
        """Paint the figure on an image of the size of the supersampled one.

        Parameters
        ----------
        image : Image
            Changed in place.
        inner : float
            Width of the line round every shape, in pixels; 0 for none.
        outer : float
            Width of the band round the whole figure, in pixels; 0 for none.
        ink : Color or None
            Colour of the lines; None for each shape's own colour made darker.
        halo : Color or None
            Colour of the band.
        """
        from PIL import ImageDraw

        draw = ImageDraw.Draw(image)
        if halo is not None:
            for shape in self.shapes:
                if shape.outlined:
                    _grow(draw, shape.points, halo, outer + inner)
        for shape in self.shapes:
            if inner and shape.outlined:
                _grow(draw, shape.points, ink if ink is not None else shade(shape.color, 0.55), inner)
            draw.polygon(shape.points, fill=shape.color)
            if shape.pattern is not None and shape.second is not None:
                self._overlay(image, shape, shape.pattern, shape.second)

    def _overlay(self, image: Image.Image, shape: _Shape, pattern: str, color: Color) -> None:
        from PIL import Image, ImageChops, ImageDraw

        xs, ys = [p[0] for p in shape.points], [p[1] for p in shape.points]
        left, top = min(xs), min(ys)
        size = (max(xs) - left + 1, max(ys) - top + 1)
        inside = Image.new("L", size)
        ImageDraw.Draw(inside).polygon([(x - left, y - top) for x, y in shape.points], fill=255)
        marks = Image.new("L", size)
        draw = ImageDraw.Draw(marks)
        for points in _pattern(pattern, self.scale):
            draw.polygon([(x - left, y - top) for x, y in map(self._place, points)], fill=255)
        image.paste(color, (left, top), ImageChops.multiply(inside, marks))


def _grow(draw: object, points: Sequence[tuple[int, int]], color: Color, width: float) -> None:
    """Fill a polygon made larger by `width` pixels on every side."""
    thick = round(2 * width * SUPERSAMPLING)
    closed = [*points, points[0], points[1]]
    draw.polygon(points, fill=color)  # type: ignore[attr-defined]
    draw.line(closed, fill=color, width=thick, joint="curve")  # type: ignore[attr-defined]


@lru_cache
def _pattern(name: str, scale: float) -> tuple[tuple[Point, ...], ...]:
    """Polygons of a pattern, in the figure's coordinates, wide enough for any body."""
    reach = 18
    if name == "stripes":
        return tuple(_box(-reach, y, reach, y + 2.6) for y in _steps(-reach, reach, 5.2))
    if name == "halves":
        return (_box(0.5, -reach, reach, reach),)
    if name == "checks":
        cell = 4.0
        rows = enumerate(_steps(-16, reach, cell))
        return tuple(
            _box(x + cell * (r % 2), y, x + cell * (r % 2) + cell, y + cell)
            for r, y in rows
            for x in _steps(-16, reach, 2 * cell)
        )
    if name == "dots":
        rows = enumerate(_steps(-16, reach, 4.4))
        return tuple(
            tuple(oval(x + 2.7 * (r % 2) - 1.6, y - 1.6, x + 2.7 * (r % 2) + 1.6, y + 1.6, points=10))
            for r, y in rows
            for x in _steps(-16, reach, 5.4)
        )
    if name == "sash":
        return (((-11.0, -6.0), (-6.0, -6.0), (13.0, 14.0), (8.0, 14.0)),)
    raise KeyError(name)


def _box(left: float, top: float, right: float, bottom: float) -> tuple[Point, ...]:
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def _steps(start: float, stop: float, step: float) -> list[float]:
    return [start + step * k for k in range(math.ceil((stop - start) / step))]
