"""Random numbers determined by seed, stream and position, without a generator state to store."""

from __future__ import annotations

import numpy as np

__all__ = ["STREAMS", "rng_for"]

_NAMES = ("invert", "tune", "prior", "own", "probe", "sample", "order", "evaluation", "held-out", "focus", "held")


STREAMS = {name: number for number, name in enumerate(_NAMES)}


def rng_for(seed: int, stream: str, *numbers: int) -> np.random.Generator:
    """Return the random generator of one step of one stream."""
    return np.random.default_rng((seed, STREAMS[stream], *numbers))
