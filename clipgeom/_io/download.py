"""Download of one large file over HTTP: resumable, verified, and renamed into place at the end.

Why not a library: pooch verifies and renames atomically but starts over after a cut; ``huggingface_hub``'s
``http_get`` resumes, but checks neither a validator nor a checksum and is not a public name; fsspec does neither.
This module is therefore small code on httpx2, with these rules:

- the bytes collect in ``NAME.part``, which survives a cut, Ctrl-C and a reboot; ``NAME.part.json`` contains the URL
  and the server's validator, which the next request sends as ``If-Range`` so that halves of two versions are never
  joined (RFC 9110, section 13.1.5: a strong ETag, else the Last-Modified date);
- size and checksum are both required, and ``NAME`` appears, by rename, only when both are right;
- processes that want the same file take turns by an advisory lock on ``NAME.lock`` (`filelock`): the second finds the
  file there when its turn comes. A crash releases the lock.
"""

import errno
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clipgeom._extras import needs_extra
from clipgeom.errors import ClipGeomError

if TYPE_CHECKING:
    import httpx2

__all__ = ["DownloadError", "cache_folder", "fetch"]

_PATIENCE = 4  # failures in a row without progress before giving up: sleeps of 1 + 2 + 4 seconds
_LONGEST_SLEEP = 30.0
_TIMEOUT = 30.0  # seconds without data from the server
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class DownloadError(ClipGeomError):
    """A file cannot be downloaded, or has a wrong size or checksum."""


def cache_folder() -> Path:
    """Return the folder for fetched files: ``$CLIPGEOM_CACHE``, else the user's cache folder on this system."""
    if chosen := os.environ.get("CLIPGEOM_CACHE"):
        return Path(chosen).expanduser()
    with needs_extra("report", "finding the cache folder"):
        import platformdirs
    return Path(platformdirs.user_cache_dir("clipgeom", appauthor=False))


def fetch(
    url: str,
    destination: Path,
    /,
    *,
    size: int,
    checksum: str,
    instead: str = "",
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Make sure that `destination` contains the file at `url`; download missing bytes.

    An existing file of the right size is used without further checks: it was renamed only after its checksum was
    verified.

    Parameters
    ----------
    url : str
        An ``http`` or ``https`` address; redirects are followed.
    destination : Path
        Path of the file. Its folder is created if missing.
    size : int
        The exact size in bytes, at least 1.
    checksum : str
        ``"md5:…"`` or any other algorithm of `hashlib`, the digest in hexadecimal.
    instead : str, optional
        Advice for a machine without network; the last sentence of every error.
    sleep : callable, optional
        Waits between attempts.

    Returns
    -------
    Path
        `destination`.

    Raises
    ------
    DownloadError
        No connection, a refusal by the server, a wrong size or checksum, a full disk. What has arrived is kept for the
        next attempt unless it is known to be wrong.
    MissingExtraError
        httpx2, filelock or tqdm is not installed.
    """
    if _size(destination) == size:
        return destination
    with needs_extra("report", "downloading"):
        import httpx2
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _turn(destination):
            if _size(destination) != size:
                part = destination.with_name(destination.name + ".part")
                agent = {"Accept-Encoding": "identity", "User-Agent": "clipgeom"}
                with httpx2.Client(headers=agent, follow_redirects=True, timeout=_TIMEOUT) as client:
                    _complete(client, url, part, size=size, checksum=checksum, sleep=sleep)
                part.replace(destination)
                _notes(part).unlink(missing_ok=True)
    except DownloadError as error:
        raise DownloadError(f"{error} {instead}".rstrip()) from error.__cause__
    except httpx2.HTTPError as error:
        raise DownloadError(f"{url} cannot be fetched: {_plain(error)}. {instead}".rstrip()) from error
    except OSError as error:
        if error.errno in _DISK_FULL:
            problem = (
                f"the disk is full: the file takes {size / 1e6:.0f} MB. Free some space (what has arrived is kept)"
            )
        else:
            problem = f"{error.strerror or error}. Make it writable"
        problem = f"{url} cannot be written to {destination}: {problem}, or set CLIPGEOM_CACHE to another folder."
        raise DownloadError(f"{problem} {instead}".rstrip()) from error
    return destination


def _complete(
    client: "httpx2.Client", url: str, part: Path, *, size: int, checksum: str, sleep: Callable[[float], None]
) -> None:
    """Download `part` until it has the right size and checksum."""
    if _recall(part).get("url") != url or _size(part) > size:
        _forget(part)
    inherited = _size(part) > 0
    while True:
        _fill(client, url, part, size=size, sleep=sleep)
        found = _digest(part, checksum)
        if found == checksum.lower():
            return
        _forget(part)
        if not inherited:
            raise DownloadError(
                f"{url} has the checksum {found}, not the expected {checksum}; what arrived was removed."
            )
        # The bytes of an earlier run may be those of another version, as not every server sends a validator: once more,
        # from zero.
        inherited = False


def _fill(client: "httpx2.Client", url: str, part: Path, *, size: int, sleep: Callable[[float], None]) -> None:
    """Send requests until all bytes are there; give up after `_PATIENCE` attempts in a row without progress."""
    import httpx2

    furthest, failures = _size(part), 0
    with _progress(part.name.removesuffix(".part"), size) as show:
        while _size(part) < size:
            try:
                problem = _attempt(client, url, part, size=size, show=show)
            except httpx2.UnsupportedProtocol:
                raise
            except httpx2.TransportError as error:
                problem = _plain(error)
            have = _size(part)
            if have >= size:
                return
            # Only bytes beyond the furthest point count as a gain, or a server that ignores Range and always cuts at
            # the same place would be asked for ever.
            failures = 0 if have > furthest else failures + 1
            furthest = max(furthest, have)
            if failures >= _PATIENCE:
                raise DownloadError(f"{url} cannot be fetched: {problem} ({have:,} of {size:,} bytes are kept).")
            show.say(f"{problem}; trying again")
            sleep(min(2.0 ** max(failures - 1, 0), _LONGEST_SLEEP))


def _attempt(client: "httpx2.Client", url: str, part: Path, *, size: int, show: "_Progress") -> str:
    """Send one request for the missing bytes and append the response; return why bytes may still be missing."""
    have = _size(part)
    headers = {}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator := _recall(part).get("validator"):
            headers["If-Range"] = validator
    with client.stream("GET", url, headers=headers) as answer:
        status = answer.status_code
        if status in _PASSING_STATUS:
            return f"the server answers {status} {answer.reason_phrase}"
        if status == 416:
            _forget(part)
            return "the server has no such range"
        if status not in (200, 206):
            raise DownloadError(f"{url} cannot be fetched: the server answers {status} {answer.reason_phrase}.")
        if status == 206:
            first, total = _content_range(answer.headers.get("Content-Range", ""))
            if first != have:
                _forget(part)
                return "the server sent another range than the one asked for"
        else:
            have, length = 0, answer.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
        if total is not None and total != size:
            raise DownloadError(
                f"{url} has {total:,} bytes, not the expected {size:,}: it was replaced, or a proxy sent its own page."
            )
        if have == 0:
            _forget(part)
            _remember(part, url, answer.headers)
        with part.open("ab") as file:
            for chunk in answer.iter_raw():  # no chunk size: what a cut leaves of a chunk would be lost
                have += len(chunk)
                if have > size:
                    break
                file.write(chunk)
                show.at(have)
            file.flush()
            os.fsync(file.fileno())  # the bytes before the rename, also over a power cut
    if have > size:
        _forget(part)
        raise DownloadError(f"{url} sends more than the expected {size:,} bytes; what arrived was removed.")
    return "the connection closed early"


def _content_range(header: str) -> tuple[int | None, int | None]:
    """Read ``bytes FIRST-LAST/TOTAL``; TOTAL may be ``*``."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", header.strip())
    if match is None:
        return None, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _digest(path: Path, checksum: str) -> str:
    algorithm = checksum.partition(":")[0]
    with path.open("rb") as file:
        # Not a matter of security: MD5 must work on systems that forbid it for that.
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return f"{algorithm}:{digest.hexdigest()}"


def _size(path: Path) -> int:
    """Return the size in bytes, 0 for a file that is not there."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _notes(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _recall(part: Path) -> dict[str, str]:
    try:
        notes = json.loads(_notes(part).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _remember(part: Path, url: str, headers: "httpx2.Headers") -> None:
    etag = headers.get("ETag", "")
    # A weak ETag promises equal meaning, not equal bytes: If-Range must not use it.
    validator = etag if etag.startswith('"') else headers.get("Last-Modified", "")
    _notes(part).write_text(json.dumps({"url": url, "validator": validator}), "utf-8")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def _plain(error: Exception) -> str:
    """Describe an error of httpx2; its own text may be empty (a timeout) or a bare errno."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
    return f"{name}: {error}" if str(error) else name


@contextmanager
def _turn(destination: Path) -> Iterator[None]:
    with needs_extra("report", "downloading"):
        import filelock
    lock = filelock.FileLock(destination.with_name(destination.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"clipgeom: waiting for another process to download {destination.name}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Progress:
    """Progress display: a bar on a terminal, otherwise (a log) one line for every tenth."""

    def __init__(self, name: str, size: int) -> None:
        with needs_extra("report", "downloading"):
            from tqdm import tqdm
        self._name, self._size, self._tenth = name, size, -1
        self._bar = tqdm(total=size, desc=name, unit="B", unit_scale=True) if sys.stderr.isatty() else None

    def at(self, have: int) -> None:
        if self._bar is not None:
            self._bar.update(have - self._bar.n)
        elif (tenth := 10 * have // self._size) > self._tenth:
            self._tenth = tenth
            self.say(f"{10 * tenth} % of {self._size / 1e6:.1f} MB")

    def say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(f"clipgeom: {self._name}: {line}", file=sys.stderr)
        else:
            print(f"clipgeom: {self._name}: {line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


@contextmanager
def _progress(name: str, size: int) -> Iterator[_Progress]:
    progress = _Progress(name, size)
    try:
        yield progress
    finally:
        progress.close()
