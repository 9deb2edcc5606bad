"""An output folder that appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipgeom.errors import ConfigError

__all__ = ["SCHEMA", "check_output_folder", "output_folder"]

SCHEMA = "clipgeom.report/1"


def check_output_folder(path: Path) -> None:
    """Refuse an output path that holds anything but an earlier report, before any work is done.

    Raises
    ------
    ConfigError
        The path is a file, or a folder with other content, or cannot be written.
    """
    if not path.exists():
        parent = _existing_parent(path)
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise ConfigError(f"cannot write to {parent}; choose another --out")
        return
    if not path.is_dir():
        raise ConfigError(f"{path} is a file; --out names a folder to create")
    if any(path.iterdir()) and not _is_report(path):
        raise ConfigError(
            f"{path} holds something other than a clipgeom report; choose another --out or empty it first"
        )
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"cannot write to {path.parent}; choose another --out")


@contextmanager
def output_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well, and vanishes when it does not.

    An earlier report at `path` is replaced as a whole; nothing is ever half-written.
    """
    path = path.absolute()
    check_output_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes private folders; a report is an ordinary one
        check_output_folder(path)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old-", dir=path.parent))
            path.rename(old / path.name)
            try:
                partial.rename(path)
            except OSError:
                (old / path.name).rename(path)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _existing_parent(path: Path) -> Path:
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    return parent


def _is_report(path: Path) -> bool:
    try:
        schema = json.loads((path / "report.json").read_text(encoding="utf-8"))["schema"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return str(schema).startswith("clipgeom.report/")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
