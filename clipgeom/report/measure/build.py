"""Measure a caption set or embeddings for a report."""

from __future__ import annotations

import hashlib
import platform
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipgeom._progress import Progress, Quiet
from clipgeom._version import __version__
from clipgeom.encoder.encode_captions import CaptionSpool, Collected, EncodingRequest, collect
from clipgeom.encoder.positions import Position
from clipgeom.encoder.storage.cache import EmbeddingCache
from clipgeom.errors import DomainError
from clipgeom.geometry.embedding_files import embeddings_metadata, groups_of_embeddings
from clipgeom.geometry.vectors import ArrayVectors, Vectors
from clipgeom.report.folder import SCHEMA
from clipgeom.report.measure.rows import Row, RowArrays, VectorSet, json_ready, measure_profile, measure_row

if TYPE_CHECKING:
    from clipgeom.captions import CaptionStream
    from clipgeom.encoder.load import TextEncoder

__all__ = ["ImageEmbedder", "ReportData", "measure_captions", "measure_embeddings"]

PICTURES = 2000  # maximal number of images to embed, for captions with images
_VERSIONS = ("clipgeom", "numpy", "scipy", "torch", "transformers", "tokenizers", "scikit-learn")


ImageEmbedder = Callable[[Sequence[str]], NDArray[np.float64]]  # from ids of captions to projected embeddings of images


@dataclass(frozen=True, eq=False)
class ReportData:
    """A report before it is written: the content of report.json, the centres, and the arrays of the figures."""

    report: dict[str, Any]
    centers: dict[str, NDArray[np.float64]]
    rows: list[RowArrays] = field(default_factory=list)


# Many parameters: users give them from Python, by keyword; `EncodingRequest` carries those of the encoding on.
def measure_captions(
    encoder: TextEncoder,
    captions: CaptionStream,
    *,
    representations: tuple[str, ...],
    positions: tuple[Position, ...],
    profile: bool = True,
    padded: bool = False,
    check: bool = True,
    seed: int = 0,
    cache: EmbeddingCache | None = None,
    pack_size: int | None = None,
    workspace: Path,
    command: str | None = None,
    progress: Progress | None = None,
    images: ImageEmbedder | None = None,
) -> ReportData:
    """Encode a caption set and measure it.

    Parameters
    ----------
    encoder : TextEncoder
    captions : CaptionStream
    representations, positions
        One row of statistics for each pair, in this order.
    profile, padded : bool
        Whether to profile all content positions, and all padded ones too.
    check : bool
        Whether to run the centering check on each row.
    seed : int
        Seed of every interval.
    cache : EmbeddingCache, optional
        Cache of vectors; without one they are encoded, and deleted afterwards.
    pack_size : int, optional
        Tokens per forward pass; affects speed and memory only.
    workspace : Path
        Folder for the captions while they are needed, and for the vectors without a cache: about n·d·4 bytes a row.
    command : str, optional
        Recorded as the command that reproduces the report.
    progress : Progress, optional
        Receives the progress.
    images : ImageEmbedder, optional
        Embeds the captions' images, for an additional row and a comparison with ``projected`` at EOS. Without that
        row no image is embedded.

    Raises
    ------
    ClipGeomError
        Captions or encoder cannot be read, or too few captions have a position.
    """
    request = EncodingRequest(representations, positions, profile, padded, cache, pack_size)
    progress = progress or Quiet()
    with (
        tempfile.TemporaryDirectory(prefix=".clipgeom-", dir=workspace) as folder,
        collect(encoder, captions, request, folder=Path(folder), progress=progress) as collected,
    ):
        rows = [
            measure_row(_collected_set(collected, name, place), seed=seed, check=check)
            for name, place in request.pairs()
        ]
        profile_rows, centers = _profile(collected, representations)
        modality = None
        texts = collected.vectors.get(("projected", Position("eos")))
        if images is not None and texts is not None:
            row, modality = _pictured(images, texts, collected.captions, seed, check, progress)
            rows.append(row)
    report = _report(
        provenance=_caption_provenance(encoder, captions, seed, command),
        captions=_caption_counts(captions, collected, positions),
        rows=rows,
        profile=profile_rows,
        modality=modality,
    )
    return ReportData(report, {**centers, **_centers(rows)}, [row.arrays for row in rows])


# Many parameters: users give them from Python, by keyword; three of them only name files and command in the report.
def measure_embeddings(
    vectors: Vectors,
    *,
    source: Path | str,
    representation: str,
    position: Position,
    images: Vectors | None = None,
    image_source: Path | str | None = None,
    group_size: int | None = None,
    check: bool = True,
    seed: int = 0,
    command: str | None = None,
) -> ReportData:
    """Measure vectors computed elsewhere, and compare them with `images` of the same space if given.

    Vectors of one image form a group, by the image ids from `clipgeom encode`, or as `group_size` consecutive ones.
    If there is an image for each vector, the images have the same groups.

    Raises
    ------
    ConfigError
        `group_size` is given for vectors with image ids.
    """
    groups, groups_by = groups_of_embeddings(source, vectors.n, group_size)
    rows = [measure_row(_given(vectors, representation, str(position), groups), seed=seed, check=check)]
    modality = None
    if images is not None:
        from clipgeom.geometry.modality import compare_modalities

        by_image = _given(images, representation, "image", groups if images.n == vectors.n else None)
        rows.append(measure_row(by_image, seed=seed, check=check))
        modality = asdict(compare_modalities(_whole(images), _whole(vectors), groups=groups, seed=seed))
    about = embeddings_metadata(source)
    report = _report(
        provenance={
            "model": about.get("model"),
            "revision": None,
            "fingerprint": about.get("fingerprint"),
            "dtype": None,
            "device": None,
            "captions": about.get("captions"),
            "embeddings": str(source),
            "embeddings_sha256": _vectors_digest(vectors),
            "image_embeddings": None if images is None else str(image_source),
            "image_embeddings_sha256": None if images is None else _vectors_digest(images),
            "captions_sha256": about.get("captions_sha256"),
            "group_size": group_size,
            "groups": groups_by,
            "seed": seed,
            "command": command,
        },
        captions=None,
        rows=rows,
        profile=[],
        modality=modality,
    )
    return ReportData(report, _centers(rows), [row.arrays for row in rows])


def _collected_set(collected: Collected, representation: str, place: Position) -> VectorSet:
    return VectorSet(
        collected.vectors[representation, place],
        representation,
        str(place),
        _describer(collected.captions, collected.rows[place]),
        n_excluded=collected.n - len(collected.rows[place]),
        groups=collected.images(place),
    )


def _caption_provenance(
    encoder: TextEncoder, captions: CaptionStream, seed: int, command: str | None
) -> dict[str, Any]:
    return {
        "model": encoder.name,
        "revision": encoder.revision,
        "fingerprint": encoder.fingerprint,
        "dtype": encoder.dtype,
        "device": encoder.device,
        "captions": captions.source,
        "selection": asdict(captions.selection),
        "captions_sha256": captions.counts.sha256,
        "seed": seed,
        "command": command,
    }


def _caption_counts(captions: CaptionStream, collected: Collected, positions: tuple[Position, ...]) -> dict[str, Any]:
    counts = asdict(captions.counts)
    del counts["sha256"]
    images = collected.captions.images
    return {
        **counts,
        "groups": captions.groups_by,
        "n_groups": None if images is None else int(images.max()) + 1,
        "n_truncated": collected.n_truncated,
        "token_length": _token_lengths(collected.lengths),
        "excluded": {str(place): collected.n - len(collected.rows[place]) for place in positions},
    }


def _pictured(
    images: ImageEmbedder, texts: Vectors, captions: CaptionSpool, seed: int, check: bool, progress: Progress
) -> tuple[Row, dict[str, Any]]:
    """Measure the images of the first captions, and compare them with these captions."""
    from clipgeom.geometry.modality import compare_modalities

    n = min(texts.n, PICTURES)
    described = captions.read(range(n))
    progress.note(f"embedding the pictures of {n:,} captions")
    vectors = images([identifier for identifier, _ in described])
    groups = None if captions.images is None else captions.images[:n]
    measured = VectorSet(
        ArrayVectors(vectors),
        "projected",
        "image",
        lambda indices: [{"id": described[i][0], "text": described[i][1]} for i in map(int, indices)],
        groups=groups,
    )
    row = measure_row(measured, seed=seed, check=check)
    return row, asdict(compare_modalities(vectors, _whole(texts)[:n], groups=groups, seed=seed))


def _given(vectors: Vectors, representation: str, position: str, groups: NDArray[np.int64] | None) -> VectorSet:
    return VectorSet(
        vectors,
        representation,
        position,
        lambda indices: [{"id": str(int(i)), "text": f"row {int(i)}"} for i in indices],
        groups=groups,
        encoded=False,
    )


def _describer(spool: CaptionSpool, rows: NDArray[np.int64]) -> Callable[[Iterable[int]], list[dict[str, str]]]:
    def describe(indices: Iterable[int]) -> list[dict[str, str]]:
        return [{"id": i, "text": text} for i, text in spool.read(int(rows[k]) for k in indices)]

    return describe


def _report(
    *,
    provenance: dict[str, Any],
    captions: dict[str, Any] | None,
    rows: list[Row],
    profile: list[dict[str, Any]],
    modality: dict[str, Any] | None = None,
) -> dict[str, Any]:
    ready: dict[str, Any] = json_ready(
        {
            "schema": SCHEMA,
            "provenance": {
                **provenance,
                "versions": _versions(),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            },
            "captions": captions,
            "statistics": [row.statistics for row in rows],
            "centering": [row.centering for row in rows if row.centering is not None],
            "conformity": [row.conformity for row in rows if row.conformity is not None],
            "profile": profile,
            "modality": modality,
        }
    )
    return ready


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    versions["clipgeom"] = __version__
    return versions


def _profile(
    collected: Collected, representations: tuple[str, ...]
) -> tuple[list[dict[str, Any]], dict[str, NDArray[np.float64]]]:
    """Rows of the profile in the order of positions, and their centres by name."""
    rows, centers = [], {}
    measured = {**collected.profile, **collected.vectors}
    for representation in representations:
        places = sorted(place for name, place in measured if name == representation and place.kind != "eos")
        for place in places:
            row = measure_profile(measured[representation, place])
            if row is None:
                continue
            centers[f"{representation}.{place}"] = row.pop("center")
            rows.append({"representation": representation, "population": place.kind, "position": place.index, **row})
    return rows, centers


def _centers(rows: list[Row]) -> dict[str, NDArray[np.float64]]:
    return {f"{row.statistics['representation']}.{row.statistics['position']}": row.center for row in rows}


def _token_lengths(counts: NDArray[np.int64]) -> dict[str, Any]:
    """Distribution of the number of tokens, BOS and EOS included, after cutting."""
    lengths = np.flatnonzero(counts)
    total = int(counts.sum())
    cumulative = np.cumsum(counts)
    return {
        "mean": float((np.arange(len(counts)) * counts).sum() / total),
        "min": int(lengths[0]),
        "median": int(np.searchsorted(cumulative, total / 2)),
        "p95": int(np.searchsorted(cumulative, 0.95 * total)),
        "max": int(lengths[-1]),
        "counts": {str(int(k)): int(counts[k]) for k in lengths},
    }


def _vectors_digest(vectors: Vectors) -> str:
    digest = hashlib.sha256(f"{vectors.n} {vectors.dim}\n".encode())
    for block in vectors.blocks():
        digest.update(block.astype("<f8", copy=False).tobytes())
    return digest.hexdigest()


def _whole(vectors: Vectors) -> NDArray[np.float64]:
    blocks = list(vectors.blocks())
    if not blocks:
        raise DomainError("expected vectors, got none")
    return np.concatenate(blocks)
