"""Interpolation modes by name: the one place where a mode is added."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from clipgeom.errors import ConfigError
from clipgeom.interpolation._backend import Array
from clipgeom.interpolation._centered import aslerp, vslerp
from clipgeom.interpolation._layer_norm import vslerp_ln
from clipgeom.interpolation._slerp import lerp, slerp

__all__ = ["CENTERED_MODES", "LAYER_NORM_MODES", "MODES", "interpolate"]

_SOURCES = {
    "center": "such as the mean of the embeddings",
    "gamma": "the scale (weight) of the LayerNorm",
    "beta": "the shift (bias) of the LayerNorm",
}


def _vslerp_norm(a: Array, b: Array, t: Array | float, *, center: Array, axis: int) -> Array:
    return vslerp(a, b, t, center=center, keep_norm=True, axis=axis)


_MODES: Mapping[str, tuple[Callable[..., Array], tuple[str, ...]]] = MappingProxyType(
    {  # an interpolation mode is added here: its name, its function, and the vectors that it needs
        "lerp": (lerp, ()),
        "slerp": (slerp, ()),
        "vslerp": (vslerp, ("center",)),
        "vslerp_norm": (_vslerp_norm, ("center",)),
        "aslerp": (aslerp, ("center",)),
        "vslerp_ln": (vslerp_ln, ("center", "gamma", "beta")),
    }
)

LAYER_NORM_MODES = tuple(mode for mode, (_, needs) in _MODES.items() if "gamma" in needs)
MODES = tuple(mode for mode in _MODES if mode not in LAYER_NORM_MODES)  # for embeddings of any kind
CENTERED_MODES = tuple(mode for mode in MODES if "center" in _MODES[mode][1])


def interpolate(
    a: Array,
    b: Array,
    /,
    t: Array | float,
    *,
    mode: str,
    center: Array | None = None,
    gamma: Array | None = None,
    beta: Array | None = None,
    axis: int = -1,
) -> Any:
    """Interpolate between vectors by the name of a mode.

    Parameters
    ----------
    a, b : array, shape (..., d)
        The ends, of one array library; they broadcast against each other.
    t : array or float
        0 at `a`, 1 at `b`; an array broadcasts to the leading axes.
    mode : {"lerp", "slerp", "vslerp", "vslerp_norm", "aslerp", "vslerp_ln"}
        ``vslerp_norm`` is `vslerp` with ``keep_norm=True``.
    center : array, optional
        The centre, which broadcasts to `a`. The last four modes need it; the others do not use it.
    gamma, beta : array, optional
        Scale and shift of the LayerNorm, for ``vslerp_ln`` only.
    axis : int
        The axis of the d features.

    Returns
    -------
    array
        Of the library, dtype and device of the ends.

    Raises
    ------
    ConfigError
        An unknown mode, or a mode without a vector that it needs.

    Examples
    --------
    >>> import numpy as np
    >>> interpolate(np.array([2.0, 0.0]), np.array([0.0, 2.0]), 0.5, mode="lerp")
    array([1., 1.])
    """
    if mode not in _MODES:
        raise ConfigError(f"expected a mode of {', '.join(_MODES)}, got {mode!r}")
    function, needs = _MODES[mode]
    given = {"center": center, "gamma": gamma, "beta": beta}
    for name in needs:
        if given[name] is None:
            raise ConfigError(f"{mode} needs a {name}, {_SOURCES[name]}; got None")
    return function(a, b, t, **{name: given[name] for name in needs}, axis=axis)
