"""Radial numbers of each row, collected in three passes over the vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipgeom.geometry.moments import Moments
from clipgeom.geometry.norms.leave_out import LeaveOut
from clipgeom.geometry.vectors import Vectors, row_hashes

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["RadialRows", "read_rows"]


@dataclass(frozen=True, slots=True, eq=False)
class RadialRows:
    """Radial numbers of n rows x with mean m, each of shape (n,); y = x − m.

    `raw` = ‖x‖, `square` = ‖y‖² and `axial` = m·y. `g`, `q` and `w` are y·E[y/‖y‖], y·E[‖y‖²y] and y·Σm: their means over
    a resample give the effect of its moved centre. `copies` counts the rows of each distinct vector. `sphere_shift` is
    the vector from m to the centre of the least-squares sphere, and `sphere_norms` are the distances from that centre;
    both are None if n points always lie on a sphere. `left_out` is None without groups.
    """

    moments: Moments
    raw: NDArray[np.float64]
    square: NDArray[np.float64]
    axial: NDArray[np.float64]
    g: NDArray[np.float64]
    q: NDArray[np.float64]
    w: NDArray[np.float64]
    copies: NDArray[np.int64]
    sphere_shift: NDArray[np.float64] | None
    sphere_norms: NDArray[np.float64] | None
    left_out: LeaveOut | None


def read_rows(source: Vectors, codes: NDArray[np.int64] | None) -> RadialRows:
    """Read the vectors three times: their moments, norms about the mean, and distances that depend on these."""
    moments = Moments.from_batches(source.blocks())
    mean, covariance = moments.mean, moments.covariance
    left_out = None if codes is None else LeaveOut(codes, mean)

    raw_parts, square_parts, axial_parts, hash_parts = [], [], [], []
    unit_sum = np.zeros(source.dim)
    cubic_sum = np.zeros(source.dim)
    for block in source.blocks():
        y = block - mean
        square = np.vecdot(y, y)
        raw_parts.append(np.linalg.norm(block, axis=1))
        hash_parts.append(row_hashes(block))
        square_parts.append(square)
        axial_parts.append(y @ mean)
        radius = np.sqrt(square)
        unit_sum += np.divide(1.0, radius, out=np.zeros_like(radius), where=radius > 0) @ y
        cubic_sum += square @ y
        if left_out is not None:
            left_out.add_deviations(y)
    raw, square, axial = (np.concatenate(parts) for parts in (raw_parts, square_parts, axial_parts))
    cubic = cubic_sum / source.n
    sphere_shift = _sphere_shift(covariance, cubic, source.n)

    directions = np.stack([unit_sum / source.n, cubic, covariance @ mean], axis=1)
    if left_out is not None:
        left_out.measure_centers(raw, square, axial)
    along_parts, sphere_parts = [], []
    for block in source.blocks():
        y = block - mean
        along_parts.append(y @ directions)
        if sphere_shift is not None:
            sphere_parts.append(np.linalg.norm(y - sphere_shift, axis=1))
        if left_out is not None:
            left_out.add_distances(y)
    g, q, w = np.concatenate(along_parts).T
    return RadialRows(
        moments=moments,
        raw=raw,
        square=square,
        axial=axial,
        g=g,
        q=q,
        w=w,
        copies=np.unique(np.concatenate(hash_parts), return_counts=True)[1],
        sphere_shift=sphere_shift,
        sphere_norms=None if sphere_shift is None else np.concatenate(sphere_parts),
        left_out=left_out,
    )


def _sphere_shift(
    covariance: Float[NDArray[np.float64], "d d"], cubic: NDArray[np.float64], n: int
) -> NDArray[np.float64] | None:
    """Vector from the mean to the centre of the least-squares sphere; None if n points always lie on a sphere.

    With y = x − m the problem is linear: ‖y‖² regressed on y, 2Σδ = E[‖y‖²y] (Coope, J. Optim. Theory Appl. 76, 1993).
    """
    if n <= len(cubic) + 1:
        return None
    return np.float64(0.5) * np.linalg.lstsq(covariance, cubic, rcond=None)[0]
