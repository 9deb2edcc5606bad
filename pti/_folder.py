"""Checks of the folders that a user names for a run or a sweep, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from clipgeom._io.files import check_folder, resolved
from clipgeom.errors import ConfigError

__all__ = ["HEADER", "check_run_folder", "check_sweep_folder"]

HEADER = "# Written by pti: every setting of this run.\n"  # sections of a run folder's config.toml
_RUN = ("record.json", "config.toml", "evaluation.json", "export")
_SWEEP = ("sweep.json", "sweep.parquet")


def check_run_folder(folder: Path) -> None:
    """Refuse a folder that a run cannot write to, or in which it would replace foreign files.

    Raises
    ------
    ConfigError
    """
    _check_folder(folder)
    config = folder / "config.toml"
    ours = _has_schema(folder / "record.json", "pti.record/") or (
        config.is_file() and config.read_bytes().startswith(HEADER.encode())
    )
    if not ours:
        _refuse_any(folder, _RUN, "pti run")


def check_sweep_folder(folder: Path) -> None:
    """Refuse a folder that a sweep cannot write to, or in which it would replace foreign files.

    Raises
    ------
    ConfigError
    """
    _check_folder(folder)
    if not _has_schema(folder / "sweep.json", "pti.sweep/"):
        _refuse_any(folder, _SWEEP, "pti sweep")


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, not a folder; give another --out")
    check_folder(resolved(folder))


def _has_schema(path: Path, start: str) -> bool:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["schema"]).startswith(start)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _refuse_any(folder: Path, names: tuple[str, ...], maker: str) -> None:
    for name in names:
        path = folder / name
        if path.exists() or path.is_symlink():
            raise ConfigError(f"{path} was not made by `{maker}` and will not be replaced; give another --out")
