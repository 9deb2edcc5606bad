"""Interpolation between two vectors: on the straight line (lerp), or on the great circle (slerp).

The functions run on any array library (NumPy, torch, JAX, …) and give back its arrays, with the dtype and device they
got. They can be differentiated with respect to every array, `t` included.
"""

from clipgeom.interpolation._backend import Array, Backend, prepare
from clipgeom.interpolation._great_circle import great_circle

__all__ = ["lerp", "slerp"]


def lerp(a: Array, b: Array, /, t: Array | float, *, axis: int = -1) -> Array:
    """Interpolate on the straight line: (1 − t)·a + t·b.

    Parameters
    ----------
    a, b : Array, shape (..., d)
        The ends. They broadcast against each other in their batch shapes, never along `axis`.
    t : float or Array, shape (...)
        Where to interpolate: 0 is `a`, 1 is `b`, and values outside [0, 1] extrapolate. An array broadcasts with the
        batch shape.
    axis : int
        The axis of the vectors in `a`, in `b` and in the result.

    Returns
    -------
    Array, shape (..., d)
        In the library, on the device and in the dtype of `a` and `b` (promoted, when they differ).

    Raises
    ------
    TypeError
        An operand is not an array, not of real floating point, or from another library than the others.
    ShapeError
        The axis is out of range, or the shapes do not fit together.

    Notes
    -----
    The midpoint is never longer than the ends: for ends of length ρ at an angle ω it has length ρ·cos(ω/2).

    Examples
    --------
    >>> import numpy as np
    >>> lerp(np.asarray([2.0, 0.0]), np.asarray([0.0, 2.0]), 0.5)
    array([1., 1.])
    """
    return prepare("lerp", a, b, t, axis=axis).interpolate(_lerp)


def slerp(a: Array, b: Array, /, t: Array | float, *, axis: int = -1) -> Array:
    """Interpolate on the great circle: [sin((1 − t)ω)·a + sin(tω)·b] / sin ω, with ω the angle between `a` and `b`.

    The formula (Shoemake 1985) is applied to the vectors as they are, whatever their lengths.

    Parameters
    ----------
    a, b : Array, shape (..., d)
        The ends. They broadcast against each other in their batch shapes, never along `axis`.
    t : float or Array, shape (...)
        Where to interpolate: 0 is `a`, 1 is `b`, and values outside [0, 1] extrapolate. An array broadcasts with the
        batch shape.
    axis : int
        The axis of the vectors in `a`, in `b` and in the result.

    Returns
    -------
    Array, shape (..., d)
        In the library, on the device and in the dtype of `a` and `b` (promoted, when they differ).

    Raises
    ------
    TypeError
        An operand is not an array, not of real floating point, or from another library than the others.
    ShapeError
        The axis is out of range, or the shapes do not fit together.

    Notes
    -----
    *Length.* Ends of one length ρ give points of length ρ, at the angle tω from `a`. In general the midpoint is
    (a + b)/(2·cos(ω/2)), and its length √(‖a‖² + ‖b‖² + 2·‖a‖·‖b‖·cos ω)/(2·cos(ω/2)): the lengths are not interpolated
    linearly, and two ends of unequal length that point in nearly opposite directions are joined by an arbitrarily large
    arc.

    *Where no plane of rotation exists, slerp is lerp*: for parallel ends (ω = 0, which is also the limit), for a zero
    vector, and for exactly opposite ends. In the last case no limit exists: each plane through the ends gives another
    path, or none of bounded length if their lengths differ. Any choice among them would depend on the coordinates; the
    straight line is the one answer that commutes with every rotation. It passes near zero, so that whoever needs a
    length should not join opposite vectors. "Exactly" means that ‖u + v‖ (u and v the unit vectors) is below its own
    rounding error. An end shorter than about 7e-16 (float32) or 1e-123 (float64) times the other counts as zero.

    *Accuracy.* The error is a few eps of the result's length for ω ≤ π − 0.1. Beyond, it grows like the condition
    number, 1/(π − ω). float16 and bfloat16 are computed in float32 and rounded once. No length is too large or too
    small; a result beyond the range of the dtype saturates at its largest number. A NaN or an infinite component
    spoils its own vector only.

    *Derivatives* are finite everywhere. Where the largest component is beyond 5e4 or below 2e-5 (float32; 3e38 and
    3e-39 in float64) the first ones are right and higher ones are not.

    Examples
    --------
    >>> import numpy as np
    >>> slerp(np.asarray([2.0, 0.0]), np.asarray([0.0, 2.0]), 0.5).round(6)
    array([1.414214, 1.414214])
    """
    return prepare("slerp", a, b, t, axis=axis).interpolate(great_circle)


def _lerp(library: Backend, a: Array, b: Array, s: Array, t: Array) -> Array:
    return library.blend(s, a, t, b)
