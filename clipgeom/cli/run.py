"""Run a command line: a fault of the user becomes one line and exit code 2, a defect of ours a traceback and exit code 1."""

import sys
from collections.abc import Callable
from typing import Any

from clipgeom._io.files import explain
from clipgeom._text import one_line
from clipgeom._threads import limit_libraries
from clipgeom.errors import ClipGeomError

__all__ = ["run_command_line"]


def run_command_line(name: str, load: Callable[[], Callable[[], Any]], *, remains: str) -> None:
    """Load a command line and run the command that the process's arguments name.

    Parameters
    ----------
    name : str
        Name of the program, which comes before every message.
    load : callable
        Import and return the typer app; what it needs may be missing.
    remains : str
        What is on the disk after an error of the file system, such as a full disk; ends its message.
    """
    limit_libraries()
    try:
        load()()
    except ClipGeomError as error:
        _fail(name, str(error))
    except OSError as error:
        explanation = explain(error)
        if explanation is None:
            raise
        _fail(name, f"{explanation}. {remains}")


def _fail(name: str, message: str) -> None:
    print(f"{name}: {one_line(message)}", file=sys.stderr)
    raise SystemExit(2)
