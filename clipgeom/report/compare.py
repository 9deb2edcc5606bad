"""Comparison of two reports: statistics whose intervals do not overlap, and differences of provenance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipgeom._extras import needs_extra
from clipgeom._io.files import check_output_file, write_whole
from clipgeom.errors import ConfigError
from clipgeom.report.folder import SCHEMA
from clipgeom.report.render.summary import overlap

if TYPE_CHECKING:
    from clipgeom.report.render.figures.svg import Picture
    from clipgeom.report.render.tables import Table

__all__ = ["Comparison", "Difference", "compare_reports", "read_report", "write_comparison"]

_GENERATOR = "clipgeom compare"
_STATISTICS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    # name, path of the number, path of its interval
    ("raw mean norm", ("raw", "mean_norm"), ("raw", "ci95", "mean_norm")),
    ("raw variance", ("raw", "var_norm"), ("raw", "ci95", "var_norm")),
    ("raw CV", ("raw", "cv_norm"), ("raw", "ci95", "cv_norm")),
    ("centred mean norm", ("centered", "mean_norm"), ("centered", "ci95", "mean_norm")),
    ("centred variance", ("centered", "var_norm"), ("centered", "ci95", "var_norm")),
    ("centred CV", ("centered", "cv_norm"), ("centered", "ci95", "cv_norm")),
    ("offset ratio", ("offset_ratio_corrected",), ("offset_ratio_ci95",)),
    ("radial correlation", ("radial_terms", "correlation"), ("radial_terms", "ci95", "correlation")),
    ("effective rank", ("effective_rank",), ()),
)
_DRAWN = ("raw CV", "centred CV", "offset ratio")

Interval = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Difference:
    """One statistic of one row in both reports.

    `difference` = second − first. `overlaps` is whether the 95 % intervals share a point; None without intervals.
    """

    representation: str
    position: str
    statistic: str
    first: float | None
    second: float | None
    first_ci95: Interval | None
    second_ci95: Interval | None
    difference: float | None
    overlaps: bool | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows and provenance in which two reports agree or differ.

    `only_first` and `only_second` are rows, as (representation, position), that the other report lacks; `provenance`
    contains (name, first, second) of every difference; `warnings` are sentences about what makes numbers
    incomparable.
    """

    differences: tuple[Difference, ...]
    only_first: tuple[tuple[str, str], ...]
    only_second: tuple[tuple[str, str], ...]
    provenance: tuple[tuple[str, str, str], ...]
    warnings: tuple[str, ...]


def read_report(folder: Path) -> dict[str, Any]:
    """Read report.json from a report folder.

    Raises
    ------
    ConfigError
        There is no such folder, or it contains no report of this version.
    """
    path = folder / "report.json"
    if not path.is_file():
        raise ConfigError(
            f"{folder} is not a report: expected a folder with report.json, as `clipgeom report` writes it"
        )
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path} as a report: {error}") from error
    found = report.get("schema") if isinstance(report, dict) else None
    if found != SCHEMA:
        raise ConfigError(f"{path} is not a report of this version: expected schema {SCHEMA!r}, found {found!r}")
    missing = [key for key in ("provenance", "captions", "statistics", "conformity") if key not in report]
    if missing:
        raise ConfigError(f"{path} is not a whole report: {', '.join(missing)} missing; make it again")
    return dict(report)


def compare_reports(first: dict[str, Any], second: dict[str, Any]) -> Comparison:
    """Compare the contents of two report.json, row by row.

    Rows are matched by representation and position, in the order of the first report.
    """
    a, b = (
        {(row["representation"], row["position"]): row for row in report["statistics"]} for report in (first, second)
    )
    shared = [key for key in a if key in b]
    conformity = [
        {(entry["representation"], entry["position"]): entry for entry in report["conformity"]}
        for report in (first, second)
    ]
    differences = []
    for key in shared:
        for statistic, where, interval in _STATISTICS:
            differences.append(_difference(key, statistic, a[key], b[key], where, interval))
        if key in conformity[0] and key in conformity[1]:
            entries = conformity[0][key], conformity[1][key]
            differences.append(_difference(key, "mean conformity", *entries, ("mean",), ("ci95", "mean")))
    return Comparison(
        differences=tuple(differences),
        only_first=tuple(key for key in a if key not in b),
        only_second=tuple(key for key in b if key not in a),
        provenance=tuple(_provenance(first["provenance"], second["provenance"])),
        warnings=tuple(_warnings(first, second, len(shared))),
    )


def write_comparison(first: Path, second: Path, out: Path) -> list[dict[str, str | None]]:
    """Write one self-contained HTML file that shows two report folders side by side.

    Parameters
    ----------
    first, second : Path
        Report folders.
    out : Path
        The file to write, ending in .html; an earlier comparison there is replaced.

    Returns
    -------
    list of dict
        Model, captions and embeddings of each report.

    Raises
    ------
    ConfigError
        One of the folders is no report; `out` is something other than an earlier comparison, or cannot be written.
    OutputError
        The disk is full.
    MissingExtraError
        A package of the ``report`` extra is not installed.
    """
    target = check_output_file(out, _is_comparison, maker=_GENERATOR)
    reports = read_report(first), read_report(second)
    with needs_extra("report", "comparing reports"):
        from clipgeom.report.render.page import render, report_subtitle, report_title
    comparison = compare_reports(*reports)
    text = render(
        "compare.html.j2",
        generator=_GENERATOR,
        reports=[
            {
                "letter": letter,
                "title": report_title(report["provenance"]),
                "parts": report_subtitle(report),
                "folder": name,
            }
            for letter, report, name in zip("AB", reports, (first.resolve().name, second.resolve().name), strict=True)
        ],
        headline=_headline(comparison),
        comparison=comparison,
        table=_table(comparison),
        pictures=_pictures(comparison),
    )
    write_whole(target, text.encode("utf-8", errors="replace"))
    return [{key: report["provenance"].get(key) for key in ("model", "captions", "embeddings")} for report in reports]


def _is_comparison(path: Path) -> bool:
    with path.open("rb") as file:
        return f'content="{_GENERATOR}"'.encode() in file.read(4096)


def _difference(
    key: tuple[str, str],
    statistic: str,
    first: dict[str, Any],
    second: dict[str, Any],
    where: tuple[str, ...],
    interval: tuple[str, ...],
) -> Difference:
    x, y = _at(first, where), _at(second, where)
    x_ci95, y_ci95 = (_at(row, interval) if interval else None for row in (first, second))
    return Difference(
        *key,
        statistic=statistic,
        first=x,
        second=y,
        first_ci95=x_ci95,
        second_ci95=y_ci95,
        difference=None if x is None or y is None else y - x,
        overlaps=overlap(x_ci95, y_ci95),
    )


def _at(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    value: Any = row
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _provenance(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, str, str]]:
    flat = [_flatten(part) for part in (first, second)]
    names = list(dict.fromkeys([*flat[0], *flat[1]]))
    return [
        (name, flat[0].get(name, "–"), flat[1].get(name, "–"))
        for name in names
        if flat[0].get(name, "–") != flat[1].get(name, "–") and name != "created"
    ]


def _flatten(provenance: dict[str, Any]) -> dict[str, str]:
    flat = {}
    for key, value in provenance.items():
        if isinstance(value, dict):
            flat.update({f"{key}: {name}": str(item) for name, item in value.items() if item is not None})
        elif value is not None:
            flat[key.replace("_", " ")] = str(value)
    return flat


def _warnings(first: dict[str, Any], second: dict[str, Any], shared: int) -> list[str]:
    a, b = first["provenance"], second["provenance"]
    warnings = []
    if not shared:
        warnings.append(
            "The reports share no row of the same representation and position: there is nothing to compare."
        )
    for key, sentence in (
        ("captions_sha256", "The captions differ: differences may come from the captions, not from the encoder."),
        ("fingerprint", "The encoders differ (their fingerprints are not equal): norms may be on different scales."),
        ("embeddings_sha256", "The embeddings differ."),
        ("image_embeddings_sha256", "The image embeddings differ."),
    ):
        if a.get(key) != b.get(key):
            warnings.append(sentence)
    return warnings


def _headline(comparison: Comparison) -> str:
    judged = [item for item in comparison.differences if item.overlaps is not None]
    if not judged:
        return "No number of the two reports has an interval in both, so none can be called different."
    apart = [item for item in judged if not item.overlaps]
    rows = len({(item.representation, item.position) for item in judged})
    where = "one shared row" if rows == 1 else f"{rows} shared rows"
    if not apart:
        return f"Over {where}, all {len(judged)} pairs of 95 % intervals overlap."
    return f"Over {where}, {len(apart)} of {len(judged)} pairs of 95 % intervals do not overlap."


def _table(comparison: Comparison) -> Table:
    from clipgeom.report.render.numbers import Cell, correlation, number, text
    from clipgeom.report.render.tables import Column, Table, row_cells

    rows = []
    for item in comparison.differences:
        show = correlation if item.statistic == "radial correlation" else number
        apart = "" if item.overlaps is None else "overlap" if item.overlaps else "apart"
        rows.append(
            [
                *row_cells({"representation": item.representation, "position": item.position}),
                text(item.statistic),
                show(item.first, item.first_ci95),
                show(item.second, item.second_ci95),
                number(item.difference),
                Cell(apart or "–", sort=apart or None, mark="tighter" if apart == "apart" else "muted"),
            ]
        )
    return Table(
        caption="Both reports",
        columns=(
            Column("Representation", kind="text"),
            Column("Position", kind="text"),
            Column("Statistic", kind="text"),
            Column("A"),
            Column("B"),
            Column("B − A"),
            Column("Intervals", "whether the 95 % intervals share a point", "text"),
        ),
        rows=rows,
    )


def _pictures(comparison: Comparison) -> list[Picture]:
    from clipgeom.report.render.figures.shells import side_by_side
    from clipgeom.report.render.figures.svg import style

    pictures = []
    with style():
        for statistic in _DRAWN:
            labels, pairs = [], []
            for item in comparison.differences:
                if item.statistic == statistic and item.first is not None and item.second is not None:
                    labels.append(f"{item.representation} · {item.position}")
                    pairs.append(((item.first, item.first_ci95), (item.second, item.second_ci95)))
            if pairs:
                pictures.append(side_by_side(statistic, labels, pairs))
    return pictures
