"""Entry point of the `clipgeom` command: what the user did wrong becomes one line, what we did wrong a traceback.

Exit codes: 0 done, 2 the user's input is at fault, 1 a defect of ours.
"""

import sys

from clipgeom._extras import needs_extra
from clipgeom._io.files import explain
from clipgeom._text import one_line
from clipgeom._threads import limit_libraries
from clipgeom.errors import ClipGeomError

__all__ = ["main"]


def main() -> None:
    """Run the command that the process's arguments name."""
    limit_libraries()
    try:
        with needs_extra("report", "the command line"):
            from clipgeom.cli.commands import app
        app()
    except ClipGeomError as error:
        _fail(str(error))
    except OSError as error:
        explanation = explain(error)
        if explanation is None:
            raise
        _fail(f"{explanation}. Nothing was left behind")


def _fail(message: str) -> None:
    print(f"clipgeom: {one_line(message)}", file=sys.stderr)
    raise SystemExit(2)
