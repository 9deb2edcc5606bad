"""Simulated populations whose right answer is known, for the study of the centering check and for its tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Draw = Callable[[int, int], NDArray[np.float64]]

DIM = 128


def direction(d: int) -> NDArray[np.float64]:
    """One fixed unit vector."""
    m = np.random.default_rng(9).normal(size=d)
    return m / np.linalg.norm(m)


def cloud(n: int, seed: int, d: int = DIM) -> NDArray[np.float64]:
    """No offset: a Gaussian of unequal variances about the origin."""
    return np.random.default_rng([1, seed]).normal(size=(n, d)) * np.linspace(0.5, 1.5, d)


def layer_norm_sphere(n: int, seed: int, d: int = DIM) -> NDArray[np.float64]:
    """A LayerNorm sphere about the origin, without a mean."""
    x = np.random.default_rng([2, seed]).normal(size=(n, d))
    x -= x.mean(axis=1, keepdims=True)
    return x / x.std(axis=1, keepdims=True)


def unequal_sphere(n: int, seed: int, d: int = DIM) -> NDArray[np.float64]:
    """A LayerNorm sphere about the origin whose features vary unequally."""
    x = np.random.default_rng([5, seed]).normal(size=(n, d)) * np.linspace(0.3, 2.0, d)
    x -= x.mean(axis=1, keepdims=True)
    return x / x.std(axis=1, keepdims=True)


def layer_norm_output(n: int, seed: int, d: int = DIM) -> NDArray[np.float64]:
    """The output of a LayerNorm with its scale and shift, off the origin as text states are."""
    rng = np.random.default_rng([10, seed])
    x = rng.normal(size=(n, d)) * np.linspace(0.3, 2.0, d) + 1.2 * np.sqrt(d) * direction(d)
    x -= x.mean(axis=1, keepdims=True)
    return x / x.std(axis=1, keepdims=True) * np.linspace(0.8, 1.2, d) + 0.1


def shell(n: int, seed: int, d: int = DIM, offset: float = 0.7, thickness: float = 0.05) -> NDArray[np.float64]:
    """A thin shell off the origin, of radius 1."""
    rng = np.random.default_rng([3, seed])
    u = rng.normal(size=(n, d))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    return u * (1 + thickness * rng.normal(size=(n, 1))) + offset * direction(d)


def shifted_cloud(n: int, seed: int, d: int = DIM, offset: float = 0.7) -> NDArray[np.float64]:
    """A Gaussian of unequal variances off the origin."""
    return cloud(n, seed, d) + offset * np.linalg.norm(np.linspace(0.5, 1.5, d)) * direction(d)


def gaussian(path: Path, n: int, seed: int, *, centered: bool) -> NDArray[np.float64]:
    """Drawn from a published mean and covariance, the mean left out where `centered`."""
    mean, root = _moments(path)
    x = np.random.default_rng([4, seed]).normal(size=(n, len(mean))) @ root.T
    return x if centered else x + mean


@lru_cache(maxsize=2)
def _moments(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and a square root of the covariance."""
    with np.load(path) as moments:
        mean, covariance = moments["mean"].astype(float), moments["cov"].astype(float)
    values, vectors = np.linalg.eigh(covariance)
    return mean, vectors * np.sqrt(values.clip(0))


def long_axis(n: int, seed: int, d: int = DIM) -> NDArray[np.float64]:
    """Off the origin, with a third of all variance along the axis of the centre."""
    x = np.random.default_rng([6, seed]).normal(size=(n, d))
    e = direction(d)
    x += (x @ e)[:, None] * e * (np.sqrt(d / 2) - 1)
    return x + 2 * np.sqrt(1.5 * d) * e


def far_shell(n: int, seed: int, d: int = DIM) -> NDArray[np.float64]:
    """A thin shell six radii off the origin."""
    return shell(n, seed, d, offset=6.0, thickness=0.02)


def unequal_norms(n: int, seed: int, d: int = DIM) -> NDArray[np.float64]:
    """Off the origin, radii about the centre spread over a factor of three."""
    rng = np.random.default_rng([7, seed])
    u = rng.normal(size=(n, d))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    return u * np.exp(rng.uniform(-0.55, 0.55, size=(n, 1))) + direction(d)


def two_clusters(n: int, seed: int, d: int = DIM) -> NDArray[np.float64]:
    """A shell off the origin in two halves, far apart across the axis."""
    rng = np.random.default_rng([8, seed])
    e, f = np.eye(d)[0], np.eye(d)[1]
    side = np.where(rng.uniform(size=(n, 1)) < 0.5, -1.0, 1.0)
    return shell(n, seed, d) * 0.6 + 0.8 * side * f + 0.8 * e


CALIBRATED: dict[str, Draw] = {
    "cloud": cloud,
    "sphere": layer_norm_sphere,
    "unequal-sphere": unequal_sphere,
    "shell": shell,
    "shifted-cloud": shifted_cloud,
}
COVERED: dict[str, Draw] = {
    "shell": shell,
    "shifted cloud": shifted_cloud,
    "LayerNorm output, off the origin": layer_norm_output,
    "sphere about the origin": unequal_sphere,
}
ADVERSARIES: dict[str, Draw] = {
    "long axis": long_axis,
    "far shell": far_shell,
    "unequal radii": unequal_norms,
    "two clusters": two_clusters,
}
