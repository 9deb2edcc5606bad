"""The second judge: a classifier that separates interpolated points from real ones.

Kernel ridge regression (a least-squares support vector machine) on ±1 labels, with the sum of two Gaussian kernels:
one in the original space, one in whitened coordinates; both bandwidths are the root-mean-square radius of the data.
The kernel is universal: it can detect any difference, such as a displaced mean, a lost variance, or a radius. The fit
has a closed form and needs no seed; the leave-one-out error, which also has a closed form, selects its penalty. The
classifier is trained on one half of the captions and evaluated on the other. There, real points and parents of
interpolated ones are different captions, and no parent is used twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipgeom.centering.shells import Whitening

__all__ = ["MAX_TRAINED", "Classifier", "placements"]

MAX_TRAINED = 350  # examples of either kind; more do not change the verdict, and the cost is cubic
PENALTIES = 10.0 ** np.arange(-5, 1)  # penalties of ridge regression, relative to the mean eigenvalue of the kernel


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """A fitted classifier; higher scores mean "interpolated"."""

    whitening: Whitening
    examples: NDArray[np.float64]
    weights: NDArray[np.float64]

    @classmethod
    def fit(cls, whitening: Whitening, real: NDArray[np.float64], made: NDArray[np.float64]) -> Classifier:
        """Fit to real and interpolated vectors, shapes (n, d) and (m, d), at most `MAX_TRAINED` each."""
        real, made = real[:MAX_TRAINED], made[:MAX_TRAINED]
        examples = _coordinates(whitening, np.concatenate([real, made]))
        labels = np.concatenate([-np.ones(len(real)), np.ones(len(made))])
        kernel = _kernel(examples, examples)
        scale = float(np.trace(kernel)) / len(kernel)
        best, chosen = np.inf, np.zeros(len(labels))
        for penalty in PENALTIES:
            inverse = _inverse(kernel + penalty * scale * np.eye(len(kernel)))
            weights = inverse @ labels
            # leave-one-out residual of every example (Cawley & Talbot, Neural Networks 17, 2004)
            error = float(np.mean((weights / np.diag(inverse)) ** 2))
            if error < best:
                best, chosen = error, weights
        return cls(whitening, examples, chosen)

    def scores(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score of each vector, shape (n,)."""
        scores: NDArray[np.float64] = _kernel(_coordinates(self.whitening, x), self.examples) @ self.weights
        return scores


def placements(real: NDArray[np.float64], made: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Placements: for each real score the share of made ones above, for each made one the share of real ones below.

    Ties count ½. The mean of either is the AUC; their variances give its error (DeLong, DeLong & Clarke-Pearson,
    Biometrics 44, 1988).
    """
    ordered_real, ordered_made = np.sort(real), np.sort(made)
    above = 1 - (np.searchsorted(ordered_made, real, "left") + np.searchsorted(ordered_made, real, "right")) / 2 / len(
        made
    )
    below = (np.searchsorted(ordered_real, made, "left") + np.searchsorted(ordered_real, made, "right")) / 2 / len(real)
    return above, below


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of a positive definite matrix by its Cholesky factor, at half the cost of a general one."""
    from scipy.linalg import cholesky
    from scipy.linalg.lapack import dpotri

    lower, _ = dpotri(cholesky(matrix, lower=True, check_finite=False), lower=1)
    inverse: NDArray[np.float64] = np.tril(lower) + np.tril(lower, -1).T
    return inverse


def _coordinates(whitening: Whitening, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Original and whitened coordinates side by side, each scaled to a mean square radius of 1."""
    y = x - whitening.center
    return np.concatenate([y / np.sqrt(whitening.spread), y @ whitening.whitener / np.sqrt(y.shape[1])], axis=1)


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    d = a.shape[1] // 2
    return _gaussian(a[:, :d], b[:, :d]) + _gaussian(a[:, d:], b[:, d:])


def _gaussian(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    squares = np.vecdot(a, a)[:, None] + np.vecdot(b, b)[None, :] - 2 * (a @ b.T)
    return np.exp(-np.maximum(squares, 0.0))
