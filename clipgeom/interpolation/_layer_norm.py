"""Interpolation between outputs of a LayerNorm, on the surface that contains all of its outputs."""

import math

from clipgeom.errors import DomainError
from clipgeom.interpolation._backend import Array, Backend, prepare
from clipgeom.interpolation._great_circle import direction_and_length, great_circle

__all__ = ["vslerp_ln"]


def vslerp_ln(
    a: Array, b: Array, /, t: Array | float, *, center: Array, gamma: Array, beta: Array, axis: int = -1
) -> Array:
    """Interpolate LayerNorm outputs on the great circle about a centre, then normalize like the LayerNorm.

    With r = c + slerp(a − c, b − c, t) and z = (r − β)/γ − mean((r − β)/γ): γ·z·√d/‖z‖ + β.

    Parameters
    ----------
    a, b : Array, shape (..., d)
        The ends: outputs of one LayerNorm. They broadcast against each other in their batch shapes, never along `axis`.
    t : float or Array, shape (...)
        Where to interpolate: 0 is `a`, 1 is `b`, and values outside [0, 1] extrapolate. An array broadcasts with the
        batch shape.
    center : Array, shape (d,) or (..., d)
        The centre c, such as the mean of the embeddings. It broadcasts with `a` and `b`.
    gamma, beta : Array, shape (d,) or (..., d)
        Scale γ and shift β of the LayerNorm (``weight`` and ``bias`` in torch).
    axis : int
        The axis of the vectors in `a`, in `b`, in a `center`, `gamma` or `beta` with more than one axis, and in the
        result.

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
        A component of `gamma` is zero: the LayerNorm then has a constant output there, from which z cannot be
        computed. Under ``jax.jit``, where values are unknown, the result is NaN instead.

    Notes
    -----
    Every output of a LayerNorm (Ba, Kiros and Hinton, arXiv 1607.06450) is γ·z + β with mean(z) = 0 and ‖z‖ = √d. The
    result lies on this surface, for every centre. Where γ and β vary between components, no sphere contains the
    surface, so that `vslerp` with ``keep_norm=True`` leaves it.

    The LayerNorm's epsilon makes ‖z‖ smaller than √d, by a factor √(v/(v + ε)) for inputs of variance v. At t = 0 and
    t = 1 the result differs from the ends by that factor, 5e-6 or less in CLIP, and by rounding.

    For the vectors from the centre, the notes of `slerp` apply: on parallel, opposite and zero ends. A point with
    z = 0 has no direction, and its result is β.

    Examples
    --------
    >>> import numpy as np
    >>> gamma, beta = np.asarray([1.0, 2.0, 1.0]), np.asarray([0.0, 1.0, 0.0])
    >>> a = np.asarray([1.0, -1.0, -1.0]) * 1.5**0.5 * [1, 0, 1] * gamma + beta
    >>> b = np.asarray([0.0, 1.0, -1.0]) * 1.5**0.5 * gamma + beta
    >>> r = vslerp_ln(a, b, 0.5, center=beta, gamma=gamma, beta=beta)
    >>> z = (r - beta) / gamma
    >>> print(abs(z.mean().round(9)), round(z @ z, 9))
    0.0 3.0
    """
    ends = prepare("vslerp_ln", a, b, t, axis=axis, center=center, gamma=gamma, beta=beta)
    if ends.library.eager and bool(ends.library.xp.any(ends.vectors["gamma"] == 0)):
        raise DomainError(
            "vslerp_ln: expected a gamma without zeros, got a zero, where the LayerNorm's output is constant; "
            "leave these components out"
        )

    def formula(
        library: Backend, a: Array, b: Array, s: Array, t: Array, center: Array, gamma: Array, beta: Array
    ) -> Array:
        mixed = great_circle(library, a - center, b - center, s, t) + center
        z = (mixed - beta) / gamma
        z = z - library.xp.mean(z, axis=-1, keepdims=True)
        direction, _ = direction_and_length(library, z)
        return gamma * (math.sqrt(z.shape[-1]) * direction) + beta

    return ends.interpolate(formula, *(ends.vectors[name] for name in ("center", "gamma", "beta")))
