"""Distance between two distributions over the same values, and entropy of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["entropy", "total_variation"]


def total_variation(p: NDArray[np.float64], q: NDArray[np.float64], /) -> NDArray[np.float64]:
    """Total variation distance ½ Σ|p − q| over the last axis: 0 for equal shares, 1 for shares without common values.

    Parameters
    ----------
    p, q : ndarray, shape (…, values)
        Shares that sum to 1 over the last axis.
    """
    return np.asarray(0.5 * np.abs(p - q).sum(axis=-1))


def entropy(
    shares: NDArray[np.float64], /, *, n: int | None = None, log: Callable[[Any], Any] = np.log
) -> NDArray[np.float64]:
    """Entropy −Σ p log p over the last axis.

    Parameters
    ----------
    shares : ndarray, shape (…, values)
        Shares that sum to 1 over the last axis.
    n : int, optional
        Size of the sample that the shares are observed in. With k observed values, the entropy of a sample is too
        small by about (k − 1)/2n nats (Miller 1955, Madow 1948); this is added. It is not for other units.
    log : callable
        ``numpy.log`` for nats, ``numpy.log2`` for bits.
    """
    found = -(shares * log(np.where(shares > 0, shares, 1))).sum(axis=-1)
    return np.asarray(found if n is None else found + ((shares > 0).sum(axis=-1) - 1) / (2 * n))
