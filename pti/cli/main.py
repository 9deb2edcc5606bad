"""Entry point of the `pti` command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipgeom._extras import needs_extra
from clipgeom.cli.run import run_command_line

if TYPE_CHECKING:
    import typer

__all__ = ["main"]


def main() -> None:
    """Run the command that the process's arguments name."""
    run_command_line("pti", _app, remains="What was written before is whole, and the same command goes on from there")


def _app() -> typer.Typer:
    with needs_extra("pti", "the trainer"):
        from pti.cli.commands import app
    return app
