"""Backgrounds: sky, ground and one or two objects each, in pale colours that contrast with figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipgeom.miniworld.drawing.canvas import SIZE, SUPERSAMPLING, Color, Point, oval

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["paint_background"]

Piece = tuple[list[Point], Color]


def paint_background(image: Image.Image, name: str, *, shift: float) -> None:
    """Paint a background over the whole image, its parts shifted sideways by `shift` pixels."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(image)
    for points, color in _PLACES[name](shift):
        draw.polygon([(round(x * SUPERSAMPLING), round(y * SUPERSAMPLING)) for x, y in points], fill=color)


def _all(color: Color) -> Piece:
    return [(-1, -1), (SIZE + 1, -1), (SIZE + 1, SIZE + 1), (-1, SIZE + 1)], color


def _ground(top: float, color: Color) -> Piece:
    return [(-1, top), (SIZE + 1, top), (SIZE + 1, SIZE + 1), (-1, SIZE + 1)], color


def _hill(x: float, width: float, top: float, color: Color) -> Piece:
    return oval(x - width, top, x + width, 2 * SIZE, points=40), color


def _meadow(shift: float) -> list[Piece]:
    flowers = [(5, 50), (17, 57), (30, 49), (43, 58), (57, 51)]
    return [
        _all((186, 226, 246)),
        (oval(44 + shift, 4, 60 + shift, 10), (246, 250, 252)),
        (oval(6 + shift, 10, 20 + shift, 15), (246, 250, 252)),
        _hill(14 + shift, 34, 34, (150, 214, 128)),
        _hill(54 + shift, 36, 40, (124, 196, 108)),
        *[(oval(x + shift - 1.3, y - 1.3, x + shift + 1.3, y + 1.3, points=8), (252, 236, 244)) for x, y in flowers],
    ]


def _night(shift: float) -> list[Piece]:
    stars = [(6, 7), (20, 16), (33, 5), (45, 20), (9, 30), (60, 31), (27, 33), (38, 12)]
    return [
        _all((30, 34, 84)),
        (oval(48 + shift, 4, 60 + shift, 16), (250, 242, 196)),
        *[(_diamond(x + shift, y, 1.4), (240, 240, 214)) for x, y in stars],
        _hill(12 + shift, 30, 44, (48, 52, 112)),
        _hill(52 + shift, 28, 48, (20, 22, 58)),
    ]


def _desert(shift: float) -> list[Piece]:
    cactus = (104, 140, 92)
    return [
        _all((252, 226, 172)),
        (oval(6 + shift, 5, 18 + shift, 17), (252, 176, 92)),
        _hill(46 + shift, 34, 36, (238, 190, 118)),
        _hill(10 + shift, 34, 44, (222, 166, 96)),
        ([(52 + shift, 32), (55 + shift, 32), (55 + shift, 50), (52 + shift, 50)], cactus),
        ([(55 + shift, 41), (60 + shift, 41), (60 + shift, 36), (58 + shift, 36), (58 + shift, 39), (55 + shift, 39)], cactus),
    ]  # fmt: skip


def _sea(shift: float) -> list[Piece]:
    waves = [(8, 46), (30, 43), (52, 48), (20, 54), (42, 57), (4, 60)]
    return [
        _all((222, 240, 240)),
        (oval(8 + shift, 6, 16 + shift, 14), (255, 240, 176)),
        _ground(38, (84, 184, 204)),
        *[(_wave(x + shift, y), (214, 242, 244)) for x, y in waves],
        ([(46 + shift, 36), (60 + shift, 36), (57 + shift, 40), (49 + shift, 40)], (150, 104, 76)),
        ([(53 + shift, 24), (53 + shift, 35), (46 + shift, 35)], (255, 255, 255)),
    ]  # fmt: skip


def _snow(shift: float) -> list[Piece]:
    flakes = [(5, 6), (19, 11), (35, 4), (50, 10), (60, 20), (10, 24), (43, 19)]
    return [
        _all((172, 186, 206)),
        ([(shift - 6, 46), (14 + shift, 18), (34 + shift, 46)], (128, 142, 168)),
        ([(8 + shift, 26.4), (14 + shift, 18), (20 + shift, 26.4)], (248, 250, 252)),
        ([(28 + shift, 46), (50 + shift, 24), (72 + shift, 46)], (142, 156, 180)),
        _hill(22 + shift, 60, 42, (242, 246, 250)),
        *[(oval(x + shift - 1.2, y - 1.2, x + shift + 1.2, y + 1.2, points=8), (255, 255, 255)) for x, y in flakes],
    ]


def _castle(shift: float) -> list[Piece]:
    mortar, stone = (150, 138, 140), (196, 182, 176)
    bricks: list[Piece] = [
        ([(x + 0.6, y + 0.6), (x + 11.4, y + 0.6), (x + 11.4, y + 7.4), (x + 0.6, y + 7.4)], stone)
        for row in range(7)
        for y in [row * 8.0]
        for x in [shift - 12 + (row % 2) * 6 + 12 * column for column in range(8)]
    ]
    window: list[Point] = [
        (26 + shift, 24),
        (26 + shift, 10),
        (29 + shift, 5),
        (35 + shift, 5),
        (38 + shift, 10),
        (38 + shift, 24),
    ]
    return [_all(mortar), *bricks, (window, (110, 130, 170)), _ground(54, (158, 92, 84))]


def _wave(x: float, y: float) -> list[Point]:
    return [(x - 4, y), (x, y - 2), (x + 4, y), (x, y - 0.6)]


def _diamond(x: float, y: float, r: float) -> list[Point]:
    return [(x, y - r), (x + r, y), (x, y + r), (x - r, y)]


_PLACES = {
    "meadow": _meadow,
    "night": _night,
    "desert": _desert,
    "sea": _sea,
    "snow": _snow,
    "castle": _castle,
}
