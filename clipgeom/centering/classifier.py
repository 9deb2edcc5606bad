"""The second judge: a classifier that has seen other examples tries to tell interpolated points from real ones.

Kernel ridge regression (a least-squares support vector machine) on ±1 labels, with the sum of two Gaussian kernels:
one in the space as it is, one in whitened coordinates; both bandwidths are the root-mean-square radius of the data.
The kernel is universal, so that no property is out of its sight by construction: a displaced mean, a lost variance, a
radius. The fit is convex and closed, hence free of seeds; its penalty is chosen by leave-one-out error, which is closed
too. Trained on one half of the captions and read on the other, where real points and parents of interpolated ones are
different captions and no parent is used twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipgeom.centering.shells import Whitening

__all__ = ["MAX_TRAINED", "Classifier", "placements"]

MAX_TRAINED = 350  # examples of either kind; beyond this the verdict no longer changes, and the cost is cubic
PENALTIES = 10.0 ** np.arange(-5, 1)  # of ridge regression, as shares of the mean eigenvalue of the kernel


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """A fitted classifier: higher scores say "interpolated"."""

    whitening: Whitening
    examples: NDArray[np.float64]
    weights: NDArray[np.float64]

    @classmethod
    def fit(cls, whitening: Whitening, real: NDArray[np.float64], made: NDArray[np.float64]) -> Classifier:
        """From real and interpolated vectors, shapes (n, d) and (m, d), of which at most `MAX_TRAINED` each are used."""
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
        """One number a vector, shape (n,)."""
        scores: NDArray[np.float64] = _kernel(_coordinates(self.whitening, x), self.examples) @ self.weights
        return scores


def placements(real: NDArray[np.float64], made: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each real score the share of made ones above it, for each made one the share of real ones below; ties count ½.

    The mean of either is the AUC; their variances give its error (DeLong, DeLong & Clarke-Pearson, Biometrics 44, 1988).
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
    """Both coordinates side by side, each scaled to a mean square radius of 1."""
    y = x - whitening.center
    return np.concatenate([y / np.sqrt(whitening.spread), y @ whitening.whitener / np.sqrt(y.shape[1])], axis=1)


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    d = a.shape[1] // 2
    return _gaussian(a[:, :d], b[:, :d]) + _gaussian(a[:, d:], b[:, d:])


def _gaussian(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    squares = np.vecdot(a, a)[:, None] + np.vecdot(b, b)[None, :] - 2 * (a @ b.T)
    return np.exp(-np.maximum(squares, 0.0))
