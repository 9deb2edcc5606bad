"""COCO captions from a JSON file, from a zip archive, or from the official archive of 2014."""

import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import IO, Any

from clipgeom._io.download import cache_folder, fetch
from clipgeom.captions.json_text import JsonFault, JsonText
from clipgeom.captions.lines import checked_text, open_binary, usable_id
from clipgeom.captions.stream import Caption
from clipgeom.errors import CaptionError, ConfigError

__all__ = ["COCO_2014", "Archive", "CocoCaptions", "captions_member", "coco_2014"]

_EXPECTED = (
    "expected COCO captions: an object with 'annotations', a list of objects with 'id', 'image_id' and 'caption'"
)
_CHUNK = 1 << 20
_LISTED = 12  # members or keys named in a message


@dataclass(frozen=True, slots=True)
class Archive:
    """A file to download: its address, exact size and checksum."""

    url: str
    size: int
    checksum: str


COCO_2014 = Archive(
    # The address published at https://cocodataset.org/#download. It is plain http because the host's certificate does
    # not cover the name; size and checksum identify the right file. The server publishes both: the ETag of an object
    # that was uploaded to S3 in one piece is its MD5.
    url="http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
    size=252_872_794,
    checksum="md5:0a379cfc70b0e71301e0f377548639bd",
)


@dataclass(frozen=True, slots=True)
class CocoCaptions:
    """A COCO captions file, alone or as the member of a zip archive, which is read without unpacking.

    Of the JSON, one annotation is in memory at a time.
    """

    path: Path
    member: str | None = None
    name: str | None = None

    @property
    def description(self) -> str:
        """The name if the source has one (``coco2014:val``), else the path, with ``::member`` for a zip."""
        return self.name or (str(self.path) if self.member is None else f"{self.path}::{self.member}")

    def rows(self) -> Generator[Caption, None, None]:
        """Read the captions; the ids are those of the annotations."""
        number, kinds = 0, dict[str, str]()
        try:
            with self._opened() as file:
                for number, annotation in enumerate(_annotations(JsonText(file), kinds), 1):
                    yield self._caption(number, annotation)
        except JsonFault as fault:
            if self.member is not None:
                self._drain()  # of an archive, damage is the likelier cause: it fails at the checksum
            place = f", annotation {number + 1}" if number else ""
            raise CaptionError(f"{self.description}{place} is not valid JSON: {fault}.") from fault
        if not number:
            self._explain_nothing(kinds)

    def _caption(self, number: int, annotation: Any) -> Caption:
        where = f"{self.description}, annotation {number}"
        if not isinstance(annotation, dict):
            raise CaptionError(f"{where}: found {type(annotation).__name__}; {_EXPECTED}.")
        if "caption" not in annotation:
            raise CaptionError(
                f"{where}: no 'caption', only {_listed(annotation)}; {_EXPECTED}. (COCO's instances and keypoints have "
                "annotations without captions: is it the right file?)"
            )
        text = checked_text(annotation["caption"], where)
        identifier = usable_id(annotation.get("id")) or str(number)
        return Caption(identifier, text, usable_id(annotation.get("image_id")))

    def _explain_nothing(self, kinds: dict[str, str]) -> None:
        if kinds.get("annotations") == "[":
            raise CaptionError(f"{self.description} holds no captions: its 'annotations' are empty.")
        if "" in kinds:
            found = "a list" if kinds[""] == "[" else "a single value"
        elif "annotations" in kinds:
            found = "an object whose 'annotations' are no list"
        else:
            found = f"an object with the keys {_listed(kinds)}"
        raise CaptionError(
            f"{self.description} is JSON, but {found}; {_EXPECTED}. (Other JSON: as .jsonl, an object a line.)"
        )

    def _drain(self) -> None:
        with self._opened() as file:
            while file.read(_CHUNK):
                pass

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        if self.member is None:
            with open_binary(self.path) as file:
                yield file
            return
        with _archive(self.path) as archive:
            try:
                member = archive.open(self.member)
            except (RuntimeError, NotImplementedError) as error:  # encrypted; a compression that Python cannot read
                raise CaptionError(f"{self.description} cannot be unpacked: {error}.") from error
            with member:
                yield member


def coco_2014(split: str, /) -> CocoCaptions:
    """Return the captions of COCO 2014, fetching the official archive (253 MB) into the cache on first use.

    Parameters
    ----------
    split : str
        ``"train"`` or ``"val"``.

    Raises
    ------
    DownloadError
        The archive cannot be fetched.
    """
    member = f"annotations/captions_{split}2014.json"
    name = PurePosixPath(COCO_2014.url).name
    path = fetch(
        COCO_2014.url,
        cache_folder() / "coco2014" / name,
        size=COCO_2014.size,
        checksum=COCO_2014.checksum,
        instead=f"Without a network here: download {COCO_2014.url} by hand and pass --captions {name}::{member}",
    )
    return CocoCaptions(path, captions_member(path, member), name=f"coco2014:{split}")


def captions_member(path: Path, asked: str | None, /) -> str:
    """Find the captions inside a zip archive.

    Parameters
    ----------
    path : Path
        The archive.
    asked : str or None
        The member that the user names. Otherwise the archive must contain exactly one ``captions*.json``, or else
        exactly one ``.json``.

    Raises
    ------
    ConfigError
        There are several, or the named one is missing.
    CaptionError
        There is none, or the file is not a zip archive.
    """
    with _archive(path) as archive:
        # macOS adds a shadow file of the same name under __MACOSX/.
        names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX/")]
    if asked is not None:
        if asked in names:
            return asked
        close = get_close_matches(asked, names, n=1)
        raise ConfigError(
            f"{path} has no member {asked!r}; "
            + (f"did you mean {path.name}::{close[0]}?" if close else f"it holds {_listed(names)}.")
        )
    jsons = [n for n in names if n.lower().endswith(".json")]
    candidates = [n for n in jsons if PurePosixPath(n).name.startswith("captions")] or jsons
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise CaptionError(f"{path} holds no captions JSON, only {_listed(names)}.")
    raise ConfigError(
        f"{path} holds several captions files ({_listed(candidates)}); choose one, such as {path.name}::{candidates[0]}"
    )


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with open_binary(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise CaptionError(f"{path} is not a whole zip archive ({error}); fetch it again.") from error


def _annotations(text: JsonText, kinds: dict[str, str]) -> Iterator[Any]:
    """Read the values under ``annotations``, and record the type of each key's value; without an object, under ``""``."""
    if text.peek() != "{":
        kinds[""] = text.peek()
        text.skip()
    else:
        for key in text.keys():  # noqa: SIM118 - no mapping
            kinds.setdefault(key, text.peek())
            if key == "annotations" and text.peek() == "[":
                yield from text.items()
            else:
                text.skip()
    if text.peek():
        raise JsonFault("more follows after its end (JSON with one object a line is read from a file named .jsonl)")


def _listed(names: Any) -> str:
    names = list(map(str, names))
    shown = ", ".join(names[:_LISTED]) or "(none)"
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more"
