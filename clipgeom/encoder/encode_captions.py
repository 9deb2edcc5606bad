"""Encode a caption set to vectors on disk, which the statistics read in blocks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipgeom._progress import Progress
from clipgeom.encoder.encode import Key, Wanted
from clipgeom.encoder.positions import Position
from clipgeom.encoder.storage.cache import EmbeddingCache
from clipgeom.encoder.storage.store import VectorStore
from clipgeom.geometry.vectors import FileVectors

if TYPE_CHECKING:
    from clipgeom.captions import CaptionStream
    from clipgeom.encoder.load import TextEncoder

__all__ = ["PROFILE_CAPTIONS", "CaptionSpool", "Collected", "EncodingRequest", "collect"]

# The profile keeps the vectors of all positions; this many captions bound the disk it takes (0.4 GB for two
# representations of width 768). Its rows state their own n.
PROFILE_CAPTIONS = 5000


class CaptionSpool:
    """The used captions in a file that can be read any number of times.

    Memory contains only their offsets, and in `images` a number for the image of each, or None without image ids. If
    some captions have image ids, each other caption has its own image.
    """

    def __init__(self, captions: CaptionStream, path: Path) -> None:
        self._path = path
        offsets, end = [], 0
        images: list[int] = []
        numbers: dict[object, int] = {}
        with path.open("wb") as file:
            for caption in captions:
                offsets.append(end)
                end += file.write(json.dumps([caption.id, caption.text]).encode() + b"\n")
                if captions.groups_by is not None:
                    image = len(offsets) if caption.image_id is None else caption.image_id
                    images.append(numbers.setdefault(image, len(numbers)))
        self._offsets = np.array(offsets, dtype=np.int64)
        self.images = None if captions.groups_by is None else np.array(images, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._offsets)

    def texts(self) -> Iterator[str]:
        """All texts, in order."""
        with self._path.open("rb") as file:
            for line in file:
                yield json.loads(line)[1]

    def read(self, indices: Iterable[int]) -> list[tuple[str, str]]:
        """(id, text) of the captions with these indices, in the order of the indices."""
        found = []
        with self._path.open("rb") as file:
            for index in indices:
                file.seek(int(self._offsets[index]))
                identifier, text = json.loads(file.readline())
                found.append((identifier, text))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class EncodingRequest:
    """Representations and positions to provide of a caption set, and how to encode them.

    Parameters
    ----------
    representations, positions
        Every pair of them is provided for every caption.
    profile : bool
        Also provide every position of the first `PROFILE_CAPTIONS` captions.
    padded : bool
        Include padded positions in the profile.
    cache : EmbeddingCache, optional
        Cache to read vectors from and write them to; without one they are deleted after use.
    pack_size : int, optional
        Tokens per forward pass; affects speed and memory only.
    """

    representations: tuple[str, ...]
    positions: tuple[Position, ...]
    profile: bool = False
    padded: bool = False
    cache: EmbeddingCache | None = None
    pack_size: int | None = None

    def pairs(self) -> list[Key]:
        """Each representation at each position, in the order of a report's rows."""
        return [(name, place) for name in self.representations for place in self.positions]


@dataclass(frozen=True, eq=False)
class Collected:
    """Vectors of a caption set by (representation, position), and counts of the captions.

    `rows[position]` are the indices of the captions that have the position; `lengths[k]` counts captions of k tokens.
    `profile` contains the positions at which only the first `PROFILE_CAPTIONS` captions were read.
    """

    captions: CaptionSpool
    vectors: dict[Key, FileVectors]
    profile: dict[Key, FileVectors]
    rows: dict[Position, NDArray[np.int64]]
    n: int
    n_truncated: int
    lengths: NDArray[np.int64]

    def images(self, position: Position) -> NDArray[np.int64] | None:
        """Number of the image of each caption that has the position, or None without image ids."""
        images = self.captions.images
        return None if images is None else images[self.rows[position]]


@contextmanager
def collect(
    encoder: TextEncoder, captions: CaptionStream, request: EncodingRequest, *, folder: Path, progress: Progress
) -> Iterator[Collected]:
    """Encode a caption set unless it is cached, and provide its vectors within the context.

    `folder` is an existing folder for the captions, and for the vectors if no cache keeps them.
    """
    representations, positions = request.representations, request.positions
    everywhere = [Position("content", i) for i in range(encoder.max_positions)] if request.profile else []
    if request.profile and request.padded:
        everywhere += [Position("padded", i) for i in range(encoder.max_positions)]
    extra = [place for place in everywhere if place not in positions]
    wanted = [Wanted(place, representations) for place in positions]
    wanted += [Wanted(place, representations, PROFILE_CAPTIONS) for place in extra]

    spool = CaptionSpool(captions, folder / "captions.jsonl")
    with _store(encoder, captions, folder / "vectors", wanted, request.cache, progress) as store:
        progress.expect(len(spool))
        store.fill(encoder, spool.texts(), wanted, pack_size=request.pack_size, progress=progress)
        lengths = store.lengths
        side = [(name, place) for name in representations for place in extra]
        yield Collected(
            captions=spool,
            vectors={(name, place): store.vectors(name, place) for name, place in request.pairs()},
            profile={(name, place): store.vectors(name, place, PROFILE_CAPTIONS) for name, place in side},
            rows={place: np.flatnonzero(place.present(lengths.eos)) for place in positions},
            n=len(lengths.eos),
            n_truncated=int(lengths.truncated.sum()),
            lengths=np.bincount(lengths.tokens, minlength=encoder.max_positions + 1),
        )


@contextmanager
def _store(
    encoder: TextEncoder,
    captions: CaptionStream,
    folder: Path,
    wanted: list[Wanted],
    cache: EmbeddingCache | None,
    progress: Progress,
) -> Iterator[VectorStore]:
    if cache is None:
        yield VectorStore(folder, {}, notify=progress.note)
        return
    counts = captions.counts
    with cache.open(
        encoder,
        wanted,
        captions=str(captions.source),
        captions_sha256=counts.sha256,
        n=counts.n_used,
        fallback=folder,
        notify=progress.note,
    ) as store:
        yield store
