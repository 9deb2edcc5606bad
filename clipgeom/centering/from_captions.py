"""The centering check on a caption set."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from clipgeom._progress import Progress, Quiet
from clipgeom.centering import CenteringCheck, check_centering
from clipgeom.encoder.encode_captions import EncodingRequest, collect
from clipgeom.encoder.positions import Position
from clipgeom.encoder.storage.cache import EmbeddingCache
from clipgeom.geometry.norms import require_samples

if TYPE_CHECKING:
    from clipgeom.captions import CaptionStream
    from clipgeom.encoder.load import TextEncoder

__all__ = ["check_captions"]


# Many parameters: keyword options of a public function, the same as those of `measure_captions`
def check_captions(
    encoder: TextEncoder,
    captions: CaptionStream,
    *,
    representations: tuple[str, ...],
    positions: tuple[Position, ...],
    seed: int = 0,
    cache: EmbeddingCache | None = None,
    pack_size: int | None = None,
    workspace: Path,
    progress: Progress | None = None,
) -> list[tuple[str, str, CenteringCheck]]:
    """Encode captions and run the centering check on each row: (representation, position, outcome).

    The parameters are the same as in `measure_captions`.
    """
    checks = []
    with (
        tempfile.TemporaryDirectory(prefix=".clipgeom-", dir=workspace) as folder,
        collect(
            encoder,
            captions,
            EncodingRequest(representations, positions, cache=cache, pack_size=pack_size),
            folder=Path(folder),
            progress=progress or Quiet(),
        ) as collected,
    ):
        for representation in representations:
            for place in positions:
                vectors, groups = collected.vectors[representation, place], collected.images(place)
                require_samples(vectors.n, collected.n - vectors.n, str(place), groups)
                checks.append((representation, str(place), check_centering(vectors, groups=groups, seed=seed)))
    return checks
