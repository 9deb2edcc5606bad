"""Interpolation about a centre: on the great circle about it (vslerp), or about its direction (aslerp)."""

import math

from clipgeom.errors import DomainError
from clipgeom.interpolation._backend import Array, Backend, is_number, prepare, quiet
from clipgeom.interpolation._great_circle import direction_and_length, great_circle

__all__ = ["aslerp", "vslerp"]


def vslerp(
    a: Array,
    b: Array,
    /,
    t: Array | float,
    *,
    center: Array,
    alpha: float = 1.0,
    keep_norm: bool = False,
    axis: int = -1,
) -> Array:
    """Interpolate on the great circle about a centre: α·c + slerp(a − α·c, b − α·c, t).

    Parameters
    ----------
    a, b : Array, shape (..., d)
        The ends. They broadcast against each other in their batch shapes, never along `axis`.
    t : float or Array, shape (...)
        Where to interpolate: 0 is `a`, 1 is `b`, and values outside [0, 1] extrapolate. An array broadcasts with the
        batch shape.
    center : Array, shape (d,) or (..., d)
        The centre c: one for all vectors, or an array that broadcasts with `a` and `b`. Only its values count, not its
        dtype.
    alpha : float
        How far towards the centre the origin is moved; with 0, as with a centre of zeros, this is `slerp`.
    keep_norm : bool
        Rescale the result to the length (1 − t)·‖a‖ + t·‖b‖.
    axis : int
        The axis of the vectors in `a`, in `b`, in a `center` with more than one axis, and in the result.

    Returns
    -------
    Array, shape (..., d)
        In the library, on the device and in the dtype of `a` and `b` (promoted, when they differ).

    Raises
    ------
    TypeError
        An operand is not an array, not of real floating point, or from another library than the others; `alpha` is no
        number.
    ShapeError
        The axis is out of range, or the shapes do not fit together.
    DomainError
        `alpha` is not finite.

    Notes
    -----
    vSLERP is from Levi and Gilboa, "The Double-Ellipsoid Geometry of CLIP" (arXiv 2411.14517); `keep_norm` is not.
    Ends that lie on a sphere about α·c stay on it. For the vectors from the centre, the notes of `slerp` apply: on
    the length at the midpoint, and on parallel, opposite and zero ends.

    With `keep_norm`, a point at the origin has no direction and stays there. The length is never negative, which
    matters only when extrapolating far.

    Examples
    --------
    >>> import numpy as np
    >>> vslerp(np.asarray([3.0, 1.0]), np.asarray([1.0, 3.0]), 0.5, center=np.asarray([1.0, 1.0])).round(6)
    array([2.414214, 2.414214])
    """
    if not is_number(alpha):
        raise TypeError(f"vslerp: expected alpha to be a real number, got {type(alpha).__name__}; pass float(alpha)")
    if not math.isfinite(alpha):
        raise DomainError(f"vslerp: expected a finite alpha, got {alpha}; 1 is the centre itself, 0 is slerp")
    ends = prepare("vslerp", a, b, t, axis=axis, center=center)

    def formula(library: Backend, a: Array, b: Array, s: Array, t: Array, shift: Array) -> Array:
        result = great_circle(library, a - shift, b - shift, s, t) + shift
        if not keep_norm:
            return result
        direction, _ = direction_and_length(library, result)
        length = s * direction_and_length(library, a)[1] + t * direction_and_length(library, b)[1]
        return direction * library.xp.clip(length, 0.0, None)

    with quiet(ends.library.xp):
        shift = float(alpha) * ends.vectors["center"]
    return ends.interpolate(formula, shift)


def aslerp(a: Array, b: Array, /, t: Array | float, *, center: Array, axis: int = -1) -> Array:
    """Interpolate about an axis: linearly along the centre's direction, on the great circle across it (axial slerp).

    With e = c/‖c‖ and a⊥ = a − (a·e)e: ((1 − t)·(a·e) + t·(b·e))·e + slerp(a⊥, b⊥, t).

    Parameters
    ----------
    a, b : Array, shape (..., d)
        The ends. They broadcast against each other in their batch shapes, never along `axis`.
    t : float or Array, shape (...)
        Where to interpolate: 0 is `a`, 1 is `b`, and values outside [0, 1] extrapolate. An array broadcasts with the
        batch shape.
    center : Array, shape (d,) or (..., d)
        The centre c, of which only the direction counts: one for all vectors, or an array that broadcasts with `a` and
        `b`.
    axis : int
        The axis of the vectors in `a`, in `b`, in a `center` with more than one axis, and in the result.

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
    DomainError
        A centre is zero and has no direction. Under ``jax.jit``, where values are unknown, the result is that of
        `slerp` instead.

    Notes
    -----
    If the ends share their length ‖x‖ and their distance ‖x − c‖, every point between them has both: it moves on the
    intersection of the two spheres, on which x·e is constant. The angle, the parallel ends and the opposite ones are
    those of `slerp`, for the parts across the axis; an end on the axis has a zero part, so that the path from it is
    straight.

    Examples
    --------
    >>> import numpy as np
    >>> a, b, c = np.asarray([2.0, 0.0, 1.0]), np.asarray([0.0, 2.0, 1.0]), np.asarray([0.0, 0.0, 5.0])
    >>> aslerp(a, b, 0.5, center=c).round(6)
    array([1.414214, 1.414214, 1.      ])
    """
    ends = prepare("aslerp", a, b, t, axis=axis, center=center)
    with quiet(ends.library.xp):
        direction, length = direction_and_length(ends.library, ends.vectors["center"])
    if ends.library.eager and bool(ends.library.xp.any(length == 0)):
        raise DomainError(
            "aslerp: expected a centre that is not zero, got a zero vector, which gives no axis; use slerp"
        )

    def formula(library: Backend, a: Array, b: Array, s: Array, t: Array, e: Array) -> Array:
        along_a, along_b = library.dot(a, e), library.dot(b, e)
        across = great_circle(library, a - along_a * e, b - along_b * e, s, t)
        return across + (s * along_a + t * along_b) * e

    return ends.interpolate(formula, direction)
