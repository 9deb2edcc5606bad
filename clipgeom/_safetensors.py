"""Safetensors files that come out the same, byte for byte, for the same content."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["save_tensors"]


def save_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with the entries of its header sorted: the library writes metadata in a random order."""
    from safetensors.numpy import save_file

    save_file({name: np.asarray(array, order="C") for name, array in tensors.items()}, path, dict(metadata or {}))
    with path.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        content = json.loads(file.read(length))
        header = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        file.seek(8)
        file.write(header.ljust(length))  # the same entries in another order: it fits
