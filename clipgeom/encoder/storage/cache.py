"""Cache of encoded caption sets: a vector store for each encoder, caption set and dtype."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipgeom._extras import needs_extra
from clipgeom._io.download import cache_folder
from clipgeom._io.files import STAGING
from clipgeom.encoder.encode import Wanted
from clipgeom.encoder.storage.sealed import read_sealed, write_sealed
from clipgeom.encoder.storage.store import VectorStore
from clipgeom.errors import ClipGeomError

if TYPE_CHECKING:
    from clipgeom.encoder.load import TextEncoder

__all__ = ["CacheError", "CachedSet", "EmbeddingCache"]

_NAME = re.compile("[0-9a-f]{32}")
_OWN = re.compile(r"about\.json|store\.json|partial|tokens\.npz|[\w.-]+\.f32|" + re.escape(STAGING) + ".*", re.ASCII)


class CacheError(ClipGeomError):
    """The cache cannot store a caption set."""


@dataclass(frozen=True, slots=True)
class CachedSet:
    """A cached caption set; `complete` is False after an interrupted run, `n` is None if unknown."""

    name: str
    model: str
    captions: str
    dtype: str
    n: int | None
    size: int
    used: datetime
    complete: bool


class EmbeddingCache:
    """A folder of encoded caption sets.

    Processes that want the same set take turns, by an advisory lock that a crash releases: the second finds the
    vectors there.

    Parameters
    ----------
    root : Path, optional
        By default ``encodings`` in ``$CLIPGEOM_CACHE`` or the user's cache folder.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = cache_folder() / "encodings" if root is None else root

    @contextmanager
    def open(
        self,
        encoder: TextEncoder,
        wanted: Sequence[Wanted],
        *,
        captions: str,
        captions_sha256: str,
        n: int,
        fallback: Path,
        notify: Callable[[str], None] = lambda _text: None,
    ) -> Iterator[VectorStore]:
        """Open the store of one caption set for the duration of the context.

        Parameters
        ----------
        encoder : TextEncoder
        wanted : sequence of Wanted
            The vectors that will be read from the store.
        captions, captions_sha256, n
            Name, hash over the texts in order, and number of the captions.
        fallback : Path
            Folder for a temporary store if the cache cannot be written; `notify` is called then.
        notify : callable
            Called with a note for the user, in a sentence.

        Raises
        ------
        CacheError
            No space left on the cache's disk.
        """
        with needs_extra("report", "the cache"):
            import filelock

        identity = {
            "fingerprint": encoder.fingerprint,
            "captions_sha256": captions_sha256,
            "dtype": encoder.dtype,
        }
        name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
        folder = self.root / name
        lock = filelock.FileLock(self.root / f"{name}.lock")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                notify("waiting for another process that encodes the same captions")
                lock.acquire()
            about = {"model": encoder.name, "captions": captions, "dtype": encoder.dtype, "n": n}
            write_sealed(folder / "about.json", about)
        except OSError as error:
            lock.release()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full(error) from error
            kept = VectorStore(folder, identity, notify=notify)
            if not kept.has(wanted):
                notify(f"the cache {self.root} cannot be written ({error.strerror}); nothing is kept of this run")
                kept = VectorStore(fallback, identity, notify=notify)
            yield kept
            return
        try:
            yield VectorStore(folder, identity, notify=notify)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full(error) from error
            raise
        except KeyboardInterrupt:
            notify("interrupted; the same command goes on where this one stopped")
            raise
        finally:
            lock.release()

    def sets(self) -> list[CachedSet]:
        """List the cached sets, the most recently used first."""
        found = []
        for folder in self._folders():
            sizes = [path.lstat().st_size for path in folder.rglob("*") if path.is_file()]
            about = _about(folder)
            found.append(
                CachedSet(
                    name=folder.name,
                    model=str(about.get("model", "?")),
                    captions=str(about.get("captions", "?")),
                    dtype=str(about.get("dtype", "?")),
                    n=about.get("n"),
                    size=sum(sizes),
                    used=datetime.fromtimestamp(folder.stat().st_mtime, UTC),
                    complete=(folder / "store.json").exists() and not (folder / "partial").exists(),
                )
            )
        return sorted(found, key=lambda entry: entry.used, reverse=True)

    def clear(self) -> tuple[list[str], list[str], list[str]]:
        """Delete the cache's own folders that are not in use.

        Returns
        -------
        tuple of lists of str
            Names of the folders that were deleted, that are in use, and that contain foreign files.
        """
        with needs_extra("report", "the cache"):
            import filelock

        deleted: list[str] = []
        used: list[str] = []
        foreign: list[str] = []
        for folder in self._folders():
            lock = filelock.FileLock(self.root / f"{folder.name}.lock")
            try:
                with lock.acquire(timeout=0):
                    own = all(_OWN.fullmatch(path.name) for path in folder.iterdir())
                    if own:
                        shutil.rmtree(folder)
                    (deleted if own else foreign).append(folder.name)
            except filelock.Timeout:
                used.append(folder.name)
        # lock files stay: deleting one that another process has open would let two processes lock it
        return deleted, used, foreign

    def _folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return [p for p in self.root.iterdir() if _NAME.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]

    def _full(self, error: OSError) -> CacheError:
        free = shutil.disk_usage(self.root).free / 1e6
        return CacheError(
            f"no space left for the vectors in {self.root} ({free:,.0f} MB free): make room with clipgeom cache clear, "
            "set CLIPGEOM_CACHE to a folder on another disk, or pass --no-cache"
        )


def _about(folder: Path) -> dict[str, Any]:
    try:
        return read_sealed(folder / "about.json")
    except (OSError, ValueError):
        return {}
