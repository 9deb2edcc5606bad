"""Resumable encoding run: written piece by piece to a folder, with checksums.

`journal.json` contains a checksum of every piece of the chunks under way and of every finished chunk. The files are
flushed before the journal is written, so that it never lists more than is on the disk. A resumed run verifies the
checksums, and encodes again where they differ. Pieces are the same in every run on the same captions, so a resumed
run writes byte for byte what an uninterrupted one writes.
"""

from __future__ import annotations

import errno
import mmap
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipgeom._progress import Progress
from clipgeom.encoder.encode import Key, Piece, Wanted, encode_chunks
from clipgeom.encoder.positions import Position
from clipgeom.encoder.storage.sealed import is_regular, read_sealed, remove, write_sealed
from clipgeom.errors import ClipGeomError

if TYPE_CHECKING:
    from clipgeom.encoder.load import TextEncoder

__all__ = ["Lengths", "Partial", "file_name"]

SCHEMA = "clipgeom.journal/1"
_JOURNAL_EVERY = 2.0  # maximal work lost after a kill, in seconds
_AHEAD = 4  # pieces that may wait to be written
_BLOCK = 1 << 22  # bytes that are read at a time
_ITEM = np.dtype("<f4")
_Ints = NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """Lengths of captions, shape (n,): index of EOS, number of tokens, and whether it was truncated."""

    eos: _Ints
    tokens: _Ints
    truncated: NDArray[np.bool_]


@dataclass(slots=True)
class _Journal:
    """CRC-32 checksums of finished chunks, and of the pieces of other chunks."""

    chunks: dict[int, int] = field(default_factory=dict)
    pieces: dict[int, dict[int, int]] = field(default_factory=dict)

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> _Journal:
        pieces = {int(n): _checksums(of_chunk) for n, of_chunk in dict(content["pieces"]).items()}
        return cls(_checksums(content["chunks"]), pieces)

    def content(self) -> dict[str, Any]:
        return {
            "chunks": {str(n): crc for n, crc in self.chunks.items()},
            "pieces": {str(n): {str(k): crc for k, crc in of.items()} for n, of in self.pieces.items()},
        }


class _Write(Protocol):
    def __call__(self, function: Callable[..., T], /, *arguments: Any) -> Future[T]: ...


class Partial:
    """A run of encoding into a folder, with its journal.

    Parameters
    ----------
    folder : Path
        Deleted first, unless it contains an interrupted run of the same kind.
    encoder : TextEncoder
    missing : sequence of Wanted
        Representations and positions to encode.
    pack_size : int, optional
    notify : callable
        Called with a sentence about damage that is encoded anew.
    """

    def __init__(
        self,
        folder: Path,
        encoder: TextEncoder,
        missing: Sequence[Wanted],
        pack_size: int | None,
        notify: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.shapes: dict[str, dict[str, int]] = {}
        self._missing, self._notify = missing, notify
        # rounding depends on these; a run in which one differs starts over
        self._circumstances = {"schema": SCHEMA, **_circumstances(encoder), "pack_size": pack_size}
        self._circumstances["wanted"] = sorted(
            file_name(name, entry.position, entry.first) for entry in missing for name in entry.representations
        )
        self._files: dict[Key, _RowFile] = {}
        self._bases: dict[Position, int] = {}
        self._journal = _Journal()
        self._written = 0.0
        self._noted = False

    def __enter__(self) -> Self:
        self._journal = self._resume()
        if self._journal == _Journal():
            remove(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # results of a failing run are deleted; after Ctrl-C or a crash of the machine the next run continues
        hopeless = isinstance(error, ClipGeomError) or (
            isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        )
        with ExitStack() as stack:  # every file is closed, even if closing another fails
            for file in self._files.values():
                stack.callback(file.close, complete=error is None)
            if not hopeless:
                self._keep()
        if hopeless:
            remove(self.folder)

    def run(self, encoder: TextEncoder, texts: Iterable[str], pack_size: int | None, progress: Progress) -> Lengths:
        """Encode, write and keep the journal."""
        for entry in self._missing:
            for name in entry.representations:
                path = self.folder / file_name(name, entry.position, entry.first)
                self._files[name, entry.position] = _RowFile(path, encoder.dim(name))
        eos, tokens, truncated = [], [], []
        with _writing() as write:
            for number, chunk in enumerate(encode_chunks(encoder, texts, self._missing, pack_size=pack_size)):
                eos.append(chunk.tokens.eos)
                tokens.append(chunk.tokens.lengths)
                truncated.append(chunk.tokens.truncated)
                write(self._extend, {p: int(here.sum()) for p, here in chunk.present.items()})
                if self._is_there(write, number):
                    progress.skip(len(chunk.tokens.ids))
                    continue
                for k, piece in enumerate(chunk.pieces(partial(self._is_there, write, number))):
                    if piece.skipped:
                        progress.skip(piece.captions)
                        continue
                    write(self._put, number, k, piece)
                    progress(piece.captions)
                write(self._finish, number)
        self.shapes = {file.path.name: {"rows": file.rows, "dim": file.dim} for file in self._files.values()}
        return Lengths(
            np.concatenate([np.empty(0, np.int64), *eos]),
            np.concatenate([np.empty(0, np.int64), *tokens]),
            np.concatenate([np.empty(0, np.bool_), *truncated]),
        )

    def _is_there(
        self, write: _Write, number: int, piece: int | None = None, slots: Mapping[Position, _Ints] | None = None
    ) -> bool:
        """Whether the journal lists a chunk or piece and its checksum agrees; otherwise delete the entry."""
        claims = self._journal.chunks if piece is None else self._journal.pieces.get(number, {})
        key = number if piece is None else piece
        if key not in claims:
            return False
        found = write(self._chunk_checksum) if slots is None else write(self._piece_checksum, slots)
        if found.result() == claims[key]:
            return True
        del claims[key]
        if not self._noted:
            self._notify(f"{self.folder} contains damaged vectors; encoding these anew")
            self._noted = True
        return False

    # the rest runs in the writing thread

    def _extend(self, sizes: Mapping[Position, int]) -> None:
        for (_name, position), file in self._files.items():
            self._bases[position] = file.extend(sizes[position])

    def _put(self, number: int, k: int, piece: Piece) -> None:
        total = 0
        for (name, position), file in self._files.items():
            if position in piece.slots:
                values = np.ascontiguousarray(piece.values[name, position], _ITEM)
                file.put(self._bases[position] + piece.slots[position], values)
                total = zlib.crc32(values.data.cast("B") if values.size else b"", total)
        self._journal.pieces.setdefault(number, {})[k] = total
        if time.monotonic() - self._written >= _JOURNAL_EVERY:
            self._keep()

    def _finish(self, number: int) -> None:
        self._journal.chunks[number] = self._chunk_checksum()
        self._journal.pieces.pop(number, None)

    def _chunk_checksum(self) -> int:
        total = 0
        for file in self._files.values():
            total = file.checksum(total)
        return total

    def _piece_checksum(self, slots: Mapping[Position, _Ints]) -> int:
        total = 0
        for (_name, position), file in self._files.items():
            if position in slots:
                total = zlib.crc32(file.rows_at(self._bases[position] + slots[position]).tobytes(), total)
        return total

    def _keep(self) -> None:
        for file in self._files.values():
            file.flush()
        write_sealed(self.folder / "journal.json", {"circumstances": self._circumstances, **self._journal.content()})
        self._written = time.monotonic()

    def _resume(self) -> _Journal:
        """Read the journal of an earlier run under the same circumstances; empty without one."""
        path = self.folder / "journal.json"
        if self.folder.is_symlink() or not self.folder.is_dir() or not all(map(is_regular, self.folder.iterdir())):
            return _Journal()
        try:
            content = read_sealed(path)
            return _Journal.parse(content) if content["circumstances"] == self._circumstances else _Journal()
        except (FileNotFoundError, NotADirectoryError):
            return _Journal()
        except (ValueError, KeyError, TypeError) as error:
            self._notify(f"{path} is damaged ({error}); encoding from the beginning")
            return _Journal()


class _RowFile:
    """float32 rows in a file that grows by chunks; only the last chunk is mapped into memory."""

    def __init__(self, path: Path, dim: int) -> None:
        self.path, self.dim, self.rows = path, dim, 0
        self._row = dim * _ITEM.itemsize
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        self._map: mmap.mmap | None = None
        self._view = np.empty((0, dim), _ITEM)
        self._base = 0

    def extend(self, rows: int) -> int:
        """Make room for `rows` more, keeping data of an earlier run there; return the index of the first."""
        self._unmap()
        self._base, self.rows = self.rows, self.rows + rows
        start, end = self._base * self._row, self.rows * self._row
        if rows:
            _allocate(self._descriptor, end)
            aligned = start - start % mmap.ALLOCATIONGRANULARITY
            self._map = mmap.mmap(self._descriptor, end - aligned, offset=aligned)
            flat = np.frombuffer(self._map, _ITEM, offset=start - aligned)
            self._view = flat.reshape(rows, self.dim)
        return self._base

    def put(self, indices: _Ints, values: NDArray[np.float32]) -> None:
        """Write rows, shape (m, dim), to their places in the last chunk."""
        self._view[indices - self._base] = values

    def rows_at(self, indices: _Ints) -> NDArray[np.float32]:
        """Copy rows of the last chunk."""
        rows: NDArray[np.float32] = self._view[indices - self._base]
        return rows

    def checksum(self, total: int) -> int:
        """Continue a CRC-32 with the last chunk, read through a buffer: a memory map would stay in memory."""
        start, end = self._base * self._row, self.rows * self._row
        while start < end:
            block = os.pread(self._descriptor, min(_BLOCK, end - start), start)
            if not block:  # another process truncates the file
                break
            total, start = zlib.crc32(block, total), start + len(block)
        return total

    def flush(self) -> None:
        """Flush everything to the disk, and release the memory map."""
        if self._map is not None:
            self._map.flush()
            if hasattr(mmap, "MADV_DONTNEED"):
                self._map.madvise(mmap.MADV_DONTNEED)

    def close(self, *, complete: bool) -> None:
        """Close; rows of an earlier run beyond the last chunk are kept until the file is `complete`."""
        self._unmap()
        if complete:
            os.ftruncate(self._descriptor, self.rows * self._row)
        os.close(self._descriptor)

    def _unmap(self) -> None:
        if self._map is not None:
            self._view = np.empty((0, self.dim), _ITEM)
            self._map.flush()
            self._map.close()
            self._map = None


def file_name(representation: str, position: Position, first: int | None) -> str:
    """Name the file of one representation at one position."""
    place = str(position).replace(":", "-")
    return f"{representation}.{place}{'' if first is None else f'.first{first}'}.f32"


def _allocate(descriptor: int, size: int) -> None:
    """Reserve the file's blocks now: with a full disk, writing to a memory map kills the process."""
    have = os.fstat(descriptor).st_size
    if have >= size:
        return
    try:
        os.posix_fallocate(descriptor, have, size - have)
    except AttributeError:  # macOS lacks this function
        pass
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
    zeros = bytes(1 << 20)
    while (have := os.fstat(descriptor).st_size) < size:
        os.pwrite(descriptor, zeros[: size - have], have)


@contextmanager
def _writing() -> Iterator[_Write]:
    """Run calls in a thread of their own, in order, a few ahead at most; errors are raised here."""
    waiting: list[Future[Any]] = []

    def write(function: Callable[..., T], /, *arguments: Any) -> Future[T]:
        future = pool.submit(function, *arguments)
        waiting.append(future)
        while len(waiting) > _AHEAD or (waiting and waiting[0].done()):
            waiting.pop(0).result()
        return future

    with ThreadPoolExecutor(1, thread_name_prefix="clipgeom-write") as pool:
        yield write
        for future in waiting:
            future.result()


def _checksums(content: Mapping[str, Any]) -> dict[int, int]:
    return {int(number): int(crc) for number, crc in content.items()}


def _circumstances(encoder: TextEncoder) -> dict[str, Any]:
    import torch
    import transformers

    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": encoder.device,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "packed": encoder.tower is not None,
        # packs run with one thread each
        "threads": torch.get_num_threads() if encoder.tower is None or encoder.device != "cpu" else 1,
    }
