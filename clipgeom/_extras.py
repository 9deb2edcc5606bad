"""Error messages for optional dependencies that are missing or incompatible."""

import importlib.util
import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from clipgeom.errors import MissingExtraError, first_line

__all__ = ["clone", "install_command", "needs_extra", "pip_install"]

# Packages that are incompatible most often.
_COUPLED = ("torch", "transformers", "diffusers", "peft", "accelerate", "huggingface-hub", "numpy")


@contextmanager
def needs_extra(extra: str, purpose: str) -> Iterator[None]:
    """Turn a failed import inside the block into a `MissingExtraError` with the command that installs what is missing.

    Parameters
    ----------
    extra : str
        The extra of clipgeom's distribution that brings the package, such as ``"report"``.
    purpose : str
        What needs the package; the message begins with it.

    Raises
    ------
    MissingExtraError
        A module imported in the block is not installed, or cannot be imported in the installed version.
    """
    try:
        yield
    except (ImportError, RuntimeError) as error:
        # diffusers raises a RuntimeError from the ImportError of a lazy import
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, ImportError):
            raise
        package = (cause.name or "").partition(".")[0]
        if isinstance(cause, ModuleNotFoundError) and package and not _installed(package):
            raise MissingExtraError(
                f"{purpose} needs the package {package!r}, which is not installed: {install_command(extra)}"
            ) from error
        raise MissingExtraError(
            f"{purpose} needs packages that cannot be imported ({first_line(cause)}); installed are {_versions()}. "
            f"Install versions that fit together: {install_command(extra, *_newest())}"
        ) from error


def install_command(extra: str = "", *options: str) -> str:
    """Build the shell command that installs clipgeom, with an extra, from its present source.

    Parameters
    ----------
    extra : str
        Name of an extra, or empty.
    *options : str
        Options for pip.
    """
    suffix = f"[{extra}]" if extra else ""
    folder = clone()
    if folder is not None:
        return pip_install(*options, "-e", f"{folder}{suffix}")
    try:
        origin = json.loads(metadata.distribution("clipgeom").read_text("direct_url.json") or "{}")
    except metadata.PackageNotFoundError:
        origin = {"url": "file:///", "dir_info": {}}  # copied without pip: there is no source to install from
    url = origin.get("url", "")
    if not url:  # from an index
        return pip_install(*options, f"clipgeom{suffix}")
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        url = url.replace("file:///", "file://localhost/")  # a requirement's URL needs a host
        url = f"{vcs['vcs']}+{url}@{vcs.get('requested_revision') or vcs['commit_id']}"
    elif url.startswith("file:"):
        path = Path(url2pathname(urlsplit(url).path))
        if not (path / "pyproject.toml" if "dir_info" in origin else path).is_file():
            return f"install clipgeom{suffix} again, from a clone of its repository"
        return pip_install(*options, f"{path}{suffix}")
    if origin.get("subdirectory"):
        url += f"#subdirectory={origin['subdirectory']}"
    return pip_install(*options, f"clipgeom{suffix} @ {url}")


def pip_install(*arguments: str) -> str:
    """Build the shell command that installs packages into this interpreter's environment."""
    pip = (
        [sys.executable, "-m", "pip", "install"]
        if _installed("pip")
        else ["uv", "pip", "install", "--python", sys.executable]
    )
    return shlex.join([*pip, *arguments])


def _newest() -> tuple[str, ...]:
    """Options of pip that upgrade dependencies too; by default pip keeps versions within the declared range."""
    return ("--upgrade", "--upgrade-strategy", "eager") if _installed("pip") else ("--upgrade",)


def clone() -> Path | None:
    """Return the root of the clone that this package is imported from, None for an installed copy."""
    root = Path(__file__).resolve().parents[1]
    try:
        is_ours = 'name = "clipgeom"' in (root / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return None
    return root if is_ours else None


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # None, or a partly imported module, in sys.modules
        return False


def _versions() -> str:
    found = []
    for name in _COUPLED:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)
