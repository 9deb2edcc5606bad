"""Fill in the report.md.j2 of a study: a person writes the sentences there, and numbers come from the facts by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis import ROOT
from clipgeom.errors import ClipGeomError

__all__ = ["claim", "fill_in", "markdown_rows"]


def fill_in(study: str, /, **names: Any) -> str:
    """Text of a report, from the template in the study's folder.

    Parameters
    ----------
    study : str
        Folder of the study in ``analysis/``.
    **names
        Facts, tables and functions that the template uses; `form` is Python's `format`, `rows` is
        `markdown_rows`. An unknown name is an error.
    """
    environment = Environment(
        loader=FileSystemLoader(ROOT / "analysis" / study),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.md.j2").render(claim=claim, form=format, rows=markdown_rows, **names)


def claim(holds: bool, sentence: str, /) -> str:
    """Check that the facts support a sentence of the template; nothing is written.

    Raises
    ------
    ClipGeomError
        They do not, so that the sentence has to be written again.
    """
    if not holds:
        raise ClipGeomError(f"the facts no longer support a sentence of report.md.j2: {sentence}; rewrite the sentence")
    return ""


def markdown_rows(rows: Iterable[Sequence[object]]) -> str:
    """Rows of a Markdown table."""
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
