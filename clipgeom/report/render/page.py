"""The HTML page of a report: one file with figures, style and script, which loads nothing from the network."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import datetime
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clipgeom.geometry.groups import grouping_note
from clipgeom.report.render import tables
from clipgeom.report.render.figures.all import Figures
from clipgeom.report.render.numbers import Cell, correlation, count, number
from clipgeom.report.render.summary import FEW, has_spread, headline, recommendation, row_label

__all__ = ["render", "render_report", "report_grouping", "report_subtitle", "report_title"]

_CAPTION_COUNTS = {
    "n_read": "captions read",
    "n_blank": "blank, left out",
    "n_same_image": "left out: another caption of the same image was taken",
    "n_duplicates": "repeat an earlier caption",
    "n_unsampled": "not drawn into the sample",
    "n_used": "captions measured",
    "n_truncated": "cut at the encoder's last position",
}
_ABOUT_SPHERE = "the best sphere"  # notes with these beginnings are shown beside the table of spheres


def render_report(report: dict[str, Any], figures: Figures) -> str:
    """Render report.html.

    Parameters
    ----------
    report : dict
        The content of report.json.
    figures : Figures
        From `draw_report`.
    """
    statistics = report["statistics"]
    provenance = report["provenance"]
    return render(
        "report.html.j2",
        title=report_title(provenance),
        subtitle=report_subtitle(report),
        headline=[*headline(statistics, encoded=provenance["model"] is not None), *recommendation(report["centering"])],
        report=report,
        centering=_centering_blocks(report, figures),
        figures=figures,
        tables=tables,
        notes=[(note, rows) for note, rows in _notes(statistics) if not note.startswith(_ABOUT_SPHERE)],
        sphere_notes=[(note, rows) for note, rows in _notes(statistics) if note.startswith(_ABOUT_SPHERE)],
        labels=[row_label(row) for row in statistics],
        grouping=report_grouping(report),
        conformity=_conformity_blocks(report, figures),
        modality=_modality_facts(report["modality"]),
        caption_counts=_caption_counts(report),
        few=FEW,
        provenance=_provenance(provenance),
    )


def render(template: str, **context: Any) -> str:
    """Render a page from a template of the package: values escaped, scripts and styles inlined, with a strict policy."""
    environment = Environment(
        loader=PackageLoader("clipgeom.report.render", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["brief"] = lambda value: number(value).text
    script, sheet = _asset("page.js"), _asset("style.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(template).render(
        **context, policy=policy, script=Markup(script), sheet=Markup(sheet), inline=Markup
    )


def _asset(name: str) -> str:
    text = resources.files("clipgeom.report.render").joinpath("templates", name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")  # the browser hashes the script with normalised line ends


def report_title(provenance: dict[str, Any]) -> str:
    """Name of the measured model or file of embeddings, without the folders above it."""
    return _short(provenance.get("model") or provenance.get("embeddings") or "embeddings")


def _short(source: str) -> str:
    """Shorten a path to its last part; a hub id stays unchanged."""
    is_path = re.match(r"^([./~\\]|[A-Za-z]:[\\/])", source) is not None or source.count("/") > 1
    return re.split(r"[\\/]", source.rstrip("\\/"))[-1] or source if is_path else source


def report_subtitle(report: dict[str, Any]) -> list[str]:
    """Subtitle: number of captions or vectors, source, and date."""
    captions, rows, provenance = report["captions"], report["statistics"], report["provenance"]
    parts = []
    modality = report.get("modality")
    if captions is not None:
        parts.append(f"{captions['n_used']:,} captions from {_short(str(provenance['captions']))}")
    elif modality is not None:
        parts.append(f"{modality['n_texts_given']:,} texts and {modality['n_images_given']:,} images")
    else:
        given = f" from {_short(provenance['embeddings'])}" if provenance.get("embeddings") else ""
        parts.append((f"{rows[0]['n']:,} vectors" if rows else "no vectors") + given)
    if captions is None and provenance.get("captions"):
        parts.append(f"captions {_short(str(provenance['captions']))}")
    parts.append(f"{len(rows)} rows" if len(rows) != 1 else "1 row")
    parts.append(_day(provenance["created"]))
    return parts


def report_grouping(report: dict[str, Any]) -> str:
    """Sentence about the assumptions of the intervals, or an empty text; see `grouping_note`."""
    captions, provenance = report["captions"], report["provenance"]
    if captions is not None:
        source = str(provenance["captions"])
        return grouping_note(captions["n_used"], captions["n_groups"], captions["groups"], source=source)
    row = report["statistics"][0]
    return grouping_note(row["n"], row["n_groups"], provenance["groups"])


def _day(created: str) -> str:
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment.day} {moment:%B %Y}"


def _notes(rows: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Distinct notes, each with its rows."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for note in row["notes"]:
            found.setdefault(note, []).append(row_label(row))
    return list(found.items())


def _conformity_blocks(report: dict[str, Any], figures: Figures) -> list[dict[str, Any]]:
    drawn = [entry for entry in report["conformity"] if has_spread(entry)]
    return [{"picture": picture, "entry": entry} for entry, picture in zip(drawn, figures["conformity"], strict=True)]


def _centering_blocks(report: dict[str, Any], figures: Figures) -> list[dict[str, Any]]:
    """The checks with their figures and tables; those without a verdict have neither."""
    pictures = iter(figures["centering"])
    return [
        {
            "label": row_label(entry),
            "entry": entry,
            "picture": next(pictures) if entry["decided"] else None,
            "table": tables.centering_table(entry) if entry["decided"] else None,
        }
        for entry in report["centering"]
    ]


def _caption_counts(report: dict[str, Any]) -> list[tuple[Cell, str]]:
    captions = report["captions"]
    if captions is None:
        return []
    unique = (report["provenance"].get("selection") or {}).get("unique", False)
    words = {**_CAPTION_COUNTS, "n_duplicates": "repeat an earlier caption, " + ("left out" if unique else "kept")}
    always = ("n_read", "n_used", "n_truncated")
    counts = [(count(captions[key]), words[key]) for key in words if captions.get(key) or key in always]
    for position, left_out in captions["excluded"].items():
        if position.startswith("padded"):
            counts.append((count(left_out), f"left out at {position}: no padding there"))
        elif position != "eos":  # every caption has its own image
            counts.append((count(left_out), f"left out at position {position}: too short to have content there"))
    return counts


def _modality_facts(modality: dict[str, Any] | None) -> list[tuple[Cell, str, str]]:
    """(number, name, meaning) of each single number about the two modalities."""
    if modality is None:
        return []
    facts = [
        (number(modality["gap"], modality["gap_ci95"]), "modality gap", "distance of the mean unit vectors, 0 to 2")
    ]
    pairing = modality["pairing"]
    if pairing is not None:
        ci95 = pairing["ci95"]
        facts += [
            (
                correlation(pairing["paired_cosine"], ci95["paired_cosine"]),
                "paired cosine",
                f"an image and its own text; unpaired {correlation(pairing['unpaired_cosine']).text}",
            ),
            (
                number(pairing["image_to_text_r_at_1"], ci95["image_to_text_r_at_1"]),
                "image → text R@1",
                f"own text nearest of {pairing['n']:,}",
            ),
            (
                number(pairing["text_to_image_r_at_1"], ci95["text_to_image_r_at_1"]),
                "text → image R@1",
                f"own image nearest of {pairing['n']:,}",
            ),
        ]
    apart = modality["separability"]
    features = apart["features"]
    listed = ", ".join(str(feature) for feature in features[:8]) + (", …" if len(features) > 8 else "")
    facts += [
        (
            number(apart["accuracy"], apart["accuracy_ci95"]),
            "held-out accuracy",
            f"of a linear boundary on all features, {apart['n_held_out']:,} vectors",
        ),
        (
            count(len(features), detail="" if apart["reached"] else "and still below that"),
            "fewest features that reach it",
            f"no. {listed}: accuracy {number(apart['features_accuracy']).text}",
        ),
    ]
    return facts


def _provenance(provenance: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of known provenance, in the order of report.json; the command is shown separately."""
    entries: list[tuple[str, str]] = []
    for key, value in provenance.items():
        if value is None or key == "command":
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{name} {item}" for name, item in value.items() if item is not None)
        entries.append((key.replace("_", " "), str(value)))
    return entries
