"""Write a report to disk: page, numbers as JSON and CSV, centres, figures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipgeom._extras import needs_extra
from clipgeom._io.safetensors import save_tensors
from clipgeom.report.folder import files_in, output_folder

if TYPE_CHECKING:
    from clipgeom.report.measure.build import ReportData

__all__ = ["write_report"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_report(measured: ReportData, out: Path) -> None:
    """Write a report folder: report.html, report.json, statistics.csv, centers.safetensors and figures/.

    The same `measured` gives the same bytes. Files of an earlier report at `out` are replaced; other files stay.

    Parameters
    ----------
    measured : ReportData
        From `measure_captions` or `measure_embeddings`.
    out : Path
        The folder to create.

    Raises
    ------
    ConfigError
        `out` contains something other than a report.
    OutputError
        `out` cannot be written.
    MissingExtraError
        A package of the ``report`` extra is not installed.
    """
    with needs_extra("report", "writing a report"):
        from clipgeom.report.render.figures.all import draw_report
        from clipgeom.report.render.page import render_report
    figures = draw_report(measured.report, measured.rows)
    page = render_report(measured.report, figures)
    with output_folder(out) as folder:
        (folder / "figures").mkdir()
        for picture in (picture for section in figures.values() for picture in section):
            (folder / "figures" / f"{picture.name}.png").write_bytes(picture.png)
            _write(folder / "figures" / f"{picture.name}.svg", picture.svg)
        _write(folder / "report.html", page)
        _write(folder / "statistics.csv", _csv(measured.report))
        save_tensors(folder / "centers.safetensors", measured.centers, _metadata(measured.report))
        _write_json(folder / "report.json", {**measured.report, "files": files_in(folder)})


def _write(path: Path, text: str) -> None:
    # half of a surrogate pair, possible in JSON captions, has no UTF-8 form
    path.write_bytes(text.encode("utf-8", errors="replace"))


def _write_json(path: Path, report: dict[str, Any]) -> None:
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    # the escape of a lone surrogate is JSON's own, so that no information is lost
    path.write_bytes(text.encode("utf-8", errors="backslashreplace") + b"\n")


def _csv(report: dict[str, Any]) -> str:
    rows = _flat_rows(report)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["representation", "position"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Prefix a text that a spreadsheet would compute as a formula with an apostrophe; numbers stay numbers."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _flat_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A flat dictionary for each row of statistics; an interval becomes two columns, `…_low` and `…_high`."""
    conformity = {(entry["representation"], entry["position"]): entry for entry in report["conformity"]}
    rows = []
    for row in report["statistics"]:
        flat: dict[str, Any] = {
            key: row[key] for key in ("representation", "position", "n", "n_groups", "n_distinct", "n_excluded", "dim")
        }
        for side in ("raw", "centered"):
            summary = row[side]
            for key in ("mean_norm", "var_norm", "std_norm", "cv_norm"):
                _put(flat, f"{side}_{key}", summary[key], summary["ci95"].get(key))
            for percent, value in summary["percentiles"].items():
                _put(flat, f"{side}_p{int(percent):02d}", value, summary["percentiles_ci95"].get(percent))
        flat["center_norm"] = row["center_norm"]
        flat["offset_ratio"] = row["offset_ratio"]
        _put(flat, "offset_ratio_corrected", row["offset_ratio_corrected"], row["offset_ratio_ci95"])
        flat["total_variance"] = row["total_variance"]
        for key in ("A", "B", "C", "correlation"):
            _put(flat, f"radial_{key}", row["radial_terms"][key], row["radial_terms"]["ci95"].get(key))
        for key in ("center_norm", "radius", "cv_norm", "std_norm", "relative_radius", "samples_per_dim"):
            flat[f"sphere_{key}"] = (row["sphere"] or {}).get(key)
        for key in ("effective_rank", "participation_ratio", "off_diagonal_dominance", "off_diagonal_noise"):
            flat[key] = row[key]
        for k in ("1", "2", "5", "10", "50"):
            flat[f"top_share_{k}"] = row["top_share"].get(k)
        entry = conformity.get((row["representation"], row["position"]), {})
        for key in ("mean", "slope", "intercept", "pearson"):
            _put(flat, f"conformity_{key}", entry.get(key), entry.get("ci95", {}).get(key))
        flat["conformity_std"] = entry.get("std")
        flat["notes"] = "; ".join(row["notes"])
        rows.append(flat)
    return rows


def _put(flat: dict[str, Any], key: str, value: float | None, interval: Sequence[float | None] | None) -> None:
    flat[key] = value
    flat[f"{key}_low"], flat[f"{key}_high"] = interval or (None, None)


def _metadata(report: dict[str, Any]) -> dict[str, str]:
    provenance = report["provenance"]
    known = {key: provenance.get(key) for key in ("fingerprint", "captions_sha256", "embeddings_sha256")}
    return {"schema": report["schema"], **{key: value for key, value in known.items() if value is not None}}
