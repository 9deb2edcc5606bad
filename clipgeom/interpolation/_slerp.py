"""Interpolation between embeddings: straight, on a sphere, on a sphere about a centre, about an axis.

The functions run on any array library (NumPy, torch, JAX, …) and give back its arrays, with the dtype and device they
got. They can be differentiated with respect to every array, `t` and the centre included.

How the angle is found
----------------------
``slerp`` needs ω only inside w(t) = sin(tω)/sin ω, and how much an error in ω hurts depends on where ω lies.

* **From 0 to 2π/3.** w is a smooth function of c = cos ω, even at ω = 0, where it depends on ω only through
  ω² ≈ 2(1 − c): there ∂ln w/∂c = −(1 − t²)/3, and up to 2π/3 its size stays below 1.3. An error of a few eps in c is
  an error of a few eps in w, so that three dot products are enough. That arccos(c) is a poor estimate of a small ω
  does not matter, because w is insensitive to it. The weights then add two vectors at no more than 2π/3, and for t in
  [0, 1] such a sum is at least cos(π/3) = 1/2 of its terms: their rounding errors at most double.
* **From 2π/3 to π.** Now both break: ∂w/∂c grows like 1/sin² ω, and the two terms cancel. With φ = π − ω and y the
  angle to the nearer end, say y = (1 − t)ω and b, the same vector is ::

      r = sin(y)/sin(φ) · (a + b)  +  cos(y + φ/2)/cos(φ/2) · b

  (expand the cosine: the coefficient of b becomes sin(tω)/sin ω). Here the cancellation takes place in a + b, which
  is almost exact in floating point when a and b nearly cancel. The second coefficient never exceeds one in size for t
  in [0, 1]. sin φ is measured on that same sum, as its part across b, rather than inferred from c. (Where one end is
  more than twice as long as the other nothing cancels in a + b, and the coefficients are those of slerp again, as
  sin(y)/sin(φ) and sin(y + φ)/sin(φ).)

In exact arithmetic this is ω = 2·atan2(‖u − v‖, ‖u + v‖). It costs a third, as no normalised copies are made.
"""

import math

from clipgeom.errors import DomainError
from clipgeom.interpolation._backend import Array, Backend, is_number, prepare, quiet

__all__ = ["aslerp", "lerp", "slerp", "vslerp"]

_OBTUSE = -0.5
"""cos ω below which the second form is used. At 2π/3 both lose a factor of two, and vectors in general position, which
are nearly orthogonal, stay clear of it."""

_SERIES = 2.0**-6
"""h = sin²(ω/2) up to which w is summed as a power series in h. Above it (ω > 1/4) the quotient of sines, which has a
derivative accurate to eps/h only, is good enough; below it, each term of the series brings six more bits."""

_SAFE = 0.25
"""Ends with ‖a‖² + ‖b‖² < ``smallest_normal**-0.25`` and ‖a‖²·‖b‖² > ``smallest_normal**0.25`` (3e9 and 3e-10 in
float32, 5e76 and 2e-77 in float64) are used as they are: products of two stay far from the limits of the dtype. Others
are scaled by a power of two."""

_MODERATE = _SAFE / 2
"""Scales from ``smallest_normal**0.125`` to its inverse (2e-5 and 5e4 in float32, 3e-39 and 3e38 in float64), those of
the lengths that `_SAFE` admits, pass through a derivative and back without harm."""

_NEGLIGIBLE = 0.4
"""An end shorter than about ``smallest_normal**0.4`` (7e-16 in float32, 1e-123 in float64) times the other counts as
zero: the derivative with respect to its direction, which grows like the ratio of the lengths, would overflow. No such
ratio passes the bounds of `_SAFE`."""

_ANTIPODAL = 2.0
"""Rounding each component of u + v turns it by up to so many eps of what cancels between vectors of unequal length. A
smaller sin φ says nothing about the plane of rotation. (For ends of one length nothing is rounded; a second eps then
keeps sin φ above zero, and its square within the range of the dtype.)"""


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
    return prepare("slerp", a, b, t, axis=axis).interpolate(_slerp)


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
        result = _slerp(library, a - shift, b - shift, s, t) + shift
        if not keep_norm:
            return result
        direction, _ = _direction(library, result)
        length = s * _direction(library, a)[1] + t * _direction(library, b)[1]
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
        direction, length = _direction(ends.library, ends.vectors["center"])
    if ends.library.eager and bool(ends.library.xp.any(length == 0)):
        raise DomainError(
            "aslerp: expected a centre that is not zero, got a zero vector, which gives no axis; use slerp"
        )

    def formula(library: Backend, a: Array, b: Array, s: Array, t: Array, e: Array) -> Array:
        along_a, along_b = library.dot(a, e), library.dot(b, e)
        across = _slerp(library, a - along_a * e, b - along_b * e, s, t)
        return across + (s * along_a + t * along_b) * e

    return ends.interpolate(formula, direction)


def _lerp(library: Backend, a: Array, b: Array, s: Array, t: Array) -> Array:
    return library.blend(s, a, t, b)


def _slerp(library: Backend, a: Array, b: Array, s: Array, t: Array) -> Array:
    xp = library.xp
    if library.eager:
        aa, ab, bb = library.dot(a, a), library.dot(a, b), library.dot(b, b)
        product = aa * bb
        cosine = ab / xp.sqrt(product)
        high = library.smallest**-_SAFE
        if bool(xp.all((cosine >= _OBTUSE) & (product > 1.0 / high) & (aa + bb < high))):
            weight_a, weight_b = _sine_ratios(library, s, t, cosine)
            return library.blend(weight_a, a, weight_b, b)

    # Slerp is homogeneous: k·slerp(a/k, b/k) is the same vector for every constant k.
    k_a, k_b = _power_of_two(library, a), _power_of_two(library, b)
    k = xp.maximum(k_a, k_b)
    result = _slerp_any(library, _divided(library, a, k), _divided(library, b, k), s, t, k / k_a, k / k_b)
    bound = library.largest / xp.clip(k, 1.0, None)
    return _multiplied(library, xp.clip(result, -bound, bound), k)


def _slerp_any(library: Backend, a: Array, b: Array, s: Array, t: Array, up_a: Array, up_b: Array) -> Array:
    """Slerp at any angle, by the two forms derived above; `up_a` and `up_b` bring the ends to a length of order one."""
    xp = library.xp
    negligible = library.smallest**_NEGLIGIBLE
    a_up, b_up = (x * xp.clip(up, None, 1.0 / negligible) for x, up in ((a, up_a), (b, up_b)))
    aa, ab, bb = library.dot(a_up, a_up), library.dot(a_up, b_up), library.dot(b_up, b_up)
    zero = (aa == 0) | (bb == 0) | (up_a * negligible > 1.0) | (up_b * negligible > 1.0)
    # The products of equal unit vectors stand in for theirs, so that what is not used is finite.
    aa, ab, bb = (xp.where(zero, 1.0, x) for x in (aa, ab, bb))
    norm_a, norm_b = xp.sqrt(aa), xp.sqrt(bb)
    cosine = ab / (norm_a * norm_b)
    obtuse = cosine < _OBTUSE

    # u + v, from (a + b)/‖longer‖ and what the shorter unit vector lacks: ends of equal length cancel without error.
    length_a, length_b = norm_a / up_a, norm_b / up_b
    total = a + b
    a_shorter = length_a < length_b
    longer, shorter = xp.where(a_shorter, length_b, length_a), xp.where(a_shorter, length_a, length_b)
    gap = (longer - shorter) / longer
    unit = xp.where(a_shorter, a_up / norm_a, b_up / norm_b)
    u_plus_v = total / longer + gap * unit
    # Its part across the shorter end has length sin φ, and leaves out the rounding errors of the two lengths.
    across = u_plus_v - library.dot(u_plus_v, unit) * unit
    sine2 = library.dot(across, across)
    antipodal = sine2 <= (_ANTIPODAL * library.eps * (gap + library.eps)) ** 2
    straight, near = zero | (obtuse & antipodal), obtuse & ~antipodal

    sine = xp.sqrt(xp.where(near, sine2, 0.25))
    phi = xp.asin(sine)
    nearer_b = t > s
    y = xp.where(nearer_b, s, t) * (math.pi - phi)
    cancel = gap < 0.5  # otherwise a + b is no shorter than half the longer end, and there is no gain in it
    far = xp.sin(y) / sine
    nearer = xp.where(cancel, xp.cos(y + 0.5 * phi) / xp.cos(0.5 * phi), xp.sin(y + phi) / sine)
    far, weight_total = xp.where(cancel, 0.0, far), xp.where(near & cancel, far, 0.0)

    weight_a, weight_b = _sine_ratios(library, s, t, xp.where(obtuse, 1.0, cosine))
    weight_a = xp.where(near, xp.where(nearer_b, far, nearer), xp.where(straight, s, weight_a))
    weight_b = xp.where(near, xp.where(nearer_b, nearer, far), xp.where(straight, t, weight_b))
    return library.blend(weight_a, a, weight_b, b) + weight_total * total


def _sine_ratios(library: Backend, s: Array, t: Array, cosine: Array) -> tuple[Array, Array]:
    """Return w(s) and w(t), where w(t) = sin(tω)/sin ω, for cos ω from 1 (or just above, by rounding) to -1/2."""
    xp = library.xp
    if library.stop_gradient is not None:
        h = 0.5 * (1.0 - cosine)
        return _sine_ratio(library, s, h), _sine_ratio(library, t, h)
    # Nothing is differentiated, so that for ω = 0 the quotient at √(2 eps), which differs by eps/3 from it, will do.
    most = 1.0 - library.eps
    omega = xp.acos(xp.where(cosine > most, most, cosine))
    sine = xp.sin(omega)
    return xp.sin(s * omega) / sine, xp.sin(t * omega) / sine


def _sine_ratio(library: Backend, t: Array, h: Array) -> Array:
    """Return sin(tω)/sin ω as a function of h = sin²(ω/2), with an accurate derivative.

    Near ω = 0 it is t·₂F₁(1 + t, 1 − t; 3/2; h), a power series in h (from DLMF 15.4.16 by the transformation 15.8.1).
    That has no singular point to step around, and its derivative keeps its digits, where that of the quotient is a
    difference of two large numbers.
    """
    xp = library.xp
    small = h * (1.0 + t * t) <= _SERIES
    x = xp.where(small, h, 0.0)
    terms = math.ceil(math.log2(library.eps) / math.log2(_SERIES)) + 1
    series = xp.ones_like(h)
    for k in range(terms, 0, -1):
        series = 1.0 + series * x * ((k * k - t * t) / (k * (k + 0.5)))
    omega = 2.0 * xp.asin(xp.sqrt(xp.where(small, 0.5, h)))
    return xp.where(small, t * series, xp.sin(t * omega) / xp.sin(omega))


def _direction(library: Backend, x: Array) -> tuple[Array, Array]:
    """Return the unit vector of `x`, zero for zero, and the length of `x`, without overflow."""
    xp = library.xp
    k = _power_of_two(library, x)
    x = x / k
    squared = library.dot(x, x)
    zero = squared == 0
    length = xp.sqrt(xp.where(zero, 1.0, squared))
    return x / length, xp.where(zero, 0.0, length) * k


def _power_of_two(library: Backend, x: Array) -> Array:
    """Largest power of two up to the largest component of each row, 1 for zero; division by it is exact."""
    xp = library.xp
    largest = xp.max(xp.abs(x), axis=-1, keepdims=True)
    if library.stop_gradient is not None:
        largest = library.stop_gradient(largest)
    usable = (largest > 0) & xp.isfinite(largest)
    exponent = xp.floor(xp.log2(xp.where(usable, largest, 1.0)))
    # Below the smallest normal number a power of two may be flushed to zero.
    return 2.0 ** xp.clip(exponent, math.log2(library.smallest), None)


def _divided(library: Backend, x: Array, k: Array) -> Array:
    """x/k with derivative 1/k for k of moderate size; see `_multiplied`."""
    if library.stop_gradient is None:
        return x / k
    return library.stop_gradient(x / k) + (x - library.stop_gradient(x)) / _moderate(library, k)


def _multiplied(library: Backend, x: Array, k: Array) -> Array:
    """k·x with a derivative that reverses that of `_divided`.

    Back-propagation through k·f(x/k) multiplies by k, sums over components, and divides by k. At k = 1e38 the sum
    overflows in float32, although the derivative itself is of order one. As k is the same in both places, another
    constant may take its place: the first derivative stays exact. (x − stop(x) is zero, with derivative one.)
    """
    if library.stop_gradient is None:
        return x * k
    return library.stop_gradient(x * k) + (x - library.stop_gradient(x)) * _moderate(library, k)


def _moderate(library: Backend, k: Array) -> Array:
    limit = library.smallest**_MODERATE
    return library.xp.clip(k, limit, 1 / limit)
