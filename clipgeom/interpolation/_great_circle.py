"""The great circle between two vectors: the numerics of every spherical mode.

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

from clipgeom.interpolation._backend import Array, Backend

__all__ = ["direction_and_length", "great_circle"]

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


def great_circle(library: Backend, a: Array, b: Array, s: Array, t: Array) -> Array:
    """Slerp of prepared vectors, with s = 1 − t; see `clipgeom.slerp`."""
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
    result = _at_any_angle(library, _divided(library, a, k), _divided(library, b, k), s, t, k / k_a, k / k_b)
    bound = library.largest / xp.clip(k, 1.0, None)
    return _multiplied(library, xp.clip(result, -bound, bound), k)


def _at_any_angle(library: Backend, a: Array, b: Array, s: Array, t: Array, up_a: Array, up_b: Array) -> Array:
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


def direction_and_length(library: Backend, x: Array) -> tuple[Array, Array]:
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
