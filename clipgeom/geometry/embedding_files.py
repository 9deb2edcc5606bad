"""Files of embeddings computed elsewhere: .npy, .npz, .safetensors and .parquet, never unpickled."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgeom._extras import needs_extra
from clipgeom._io.files import check_output_file, replacing, resolved
from clipgeom._io.safetensors import save_tensors
from clipgeom.errors import ClipGeomError, ConfigError, DomainError, ShapeError
from clipgeom.geometry.groups import consecutive
from clipgeom.geometry.vectors import ArrayVectors, FileVectors, Vectors

__all__ = [
    "check_embeddings_path",
    "embeddings_images",
    "embeddings_label",
    "embeddings_metadata",
    "groups_of_embeddings",
    "load_embeddings",
    "save_embeddings",
]

SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet")
_SEPARATOR = "::"
_LABEL = re.compile(r"(token|penultimate|prenorm|hidden|projected|normalized)\.(eos|(?:padded:)?\d+)", re.ASCII)
_COMPANIONS = (".captions", ".images")  # ends of the names of arrays that describe the rows of others
_TOKEN = re.compile(r"\[:, ?(\d+)\]", re.ASCII)  # one index of the second axis
_SCHEMA = "clipgeom.embeddings/1"
_OVERWRITE = "choose another --out, or add --overwrite"
_ONE_MATRIX = (
    "a .npy file contains one matrix, not {}; use .npz or .safetensors, or one representation and one position"
)
_NOT_PLAIN = "is no plain array file"
_UNKNOWN = "{name}: {suffix!r} is no ending of embeddings; use one of " + ", ".join(SUFFIXES)


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
    path, key = _split(source)
    readers = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet}
    if path.suffix not in readers:
        raise ConfigError(_UNKNOWN.format(name=path.name, suffix=path.suffix))
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    try:
        vectors = readers[path.suffix](path, key)
    except (OSError, EOFError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    _check(vectors, path, unit)
    return vectors


def check_embeddings_path(path: Path, *, matrices: int = 1, overwrite: bool = False) -> None:
    """Refuse an output file that cannot be written or that another program made, before any work is done.

    Raises
    ------
    ConfigError
        An unknown ending, or one that cannot contain so many `matrices`; a folder that cannot be written; or, without
        `overwrite`, an existing file of something else.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(_UNKNOWN.format(name=path.name, suffix=path.suffix))
    if path.suffix == ".npy" and matrices != 1:
        raise ConfigError(_ONE_MATRIX.format(matrices))
    if path.suffix == ".npy" and path.is_file() and not overwrite:
        raise ConfigError(f"{path} exists, and a .npy file does not show what wrote it; {_OVERWRITE}")
    check_output_file(
        path, lambda found: overwrite or _saved_here(found, path.suffix), maker="clipgeom encode", advice=_OVERWRITE
    )


def save_embeddings(path: Path, arrays: dict[str, NDArray[Any]], *, metadata: dict[str, str] | None = None) -> None:
    """Write named arrays atomically, in the format of the file's ending; a single matrix for .npy.

    `metadata` is kept in the header of .safetensors, the comment of the .npz archive and the schema of .parquet; a .npy file
    has no place for it.

    Raises
    ------
    ConfigError
        An ending that cannot contain them.
    OutputError
        The disk is full or cannot be written.
    """
    about = {"schema": _SCHEMA, **(metadata or {})}
    with replacing(resolved(path)) as partial:
        if path.suffix == ".npy":
            matrices = [a for a in arrays.values() if a.ndim == 2]
            if len(matrices) != 1:
                raise ConfigError(_ONE_MATRIX.format(len(matrices)))
            with partial.open("wb") as file:
                # numpy writes to a plain file by itself, and its error on a full disk has no number
                np.save(SimpleNamespace(write=file.write), matrices[0])
        elif path.suffix == ".npz":
            with partial.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            with zipfile.ZipFile(partial, "a") as archive:
                archive.comment = json.dumps(about, sort_keys=True).encode()
        elif path.suffix == ".safetensors":
            save_tensors(partial, arrays, about)
        elif path.suffix == ".parquet":
            _save_parquet(partial, arrays, about)
        else:
            raise ConfigError(_UNKNOWN.format(name=path.name, suffix=path.suffix))


def embeddings_label(source: str | Path) -> tuple[str, str] | None:
    """Representation and position of vectors whose name contains them, such as hidden.5; None for other names."""
    path, key = _split(source)
    if key is None and path.suffix in SUFFIXES and path.is_file():
        key = _only_name(path)
    match = _LABEL.fullmatch(key or "")
    return None if match is None else (match[1], match[2])


def embeddings_metadata(source: str | Path) -> dict[str, str]:
    """Return model, fingerprint, captions and captions_sha256 of vectors that `clipgeom encode` wrote, else nothing."""
    path, _ = _split(source)
    return _metadata(path, path.suffix) if embeddings_label(source) and _saved_here(path, path.suffix) else {}


def embeddings_images(source: str | Path) -> NDArray[np.int64] | None:
    """Image of each vector that `clipgeom encode` wrote, shape (n,); None if the file has none.

    Raises
    ------
    DomainError
        The file is damaged.
    """
    label = embeddings_label(source)
    path, _ = _split(source)
    if label is None or not _saved_here(path, path.suffix):
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
    names = _without_companions(names)
    return names[0] if len(names) == 1 else None


def _without_companions(names: Iterable[str]) -> list[str]:
    """Leave out the arrays that `clipgeom encode` writes beside its vectors."""
    return [name for name in names if not name.endswith(_COMPANIONS)]


def _saved_here(path: Path, suffix: str) -> bool:
    """Whether `save_embeddings` wrote an existing file; unknown for .npy, which has no place for metadata."""
    return _metadata(path, suffix).get("schema", "").startswith("clipgeom.embeddings/")


def _metadata(path: Path, suffix: str) -> dict[str, str]:
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


def _split(source: str | Path) -> tuple[Path, str | None]:
    text = str(source)
    if _SEPARATOR in text and not Path(text).exists():
        text, key = text.rsplit(_SEPARATOR, maxsplit=1)
        return Path(text).expanduser(), key
    return Path(text).expanduser(), None


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
                f"0 to {second - 1}, such as '{path}{_SEPARATOR}[:, {min(5, second - 1)}]'; if the first axis counts "
                f"sets of vectors, choose one of 0 to {first - 1}, such as '{path}{_SEPARATOR}0'"
            )
        return _matrix(np.array(array[int(key)]), path)
    if key is not None:
        raise ConfigError(f"{path} holds one array of shape {array.shape}; {_SEPARATOR}{key} has nothing to choose")
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


def _save_parquet(path: Path, arrays: dict[str, NDArray[Any]], metadata: dict[str, str]) -> None:
    with needs_extra("report", "writing parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

    if len({len(a) for a in arrays.values()}) != 1:
        raise ConfigError(
            "a .parquet file contains one position, for positions leave out different captions; use .npz or .safetensors"
        )
    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(a.ravel()), a.shape[1]) if a.ndim == 2 else pa.array(a)
        for name, a in arrays.items()
    }
    about = {key: value.encode(errors="backslashreplace") for key, value in metadata.items()}
    pq.write_table(pa.table(columns).replace_schema_metadata(about), path)


def _choose(path: Path, key: str | None, there: list[str]) -> str:
    listed = ", ".join(there) or "none"
    if key is None:
        there = _without_companions(there)
    if key is not None:
        if key not in there:
            raise ConfigError(f"{path} has no array {key!r}; there are: {listed}")
        return key
    if len(there) != 1:
        raise ConfigError(f"{path} holds {len(there)} arrays ({listed}); choose one: {path}{_SEPARATOR}NAME")
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
