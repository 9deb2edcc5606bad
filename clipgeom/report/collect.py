"""From a stream of captions to vectors on disk: what the statistics then read in blocks, as often as they need."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from clipgeom.encoder.encode import BATCH, EncodedChunk, Key, encode_chunks
from clipgeom.encoder.positions import Position
from clipgeom.vectors import FileVectors, VectorWriter

if TYPE_CHECKING:
    from clipgeom.captions import Caption
    from clipgeom.encoder.load import TextEncoder

__all__ = ["PROFILE_CAPTIONS", "CaptionSpool", "Collected", "collect"]

# The profile keeps the vectors of all positions for a while; this many captions bound the disk it takes (0.4 GB for
# two representations of width 768). Its rows state their own n.
PROFILE_CAPTIONS = 5000


class CaptionSpool:
    """The used captions in a file, read back one by one: only their offsets are kept in memory."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("w+b")
        self._offsets: list[NDArray[np.int64]] = []
        self._end = 0

    def passing(self, captions: Iterable[Caption]) -> Iterator[str]:
        """The texts of a stream of captions, each written down as it passes."""
        pending: list[int] = []
        for caption in captions:
            pending.append(self._end)
            self._end += self._file.write(json.dumps([caption.id, caption.text]).encode() + b"\n")
            if len(pending) == 4096:
                self._offsets.append(np.array(pending))
                pending = []
            yield caption.text
        self._offsets.append(np.array(pending, dtype=np.int64))

    def read(self, indices: Iterable[int]) -> list[tuple[str, str]]:
        """(id, text) of the captions with these indices, in the order of the indices."""
        offsets = np.concatenate(self._offsets)
        found = []
        for index in indices:
            self._file.seek(int(offsets[index]))
            identifier, text = json.loads(self._file.readline())
            found.append((identifier, text))
        return found

    def close(self) -> None:
        """Close the file; its folder is deleted by whoever made it."""
        self._file.close()


@dataclass(eq=False)
class Collected:
    """Vectors of a caption set by (representation, position), and what became of the captions.

    `rows[position]` are the indices of the captions that have the position; `lengths[k]` counts captions of k tokens.
    """

    vectors: dict[Key, FileVectors]
    profile: dict[Key, FileVectors]
    rows: dict[Position, NDArray[np.int64]]
    n: int
    n_truncated: int
    lengths: NDArray[np.int64]


@dataclass(eq=False)
class _Sink:
    """Open files, one a key."""

    folder: Path
    writers: dict[Key, VectorWriter] = field(default_factory=dict)

    def take(self, vectors: dict[Key, NDArray[np.float32]], keys: Iterable[Key]) -> None:
        for key in keys:
            rows = vectors[key]
            if key not in self.writers:
                name = f"{key[0]}.{str(key[1]).replace(':', '-')}.f32"
                self.writers[key] = VectorWriter(self.folder / name, dim=rows.shape[1])
            self.writers[key].append(rows)

    @property
    def vectors(self) -> dict[Key, FileVectors]:
        return {key: writer.written for key, writer in self.writers.items()}

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()


def collect(
    encoder: TextEncoder,
    texts: Iterable[str],
    folder: Path,
    *,
    representations: tuple[str, ...],
    positions: tuple[Position, ...],
    profile: bool = True,
    padded: bool = False,
    batch_size: int = BATCH,
    progress: Callable[[int], None] = lambda _n: None,
) -> Collected:
    """Encode a stream of captions into files under `folder`.

    Parameters
    ----------
    encoder : TextEncoder
    texts : iterable of str
    folder : Path
        An existing folder for the files.
    representations, positions
        What is wanted of every caption.
    profile : bool
        Also keep every position of the first `PROFILE_CAPTIONS` captions.
    padded : bool
        The profile's padded population too.
    progress : callable
        Told how many captions each chunk held.
    """
    (folder / "profile").mkdir()
    main, side = _Sink(folder), _Sink(folder / "profile")
    rows: dict[Position, list[NDArray[np.int64]]] = {place: [] for place in positions}
    lengths = np.zeros(encoder.max_positions + 1, dtype=np.int64)
    n = n_truncated = 0

    stream = iter(texts)
    everywhere = [Position("content", i) for i in range(encoder.max_positions)] if profile else []
    if profile and padded:
        everywhere += [Position("padded", i) for i in range(encoder.max_positions)]
    extra = [place for place in everywhere if place not in positions]
    phases: list[tuple[Iterator[str], list[Position]]] = [(stream, [])]
    if profile:
        phases.insert(0, (islice(stream, PROFILE_CAPTIONS), extra))

    with closing(main), closing(side):
        for source, added in phases:
            chunks: Iterator[EncodedChunk] = encode_chunks(
                encoder,
                source,
                representations=representations,
                positions=[*positions, *added],
                batch_size=batch_size,
            )
            for chunk in chunks:
                main.take(chunk.vectors, [(name, place) for name in representations for place in positions])
                side.take(chunk.vectors, [(name, place) for name in representations for place in added])
                for place in positions:
                    rows[place].append(n + np.flatnonzero(chunk.present[place]))
                size = len(chunk.tokens.ids)
                n += size
                n_truncated += int(chunk.tokens.truncated.sum())
                lengths += np.bincount(chunk.tokens.lengths, minlength=len(lengths))
                progress(size)
    return Collected(
        vectors=main.vectors,
        profile=side.vectors,
        rows={place: np.concatenate([*parts, np.empty(0, np.int64)]) for place, parts in rows.items()},
        n=n,
        n_truncated=n_truncated,
        lengths=lengths,
    )
