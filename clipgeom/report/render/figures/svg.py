"""Figure files: one style, the same bytes in every run, and an inline copy for the page.

Figures are drawn for paper in a small set of colours. The copy inside the page has each of those colours replaced by
a CSS variable, so that one drawing serves light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from xml.etree import ElementTree

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from clipgeom.report.render.numbers import power_of_ten

__all__ = [
    "ALONG",
    "CENTERED",
    "CROSS",
    "DOTS",
    "EDGE",
    "GRID",
    "INK",
    "MUTED",
    "NARROW",
    "RAW",
    "SERIES",
    "WIDE",
    "Picture",
    "board",
    "decades",
    "file_name",
    "finish",
    "label_rows",
    "legend",
    "mark",
    "shorten",
    "style",
    "swatch",
    "ticks",
    "unique",
]

INK, MUTED, GRID, PAPER, EDGE = "#1f2328", "#656d76", "#d5dae0", "#ffffff", "#fffffe"
RAW, CENTERED = "#c2571a", "#1f6fb5"  # vermilion and blue are distinguishable with every kind of colour blindness
ALONG, CROSS = "#2a9d7c", "#a8589e"
DOTS = "#4a90c9"  # colours of rasterised points, which CSS cannot change: readable on white and on near-black
SERIES = ("#1f6fb5", "#c2571a", "#2a9d7c", "#a8589e", "#b08900", "#656d76")

_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "none",
    EDGE: "var(--page)",
    RAW: "var(--raw)",
    CENTERED: "var(--centered)",
    ALONG: "var(--along)",
    CROSS: "var(--cross)",
    "#b08900": "var(--gold)",
}
WIDE, NARROW = 4.8, 3.5  # inches; a CSS pixel is 1/96 inch
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished figure: the bytes of its two files, its description, its caption, and its copy for the page."""

    name: str
    alt: str
    caption: str
    svg: str
    png: bytes
    inline: str


@contextmanager
def style() -> Iterator[None]:
    """Apply matplotlib settings within the block; the caller's settings are restored."""
    rc = {
        **sns.axes_style("ticks"),
        "font.family": "DejaVu Sans",  # ships with matplotlib: the same layout on every machine
        "font.size": 8.5,
        "axes.labelsize": 8.5,
        "axes.titlesize": 9,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 4.5,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "legend.handlelength": 1.4,
        "axes.linewidth": 0.7,
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.4,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.edgecolor": MUTED,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "grid.color": GRID,
        "figure.facecolor": PAPER,
        "savefig.facecolor": PAPER,
        "axes.facecolor": "none",
        "axes.unicode_minus": True,
        "text.parse_math": False,  # a name may contain a dollar sign
        "svg.fonttype": "none",
        "svg.hashsalt": "clipgeom",
        "path.simplify": True,
    }
    with mpl.rc_context(rc):
        yield


def board(width: float, height: float) -> Figure:
    """Create an empty figure of a size in inches, outside pyplot's registry."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def finish(figure: Figure, *, name: str, alt: str, caption: str) -> Picture:
    """Render a figure as PNG (two pixels a CSS pixel), SVG and inline copy, with reproducible bytes."""
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=192)
    figure.set_layout_engine("none")  # laid out once, so that both files agree
    figure.savefig(svg, format="svg", dpi=192, metadata={"Date": None})
    markup = svg.getvalue().decode("utf-8")
    return Picture(
        name=name,
        alt=alt,
        caption=caption,
        svg=markup,
        png=png.getvalue(),
        inline=_inline(markup, prefix=name, alt=alt),
    )


def ticks(count: int) -> MaxNLocator:
    """Tick locator with at most `count` intervals, at steps of 1, 2 or 5."""
    return MaxNLocator(count, steps=[1, 2, 5, 10])


def file_name(*parts: object) -> str:
    """Convert arbitrary words to a name for files and ids."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", str(part).lower()).strip("-") or "x" for part in parts)


def unique(names: list[str]) -> list[str]:
    """Make names unique by appending numbers to repeated ones."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return result


def label_rows(axis: Axes, labels: list[str]) -> None:
    """Label the rows of the axis, from the top."""
    axis.set_yticks(range(len(labels)), [shorten(label) for label in labels])
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=True, axis="x")
    axis.set_axisbelow(True)
    sns.despine(ax=axis, left=True)


def legend(axis: Axes, handles: list[Line2D]) -> None:
    """Add a legend above the axes, at the right, where it covers no data."""
    axis.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=len(handles),
        borderaxespad=0.25,
        borderpad=0,
        columnspacing=1.1,
        handletextpad=0.4,
    )


def mark(colour: str, label: str, marker: str) -> Line2D:
    """Legend entry: a marker."""
    return Line2D([], [], color=colour, marker=marker, markersize=5, linestyle="", label=label)


def swatch(colour: str, label: str) -> Line2D:
    """Legend entry: a block of colour."""
    return Line2D([], [], color=colour, linewidth=5, solid_capstyle="butt", label=label)


def shorten(label: str, longest: int = 26) -> str:
    """Shorten a label to fit beside its axis."""
    return label if len(label) <= longest else label[: longest - 1] + "…"


def decades(axis: Axes, which: str) -> None:
    """Label an axis without math text for numbers of any size: 0.01, 1, 2.5×10⁻⁶."""

    def label(value: float, _position: int) -> str:
        if value == 0 or 1e-3 <= abs(value) < 1e5:
            return f"{value:,.6g}".replace("-", "−")
        mantissa, power = f"{value:.3e}".split("e")
        factor = f"{float(mantissa):g}".replace("-", "−")
        return ("" if factor == "1" else f"{factor}×") + power_of_ten(int(power))

    target = axis.xaxis if which == "x" else axis.yaxis
    target.set_major_formatter(FuncFormatter(label))
    target.set_minor_formatter(NullFormatter())


def _inline(markup: str, *, prefix: str, alt: str) -> str:
    """Convert the figure to an inline SVG element with its own ids, the page's colours and fonts, and a description."""
    for space, uri in (("", _SVG), ("xlink", _XLINK)):
        ElementTree.register_namespace(space, uri)
    root = ElementTree.fromstring(markup)
    box = root.get("viewBox", "0 0 1 1")
    for child in list(root):
        if child.tag.endswith("}metadata"):
            root.remove(child)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', markup))
    for parent in root.iter():
        for child in list(parent):
            if child.tag == f"{{{_SVG}}}style":  # a global style rule would affect the whole page
                parent.remove(child)
        identity = parent.attrib.pop("id", None)
        if identity in used:
            parent.set("id", f"{prefix}-{identity}")
        for key, value in list(parent.attrib.items()):
            parent.set(key, _recolour(re.sub(r"url\(#", f"url(#{prefix}-", value)))
        link = parent.attrib.pop(f"{{{_XLINK}}}href", None)
        if link is not None:
            parent.set("href", f"#{prefix}-{link[1:]}" if link.startswith("#") else link)
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "role": "img", "aria-label": alt, "data-figure": prefix})
    root.set("style", f"--width:{float(box.split()[2]) * 4 / 3:.0f}px")
    return ElementTree.tostring(root, encoding="unicode")


def _recolour(value: str) -> str:
    if "#" in value:
        value = re.sub(r"#[0-9a-f]{6}\b", lambda match: _VARIABLES.get(match[0], match[0]), value)
    return re.sub(r"'DejaVu Sans'[^;]*", "var(--sans)", value)
