"""Vectors that are read in blocks, from an array in memory or from a file of any size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from clipgeom.errors import DomainError, ShapeError

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["ArrayVectors", "FileVectors", "Vectors", "as_vectors", "row_hashes"]

BLOCK_BYTES = 8 << 20  # float64 bytes a block: large enough for BLAS, small enough to forget


@runtime_checkable
class Vectors(Protocol):
    """n vectors of dimension d, readable any number of times, in order."""

    @property
    def n(self) -> int:
        """Number of vectors."""

    @property
    def dim(self) -> int:
        """Dimension of each."""

    def blocks(self) -> Iterator[Float[NDArray[np.float64], "_ d"]]:
        """The rows in order, as float64 blocks of at most a few megabytes."""


class ArrayVectors:
    """Vectors in memory, shape (n, d), of any real floating dtype."""

    def __init__(self, array: NDArray[Any]) -> None:
        if array.ndim != 2:
            raise ShapeError(f"expected vectors as a matrix (n, d), got shape {array.shape}")
        if array.dtype.kind != "f":
            raise DomainError(f"expected real floating-point vectors, got dtype {array.dtype}; convert them first")
        self._array = array

    @property
    def n(self) -> int:
        """Number of vectors."""
        return len(self._array)

    @property
    def dim(self) -> int:
        """Dimension of each."""
        return int(self._array.shape[1])

    def blocks(self) -> Iterator[Float[NDArray[np.float64], "_ d"]]:
        """The rows in order, as float64 blocks."""
        step = rows_per_block(self.dim)
        for start in range(0, self.n, step):
            yield self._array[start : start + step].astype(np.float64)


class FileVectors:
    """Vectors stored row by row in a file, from a byte offset on.

    Read with ordinary file reads rather than through a memory map, so that the resident memory of the process does
    not grow with the file.
    """

    def __init__(self, path: Path, *, n: int, dim: int, dtype: DTypeLike, offset: int = 0) -> None:
        self.path = path
        self._n = n
        self._dim = dim
        self.dtype = np.dtype(dtype)
        self.offset = offset

    @property
    def n(self) -> int:
        """Number of vectors."""
        return self._n

    @property
    def dim(self) -> int:
        """Dimension of each."""
        return self._dim

    def blocks(self) -> Iterator[Float[NDArray[np.float64], "_ d"]]:
        """The rows in order, as float64 blocks."""
        step = rows_per_block(self.dim)
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for start in range(0, self.n, step):
                rows = min(step, self.n - start)
                data = np.fromfile(file, dtype=self.dtype, count=rows * self.dim)
                if data.size != rows * self.dim:
                    raise DomainError(f"{self.path} ends before its {self.n} vectors; it was cut or changed while read")
                yield data.reshape(rows, self.dim).astype(np.float64)

    def load(self) -> NDArray[Any]:
        """All vectors at once, shape (n, d), in the dtype of the file."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return np.fromfile(file, dtype=self.dtype, count=self.n * self.dim).reshape(self.n, self.dim)


def row_hashes(block: Float[NDArray[np.float64], "n _"]) -> NDArray[np.uint64]:
    """64-bit hash of each row, shape (n,): the same for equal rows, −0 counting as 0."""
    bits = np.ascontiguousarray(block + 0.0).view(np.uint64)
    bits ^= bits >> np.uint64(29)  # the low bits of what was single precision are zero
    rng = np.random.default_rng(0)
    for shift in (32, 29):
        bits *= rng.integers(0, 2**63, size=(1, block.shape[1]), dtype=np.uint64) | np.uint64(1)
        bits ^= bits >> np.uint64(shift)
    hashes: NDArray[np.uint64] = bits.sum(axis=1, dtype=np.uint64)
    return hashes


def rows_per_block(dim: int) -> int:
    """Rows of dimension `dim` that fit one block."""
    return max(1, BLOCK_BYTES // (8 * max(1, dim)))


def as_vectors(vectors: Any) -> Vectors:
    """Convert an array (n, d) to `Vectors`; objects with blocks are returned unchanged.

    Raises
    ------
    ShapeError, DomainError
        If an array is not a matrix of real floating-point numbers.
    """
    if isinstance(vectors, np.ndarray):
        return ArrayVectors(vectors)
    if isinstance(vectors, Vectors):
        return vectors
    raise ShapeError(
        f"expected a numpy array of shape (n, d), got {type(vectors).__name__}; convert it with numpy first"
    )
