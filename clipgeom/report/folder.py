"""The folder of a report: its own files are replaced, the user's files stay.

`report.json` lists under ``files`` what belongs to the report. In a folder that exists, the new files are written to a
temporary folder inside it and then moved to their places one by one. Meanwhile `report.json` contains that list and no
numbers, and it becomes the new report last: numbers and figures of two reports never stand side by side unnoticed.
A process that is killed between two moves leaves whole files, and the same command then finishes the report.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipgeom._io.files import STAGING, check_folder, filling, resolved, write_whole
from clipgeom.errors import ConfigError

__all__ = ["SCHEMA", "check_output_folder", "files_in", "output_folder"]

SCHEMA = "clipgeom.report/1"
_RECORD, _FIGURES = "report.json", "figures"
_FIXED = ("report.html", _RECORD, "statistics.csv", "centers.safetensors")
_FIGURE = re.compile(rf"{_FIGURES}/[^/\\\0]+\.(png|svg)")


def check_output_folder(path: Path) -> Path:
    """Refuse an output folder that contains something other than an earlier report, before any work is done.

    An earlier report may have files of the user beside its own.

    Returns
    -------
    Path
        The folder to write to: where links lead to.

    Raises
    ------
    ConfigError
        The path is a file, or a folder with other content, or cannot be written.
    """
    target = resolved(path)
    check_folder(target if target.is_dir() else target.parent)
    if not target.exists():
        return target
    if not target.is_dir():
        raise ConfigError(f"{path} is a file; --out names a folder to create")
    own = _own_files(target)
    entries = [entry.name for entry in target.iterdir() if not entry.name.startswith(STAGING)]
    if entries and own is None:
        raise ConfigError(
            f"{path} contains something other than a clipgeom report; choose another --out, such as {path / 'report'}"
        )
    figures = target / _FIGURES
    if figures.is_symlink() or (figures.exists() and not figures.is_dir()):
        raise ConfigError(f"{path / _FIGURES} is not a folder of `clipgeom report`; move it or choose another --out")
    if figures.exists():
        check_folder(figures)
    _refuse_foreign(target, _FIXED, own or set())
    return target


@contextmanager
def output_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder for a report, which becomes the report at `path` when the block ends without an error.

    The block writes ``report.json`` with the list of `files_in` under ``files``. Files of an earlier report that the new one
    does not have are deleted. Files of the user stay.

    Raises
    ------
    ConfigError
        As `check_output_folder`, or a figure would replace a file of the user.
    OutputError
        The disk is full or cannot be written.
    """
    with filling(check_output_folder(path), _publish) as temporary:
        yield temporary


def files_in(folder: Path) -> list[str]:
    """The files of a report, ``report.json`` included, by their paths in its folder."""
    return sorted({_RECORD, *(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())})


def _publish(temporary: Path, target: Path) -> None:
    check_output_folder(target)
    new, old = files_in(temporary), _own_files(target) or set()
    _refuse_foreign(target, new, old)
    stub = {"schema": SCHEMA, "files": sorted(old.union(new))}
    write_whole(target / _RECORD, json.dumps(stub, indent=1).encode() + b"\n")
    for name in old.difference(new):
        (target / name).unlink(missing_ok=True)
    for name in sorted(new, key=lambda name: name == _RECORD):
        (target / name).parent.mkdir(exist_ok=True)
        (temporary / name).replace(target / name)
    with suppress(OSError):
        (target / _FIGURES).rmdir()  # the new report lacks this figure


def _own_files(folder: Path) -> set[str] | None:
    """The files that an earlier report has in the folder; None if there is no report."""
    try:
        content = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        if not str(content["schema"]).startswith("clipgeom.report/"):
            return None
        listed = {name for name in content.get("files", []) if isinstance(name, str)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return {_RECORD, *(name for name in listed if name in _FIXED or _FIGURE.fullmatch(name))}


def _refuse_foreign(folder: Path, names: tuple[str, ...] | list[str], own: set[str]) -> None:
    for name in names:
        path = folder / name
        if name not in own and (path.exists() or path.is_symlink()):
            raise ConfigError(
                f"{path} was not made by `clipgeom report` and will not be replaced; choose another --out"
            )
