"""One message for every optional dependency that is not installed."""

from collections.abc import Iterator
from contextlib import contextmanager

from clipgeom.errors import MissingExtraError

__all__ = ["needs_extra"]


@contextmanager
def needs_extra(extra: str, purpose: str) -> Iterator[None]:
    """Turn a failed import inside the block into a `MissingExtraError` that says what to install.

    Parameters
    ----------
    extra : str
        The extra of clipgeom's distribution that brings the package, such as ``"report"``.
    purpose : str
        What needs the package; the message begins with it.

    Raises
    ------
    MissingExtraError
        A module imported in the block is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{purpose} needs the package {error.name!r}, which is not installed: pip install 'clipgeom[{extra}]'"
        ) from error
