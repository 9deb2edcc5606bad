"""Captions in use: selection, order and counts of the rows of a source."""

import hashlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol, TypeAlias

from clipgeom.captions.sampling import sample_uniformly
from clipgeom.errors import CaptionError, ClipGeomError

__all__ = ["Caption", "CaptionCounts", "CaptionStream", "PerImage", "Sample", "Selection", "Source"]

Sample: TypeAlias = Literal["first", "random"]
PerImage: TypeAlias = Literal["all", "first"]


@dataclass(frozen=True, slots=True)
class Caption:
    """One caption.

    Attributes
    ----------
    id : str
        The annotation's own id in COCO files; elsewhere the number of the line or row, from 1.
    text : str
        The caption as the source has it, without white space (and line ends) before and after: COCO's own annotations
        carry such. Nothing inside is touched.
    image_id : str or None
        The image that it describes, if the source has image ids.
    """

    id: str
    text: str
    image_id: str | None = None


@dataclass(frozen=True, slots=True)
class CaptionCounts:
    """Counts of captions: read, left out by reason, and used.

    ``n_read = n_blank + n_same_image + n_unsampled + n_used``; with ``unique=True``, plus `n_duplicates`.

    Attributes
    ----------
    n_read : int
        Captions read from the source. Reading stops at the limit if the first captions are taken, so that this may be
        fewer than all.
    n_blank : int
        Captions that are missing (null), empty, or white space only. They are left out.
    n_same_image : int
        Captions left out by ``per_image="first"``.
    n_duplicates : int
        Captions whose text was seen before, among those neither blank nor left out by `per_image`; counted before
        sampling. Left out only with ``unique=True``.
    n_unsampled : int
        Captions that the random sample did not take.
    n_used : int
        Captions in use.
    sha256 : str
        SHA-256 over the used texts in order: the UTF-8 bytes of each, preceded by their number as a little-endian
        unsigned 64-bit integer. Ids are not included, so that one set has one hash in every file format.
    """

    n_read: int
    n_blank: int
    n_same_image: int
    n_duplicates: int
    n_unsampled: int
    n_used: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Selection of captions; the checked arguments of `open_captions`."""

    limit: int | None = None
    sample: Sample = "first"
    seed: int = 0
    per_image: PerImage = "all"
    unique: bool = False
    group_size: int | None = None


class Source(Protocol):
    """A source that can be read from its beginning any number of times."""

    @property
    def description(self) -> str:
        """Name the source, for error messages and provenance."""

    def rows(self) -> Generator[Caption, None, None]:
        """Read the captions, texts exactly as they are in the source."""


@dataclass(slots=True)
class _Tally:
    read: int = 0
    blank: int = 0
    same_image: int = 0
    duplicates: int = 0
    passed: int = 0


class CaptionStream:
    """The captions in use, as an iterable that starts over each time; made by `open_captions`.

    The order of events is: read, drop blank captions, keep the first of each image (``per_image="first"``), drop
    repeated texts (``unique``), limit or sample. The order of the source is kept.

    Captions are not kept in memory, except a random sample of `limit` captions. Repeated texts and images are
    recognised by 16-byte digests: about 100 bytes a caption with Python's overhead, or 40 MB for 400,000.
    """

    def __init__(self, source: Source, selection: Selection, groups_by: str | None = None) -> None:
        self._source = source
        self._selection = selection
        self._groups_by = groups_by
        self._counts: CaptionCounts | None = None

    @property
    def source(self) -> str:
        """The source, for provenance."""
        return self._source.description

    @property
    def selection(self) -> Selection:
        """The selection of captions."""
        return self._selection

    @property
    def groups_by(self) -> str | None:
        """The way captions of one image are recognised, such as ``image ids``; None if they are not."""
        return self._groups_by

    @property
    def counts(self) -> CaptionCounts:
        """Counts of the last complete iteration.

        Raises
        ------
        ClipGeomError
            The stream has not been read to its end yet.
        """
        if self._counts is None:
            raise ClipGeomError("The counts are known only after the captions have been read to their end.")
        return self._counts

    def __repr__(self) -> str:
        return f"CaptionStream({self.source!r}, {self._selection})"

    def __iter__(self) -> Iterator[Caption]:
        tally, used, framed = _Tally(), 0, hashlib.sha256()
        with closing(self._source.rows()) as rows:
            for caption in self._limited(self._filtered(rows, tally)):
                text = caption.text.encode()
                framed.update(len(text).to_bytes(8, "little") + text)
                used += 1
                yield caption
        if used == 0:
            raise CaptionError(
                f"{self.source} holds no captions: "
                + (f"{tally.read} read, all of them blank." if tally.read else "it is empty.")
            )
        self._counts = CaptionCounts(
            n_read=tally.read,
            n_blank=tally.blank,
            n_same_image=tally.same_image,
            n_duplicates=tally.duplicates,
            n_unsampled=tally.passed - used,
            n_used=used,
            sha256=framed.hexdigest(),
        )

    def _filtered(self, rows: Iterable[Caption], tally: _Tally) -> Iterator[Caption]:
        first_of_image = self._selection.per_image == "first"
        group_size = self._selection.group_size
        images: set[bytes] = set()
        texts: set[bytes] = set()
        for row in rows:
            image_id = row.image_id if group_size is None else str(tally.read // group_size)
            tally.read += 1
            text = row.text.strip()
            if not text:
                tally.blank += 1
                continue
            if first_of_image:
                if image_id is None:
                    raise CaptionError(
                        f"{self.source}: caption {row.id} has no usable image id (text or a whole number), which "
                        'per_image="first" needs; give every caption its image, or use per_image="all".'
                    )
                if _seen(image_id, images):
                    tally.same_image += 1
                    continue
            if _seen(text, texts):
                tally.duplicates += 1
                if self._selection.unique:
                    continue
            tally.passed += 1
            yield Caption(row.id, text, image_id)

    def _limited(self, captions: Iterator[Caption]) -> Iterable[Caption]:
        limit = self._selection.limit
        if limit is None:
            return captions
        if self._selection.sample == "random":
            return sample_uniformly(captions, limit, seed=self._selection.seed)
        return islice(captions, limit)


def _seen(text: str, digests: set[bytes]) -> bool:
    """Whether `text` occurred before; add it to the digests."""
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    if digest in digests:
        return True
    digests.add(digest)
    return False
