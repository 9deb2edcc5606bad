"""Number formatting: three to five significant digits, as many as the interval supports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MISSING", "Cell", "correlation", "count", "number", "power_of_ten", "text"]

MISSING = "–"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    `text` is the main entry, `detail` the smaller line below it (usually an interval), `sort` the sort key (None:
    missing, always last), `mark` a CSS class.
    """

    text: str
    detail: str = ""
    sort: float | str | None = None
    mark: str = ""


def text(value: object, *, detail: str = "", mark: str = "") -> Cell:
    """Create a cell of words, sorted alphabetically."""
    return Cell(MISSING) if value is None else Cell(str(value), detail, str(value), mark)


def count(value: int | None, *, detail: str = "") -> Cell:
    """Create a cell with a whole number, with separated thousands."""
    return Cell(MISSING, detail) if value is None else Cell(f"{value:,}", detail, float(value))


def number(value: float | None, ci95: Sequence[float | None] | None = None, *, mark: str = "") -> Cell:
    """Create a cell with a measured number and its 95 % interval.

    The interval decides the digits: two of its half-width, within three to five significant ones of the value.
    Without an interval there are four. Very small and very large numbers are written with a power of ten.
    """
    if value is None or not math.isfinite(value):
        return Cell(MISSING)
    low, high = _ends(ci95)
    if value == 0 and not low and not high:
        return Cell("0", sort=0.0, mark=mark)
    exponent = _magnitude(value)
    power = exponent if value and (exponent < -4 or exponent >= 6) else 0
    scale = 10.0**power
    decimals = _decimals(value / scale, None if low is None or high is None else (high - low) / 2 / scale)
    tail = f"×{power_of_ten(power)}" if power else ""
    detail = ""
    if low is not None and high is not None:
        detail = f"[{_fixed(low / scale, decimals)}, {_fixed(high / scale, decimals)}]{tail}"
    return Cell(f"{_fixed(value / scale, decimals)}{tail}", detail, value, mark)


def correlation(value: float | None, ci95: Sequence[float | None] | None = None) -> Cell:
    """Create a cell with a correlation or cosine: four decimals, more near ±1, never rounded to 1."""
    if value is None or not math.isfinite(value):
        return Cell(MISSING)
    low, high = _ends(ci95)
    rest = 1 - abs(value)
    decimals = min(max(4, 1 - _magnitude(rest)), 7) if rest > 0 else 4
    detail = "" if low is None or high is None else f"[{_cut(low, decimals)}, {_cut(high, decimals)}]"
    return Cell(_cut(value, decimals), detail, value)


def power_of_ten(power: int) -> str:
    """Format a power of ten, as in 10⁻³."""
    return f"10{str(power).translate(_SUPERSCRIPTS)}"


def _ends(ci95: Sequence[float | None] | None) -> tuple[float | None, float | None]:
    if ci95 is None or any(end is None or not math.isfinite(end) for end in ci95):
        return None, None
    return ci95[0], ci95[1]


def _magnitude(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def _decimals(value: float, half: float | None) -> int:
    own = _magnitude(value)
    wanted = 3 - own if half is None or half <= 0 else 1 - _magnitude(half)
    if value:
        wanted = min(max(wanted, 2 - own), 4 - own)
    return min(max(wanted, 0), 9)


def _fixed(value: float, decimals: int) -> str:
    written = f"{value:,.{decimals}f}" if abs(value) >= 10_000 else f"{value:.{decimals}f}"
    if not written.strip("-0.,"):
        written = written.removeprefix("-")  # avoid negative zero
    return written.replace("-", "−")


def _cut(value: float, decimals: int) -> str:
    """Round, but not a correlation below one to one."""
    if abs(value) < 1 <= abs(round(value, decimals)):
        value = math.copysign(1 - 10.0**-decimals, value)
    return _fixed(value, decimals)
