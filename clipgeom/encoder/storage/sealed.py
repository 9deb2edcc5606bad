"""JSON files with a digest, and checksums of other files, which detect damage but not forgery."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from clipgeom._io.files import write_whole

__all__ = ["checksum", "is_regular", "read_sealed", "remove", "write_sealed"]

_SEAL = "sha256"


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically, with a digest over its content.

    Raises
    ------
    OutputError
    """
    if path.is_dir() and not path.is_symlink():
        remove(path)
    write_whole(path, json.dumps({**content, _SEAL: _digest(content)}, indent=1, sort_keys=True).encode())


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a JSON file written by `write_sealed`.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
    ValueError
        It was changed in any way that changes its content, or cannot be read.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ValueError("it is not a file")
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError("it contains no JSON object")
    seal = content.pop(_SEAL, None)
    if seal != _digest(content):
        raise ValueError("its digest does not fit its content")
    return content


def checksum(path: Path) -> tuple[int, int]:
    """CRC-32 and size of a file; (0, −1) if it is missing or unreadable."""
    total = size = 0
    if not is_regular(path):
        return 0, -1
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                total, size = zlib.crc32(block, total), size + len(block)
    except OSError:
        return 0, -1
    return total, size


def is_regular(path: Path) -> bool:
    """Whether a path is a regular file: no link, folder or device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def remove(path: Path) -> None:
    """Delete a file, a link (not what it points to) or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
