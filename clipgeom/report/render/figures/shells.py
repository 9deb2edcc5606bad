"""Figures of the shells: norms, radial terms, and both over the positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import NDArray

from clipgeom.report.measure.rows import RowArrays
from clipgeom.report.render.figures.svg import (
    ALONG,
    CENTERED,
    CROSS,
    EDGE,
    GRID,
    INK,
    MUTED,
    RAW,
    WIDE,
    Picture,
    board,
    decades,
    file_name,
    finish,
    label_rows,
    legend,
    mark,
    shorten,
    swatch,
    ticks,
    unique,
)
from clipgeom.report.render.numbers import number
from clipgeom.report.render.summary import FEW, read_row, row_label

__all__ = ["norms", "profiles", "radial", "side_by_side", "tightness"]

Estimate = tuple[float, Sequence[float | None] | None]  # a number and its interval
FLOOR = 1e-8  # relative to the largest value: smaller ones are rounding noise, drawn as a triangle at the edge
_SIDES = (("raw", RAW), ("centered", CENTERED))


def tightness(rows: list[dict[str, Any]]) -> list[Picture]:
    """Variance and coefficient of variation of raw and centred norms, by row."""
    pictures = []
    for statistic, title in (("var_norm", "Variance of the norm"), ("cv_norm", "Coefficient of variation of the norm")):
        moving = [row for row in rows if not read_row(row).constant and row["raw"][statistic] is not None]
        if moving:
            pictures.append(
                _pairs(
                    title,
                    [row_label(row) for row in moving],
                    [
                        [(row[side][statistic], row[side]["ci95"][statistic]) for side in ("raw", "centered")]
                        for row in moving
                    ],
                    (("raw", RAW), ("centred", CENTERED)),
                    name=file_name("tightness", statistic.removesuffix("_norm")),
                    caption=f"{title}: further left is tighter.",
                )
            )
    return pictures


def side_by_side(title: str, labels: list[str], pairs: Sequence[Sequence[Estimate]]) -> Picture:
    """One statistic of two reports, A and B, for each row in both."""
    return _pairs(
        title,
        labels,
        pairs,
        (("A", ALONG), ("B", CROSS)),
        name=file_name("compare", title),
        caption=f"{title[:1].upper()}{title[1:]} in both reports.",
    )


def _pairs(
    title: str,
    labels: list[str],
    pairs: Sequence[Sequence[Estimate]],
    ends: tuple[tuple[str, str], tuple[str, str]],
    *,
    name: str,
    caption: str,
) -> Picture:
    """Pairs of estimates with intervals, joined by a bar; on a logarithmic axis if they are far apart."""
    values = [value for pair in pairs for value, _ in pair]
    largest = max(values)
    logarithmic = largest > 20 * max(min(values), 0.0) > 0
    floor = largest * FLOOR if logarithmic else -math.inf
    figure = board(WIDE, 0.75 + 0.27 * len(pairs))
    axis = figure.subplots()
    shapes = (("o", 5.5), ("D", 4.8))
    for y, pair in enumerate(pairs):
        axis.plot(
            [max(value, floor) for value, _ in pair],
            [y, y],
            color=GRID,
            linewidth=2.2,
            solid_capstyle="round",
            zorder=1,
        )
        for (value, interval), (_, colour), (marker, size) in zip(pair, ends, shapes, strict=True):
            if interval is not None and None not in interval:
                axis.plot(
                    np.asarray(interval, dtype=np.float64),
                    [y, y],
                    color=colour,
                    linewidth=2.4,
                    solid_capstyle="butt",
                    zorder=2,
                )
            shape = marker if value >= floor else "<"
            axis.plot([max(value, floor)], [y], color=colour, marker=shape, markersize=size, zorder=3)
    if logarithmic:
        axis.set_xscale("log")
        axis.set_xlim(max(min(values), floor) / 1.8, largest * 1.8)
    else:
        furthest = max(
            high for pair in pairs for value, interval in pair for high in (value, (interval or [0, 0])[1] or 0)
        )
        axis.set_xlim(0, (furthest or 1) * 1.06)
        axis.xaxis.set_major_locator(ticks(6))
    decades(axis, "x")
    label_rows(axis, labels)
    axis.set_xlabel(title)
    legend(axis, [mark(colour, word, marker) for (word, colour), (marker, _) in zip(ends, shapes, strict=True)])
    described = (
        f"{label}: "
        + ", ".join(f"{number(value).text} {word}" for (value, _), (word, _) in zip(pair, ends, strict=True))
        for label, pair in zip(labels, pairs, strict=True)
    )
    if logarithmic and min(values) < floor:
        caption += " A triangle at the edge: too far left to be drawn."
    return finish(figure, name=name, alt=f"{title}. " + "; ".join(described), caption=caption)


def norms(rows: Sequence[RowArrays]) -> list[Picture]:
    """Histograms of the norms, one image for each row; rows of one representation share their limits."""
    limits: dict[str, tuple[float, float]] = {}
    for row in rows:
        both = np.concatenate([row.raw_norms, row.centered_norms])
        low, high = limits.get(row.representation, (math.inf, -math.inf))
        limits[row.representation] = (min(low, float(both.min())), max(high, float(both.max())))
    pictures = []
    for row, name in zip(rows, unique([file_name("norms", r.representation, r.position) for r in rows]), strict=True):
        low, high = limits[row.representation]
        margin = 0.04 * (high - low) or 0.02 * abs(high) or 1.0
        figure = board(WIDE, 1.75)
        axis = figure.subplots()
        for values, (side, colour) in zip((row.raw_norms, row.centered_norms), _SIDES, strict=True):
            _histogram(axis, values, colour, "o" if side == "raw" else "D")
        axis.set(xlim=(low - margin, high + margin), ylim=(0, 1.08), yticks=[], xlabel="norm", ylabel="")
        axis.xaxis.set_major_locator(ticks(6))
        axis.set_title(shorten(f"{row.representation} · {row.position}"))
        legend(axis, [swatch(RAW, "raw"), swatch(CENTERED, "centred")])
        sns.despine(ax=axis, left=True)
        words = ", ".join(
            f"{word} {number(values.mean()).text} ± {number(values.std()).text}"
            for word, values in (("raw", row.raw_norms), ("centred", row.centered_norms))
        )
        pictures.append(
            finish(
                figure,
                name=name,
                alt=f"Histograms of the norms of {row.representation} · {row.position}: {words}",
                caption=f"Mean ± std: {words}.",
            )
        )
    return pictures


def _histogram(axis: Axes, values: NDArray[np.float64], colour: str, marker: str) -> None:
    """Draw a histogram scaled to its own peak, so that thin and broad shells are both visible."""
    if np.ptp(values) <= 1e-9 * float(np.abs(values).max()):
        axis.axvline(float(values.mean()), color=colour)
        return
    if len(values) < FEW:
        axis.vlines(values, 0, 0.3, color=colour, linewidth=1.2)
        axis.plot(values, np.full(len(values), 0.3), marker, color=colour, markersize=4)
        return
    counts, edges = np.histogram(values, bins=min(48, math.isqrt(len(values))))
    heights = counts / counts.max()
    axis.stairs(heights, edges, fill=True, color=colour, alpha=0.28, linewidth=0)
    axis.stairs(heights, edges, color=colour, linewidth=1.2)


def radial(rows: list[dict[str, Any]]) -> list[Picture]:
    """The radial terms A, B and C of each row as shares of A + B."""
    moving = [(row, read_row(row)) for row in rows]
    moving = [(row, reading) for row, reading in moving if reading.cancellation is not None]
    if not moving:
        return []
    figure = board(WIDE, 0.85 + 0.28 * len(moving))
    axis = figure.subplots()
    for y, (row, _) in enumerate(moving):
        terms = row["radial_terms"]
        a, b, c = (terms[key] / (terms["A"] + terms["B"]) for key in "ABC")
        axis.barh(y, a, color=CENTERED, height=0.56)
        axis.barh(y, b, left=a, color=ALONG, height=0.56)
        axis.barh(y, c, left=0 if c < 0 else 1, color=CROSS, height=0.56)
        axis.plot([a + b + c], [y], marker="D", color=INK, markersize=5, markeredgecolor=EDGE, zorder=4)
    axis.axvline(0, color=MUTED, linewidth=0.8)
    axis.axvline(-1, color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
    right = max(1.0, *(1 + row["radial_terms"]["C"] / sum(row["radial_terms"][k] for k in "AB") for row, _ in moving))
    axis.set_xlim(-1.06, right + 0.06)
    axis.xaxis.set_major_locator(ticks(5))
    label_rows(axis, [row_label(row) for row, _ in moving])
    axis.set_xlabel("share of A + B")
    handles: list[Any] = [swatch(CENTERED, "A"), swatch(ALONG, "B"), swatch(CROSS, "C")]
    legend(axis, [*handles, mark(INK, "Var‖x‖²", "D")])
    return [
        finish(
            figure,
            name="radial",
            alt="Radial terms as shares of A + B: "
            + "; ".join(f"{row_label(row)} C = {-(reading.cancellation or 0.0):.3f}" for row, reading in moving),
            caption="Terms as shares of A + B. Dashed: C = −(A + B), a sphere about the origin.",
        )
    ]


def profiles(profile: list[dict[str, Any]]) -> list[Picture]:
    """Norms, offset and number of captions over the positions, one image for each representation and population."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for point in profile:
        groups.setdefault((point["representation"], point["population"]), []).append(point)
    return [_profile(key, points) for key, points in groups.items() if len(points) > 1]


def _profile(key: tuple[str, str], points: list[dict[str, Any]]) -> Picture:
    representation, population = key
    x = np.array([point["position"] for point in points])
    figure = board(WIDE, 3.5)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(4, 1.9, 1.3))
    for side, colour in _SIDES:
        mean = _column(points, f"mean_{side}_norm")
        std = _column(points, f"std_{side}_norm")
        top.fill_between(x, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)
        top.plot(x, mean, color=colour, marker="." if len(x) < 3 else "")
    top.set_ylim(bottom=0)
    top.set_ylabel("norm ± std")
    top.set_title(shorten(f"{representation} · {population}"))
    legend(top, [swatch(RAW, "raw"), swatch(CENTERED, "centred")])
    middle.plot(x, _column(points, "offset_ratio"), color=INK)
    middle.set_ylim(bottom=0)
    middle.set_ylabel("offset")
    n = _column(points, "n")
    bottom.fill_between(x, 0.8, n, color=MUTED, alpha=0.35, linewidth=0, step="mid")
    bottom.set_yscale("log")
    bottom.set_ylim(0.8, float(n.max()) * 1.5)
    decades(bottom, "y")
    bottom.set_yticks([10 ** int(math.log10(n.max())), *([1] if n.max() >= 10 else [])])
    bottom.set_ylabel("n")
    bottom.set_xlabel("position (0 = BOS)")
    bottom.set_xlim(x[0] - 0.5, x[-1] + 0.5)
    bottom.xaxis.set_major_locator(ticks(8))
    few = x[n < FEW]
    for axis in (top, middle, bottom):
        for position in few:
            axis.axvspan(position - 0.5, position + 0.5, color=GRID, alpha=0.45, linewidth=0, zorder=0)
        axis.yaxis.set_major_locator(ticks(4)) if axis is not bottom else None
        sns.despine(ax=axis)
    figure.align_ylabels()
    return finish(
        figure,
        name=file_name("profile", *key),
        alt=f"Norms, offset ratio and number of captions of {representation} at {population} positions "
        f"{x[0]} to {x[-1]}",
        caption=f"{points[0]['n']:,} captions at position {x[0]}, {points[-1]['n']:,} at position {x[-1]}.",
    )


def _column(points: list[dict[str, Any]], key: str) -> NDArray[np.float64]:
    return np.array([math.nan if point[key] is None else point[key] for point in points], dtype=np.float64)
