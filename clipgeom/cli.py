"""Entry point of the `clipgeom` command: what the user did wrong becomes one line, what we did wrong a traceback.

Exit codes: 0 done, 2 the user's input is at fault, 1 a defect of ours.
"""

import errno
import sys

from clipgeom._extras import needs_extra
from clipgeom.errors import ClipGeomError

__all__ = ["main"]


def main() -> None:
    """Run the command that the process's arguments name."""
    try:
        with needs_extra("report", "the command line"):
            from clipgeom.commands import app
        app()
    except ClipGeomError as error:
        _fail(str(error))
    except OSError as error:
        explanation = _explain(error)
        if explanation is None:
            raise
        _fail(explanation)


def _fail(message: str) -> None:
    print(f"clipgeom: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def _explain(error: OSError) -> str | None:
    """One line for the failures of a machine that its user can mend; None for the others."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk{where}; free some, or put --out on another one. Nothing was left behind"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"not permitted{where}: {error.strerror}; choose a place that you may read and write"
    return None
