"""Simulated populations whose right answer is known."""

import numpy as np

DIM = 128


def _direction(d):
    m = np.random.default_rng(9).normal(size=d)
    return m / np.linalg.norm(m)


def cloud(n, seed, d=DIM):
    """No offset: a Gaussian of unequal variances about the origin."""
    return np.random.default_rng([1, seed]).normal(size=(n, d)) * np.linspace(0.5, 1.5, d)


def layer_norm_sphere(n, seed, d=DIM):
    """A LayerNorm sphere about the origin, without a mean."""
    x = np.random.default_rng([2, seed]).normal(size=(n, d))
    x -= x.mean(axis=1, keepdims=True)
    return x / x.std(axis=1, keepdims=True)


def shell(n, seed, d=DIM, offset=0.7, thickness=0.05):
    """A thin shell off the origin."""
    rng = np.random.default_rng([3, seed])
    u = rng.normal(size=(n, d))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    return u * (1 + thickness * rng.normal(size=(n, 1))) + offset * _direction(d)


def shifted_cloud(n, seed, d=DIM, offset=0.7):
    """A Gaussian of unequal variances off the origin."""
    return cloud(n, seed, d) + offset * np.linalg.norm(np.linspace(0.5, 1.5, d)) * _direction(d)


def gaussian(path, n, seed, *, centered):
    """Drawn from a published mean and covariance."""
    with np.load(path) as moments:
        mean, covariance = moments["mean"].astype(float), moments["cov"].astype(float)
    values, vectors = np.linalg.eigh(covariance)
    x = np.random.default_rng([4, seed]).normal(size=(n, len(mean))) @ (vectors * np.sqrt(values.clip(0))).T
    return x if centered else x + mean
