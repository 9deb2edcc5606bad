"""Summary of a report in plain sentences that claim no more than the intervals support."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clipgeom.centering import LABELS
from clipgeom.geometry.norms import CONSTANT, FEW_DISTINCT, UNIT

__all__ = ["CONSTANT", "FEW", "SHAPES", "Reading", "has_spread", "headline", "overlap", "read_row", "row_label"]

Side = Literal["raw", "centered"]
Shape = Literal["sphere", "shell", "neither", "unknown"]

SHAPES: dict[Shape, str] = {
    "sphere": "sphere about the origin",
    "shell": "off-centre shell",
    "neither": "neither",
    "unknown": "–",
}

CANCELLED = 0.9  # share of A + B that C must cancel for a sphere about the origin
_CANCEL = "C\u00a0≈\u00a0−\u2060(A\u00a0+\u00a0B)"  # kept on one line
FEW = FEW_DISTINCT  # rows with fewer samples, or fewer distinct ones, get no verdict on their shape


@dataclass(frozen=True, slots=True)
class Reading:
    """Summary of one row: which norms are tighter (None: the intervals overlap), and the shape by the radial terms.

    `cancellation` = −C/(A + B): 1 for a sphere about the origin, near 0 for an off-centre shell. `discrete`: few
    distinct vectors, repeated.
    """

    representation: str
    position: str
    n: int
    variance: Side | None
    cv: Side | None
    shape: Shape
    cancellation: float | None
    constant: bool
    unit: bool
    discrete: bool


def row_label(row: dict[str, Any]) -> str:
    """Name of a row, as in ``hidden · eos``."""
    return f"{row['representation']} · {row['position']}"


def has_spread(entry: dict[str, Any]) -> bool:
    """Whether the conformities of an entry differ by more than the rounding of single precision."""
    return bool(entry["std"] > 1e-9)


def overlap(first: Sequence[float | None] | None, second: Sequence[float | None] | None) -> bool | None:
    """Whether two intervals share a point; None if one of them is unknown."""
    if first is None or second is None or None in first or None in second:
        return None
    return bool(first[0] <= second[1] and second[0] <= first[1])  # type: ignore[operator]


def read_row(row: dict[str, Any]) -> Reading:
    """Summarise one entry of ``report["statistics"]``."""
    constant = row["total_variance"] <= (CONSTANT * row["center_norm"]) ** 2
    terms = row["radial_terms"]
    total = terms["A"] + terms["B"]
    cancellation = -terms["C"] / total if total > 0 and not constant else None
    raw = row["raw"]
    return Reading(
        representation=row["representation"],
        position=row["position"],
        n=row["n"],
        variance=None if constant else _tighter(row, "var_norm"),
        cv=None if constant else _tighter(row, "cv_norm"),
        shape=_shape(row, cancellation),
        cancellation=cancellation,
        constant=constant,
        unit=not constant and abs(raw["mean_norm"] - 1) < UNIT and raw["std_norm"] < UNIT,
        discrete=not constant and row["effective_distinct"] < FEW <= row["n"],
    )


def headline(rows: Iterable[dict[str, Any]], *, encoded: bool = True) -> list[str]:
    """Two to five sentences: which norms are tighter, by which statistic, and the shape by the radial terms.

    Parameters
    ----------
    rows : iterable of dict
        Entries of ``report["statistics"]``.
    encoded : bool
        Whether an encoder computed the vectors, so that ``hidden`` is the output of its final LayerNorm. For vectors
        from a file the text describes only measurements.
    """
    readings = [read_row(row) for row in rows]
    moving = [reading for reading in readings if not reading.constant]
    if not moving:
        return ["The vectors of every row are all but constant, so there is no shell to speak of."]
    unit = [reading for reading in moving if reading.unit]
    free = [reading for reading in moving if not reading.unit]
    sentences = [_unit(unit, everywhere=not free)] if unit else []
    sentences += _comparison(free) if free else []
    sentences += _shapes(free, encoded=encoded)
    few = min(reading.n for reading in moving)
    if few < FEW:
        sentences.append(f"With as few as {few} samples the bootstrap intervals are rough; read them as a hint only.")
    return sentences


def recommendation(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Sentence about the interpolation modes that the centering check validates; empty without a check."""
    if not entries:
        return []
    groups: dict[str, list[str]] = {}
    for entry in entries:
        groups.setdefault(entry["recommended"] if entry["decided"] else "", []).append(row_label(entry))
    parts = []
    for mode, rows in groups.items():
        where = "everywhere" if len(groups) == 1 else f"in {', '.join(rows)}"
        parts.append(f"{LABELS[mode]} {where}" if mode else f"no verdict {where}, hence SLERP")
    return [f"To interpolate, use {'; '.join(parts)}: see the check below."]


def _tighter(row: dict[str, Any], statistic: str) -> Side | None:
    raw, centered = row["raw"], row["centered"]
    if overlap(raw["ci95"][statistic], centered["ci95"][statistic]) is not False:
        return None
    return "raw" if raw[statistic] < centered[statistic] else "centered"


def _shape(row: dict[str, Any], cancellation: float | None) -> Shape:
    if cancellation is None or min(row["n"], row["effective_distinct"]) < FEW:
        return "unknown"
    intervals = row["radial_terms"]["ci95"]
    a, b, correlation = intervals["A"], intervals["B"], intervals["correlation"]
    if None in (*a, *b):
        return "unknown"
    if cancellation >= CANCELLED and None not in correlation and correlation[1] <= -CANCELLED:
        return "sphere"
    if cancellation <= 0.5 and a[1] < b[0]:  # thin about the mean, with most variation along it
        return "shell"
    return "neither"


def _comparison(readings: list[Reading]) -> list[str]:
    groups: dict[tuple[Side | None, Side | None], list[Reading]] = {}
    for reading in readings:
        groups.setdefault((reading.variance, reading.cv), []).append(reading)
    if len(groups) == 1:
        if len(readings) == 1:
            where = f"At {_names(readings)}"
        else:
            where = f"In {'both' if len(readings) == 2 else f'all {len(readings)}'} rows"
        return [f"{where}, {_claim(*next(iter(groups)))}."]
    # decided rows come first, the larger group before the smaller
    ordered = sorted(groups.items(), key=lambda item: (item[0] == (None, None), -len(item[1])))
    return [f"In {_names(group)}, {_claim(*outcome)}." for outcome, group in ordered]


def _claim(variance: Side | None, cv: Side | None) -> str:
    word = {"raw": "raw", "centered": "centred"}
    if variance is not None and variance == cv:
        other = "centred" if variance == "raw" else "raw"
        return (
            f"{word[variance]} norms are tighter than {other} norms, "
            "by their variance and by their coefficient of variation (CV)"
        )
    if variance is None and cv is None:
        return "neither raw nor centred norms are clearly tighter (the 95\u00a0% intervals overlap)"
    if variance is None:
        return f"{word[cv or 'raw']} norms are tighter by CV, while the intervals of the variances overlap"
    if cv is None:
        return f"{word[variance]} norms are tighter by variance, while the intervals of the CVs overlap"
    return f"{word[variance]} norms are tighter by variance, but {word[cv]} norms by CV"


def _unit(readings: list[Reading], *, everywhere: bool) -> str:
    where = "All vectors" if everywhere else f"The vectors of {_names(readings)}"
    return f"{where} have unit length, so that raw norms cannot vary: only the centred numbers carry information."


def _shapes(readings: list[Reading], *, encoded: bool) -> list[str]:
    spheres, shells, others = (
        [reading for reading in readings if reading.shape == shape] for shape in ("sphere", "shell", "neither")
    )
    sentences = []
    normed = [reading for reading in spheres if encoded and reading.representation == "hidden"]
    others_like_it = [reading for reading in spheres if reading not in normed]
    if normed:
        sentences.append(
            f"In {_names(normed)} the radial terms cancel, {_CANCEL}: a sphere about the origin, on which the final "
            "LayerNorm puts every vector. Tight raw norms are built in there, and centring can only loosen them."
        )
    if others_like_it:
        sentences.append(
            f"In {_names(others_like_it)} the radial terms cancel, {_CANCEL}: a sphere about the origin, on which "
            "centring can only loosen the norms."
        )
    if shells:
        sentences.append(
            f"In {_names(shells)} the radial terms do not cancel, and what varies is the part along the mean (B): "
            "an off-centre shell."
        )
    if others:
        sentences.append(
            f"In {_names(others)} the radial terms show neither a sphere about the origin nor an off-centre shell."
        )
    few = [reading for reading in readings if reading.discrete]
    if few:
        sentences.append(f"{_names(few)}: a few distinct vectors again and again, so there is no verdict on a shape.")
    return sentences


def _names(readings: list[Reading]) -> str:
    """Join row names, as in ``hidden (eos, 5) and projected (eos)``."""
    groups: dict[str, list[str]] = {}
    for reading in readings:
        groups.setdefault(reading.representation, []).append(reading.position)
    names = [f"{representation} ({', '.join(positions)})" for representation, positions in groups.items()]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
