"""Names in and of files of embeddings: endings, FILE::KEY, and the arrays that describe the rows of others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

__all__ = ["SEPARATOR", "SUFFIXES", "UNKNOWN_SUFFIX", "split_source", "without_companions"]

SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet")
SEPARATOR = "::"
_COMPANIONS = (".captions", ".images")  # ends of the names of arrays that describe the rows of others
UNKNOWN_SUFFIX = "{name}: {suffix!r} is no ending of embeddings; use one of " + ", ".join(SUFFIXES)


def split_source(source: str | Path) -> tuple[Path, str | None]:
    """Split ``FILE::KEY``; two colons in the name of an existing file belong to it."""
    text = str(source)
    if SEPARATOR in text and not Path(text).exists():
        text, key = text.rsplit(SEPARATOR, maxsplit=1)
        return Path(text).expanduser(), key
    return Path(text).expanduser(), None


def without_companions(names: Iterable[str]) -> list[str]:
    """Leave out the arrays that `clipgeom encode` writes beside its vectors."""
    return [name for name in names if not name.endswith(_COMPANIONS)]
