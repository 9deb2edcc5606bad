"""Lock of a run or sweep folder, so that one process at a time writes to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from clipgeom.errors import ConfigError

__all__ = ["alone", "locked"]

P = ParamSpec("P")
T = TypeVar("T")

_LOCK = ".lock"


@contextmanager
def alone(folder: Path, *, make: bool = False) -> Iterator[None]:
    """Lock a folder for the duration of the context; a crash releases the lock.

    The same process may lock the folder again. Among processes started by one launcher, the first locks it for all.

    Parameters
    ----------
    folder : Path
    make : bool
        Create the folder. If False, a folder without a run is neither locked nor written to.

    Raises
    ------
    ConfigError
        Another process works in the folder, or it cannot be written.
    """
    import filelock

    path = folder / _LOCK
    launched = os.environ.get("RANK", "0") != "0"
    if launched or not (make or path.exists() or (folder / "config.toml").exists()):
        yield
        return
    lock = filelock.FileLock(path, is_singleton=True)
    pid = _pid(path)  # read first: old versions of filelock empty the file
    if make:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the folder {folder} ({error.strerror}); give another --out") from error
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ConfigError(
            f"{folder} is in use by another pti process{pid}; wait for it or give another --out"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot lock the folder {folder} ({error.strerror}); give another --out") from error
    try:
        with suppress(OSError):
            path.write_text(f"{os.getpid()}\n", encoding="ascii")
        yield
    finally:
        lock.release()


def locked(function: Callable[Concatenate[str | Path, P], T]) -> Callable[Concatenate[str | Path, P], T]:
    """Lock the folder that is the first argument while a function runs."""

    @wraps(function)
    def alone_in_it(folder: str | Path, /, *arguments: P.args, **options: P.kwargs) -> T:
        with alone(Path(folder)):
            return function(folder, *arguments, **options)

    return alone_in_it


def _pid(path: Path) -> str:
    try:
        return f" (pid {int(path.read_bytes()[:20])})"
    except (OSError, ValueError):
        return ""
