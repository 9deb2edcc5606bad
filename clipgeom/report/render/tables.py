"""Tables of a report: columns and cells from report.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clipgeom.report.render.numbers import MISSING, Cell, correlation, count, number, text
from clipgeom.report.render.summary import SHAPES, Reading, read_row

__all__ = [
    "Column",
    "Table",
    "center_features",
    "centering_table",
    "conformity_table",
    "main_table",
    "radial_table",
    "row_cells",
    "spectrum_table",
    "sphere_table",
]


@dataclass(frozen=True, slots=True)
class Column:
    """Head of a column: its title, its full meaning, and whether it is sorted as numbers or words."""

    title: str
    meaning: str = ""
    kind: Literal["number", "text"] = "number"


@dataclass(frozen=True, slots=True)
class Table:
    """A table to render: `groups` are (title, number of columns) above the columns, or empty.

    The first two columns are representation and position; on a narrow screen the second is folded into the first.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: list[list[Cell]]
    groups: tuple[tuple[str, int], ...] = ()


_ROW = (Column("Representation", kind="text"), Column("Position", kind="text"))
_WORD = {"raw": "raw", "centered": "centred"}


def main_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Main table: raw and centred norms by representation and position."""
    norms = (
        Column("Mean", "mean norm"),
        Column("Variance", "population variance of the norm"),
        Column("CV", "coefficient of variation: std / mean of the norm"),
    )
    cells = []
    for row in rows:
        reading = read_row(row)
        detail = [f"{row['n_groups']:,} images"] if row["n_groups"] != row["n"] else []
        detail += [f"{row['n_excluded']:,} left out"] if row["n_excluded"] else []
        cells.append(
            [
                *row_cells(row),
                count(row["n"], detail=", ".join(detail)),
                _tighter(reading),
                *(
                    number(
                        row[side][statistic],
                        row[side]["ci95"][statistic],
                        mark=_mark(reading, statistic, side),
                    )
                    for side in ("raw", "centered")
                    for statistic in ("mean_norm", "var_norm", "cv_norm")
                ),
                number(row["offset_ratio_corrected"], row["offset_ratio_ci95"]),
            ]
        )
    return Table(
        caption="Norms about the origin (raw) and about the mean (centred)",
        columns=(
            *_ROW,
            Column(
                "n",
                "vectors measured, of how many images, and captions left out that have no such position",
            ),
            Column("Tighter", "the side with the smaller value, where the 95 % intervals do not overlap", "text"),
            *norms,
            *norms,
            Column("Offset", "offset ratio ‖m‖ / √tr Σ, without the sampling noise in ‖m‖"),
        ),
        rows=cells,
        groups=(("", 1), ("", 1), ("", 2), ("Raw ‖x‖", 3), ("Centred ‖x − m‖", 3), ("", 1)),
    )


def centering_table(entry: dict[str, Any]) -> Table:
    """Results of both judges for each mode of interpolation, beside real points."""
    cells = []
    for mode, on in entry["on_shell"].items():
        auc, over = entry["auc"][mode], entry["minus_slerp"].get(mode)
        verdict = {None: MISSING, True: "yes", False: "no"}[entry["validated"].get(mode)]
        near = entry["on_shell_neighbors"].get(mode)
        cells.append(
            [
                text(mode),
                Cell(verdict, sort=verdict, mark="better" if verdict == "yes" else ""),
                number(on["rate"], on["ci95"]),
                number(auc["auc"], auc["ci95"]),
                number(over["estimate"], over["ci95"]) if over else Cell(MISSING),
                number(over["auc_estimate"], over["auc_ci95"]) if over else Cell(MISSING),
                number(near["rate"], near["ci95"]) if near else Cell(MISSING),
            ]
        )
    return Table(
        caption="The two judges of each mode of interpolation",
        columns=(
            Column("Mode", kind="text"),
            Column("Validated", "both judges prefer it to SLERP with 95 % confidence", "text"),
            Column("On-shell", "share of points on all three shells, t = ¼, ½, ¾, random pairs"),
            Column("AUC", "of a classifier that tells interpolated points from real ones"),
            Column("On-shell − SLERP", "difference of on-shell rates; positive is better"),
            Column("AUC nearer to ½", "than SLERP's, by so much; positive is better"),
            Column("On-shell, neighbours", "the same rate for pairs of nearest neighbours"),
        ),
        rows=cells,
    )


def radial_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Radial terms, the exact difference between raw and centred: Var‖x‖² = A + B + C."""
    cells = []
    for row in rows:
        reading, terms = read_row(row), row["radial_terms"]
        cells.append(
            [
                *row_cells(row),
                *(number(terms[key], terms["ci95"][key]) for key in "ABC"),
                number(terms["A"] + terms["B"] + terms["C"]),
                correlation(terms["correlation"], terms["ci95"]["correlation"]),
                Cell("constant", sort="constant")
                if reading.constant
                else text(SHAPES[reading.shape], mark=reading.shape),
            ]
        )
    return Table(
        caption="Radial terms",
        columns=(
            *_ROW,
            Column("A", "Var‖x − m‖²"),
            Column("B", "4·Var(m·(x − m))"),
            Column("C", "4·Cov(‖x − m‖², m·(x − m))"),
            Column("A + B + C", "Var‖x‖², exactly"),
            Column("Correlation", "of ‖x − m‖² and m·(x − m): −1 on a sphere about the origin"),
            Column("Shape", kind="text"),
        ),
        rows=cells,
    )


def sphere_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Least-squares sphere of each row."""
    cells = []
    for row in rows:
        sphere = row["sphere"] or {}
        flat = (sphere.get("relative_radius") or 0.0) > 3
        cells.append(
            [
                *row_cells(row),
                number(sphere.get("radius")),
                number(sphere.get("center_norm")),
                number(sphere.get("cv_norm"), mark="muted" if flat else ""),
                Cell(
                    number(sphere.get("relative_radius")).text,
                    "nearly a plane" if flat else "",
                    sphere.get("relative_radius"),
                ),
                number(sphere.get("samples_per_dim")),
            ]
        )
    return Table(
        caption="Least-squares sphere",
        columns=(
            *_ROW,
            Column("Radius ρ"),
            Column("‖centre‖"),
            Column("CV", "of the distances from its centre, on the sample it was fitted to"),
            Column("ρ / √tr Σ", "far above 1 the sphere is nearly a plane, and its CV says nothing about a shell"),
            Column("n / d", "samples per dimension: with few of them the fit follows the sample"),
        ),
        rows=cells,
    )


def spectrum_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Spectrum: spread of the variance over directions and features."""
    cells = []
    for row in rows:
        share = row["top_share"]
        feature = row["features"]["by_center"][0] if row["features"]["by_center"] else None
        cells.append(
            [
                *row_cells(row),
                count(row["dim"]),
                number(row["effective_rank"]),
                number(row["participation_ratio"]),
                Cell(
                    number(row["off_diagonal_dominance"]).text,
                    f"noise {number(row['off_diagonal_noise']).text}",
                    row["off_diagonal_dominance"],
                ),
                _percent(share.get("10")),
                Cell(MISSING)
                if feature is None
                else Cell(
                    _percent(feature["share_of_center"]).text,
                    f"feature {feature['feature']}",
                    feature["share_of_center"],
                ),
            ]
        )
    return Table(
        caption="Spread of the variance",
        columns=(
            *_ROW,
            Column("d", "dimension"),
            Column("Effective rank", "exp of the entropy of the normalised eigenvalues"),
            Column("Participation", "(Σλ)² / Σλ²"),
            Column("Off-diagonal", "mean of Σ|Σᵢⱼ| / Σᵢᵢ over j ≠ i, beside what sampling noise alone gives"),
            Column("Top 10 features", "share of tr Σ held by the ten most variable features"),
            Column("Top of centre", "share of ‖m‖² held by one feature"),
        ),
        rows=cells,
    )


def center_features(rows: Sequence[dict[str, Any]]) -> Table:
    """Features with the largest share of the centre, and those with the largest variance."""
    cells = []
    for row in rows:
        seen = set()
        for feature in (*row["features"]["by_center"], *row["features"]["by_variance"]):
            if feature["feature"] in seen:
                continue
            seen.add(feature["feature"])
            cells.append(
                [
                    *row_cells(row),
                    Cell(str(feature["feature"]), sort=float(feature["feature"])),
                    number(feature["mean"]),
                    number(feature["std"]),
                    _percent(feature["share_of_center"]),
                    _percent(feature["share_of_variance"]),
                ]
            )
    return Table(
        caption="Features that carry the centre or vary most",
        columns=(
            *_ROW,
            Column("Feature"),
            Column("Mean"),
            Column("Std"),
            Column("of ‖m‖²"),
            Column("of tr Σ"),
        ),
        rows=cells,
    )


def conformity_table(entries: Sequence[dict[str, Any]]) -> Table:
    """Mean conformity and its linear fit."""
    return Table(
        caption="Conformity",
        columns=(
            *_ROW,
            Column("n"),
            Column("Mean", "mean cosine between two different vectors"),
            Column("Std"),
            Column("Slope", "of C against the cosine with the mean"),
            Column("Intercept"),
            Column("Pearson"),
        ),
        rows=[
            [
                *row_cells(entry),
                count(entry["n"]),
                number(entry["mean"], entry["ci95"]["mean"]),
                number(entry["std"]),
                number(entry["slope"], entry["ci95"]["slope"]),
                number(entry["intercept"], entry["ci95"]["intercept"]),
                correlation(entry["pearson"], entry["ci95"]["pearson"]),
            ]
            for entry in entries
        ],
    )


def row_cells(row: dict[str, Any]) -> list[Cell]:
    """First two cells of every table: representation and position."""
    position = str(row["position"])
    index = position.rpartition(":")[2]
    # words such as eos first, then content by index, then padding by index
    order = "0" if not index.isdigit() else f"{2 if ':' in position else 1}{int(index):06d}"
    return [text(row["representation"], detail=position), Cell(position, sort=order + position)]


def _percent(share: float | None) -> Cell:
    if share is None:
        return Cell(MISSING)
    return Cell(f"{100 * share:.{1 if share < 0.995 else 0}f} %", sort=share)


def _mark(reading: Reading, statistic: str, side: str) -> str:
    if reading.constant:
        return "muted"
    winner = {"var_norm": reading.variance, "cv_norm": reading.cv}.get(statistic)
    return "tighter" if winner == side else ""


def _tighter(reading: Reading) -> Cell:
    if reading.constant:
        return Cell("constant", sort="constant", mark="muted")
    if reading.variance is None and reading.cv is None:
        return Cell("unclear", "intervals overlap", "unclear")
    if reading.variance == reading.cv:
        side = _WORD[str(reading.variance)]
        return Cell(side, "variance, CV", side, str(reading.variance))
    parts = [
        f"{_WORD[side]} by {name}"
        for side, name in ((reading.variance, "variance"), (reading.cv, "CV"))
        if side is not None
    ]
    if len(parts) == 1:
        side_word, _, by = parts[0].partition(" ")
        return Cell(side_word, f"{by} only", side_word, str(reading.variance or reading.cv))
    return Cell("depends", ", ".join(parts), "depends")
