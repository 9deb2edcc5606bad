"""Spectrum of the covariance, and contributions of single features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipgeom._repr import short_repr
from clipgeom.geometry.moments import Moments

__all__ = ["FeatureShare", "Spectrum", "measure_spectrum"]

TOP_FEATURES = 10


@dataclass(frozen=True, slots=True)
class FeatureShare:
    """One coordinate of the embedding: its mean and standard deviation, and its share of ‖m‖² and of tr Σ."""

    feature: int
    mean: float
    std: float
    share_of_center: float
    share_of_variance: float


@short_repr
@dataclass(frozen=True, slots=True)
class Spectrum:
    """Eigenvalues of the covariance, and contributions of the features.

    `effective_rank` = exp of the entropy of the normalised eigenvalues (Roy & Vetterli, EUSIPCO 2007);
    `participation_ratio` = (Σλ)²/Σλ². `off_diagonal_dominance` is the mean over features of Σ_{j≠i}|Σ_ij|/Σ_ii: above
    1 the matrix is no longer diagonally dominant. Sampling noise alone gives about `off_diagonal_noise` =
    (d−1)·√(2/πn), so read the one beside the other. `top_share` maps k → share of the k most variable features in tr
    Σ.
    """

    eigenvalues: NDArray[np.float64]
    effective_rank: float
    participation_ratio: float
    off_diagonal_dominance: float
    off_diagonal_noise: float
    top_share: dict[str, float]
    by_variance: tuple[FeatureShare, ...]
    by_center: tuple[FeatureShare, ...]


def measure_spectrum(moments: Moments, /) -> Spectrum:
    """Compute the spectrum of the covariance and the features with most of the centre and the variance.

    Eigenvalues are in squared units of the data, descending; those below zero by rounding are set to zero. Without
    any spread the ranks and shares are NaN.
    """
    covariance = moments.covariance
    eigenvalues = np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0.0)
    total = float(eigenvalues.sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        p = eigenvalues / total
        entropy = -float(np.sum(p[p > 0] * np.log(p[p > 0]))) if total > 0 else float("nan")
        participation = total**2 / float(np.sum(eigenvalues**2)) if total > 0 else float("nan")
        variance = np.diag(covariance)
        rest = np.abs(covariance).sum(axis=1) - variance
        dominance = rest[variance > 0] / variance[variance > 0]
        variance_share = variance / variance.sum() if total > 0 else np.full(moments.dim, np.nan)
        mean = moments.mean
        center_share = mean**2 / float(mean @ mean) if mean.any() else np.full(moments.dim, np.nan)

    def share(index: int) -> FeatureShare:
        return FeatureShare(
            feature=index,
            mean=float(mean[index]),
            std=float(variance[index] ** 0.5),
            share_of_center=float(center_share[index]),
            share_of_variance=float(variance_share[index]),
        )

    by_variance = np.argsort(-variance, kind="stable")
    by_center = np.argsort(-np.abs(mean), kind="stable")
    cumulative = np.cumsum(variance_share[by_variance])
    return Spectrum(
        eigenvalues=eigenvalues,
        effective_rank=float(np.exp(entropy)),
        participation_ratio=participation,
        off_diagonal_dominance=float(dominance.mean()) if dominance.size else float("nan"),
        off_diagonal_noise=(moments.dim - 1) * (2 / (np.pi * moments.n)) ** 0.5,
        top_share={str(k): float(cumulative[k - 1]) for k in (1, 2, 5, 10, 50) if k <= moments.dim},
        by_variance=tuple(share(int(i)) for i in by_variance[:TOP_FEATURES]),
        by_center=tuple(share(int(i)) for i in by_center[:TOP_FEATURES]),
    )
