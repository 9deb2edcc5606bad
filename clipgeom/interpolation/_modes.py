"""Interpolation modes by name: the one place where a mode is added."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from clipgeom.errors import ConfigError
from clipgeom.interpolation._backend import Array
from clipgeom.interpolation._slerp import aslerp, lerp, slerp, vslerp

__all__ = ["CENTERED_MODES", "MODES", "interpolate"]


def _vslerp_norm(a: Array, b: Array, t: Array | float, *, center: Array, axis: int) -> Array:
    return vslerp(a, b, t, center=center, keep_norm=True, axis=axis)


_ABOUT_ORIGIN: Mapping[str, Callable[..., Array]] = MappingProxyType({"lerp": lerp, "slerp": slerp})
_ABOUT_CENTER: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {"vslerp": vslerp, "vslerp_norm": _vslerp_norm, "aslerp": aslerp}
)

CENTERED_MODES = tuple(_ABOUT_CENTER)
MODES = (*_ABOUT_ORIGIN, *CENTERED_MODES)


def interpolate(
    a: Array, b: Array, /, t: Array | float, *, mode: str, center: Array | None = None, axis: int = -1
) -> Any:
    """Interpolate between vectors by the name of a mode.

    Parameters
    ----------
    a, b : array, shape (..., d)
        The ends, of one array library; they broadcast against each other.
    t : array or float
        0 at `a`, 1 at `b`; an array broadcasts to the leading axes.
    mode : {"lerp", "slerp", "vslerp", "vslerp_norm", "aslerp"}
        ``vslerp_norm`` is `vslerp` with ``keep_norm=True``.
    center : array, optional
        The centre, which broadcasts to `a`. The last three modes need it; the others do not use it.
    axis : int
        The axis of the d features.

    Returns
    -------
    array
        Of the library, dtype and device of the ends.

    Raises
    ------
    ConfigError
        An unknown mode, or a mode about a centre without one.

    Examples
    --------
    >>> import numpy as np
    >>> interpolate(np.array([2.0, 0.0]), np.array([0.0, 2.0]), 0.5, mode="lerp")
    array([1., 1.])
    """
    if mode in _ABOUT_ORIGIN:
        return _ABOUT_ORIGIN[mode](a, b, t, axis=axis)
    if mode not in _ABOUT_CENTER:
        raise ConfigError(f"expected a mode of {', '.join(MODES)}, got {mode!r}")
    if center is None:
        raise ConfigError(f"{mode} needs a center, such as the mean of the embeddings; got None")
    return _ABOUT_CENTER[mode](a, b, t, center=center, axis=axis)
