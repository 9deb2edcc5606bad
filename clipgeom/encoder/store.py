"""Vectors of one caption set in a folder: written piece by piece, resumed after a cut, checked when read again.

Finished arrays lie in the folder, one file of float32 rows each, and `store.json` names them with a checksum. What is
being encoded lies in `partial/`, together with `journal.json`, which says up to which piece it is on the disk: the
files are flushed before the journal is written, so that it never claims more than is there. Pieces are the same in
every run on the same captions, so a resumed run writes byte for byte what an uninterrupted one writes.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from clipgeom._files import write_whole
from clipgeom._progress import Progress, Quiet
from clipgeom.encoder.encode import Key, Piece, Wanted, check_pack_size, encode_chunks
from clipgeom.encoder.positions import Position
from clipgeom.errors import ClipGeomError
from clipgeom.vectors import FileVectors

if TYPE_CHECKING:
    from clipgeom.encoder.load import TextEncoder

__all__ = ["Lengths", "VectorStore"]

SCHEMA = "clipgeom.vectors/1"
_JOURNAL_EVERY = 2.0  # seconds of work that a kill may cost
_AHEAD = 4  # pieces that may wait to be written
_ITEM = np.dtype("<f4")


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """Of each caption, shape (n,): the index of its EOS, its number of tokens, and whether it was cut."""

    eos: NDArray[np.int64]
    tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]


class VectorStore:
    """The vectors of one caption set through one encoder.

    Parameters
    ----------
    folder : Path
        Its folder; created when something is written.
    identity : mapping
        What the vectors are of: a folder that says something else holds nothing for us.
    notify : callable
        Told, in a sentence, of anything damaged that is encoded anew.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], *, notify: Callable[[str], None] = lambda _text: None
    ) -> None:
        self.folder = folder
        self._identity = dict(identity)
        self._notify = notify
        self._arrays = self._read()

    def has(self, wanted: Iterable[Wanted]) -> bool:
        """Whether everything wanted is there."""
        return "tokens.npz" in self._arrays and not _missing(wanted, self._arrays)

    def vectors(self, representation: str, position: Position, first: int | None = None) -> FileVectors:
        """Rows of the captions that have the position, in their order."""
        name = _name(representation, position, first)
        entry = self._arrays[name]
        return FileVectors(self.folder / name, n=entry["rows"], dim=entry["dim"], dtype=_ITEM)

    @property
    def lengths(self) -> Lengths:
        """How long the captions are."""
        with np.load(self.folder / "tokens.npz", allow_pickle=False) as arrays:
            return Lengths(arrays["eos"], arrays["tokens"], arrays["truncated"])

    def fill(
        self,
        encoder: TextEncoder,
        texts: Iterable[str],
        wanted: Sequence[Wanted],
        *,
        pack_size: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Encode what is wanted and not there yet; go on where an earlier run of the same was cut off.

        Raises
        ------
        ClipGeomError
            The encoder cannot give what is wanted.
        OSError
            The folder cannot be written, or its disk is full.
        """
        check_pack_size(pack_size, encoder.max_positions)
        missing = _missing(wanted, self._arrays)
        if not missing and "tokens.npz" in self._arrays:
            return
        if encoder.unpacked:
            self._notify(f"captions are run whole, those of one length together: {encoder.name}: {encoder.unpacked}")
        partial = _Partial(self.folder / "partial", encoder, missing, pack_size)
        with partial:
            lengths = partial.run(encoder, texts, pack_size, progress or Quiet())
        with (partial.folder / "tokens.npz").open("wb") as file:
            np.savez(file, eos=lengths.eos, tokens=lengths.tokens, truncated=lengths.truncated)
        finished = {**partial.shapes, "tokens.npz": {}}
        for name, shape in finished.items():
            checksum, size = _checksum(partial.folder / name)
            (partial.folder / name).replace(self.folder / name)
            self._arrays[name] = {**shape, "bytes": size, "crc32": checksum}
        _write_json(self.folder / "store.json", {"schema": SCHEMA, "identity": self._identity, "arrays": self._arrays})
        shutil.rmtree(partial.folder)

    def _read(self) -> dict[str, dict[str, Any]]:
        """The finished arrays that are whole."""
        try:
            described = json.loads((self.folder / "store.json").read_text(encoding="utf-8"))
            if described["schema"] != SCHEMA or described["identity"] != self._identity:
                self._notify(f"{self.folder} was written by another version of clipgeom; encoding anew")
                return {}
            entries = dict(described["arrays"])
            whole = {n: e for n, e in entries.items() if _checksum(self.folder / n) == (e["crc32"], e["bytes"])}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._notify(f"{self.folder} is damaged ({type(error).__name__}: {error}); encoding anew")
            return {}
        if len(whole) < len(entries):
            self._notify(
                f"{', '.join(sorted(set(entries) - set(whole)))} in {self.folder} is damaged; encoding it anew"
            )
        return whole


class _Partial:
    """A run of encoding into `partial/`, with its journal."""

    def __init__(self, folder: Path, encoder: TextEncoder, missing: Sequence[Wanted], pack_size: int | None) -> None:
        self.folder = folder
        self.shapes: dict[str, dict[str, int]] = {}
        self._missing = missing
        # rounding depends on these; a run that differs in one starts over rather than mix
        self._circumstances = {"schema": SCHEMA, **_circumstances(encoder), "pack_size": pack_size}
        self._circumstances["wanted"] = sorted(
            _name(name, entry.position, entry.first) for entry in missing for name in entry.representations
        )
        self._files: dict[Key, _RowFile] = {}
        self._bases: dict[Position, int] = {}
        self._done = (0, 0)
        self._written = 0.0

    def __enter__(self) -> Self:
        self._done = self._resume()
        if self._done == (0, 0):
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # what would fail again is not kept; after Ctrl-C or a crash of the machine's making, the next run goes on
        hopeless = isinstance(error, ClipGeomError) or (
            isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        )
        with ExitStack() as stack:  # every file is closed, whatever the others do
            for file in self._files.values():
                stack.callback(file.close)
            if not hopeless:
                self._keep()
        if hopeless:
            shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, encoder: TextEncoder, texts: Iterable[str], pack_size: int | None, progress: Progress) -> Lengths:
        """Encode, write and keep the journal."""
        for entry in self._missing:
            for name in entry.representations:
                path = self.folder / _name(name, entry.position, entry.first)
                self._files[name, entry.position] = _RowFile(path, encoder.dim(name))
        done = self._done
        eos, tokens, truncated = [], [], []
        with _writing(self._take) as write:
            for number, chunk in enumerate(encode_chunks(encoder, texts, self._missing, pack_size=pack_size)):
                eos.append(chunk.tokens.eos)
                tokens.append(chunk.tokens.lengths)
                truncated.append(chunk.tokens.truncated)
                write(None, (number, 0), {p: int(here.sum()) for p, here in chunk.present.items()})
                if number < done[0]:
                    progress.skip(len(chunk.tokens.ids))
                    continue
                for k, piece in enumerate(chunk.pieces(done[1] if number == done[0] else 0)):
                    if piece.skipped:
                        progress.skip(piece.captions)
                        continue
                    write(piece, (number, k + 1), {})
                    progress(piece.captions)
        self.shapes = {file.path.name: {"rows": file.rows, "dim": file.dim} for file in self._files.values()}
        return Lengths(
            np.concatenate([np.empty(0, np.int64), *eos]),
            np.concatenate([np.empty(0, np.int64), *tokens]),
            np.concatenate([np.empty(0, np.bool_), *truncated]),
        )

    def _take(self, piece: Piece | None, mark: tuple[int, int], sizes: dict[Position, int]) -> None:
        """In the writing thread: make room for a chunk, or write a piece; the journal follows now and then."""
        if piece is None:
            for (_name, position), file in self._files.items():
                self._bases[position] = file.extend(sizes[position])
            return
        for (name, position), values in piece.values.items():
            self._files[name, position].put(self._bases[position] + piece.slots[position], values)
        self._done = mark
        if time.monotonic() - self._written >= _JOURNAL_EVERY:
            self._keep()

    def _keep(self) -> None:
        for file in self._files.values():
            file.flush()
        sizes = {file.path.name: file.rows * file.dim * _ITEM.itemsize for file in self._files.values()}
        _write_json(
            self.folder / "journal.json",
            {"circumstances": self._circumstances, "chunk": self._done[0], "piece": self._done[1], "bytes": sizes},
        )
        self._written = time.monotonic()

    def _resume(self) -> tuple[int, int]:
        """Chunk and piece up to which an earlier run came under the same circumstances; (0, 0) if none did."""
        try:
            journal = json.loads((self.folder / "journal.json").read_text(encoding="utf-8"))
            if journal["circumstances"] != self._circumstances:
                return 0, 0
            if any((self.folder / name).stat().st_size < size for name, size in journal["bytes"].items()):
                return 0, 0
            return int(journal["chunk"]), int(journal["piece"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0


class _RowFile:
    """float32 rows in a file that grows by chunks; only the last chunk is mapped into memory."""

    def __init__(self, path: Path, dim: int) -> None:
        self.path, self.dim, self.rows = path, dim, 0
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._map: mmap.mmap | None = None
        self._view = np.empty((0, dim), _ITEM)
        self._base = 0

    def extend(self, rows: int) -> int:
        """Make room for `rows` more, keeping what an earlier run left there; the index of the first of them."""
        self._unmap()
        row = self.dim * _ITEM.itemsize
        self._base, self.rows = self.rows, self.rows + rows
        start, end = self._base * row, self.rows * row
        if rows:
            _allocate(self._descriptor, end)
            aligned = start - start % mmap.ALLOCATIONGRANULARITY
            self._map = mmap.mmap(self._descriptor, end - aligned, offset=aligned)
            flat = np.frombuffer(self._map, _ITEM, offset=start - aligned)
            self._view = flat.reshape(rows, self.dim)
        return self._base

    def put(self, indices: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Write rows, shape (m, dim), to their places in the last chunk."""
        self._view[indices - self._base] = values

    def flush(self) -> None:
        """Bring everything to the disk, and let go of the memory that showed it."""
        if self._map is not None:
            self._map.flush()
            if hasattr(mmap, "MADV_DONTNEED"):
                self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        self._unmap()
        os.ftruncate(self._descriptor, self.rows * self.dim * _ITEM.itemsize)
        os.close(self._descriptor)

    def _unmap(self) -> None:
        if self._map is not None:
            self._view = np.empty((0, self.dim), _ITEM)
            self._map.flush()
            self._map.close()
            self._map = None


def _allocate(descriptor: int, size: int) -> None:
    """Reserve the file's blocks now: a memory map that finds the disk full kills the process instead of raising."""
    have = os.fstat(descriptor).st_size
    if have >= size:
        return
    try:
        os.posix_fallocate(descriptor, have, size - have)
    except AttributeError:  # macOS has none
        pass
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
    zeros = bytes(1 << 20)
    while (have := os.fstat(descriptor).st_size) < size:
        os.pwrite(descriptor, zeros[: size - have], have)


@contextmanager
def _writing(take: Callable[..., None]) -> Iterator[Callable[..., None]]:
    """Calls of `take` in a thread of their own, in order, a few ahead at most; its errors are raised here."""
    waiting: list[Future[None]] = []

    def write(*arguments: Any) -> None:
        waiting.append(pool.submit(take, *arguments))
        while len(waiting) > _AHEAD or (waiting and waiting[0].done()):
            waiting.pop(0).result()

    with ThreadPoolExecutor(1, thread_name_prefix="clipgeom-write") as pool:
        yield write
        for future in waiting:
            future.result()


def _missing(wanted: Iterable[Wanted], arrays: Mapping[str, Any]) -> list[Wanted]:
    """What is wanted and not among the arrays, position by position."""
    missing = []
    for entry in wanted:
        names = tuple(n for n in entry.representations if _name(n, entry.position, entry.first) not in arrays)
        if names:
            missing.append(Wanted(entry.position, names, entry.first))
    return missing


def _name(representation: str, position: Position, first: int | None) -> str:
    place = str(position).replace(":", "-")
    return f"{representation}.{place}{'' if first is None else f'.first{first}'}.f32"


def _circumstances(encoder: TextEncoder) -> dict[str, Any]:
    import torch
    import transformers

    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": encoder.device,
        "threads": torch.get_num_threads(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "packed": encoder.tower is not None,
    }


def _checksum(path: Path) -> tuple[int, int]:
    """CRC-32 and size; (0, −1) for a file that is not there. It is for damage, not against forgery."""
    total = size = 0
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                total, size = zlib.crc32(block, total), size + len(block)
    except FileNotFoundError:
        return 0, -1
    return total, size


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=1, sort_keys=True).encode())
