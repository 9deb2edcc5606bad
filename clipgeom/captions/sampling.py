"""Uniform sampling, without replacement, from a stream of unknown length."""

import heapq
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

__all__ = ["sample_uniformly"]

T = TypeVar("T")

_BLOCK = 4096  # keys drawn at a time: a call of numpy costs more than a key


def sample_uniformly(items: Iterable[T], size: int, /, *, seed: int) -> list[T]:
    """Take `size` items of a stream, every subset of that size being equally likely, and keep their order.

    Each item gets a random key from U(0, 1), and the `size` smallest keys win ("bottom-k" sampling; E. Cohen and H.
    Kaplan, Summarizing data using bottom-k sketches, PODC 2007). The result depends only on the seed and the
    positions of the items. For one seed, a smaller sample is part of every larger one. Memory: O(size).

    Parameters
    ----------
    items : iterable
        The stream; it is read to its end.
    size : int
        How many to take; all of them if there are fewer.
    seed : int
        Seed of a PCG64 generator.

    Returns
    -------
    list
        The items taken, in the order of the stream.
    """
    kept: list[tuple[float, int, T]] = []  # a heap whose top is the largest key (negated) among those kept
    for index, (item, key) in enumerate(zip(items, _uniforms(seed), strict=False)):
        if len(kept) < size:
            heapq.heappush(kept, (-key, index, item))
        elif -key > kept[0][0]:
            heapq.heapreplace(kept, (-key, index, item))
    kept.sort(key=lambda entry: entry[1])
    return [item for _, _, item in kept]


def _uniforms(seed: int) -> Iterator[float]:
    # The bit generator is named because the one behind `default_rng` may change between versions of numpy.
    generator = np.random.Generator(np.random.PCG64(seed))
    while True:
        yield from generator.random(_BLOCK).tolist()
