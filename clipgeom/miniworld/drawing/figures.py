"""The characters: a body for each class, a headgear for each shape, in coordinates of the figure facing right.

Feet stand at y = 13, the head is about (0.5, −4) with a radius of 5, headgear sits on y = −8 and reaches y = −17.
"""

from __future__ import annotations

from dataclasses import dataclass

from clipgeom.miniworld.drawing.canvas import PALETTE, Canvas, Color, Point, mix, oval, shade

__all__ = ["Appearance", "add_figure"]

_STEEL, _BLACK, _WHITE = PALETTE["steel"], PALETTE["black"], PALETTE["white"]
_SKIN, _ORANGE, _CYAN, _BROWN = PALETTE["skin"], PALETTE["orange"], PALETTE["cyan"], PALETTE["brown"]


@dataclass(frozen=True, slots=True)
class Appearance:
    """Appearance of a figure, independent of its position.

    Captions cannot describe the last five, which distinguish the new characters.

    Attributes
    ----------
    kind : str
        Class: knight, wizard, …
    body, headgear_color : Color
    headgear : str
        Shape of the headgear.
    pattern : str or None
        Pattern of the body: stripes, dots, checks, halves, sash.
    second : Color or None
        Colour of the pattern.
    emblem : str or None
        Sign on the chest: star, heart, diamond, cross.
    emblem_color : Color or None
    headgear_second : Color or None
        Colour of the stripes of a two-tone headgear.
    """

    kind: str
    body: Color
    headgear: str
    headgear_color: Color
    pattern: str | None = None
    second: Color | None = None
    emblem: str | None = None
    emblem_color: Color | None = None
    headgear_second: Color | None = None


def add_figure(canvas: Canvas, look: Appearance, /) -> None:
    """Record every shape of a figure, from back to front."""
    _BODIES[look.kind](canvas, look)
    if look.emblem is not None:
        x, y = _CHESTS[look.kind]
        color = look.emblem_color or _WHITE
        canvas.add([(x + a, y + b) for a, b in _EMBLEMS[look.emblem]], color)
    _HEADGEAR[look.headgear](canvas, look)


def _box(left: float, top: float, right: float, bottom: float) -> list[Point]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _clothe(canvas: Canvas, points: list[Point], look: Appearance) -> None:
    canvas.add(points, look.body, pattern=look.pattern, second=look.second)


def _knight(canvas: Canvas, look: Appearance) -> None:
    canvas.add(_box(-4.5, 8, -1, 13), _STEEL)
    canvas.add(_box(1, 8, 4.5, 13), _STEEL)
    canvas.add([(8, 5), (9, -9), (10, -11), (11, -9), (10.5, 5)], _WHITE)  # sword
    canvas.add(_box(6.5, 4, 12.5, 5.6), _BROWN)
    _clothe(canvas, [(-6, 0), (6, 0), (7, 10.5), (-7, 10.5)], look)
    canvas.add(_box(4.5, 3.5, 9, 7), _STEEL)
    canvas.add([(-11, 0.5), (-4, 0.5), (-4, 6), (-7.5, 10.5), (-11, 6)], shade(_STEEL, 0.8))  # shield, on the back arm
    canvas.add(oval(-5, -9.5, 6, 1.5), _STEEL)
    canvas.add(_box(0.5, -5.5, 6.5, -2.8), _BLACK, outlined=False)


def _wizard(canvas: Canvas, look: Appearance) -> None:
    canvas.add(_box(9, -6, 10.4, 13), _BROWN)
    canvas.add(oval(7.2, -10.5, 12.2, -5.5, points=14), _CYAN)
    _clothe(canvas, [(-3, -1), (4, -1), (9, 13), (-9, 13)], look)
    canvas.add([(2, 2), (9.5, 3), (9.5, 6), (3, 7)], look.body)  # sleeve
    canvas.add(oval(-4.5, -9.5, 5.5, 0.5), _SKIN)
    canvas.add([(0, -2.5), (6.2, -3), (7.5, 2), (4.5, 8), (1.5, 3)], _WHITE)  # beard
    canvas.add(oval(2.4, -6.2, 4.4, -4.2, points=8), _BLACK, outlined=False)


def _robot(canvas: Canvas, look: Appearance) -> None:
    canvas.add([(-8, 9), (8, 9), (7, 13), (-7, 13)], _BLACK)
    canvas.add(_box(5, 2, 11.5, 4.5), _STEEL)  # arm and claw
    canvas.add([(10, 0), (13, -1), (12, 3.2), (13, 7.5), (10, 6.5)], _STEEL)
    _clothe(canvas, _box(-7.5, 0.5, 6.5, 10.5), look)
    canvas.add(_box(-6, -9, 6, 0), shade(_STEEL, 1.12))
    canvas.add(oval(0.5, -7.2, 6.5, -1.2, points=14), _CYAN)
    canvas.add(oval(2.8, -5.6, 5.6, -2.8, points=8), _BLACK, outlined=False)


def _ghost(canvas: Canvas, look: Appearance) -> None:
    canvas.add(_box(9.6, -3.5, 12, 3), _WHITE)  # candle
    canvas.add([(9.4, -4.5), (11, -9), (12.4, -4.5), (10.9, -3)], _ORANGE)
    sheet: list[Point] = [
        (-7.5, -2),
        (-6.2, -7),
        (-3, -9.6),
        (0.5, -10.2),
        (4, -9.4),
        (6.6, -6.8),
        (7.4, -2),
        (7.6, 0.4),
    ]
    arm: list[Point] = [(11.6, 1), (12, 3.4), (8.4, 4.6)]
    hem: list[Point] = [(8, 10), (6, 13), (3, 10), (0, 13), (-3, 10), (-6, 13.4), (-8, 11), (-13, 13), (-9.2, 5)]
    _clothe(canvas, [*sheet, *arm, *hem], look)
    for left in (-0.6, 3.8):
        canvas.add(oval(left, -6.6, left + 2.7, -2.2, points=10), _BLACK, outlined=False)
    canvas.add(oval(1.6, -1, 4.8, 2.6, points=10), _BLACK, outlined=False)


def _dragon(canvas: Canvas, look: Appearance) -> None:
    canvas.add([(-3, 5), (-9, 8.5), (-15, 4), (-12, 11.5), (-5, 12.5)], look.body)  # tail
    canvas.add([(-1, 5), (-8, -6), (-14.5, -9), (-14, -1), (-10, 0.5), (-9, 4)], mix(look.body, _WHITE, 0.55))  # wing
    canvas.add(_box(-4, 9, -0.5, 13), shade(look.body, 0.8))
    canvas.add(_box(2, 9, 5.5, 13), shade(look.body, 0.8))
    _clothe(canvas, oval(-7, -1, 7, 12), look)
    canvas.add([*oval(-5, -9.5, 5, 0.5)[5:16], (3, -9.4), (5, -6.5), (10, -5.5), (10.5, -1.2), (5, 0.3)], look.body)
    canvas.add([(10.6, -4), (14, -7.5), (13.6, -4.6), (17, -3.6), (14, -2), (15.5, 1), (11, -1.6)], _ORANGE)  # breath
    canvas.add(oval(1.2, -7.2, 4.4, -4, points=10), _WHITE, outlined=False)
    canvas.add(oval(2.6, -6.6, 4.4, -4.4, points=8), _BLACK, outlined=False)


def _penguin(canvas: Canvas, look: Appearance) -> None:
    canvas.add(oval(-4, 10.5, 1.5, 14, points=10), _ORANGE)
    canvas.add(oval(1, 10.5, 7.5, 14, points=10), _ORANGE)
    _clothe(canvas, oval(-8, -3.5, 7.5, 13), look)
    canvas.add(oval(0.5, 1, 7.2, 12), _WHITE)
    canvas.add([(-5, 0), (-11, 7.5), (-5, 7)], shade(look.body, 0.8))  # flipper
    canvas.add(oval(-5, -9.5, 5.5, 1.5), look.body)
    canvas.add([(4, -6.5), (12, -3.6), (4, -1.4)], _ORANGE)
    canvas.add(oval(0.4, -7.4, 4, -3.8, points=10), _WHITE, outlined=False)
    canvas.add(oval(2, -6.6, 4, -4.6, points=8), _BLACK, outlined=False)


def _crown(canvas: Canvas, look: Appearance) -> None:
    spikes: list[Point] = [(-5.5, -7.2), (-7.5, -15), (-3.6, -11), (0, -16.5), (3.6, -11), (7.5, -15), (5.5, -7.2)]
    _adorn(canvas, spikes, look)


def _top_hat(canvas: Canvas, look: Appearance) -> None:
    _adorn(canvas, _box(-5, -17, 5, -8.5), look)
    canvas.add(_box(-8.5, -9.6, 8.5, -7), look.headgear_color)


def _pointed_hat(canvas: Canvas, look: Appearance) -> None:
    _adorn(canvas, [(-6, -8), (6, -8), (-2.5, -19)], look)
    canvas.add(oval(-9, -9.6, 9, -6.6), look.headgear_color)


def _horned_helmet(canvas: Canvas, look: Appearance) -> None:
    for side in (-1, 1):
        horn = [(4.0, -8.0), (8.0, -10.0), (8.5, -16.5), (12.0, -11.5), (9.5, -6.8), (5.0, -6.2)]
        canvas.add([(side * x, y) for x, y in horn], _WHITE)
    dome: list[Point] = [(-6.6, -9), (-5, -12), (-2, -13.8), (2, -13.8), (5, -12), (6.6, -9)]
    _adorn(canvas, [(-6.8, -6.4), *dome, (6.8, -6.4)], look)


def _turban(canvas: Canvas, look: Appearance) -> None:
    _adorn(canvas, oval(-8.5, -16, 8.5, -6), look)
    canvas.add(oval(2.6, -12.8, 6.4, -9, points=10), _WHITE)  # jewel


def _adorn(canvas: Canvas, points: list[Point], look: Appearance) -> None:
    two_tone = look.headgear_second is not None
    canvas.add(points, look.headgear_color, pattern="stripes" if two_tone else None, second=look.headgear_second)


_BODIES = {
    "knight": _knight,
    "wizard": _wizard,
    "robot": _robot,
    "ghost": _ghost,
    "dragon": _dragon,
    "penguin": _penguin,
}
_HEADGEAR = {
    "crown": _crown,
    "top hat": _top_hat,
    "pointed hat": _pointed_hat,
    "horned helmet": _horned_helmet,
    "turban": _turban,
}
_CHESTS: dict[str, Point] = {
    "knight": (0.5, 5.5),
    "wizard": (-1.5, 8),
    "robot": (-0.5, 5.5),
    "ghost": (-2, 5.5),
    "dragon": (-2, 5.5),
    "penguin": (-2.5, 5.5),
}
_EMBLEMS: dict[str, list[Point]] = {
    "star": [
        *[(0.0, -3.6), (1.0, -1.1), (3.5, -1.1), (1.5, 0.6), (2.3, 3.2)],
        *[(0.0, 1.7), (-2.3, 3.2), (-1.5, 0.6), (-3.5, -1.1), (-1.0, -1.1)],
    ],
    "heart": [(0, 3.4), (-3.4, 0), (-3, -2.4), (-1.4, -2.8), (0, -1.4), (1.4, -2.8), (3, -2.4), (3.4, 0)],
    "diamond": [(0, -3.8), (2.8, 0), (0, 3.8), (-2.8, 0)],
    "cross": [
        *[(-1.1, -3.3), (1.1, -3.3), (1.1, -1.1), (3.3, -1.1), (3.3, 1.1), (1.1, 1.1)],
        *[(1.1, 3.3), (-1.1, 3.3), (-1.1, 1.1), (-3.3, 1.1), (-3.3, -1.1), (-1.1, -1.1)],
    ],
}
