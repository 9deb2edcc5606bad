"""Files that `clipgeom encode` wrote: the representation, position, metadata and images of their vectors."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipgeom._extras import needs_extra
from clipgeom.errors import ConfigError, DomainError
from clipgeom.geometry.embedding_files.names import SUFFIXES, split_source, without_companions
from clipgeom.geometry.groups import consecutive

__all__ = [
    "SCHEMA",
    "embeddings_images",
    "embeddings_label",
    "embeddings_metadata",
    "groups_of_embeddings",
    "saved_here",
]

SCHEMA = "clipgeom.embeddings/1"
_LABEL = re.compile(r"(token|penultimate|prenorm|hidden|projected|normalized)\.(eos|(?:padded:)?\d+)", re.ASCII)


def embeddings_label(source: str | Path) -> tuple[str, str] | None:
    """Representation and position of vectors whose name contains them, such as hidden.5; None for other names."""
    path, key = split_source(source)
    if key is None and path.suffix in SUFFIXES and path.is_file():
        key = _only_name(path)
    match = _LABEL.fullmatch(key or "")
    return None if match is None else (match[1], match[2])


def embeddings_metadata(source: str | Path) -> dict[str, str]:
    """Return model, fingerprint, captions and captions_sha256 of vectors that `clipgeom encode` wrote, else nothing."""
    path, _ = split_source(source)
    return read_metadata(path, path.suffix) if embeddings_label(source) and saved_here(path, path.suffix) else {}


def embeddings_images(source: str | Path) -> NDArray[np.int64] | None:
    """Image of each vector that `clipgeom encode` wrote, shape (n,); None if the file has none.

    Raises
    ------
    DomainError
        The file is damaged.
    """
    label = embeddings_label(source)
    path, _ = split_source(source)
    if label is None or not saved_here(path, path.suffix):
        return None
    name = f"{label[1]}.images"
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                found = archive.get(name)
        elif path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="np") as file:
                found = file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118 - no mapping
        else:
            with needs_extra("report", "reading parquet"):
                import pyarrow.parquet as pq
            there = name in pq.read_schema(path).names
            found = pq.read_table(path, columns=[name])[name].to_numpy() if there else None
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DomainError(f"{path}: {name} cannot be read ({error}); encode the captions again") from error
    return None if found is None else np.asarray(found, dtype=np.int64)


def groups_of_embeddings(
    source: str | Path, n: int, group_size: int | None
) -> tuple[NDArray[np.int64] | None, str | None]:
    """Return the group of each of n vectors, and how the groups are known: image ids, `group_size`, or not at all.

    Raises
    ------
    ConfigError
        `group_size` is given for vectors with image ids.
    """
    images = embeddings_images(source)
    if images is None:
        return (
            (None, None)
            if group_size is None
            else (consecutive(n, group_size), f"each {group_size} consecutive vectors")
        )
    if group_size is not None:
        raise ConfigError(f"{source} has the images of its captions; leave --group-size out")
    return images, "image ids"


def saved_here(path: Path, suffix: str) -> bool:
    """Whether `save_embeddings` wrote an existing file; unknown for .npy, which has no place for metadata."""
    return read_metadata(path, suffix).get("schema", "").startswith("clipgeom.embeddings/")


def _only_name(path: Path) -> str | None:
    """Return the name of the only array in a file that can be read, None for .npy."""
    from safetensors import SafetensorError, safe_open

    names: list[str] = []
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist()]
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                names = list(file.keys())
        elif path.suffix == ".parquet":
            with needs_extra("report", "reading parquet"):
                import pyarrow.parquet as pq
            names = pq.read_schema(path).names
    except (SafetensorError, OSError, ValueError, zipfile.BadZipFile):
        return None  # reading the vectors reports the damage
    names = without_companions(names)
    return names[0] if len(names) == 1 else None


def read_metadata(path: Path, suffix: str) -> dict[str, str]:
    """Return the metadata that a file carries, as text; nothing for .npy and for what cannot be read."""
    from safetensors import SafetensorError, safe_open

    found: object = None
    try:
        if suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                found = json.loads(archive.comment)
        elif suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                found = file.metadata()
        elif suffix == ".parquet":
            with needs_extra("report", "reading parquet"):
                import pyarrow.parquet as pq
            pairs = (pq.read_schema(path).metadata or {}).items()
            found = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in pairs}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, RecursionError):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}
