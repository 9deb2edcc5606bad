"""Vectors to interpolate between, and the definitions of the modes in plain float64."""

import math

import array_api_compat
import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

CENTER = np.linspace(-1.0, 2.0, 8)


def like(a, values):
    return array_api_compat.array_namespace(a).asarray(values, dtype=a.dtype)


def pairs(seed, *batch, d=8, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((*batch, d)).astype(dtype), rng.standard_normal((*batch, d)).astype(dtype)


def loop(mode, a, b, t, c):
    """The definitions, one pair at a time, in plain float64."""

    def sphere(a, b):
        u, v = a / np.linalg.norm(a), b / np.linalg.norm(b)
        omega = 2 * math.atan2(np.linalg.norm(u - v), np.linalg.norm(u + v))
        return (math.sin((1 - t) * omega) * a + math.sin(t * omega) * b) / math.sin(omega)

    if mode == "lerp":
        return (1 - t) * a + t * b
    if mode == "slerp":
        return sphere(a, b)
    if mode == "aslerp":
        e = c / np.linalg.norm(c)
        return ((1 - t) * (a @ e) + t * (b @ e)) * e + sphere(a - (a @ e) * e, b - (b @ e) * e)
    r = c + sphere(a - c, b - c)
    if mode == "vslerp_norm":
        r = r * ((1 - t) * np.linalg.norm(a) + t * np.linalg.norm(b)) / np.linalg.norm(r)
    return r


def distance(x, y):
    return np.max(np.linalg.norm(np.asarray(x) - np.asarray(y), axis=-1))


numbers = st.floats(-2, 2, allow_subnormal=False).map(lambda x: 0.0 if abs(x) < 1e-3 else x)


vectors = st.lists(numbers, min_size=8, max_size=8).map(np.asarray)


times = st.floats(-0.25, 1.25)


def to_length(x, length):
    assume(np.linalg.norm(x) > 1e-2)
    return x * (length / np.linalg.norm(x))
