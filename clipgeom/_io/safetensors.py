"""Deterministic safetensors files: the same content gives the same bytes."""

from __future__ import annotations

import errno
import json
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["save_tensors"]


def save_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with the entries of its header sorted: the library writes metadata in a random order.

    Raises
    ------
    OSError
        Also where the library raises an error of its own: a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path.touch()
    mode = path.stat().st_mode
    plain = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    try:
        save_file(plain, path, {key: _utf8(value) for key, value in (metadata or {}).items()})
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number) if found else str(error), str(path)) from error
    path.chmod(mode)  # the library writes a file that only its owner can read
    with path.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        content = json.loads(file.read(length))
        header = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        file.seek(8)
        file.write(header.ljust(length))  # the same entries in sorted order have the same length


def _utf8(text: str) -> str:
    # a file name that is not UTF-8 contains lone surrogates, which the header cannot contain
    return text.encode("utf-8", errors="backslashreplace").decode()
