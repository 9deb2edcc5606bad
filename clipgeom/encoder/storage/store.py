"""Vector store: the vectors of one caption set in a folder, encoded once and verified when read.

Finished arrays lie in the folder, one file of float32 rows each. `store.json` names them with their shapes and checksums,
and contains a digest of itself. What is being encoded lies in `partial/`; see `clipgeom.encoder.storage.partial`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipgeom._io.files import replacing
from clipgeom._progress import Progress, Quiet
from clipgeom.encoder.encode import Wanted, check_pack_size
from clipgeom.encoder.positions import Position
from clipgeom.encoder.storage.partial import Lengths, Partial, file_name
from clipgeom.encoder.storage.sealed import checksum, read_sealed, remove, write_sealed
from clipgeom.geometry.vectors import FileVectors

if TYPE_CHECKING:
    from clipgeom.encoder.load import TextEncoder

__all__ = ["Lengths", "VectorStore"]

SCHEMA = "clipgeom.vectors/2"
_LENGTHS = "tokens.npz"
_ITEM = np.dtype("<f4")
_NAME = re.compile(r"[a-z]+\.(eos|\d+|padded-\d+)(\.first\d+)?\.f32", re.ASCII)


class VectorStore:
    """The vectors of one caption set through one encoder.

    Parameters
    ----------
    folder : Path
        Its folder; created when something is written.
    identity : mapping
        Description of the vectors; a folder with another identity is encoded again.
    notify : callable
        Called with a sentence about damaged data that is encoded again.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], *, notify: Callable[[str], None] = lambda _text: None
    ) -> None:
        self.folder = folder
        self._identity = dict(identity)
        self._notify = notify
        self._arrays = self._read()

    def has(self, wanted: Iterable[Wanted]) -> bool:
        """Whether the store contains everything wanted."""
        return _LENGTHS in self._arrays and not _missing(wanted, self._arrays)

    def vectors(self, representation: str, position: Position, first: int | None = None) -> FileVectors:
        """Rows of the captions that have the position, in their order."""
        name = file_name(representation, position, first)
        entry = self._arrays[name]
        return FileVectors(self.folder / name, n=entry["rows"], dim=entry["dim"], dtype=_ITEM)

    @property
    def lengths(self) -> Lengths:
        """Lengths of the captions."""
        with np.load(self.folder / _LENGTHS, allow_pickle=False) as arrays:
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
        """Encode missing vectors; continue an interrupted run of the same kind.

        Raises
        ------
        ClipGeomError
            The encoder lacks a wanted representation.
        OSError
            The folder cannot be written, or its disk is full.
        """
        check_pack_size(pack_size, encoder.max_positions)
        missing = _missing(wanted, self._arrays)
        if not missing and _LENGTHS in self._arrays:
            return
        if encoder.unpacked:
            self._notify(f"captions are run whole, those of one length together: {encoder.name}: {encoder.unpacked}")
        partial = Partial(self.folder / "partial", encoder, missing, pack_size, self._notify)
        with partial:
            lengths = partial.run(encoder, texts, pack_size, progress or Quiet())
        with replacing(partial.folder / _LENGTHS) as path, path.open("wb") as file:
            np.savez(file, eos=lengths.eos, tokens=lengths.tokens, truncated=lengths.truncated)
        finished = {**partial.shapes, _LENGTHS: {}}
        for name, shape in finished.items():
            crc, size = checksum(partial.folder / name)
            if (self.folder / name).is_dir():
                remove(self.folder / name)
            (partial.folder / name).replace(self.folder / name)
            self._arrays[name] = {**shape, "bytes": size, "crc32": crc}
        content = {"schema": SCHEMA, "identity": self._identity, "arrays": self._arrays}
        write_sealed(self.folder / "store.json", content)
        remove(partial.folder)

    def _read(self) -> dict[str, dict[str, int]]:
        """Read the list of finished arrays, and verify them."""
        try:
            described = read_sealed(self.folder / "store.json")
            if described["schema"] != SCHEMA or described["identity"] != self._identity:
                raise ValueError("it is of another version or of other captions")
            entries = {name: _checked(name, entry) for name, entry in dict(described["arrays"]).items()}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (ValueError, KeyError, TypeError) as error:
            self._notify(
                f"{self.folder / 'store.json'} is damaged, or another version of clipgeom wrote it ({error}); "
                "encoding anew"
            )
            return {}
        whole = {n: e for n, e in entries.items() if checksum(self.folder / n) == (e["crc32"], e["bytes"])}
        if len(whole) < len(entries):
            self._notify(
                f"{', '.join(sorted(set(entries) - set(whole)))} in {self.folder} is damaged; encoding it anew"
            )
        return whole


def _checked(name: str, entry: Any) -> dict[str, int]:
    """Refuse an invalid description of an array."""
    keys = {"bytes", "crc32"} if name == _LENGTHS else {"bytes", "crc32", "rows", "dim"}
    plain = isinstance(entry, dict) and entry.keys() == keys and all(type(v) is int and v >= 0 for v in entry.values())
    if not plain or (name != _LENGTHS and not _NAME.fullmatch(name)):
        raise ValueError(f"it describes {name!r} as no store does")
    if name != _LENGTHS and entry["rows"] * entry["dim"] * _ITEM.itemsize != entry["bytes"]:
        raise ValueError(f"the shape of {name} does not fit its size")
    return {key: entry[key] for key in entry}


def _missing(wanted: Iterable[Wanted], arrays: Mapping[str, Any]) -> list[Wanted]:
    """Return the wanted representations that the arrays lack, by position."""
    missing = []
    for entry in wanted:
        names = tuple(n for n in entry.representations if file_name(n, entry.position, entry.first) not in arrays)
        if names:
            missing.append(Wanted(entry.position, names, entry.first))
    return missing
