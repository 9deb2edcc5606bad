"""Read embeddings computed elsewhere: .npy, .npz, .safetensors and .parquet, never unpickled."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgeom._extras import needs_extra
from clipgeom.errors import ClipGeomError, ConfigError, DomainError, ShapeError
from clipgeom.geometry.embedding_files.names import SEPARATOR, UNKNOWN_SUFFIX, split_source, without_companions
from clipgeom.geometry.vectors import ArrayVectors, FileVectors, Vectors

__all__ = ["load_embeddings"]

_TOKEN = re.compile(r"\[:, ?(\d+)\]", re.ASCII)  # one index of the second axis
_NOT_PLAIN = "is no plain array file"


def load_embeddings(source: str | Path, *, unit: bool = False) -> Vectors:
    """Read vectors of shape (n, d) from a file.

    Parameters
    ----------
    source : str or Path
        ``FILE`` or ``FILE::KEY``, where KEY names one of several arrays (.npz, .safetensors), a column of lists
        (.parquet), or, in a .npy file of three axes, one matrix: ``5`` for the first axis, ``[:, 5]`` for the second.
    unit : bool
        Check that the vectors have unit length.

    Raises
    ------
    ConfigError
        No such file, an unknown ending, no such key, or several keys and none named.
    ShapeError
        Not a matrix.
    DomainError
        No rows, NaN or infinity (naming the first row), objects instead of numbers, or no unit length where promised.
    """
    path, key = split_source(source)
    readers = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet}
    if path.suffix not in readers:
        raise ConfigError(UNKNOWN_SUFFIX.format(name=path.name, suffix=path.suffix))
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    try:
        vectors = readers[path.suffix](path, key)
    except (OSError, EOFError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    _check(vectors, path, unit)
    return vectors


def _npy(path: Path, key: str | None) -> Vectors:
    try:
        # a memory map reads the header only; rows are then read from the file, so that they never have to fit in memory
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DomainError(f"{path} {_NOT_PLAIN} ({error}); object arrays and pickles are refused") from error
    if not isinstance(array, np.memmap):
        raise DomainError(f"{path} {_NOT_PLAIN}")
    if array.ndim == 3:
        token = _TOKEN.fullmatch(key or "")
        if token is not None and int(token[1]) < array.shape[1]:
            return _matrix(np.array(array[:, int(token[1])]), path)
        if key is None or not (key.isascii() and key.isdigit()) or int(key) >= len(array):
            first, second, _ = array.shape
            raise ShapeError(
                f"{path} has shape {array.shape}, not (n, d); if the second axis is the token position, choose one of "
                f"0 to {second - 1}, such as '{path}{SEPARATOR}[:, {min(5, second - 1)}]'; if the first axis counts "
                f"sets of vectors, choose one of 0 to {first - 1}, such as '{path}{SEPARATOR}0'"
            )
        return _matrix(np.array(array[int(key)]), path)
    if key is not None:
        raise ConfigError(f"{path} holds one array of shape {array.shape}; {SEPARATOR}{key} has nothing to choose")
    if array.ndim == 2 and array.flags.c_contiguous and array.dtype.kind == "f" and array.dtype.isnative:
        return FileVectors(path, n=len(array), dim=array.shape[1], dtype=array.dtype, offset=array.offset)
    return _matrix(np.array(array), path)


def _npz(path: Path, key: str | None) -> Vectors:
    with path.open("rb") as file:  # numpy leaves its own handle open when the archive is damaged
        try:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DomainError(f"{path} is no .npz archive")
            array = archive[_choose(path, key, list(archive.keys()))]
        except ClipGeomError:
            raise
        except (ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise DomainError(f"{path} {_NOT_PLAIN} ({error}); object arrays and pickles are refused") from error
    return _matrix(array, path)


def _safetensors(path: Path, key: str | None) -> Vectors:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            name = _choose(path, key, list(file.keys()))
            if file.get_slice(name).get_dtype() == "BF16":
                return _matrix(_bfloat16(path, name), path)
            return _matrix(file.get_tensor(name), path)
    except SafetensorError as error:
        raise DomainError(f"{path} cannot be read as safetensors: {error}") from error


def _bfloat16(path: Path, name: str) -> NDArray[np.float32]:
    """Read a bfloat16 tensor, a type that numpy lacks: the upper half of a float32."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(size))[name]
        start, end = entry["data_offsets"]
        file.seek(8 + size + start)
        halves = np.frombuffer(file.read(end - start), dtype="<u2")
    return (halves.astype("<u4") << 16).view("<f4").reshape(entry["shape"]).astype(np.float32)


def _parquet(path: Path, key: str | None) -> Vectors:
    with needs_extra("report", "reading parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    try:
        schema = pq.read_schema(path)
        lists = [
            f.name
            for f in schema
            if pa.types.is_list(f.type) or pa.types.is_large_list(f.type) or pa.types.is_fixed_size_list(f.type)
        ]
        name = _choose(path, key, lists)
        column = pq.read_table(path, columns=[name])[name].combine_chunks()
    except pa.ArrowInvalid as error:
        raise DomainError(f"{path} cannot be read as parquet: {error}") from error
    if column.null_count:
        raise DomainError(f"{path}: column {name!r} has {column.null_count} empty row(s); drop them first")
    lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) != 1:
        raise ShapeError(f"{path}: the lists in column {name!r} have different lengths ({lengths[0]} … {lengths[-1]})")
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return _matrix(flat.reshape(len(column), int(lengths[0])), path)


def _choose(path: Path, key: str | None, there: list[str]) -> str:
    listed = ", ".join(there) or "none"
    if key is None:
        there = without_companions(there)
    if key is not None:
        if key not in there:
            raise ConfigError(f"{path} has no array {key!r}; there are: {listed}")
        return key
    if len(there) != 1:
        raise ConfigError(f"{path} holds {len(there)} arrays ({listed}); choose one: {path}{SEPARATOR}NAME")
    return there[0]


def _matrix(array: NDArray[Any], path: Path) -> ArrayVectors:
    if array.dtype.kind == "O":
        raise DomainError(f"{path} contains objects, not numbers; save it with a float dtype")
    if array.ndim != 2:
        raise ShapeError(f"{path}: expected vectors as a matrix (n, d), got shape {array.shape}")
    if array.dtype.kind != "f":
        raise DomainError(f"{path} holds {array.dtype} values, not real floating-point vectors; convert them first")
    return ArrayVectors(array)


def _check(vectors: Vectors, path: Path, unit: bool) -> None:
    if vectors.n == 0:
        raise DomainError(f"{path} holds no vectors")
    start = 0
    for block in vectors.blocks():
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if bad.size:
            raise DomainError(
                f"{path}: row {start + int(bad[0])} holds NaN or infinity; drop or repair such rows first"
            )
        if unit and (off := np.flatnonzero(np.abs(np.linalg.norm(block, axis=1) - 1) > 0.01)).size:
            raise DomainError(f"{path}: row {start + int(off[0])} has no unit length; use --representation projected")
        start += len(block)
