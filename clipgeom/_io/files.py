"""Output files: checked before the work, written atomically, and never over a foreign file.

Every command and every `save` function writes through this module.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipgeom.errors import ConfigError, OutputError

__all__ = [
    "STAGING",
    "check_folder",
    "check_name",
    "check_output_file",
    "explain",
    "filling",
    "replacing",
    "resolved",
    "workspace",
    "write_whole",
]

STAGING = ".clipgeom-"  # prefix of temporary files and folders; one that stays belongs to a killed process
_LONGEST = 255  # bytes of a file name, on all common file systems
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def replacing(target: Path, /) -> Iterator[Path]:
    """Yield a path beside `target`, and rename it to `target` when the block ends without an error.

    The content reaches the disk before the rename, so that `target` is either the earlier file or the whole new one. The
    file's mode follows the umask. A link at `target` is replaced; `check_output_file` returns what a link points to.

    Raises
    ------
    OutputError
        In place of any OSError of the block.
    """
    target = target.absolute()
    partial = target.parent / f"{STAGING}{secrets.token_hex(8)}.partial"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.open("xb").close()
        yield partial
        _to_disk(partial)
        partial.replace(target)
    except OSError as error:
        raise _unwritten(target, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_whole(target: Path, content: bytes, /) -> None:
    """Write a file through `replacing`."""
    with replacing(target) as partial:
        partial.write_bytes(content)


@contextmanager
def filling(target: Path, /, publish: Callable[[Path, Path], None] | None = None) -> Iterator[Path]:
    """Yield a temporary folder; its files move to `target` when the block ends without an error.

    A `target` that does not exist appears as a whole. In one that exists (the current folder and a mount point cannot be
    renamed), `publish(temporary, target)` moves the files; the default moves each to its place.

    Raises
    ------
    OutputError
        In place of any OSError of the block.
    """
    target = target.absolute()
    try:
        inside = target.is_dir()
        parent = target if inside else target.parent
        parent.mkdir(parents=True, exist_ok=True)
        temporary = parent / f"{STAGING}{secrets.token_hex(8)}"
        temporary.mkdir()
    except OSError as error:
        raise _unwritten(target, error) from error
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                _to_disk(path)
        if target.is_dir():
            (publish or _move_all)(temporary, target)
        else:
            temporary.rename(target)
    except OSError as error:
        raise _unwritten(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def resolved(path: Path, /) -> Path:
    """Follow links to the path that is written to, whether it exists yet or not.

    Raises
    ------
    ConfigError
        A link that leads back to itself, or a name that no file can have.
    """
    check_name(path)
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise ConfigError(f"{path} is a link that leads back to itself; choose another place")
    return target


def check_output_file(
    path: Path, /, made: Callable[[Path], bool], *, maker: str, advice: str = "choose another --out"
) -> Path:
    """Refuse an output file that cannot be written or that another program made, before any work is done.

    Parameters
    ----------
    path : Path
        As the user named it.
    made : callable
        Returns whether an existing file was made by `maker`. An empty file may always be replaced.
    maker : str
        The command, for the message.
    advice : str
        What to do about a file of something else.

    Returns
    -------
    Path
        The file to write: where links lead to.

    Raises
    ------
    ConfigError
        The path is a folder, a device, or a write-protected or foreign file; its name is too long; or its folder
        cannot be written.
    """
    target = resolved(path)
    status = _status(target)
    if status is None:
        check_folder(_existing(target.parent))
        return target
    if stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"cannot write {path}: it is a folder; name a file, such as {path / 'NAME'}")
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"cannot write {path}: it is a device or a pipe, not a file; choose another place")
    if not status.st_mode & 0o222 or not os.access(target, os.W_OK):
        raise ConfigError(f"cannot write {path}: it is write-protected; choose another place")
    if status.st_size and not made(target):
        raise ConfigError(f"{path} was not made by `{maker}` and will not be replaced; {advice}")
    check_folder(target.parent)
    return target


def check_folder(folder: Path, /) -> None:
    """Refuse a folder in which no file can be created: create one and delete it.

    A folder that does not exist yet stands for its nearest parent that does.

    Raises
    ------
    ConfigError
        With the reason.
    """
    check_name(folder)
    folder = _existing(folder)
    if not folder.is_dir():
        raise ConfigError(f"cannot write to {folder}: it is a file, not a folder; choose another place")
    probe = folder / f"{STAGING}{secrets.token_hex(8)}.probe"
    try:
        probe.open("xb").close()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"cannot write to {folder} ({error.strerror}); choose another place") from error


@contextmanager
def workspace(out: Path, /) -> Iterator[Path]:
    """Yield a folder for temporary files on the file system of `out`; after an error it is deleted.

    Raises
    ------
    OutputError
        Someone deleted temporary files whose names begin with `STAGING`, or the folder with them.
    """
    folder = out.absolute() if out.is_dir() else out.absolute().parent
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except BaseException as error:
        with suppress(OSError):
            for parent in made:
                parent.rmdir()
        missing = str(error.filename) if isinstance(error, FileNotFoundError) else ""
        if missing.startswith(str(folder / STAGING)):
            text = f"{folder}, or temporary files in it, were deleted during the work; nothing was written"
            raise OutputError(text) from error
        raise


def explain(error: OSError, /) -> str | None:
    """Describe a disk failure that the user can fix in one line; None for other errors."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in _FULL:
        return f"no space left on the disk{where}; free some, or write to another one"
    if error.errno in _REFUSED:
        return f"not permitted{where}: {error.strerror}; choose a place that you may read and write"
    return None


def _unwritten(target: Path, error: OSError) -> OutputError:
    if isinstance(error, OutputError):
        return error
    if error.errno in _FULL:
        reason = "no space left on the disk; free some, or write to another one"
    elif error.errno in _REFUSED:
        reason = f"not permitted ({error.strerror}); choose a place that you may write to"
    else:
        reason = str(error.strerror or error)
    return OutputError(f"cannot write {target}: {reason}. No file is half-written", error)


def _to_disk(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _move_all(temporary: Path, target: Path) -> None:
    for path in sorted(temporary.rglob("*")):
        place = target / path.relative_to(temporary)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        else:
            path.replace(place)


def _status(target: Path) -> os.stat_result | None:
    """Return the status of a file; None without one."""
    try:
        return target.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"cannot write {target} ({error.strerror}); choose another place") from error


def check_name(path: Path, /) -> None:
    """Refuse a name that no file can have.

    Raises
    ------
    ConfigError
    """
    for part in path.parts:
        size = len(os.fsencode(part))
        if size > _LONGEST:
            raise ConfigError(f"the name {part[:40]!r}… has {size} bytes, more than {_LONGEST}; shorten it")
        if "\0" in part:
            raise ConfigError(f"{part!r} cannot be the name of a file: it contains a null character")


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder
