"""Write embeddings to a file: .npy, .npz, .safetensors or .parquet."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgeom._extras import needs_extra
from clipgeom._io.files import check_output_file, replacing, resolved
from clipgeom._io.safetensors import save_tensors
from clipgeom.errors import ConfigError
from clipgeom.geometry.embedding_files.names import SUFFIXES, UNKNOWN_SUFFIX
from clipgeom.geometry.embedding_files.origin import SCHEMA, saved_here

__all__ = ["check_embeddings_path", "save_embeddings"]

_OVERWRITE = "choose another --out, or add --overwrite"
_ONE_MATRIX = (
    "a .npy file contains one matrix, not {}; use .npz or .safetensors, or one representation and one position"
)


def check_embeddings_path(path: Path, *, matrices: int = 1, overwrite: bool = False) -> None:
    """Refuse an output file that cannot be written or that another program made, before any work is done.

    Raises
    ------
    ConfigError
        An unknown ending, or one that cannot contain so many `matrices`; a folder that cannot be written; or, without
        `overwrite`, an existing file of something else.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(UNKNOWN_SUFFIX.format(name=path.name, suffix=path.suffix))
    if path.suffix == ".npy" and matrices != 1:
        raise ConfigError(_ONE_MATRIX.format(matrices))
    if path.suffix == ".npy" and path.is_file() and not overwrite:
        raise ConfigError(f"{path} exists, and a .npy file does not show what wrote it; {_OVERWRITE}")
    check_output_file(
        path, lambda found: overwrite or saved_here(found, path.suffix), maker="clipgeom encode", advice=_OVERWRITE
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
    about = {"schema": SCHEMA, **(metadata or {})}
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
            raise ConfigError(UNKNOWN_SUFFIX.format(name=path.name, suffix=path.suffix))


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
