"""All figures of a report, as small images that the page can arrange for any width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clipgeom.report.measure.rows import RowArrays
from clipgeom.report.render.figures.centering import centering
from clipgeom.report.render.figures.shells import norms, profiles, radial, tightness
from clipgeom.report.render.figures.spread import conformities, modality, spectra, tokens
from clipgeom.report.render.figures.svg import Picture, style

__all__ = ["Figures", "draw_report"]

Figures = dict[str, list[Picture]]


def draw_report(report: dict[str, Any], rows: Sequence[RowArrays]) -> Figures:
    """Draw the figures of each section of the page; a section without figures has an empty list.

    Parameters
    ----------
    report : dict
        The content of report.json.
    rows : sequence of RowArrays
        One for each entry of its statistics, in the same order.
    """
    with style():
        return {
            "centering": centering(rows),
            "tightness": tightness(report["statistics"]),
            "norms": norms(rows),
            "radial": radial(report["statistics"]),
            "profile": profiles(report["profile"]),
            "spectra": spectra(rows),
            "conformity": conformities(report["conformity"], rows),
            "modality": modality(report["modality"]),
            "tokens": tokens(report["captions"]),
        }
