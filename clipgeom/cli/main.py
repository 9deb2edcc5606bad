"""Entry point of the `clipgeom` command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipgeom._extras import needs_extra
from clipgeom.cli.run import run_command_line

if TYPE_CHECKING:
    import typer

__all__ = ["main"]


def main() -> None:
    """Run the command that the process's arguments name."""
    run_command_line("clipgeom", _app, remains="Nothing was left behind")


def _app() -> typer.Typer:
    with needs_extra("report", "the command line"):
        from clipgeom.cli.commands import app
    return app
