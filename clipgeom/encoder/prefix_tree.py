"""Prefix tree of captions, cut into packs for a causal tower, so that shared prefixes are computed once.

In a causal tower a token's states depend only on the tokens before it, so that captions with the same beginning share
them exactly. The distinct prefixes of a caption set form a tree whose nodes are numbered in preorder here: a node's
descendants are the run ``node + 1 … end − 1``. Two things follow, on which the packs rest.

* Any window of consecutive nodes can be run on its own if the ancestors of its first node are put before it: an
  ancestor of a later node that lies before the window has the first node among its descendants too.
* Whether node j is an ancestor of node i, or i itself, is ``j <= i < end[j]``.

A pack is such a window, and so is a block, the run of nodes inside a pack whose attention is computed together: its
keys are its own nodes and the few ancestors of its first one, however large the pack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipgeom.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

__all__ = ["BLOCK", "Pack", "PrefixTree"]

BLOCK = 32  # nodes whose attention is computed together

_Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """Some nodes with all of their ancestors, ready to run as one sequence.

    Attributes
    ----------
    tokens, depths : int arrays, shape (m,)
        Token ids, and position ids; m is a multiple of the block size.
    first, n : int
        The pack computes nodes ``first … first + n − 1`` of the tree.
    offset : int
        Row of node `first` in the pack: before it stand its ancestors, run again.
    keys : int array, shape (blocks, k)
        Rows of the pack that the rows of each block look at.
    mask : bool array, shape (blocks, block, k)
        Which of them each row sees: its ancestors and itself.
    """

    tokens: _Ints
    depths: _Ints
    first: int
    n: int
    offset: int
    keys: _Ints
    mask: NDArray[np.bool_]


class PrefixTree:
    """The distinct prefixes of some token sequences.

    Parameters
    ----------
    sequences : sequence of int arrays, n of them
        Token ids, at least 0, of each caption as far as it is needed; may be empty.

    Attributes
    ----------
    tokens, depths, ends : int arrays, shape (nodes,)
        Of each node in preorder: its token, its position in the sequence, and one past its last descendant.
    """

    def __init__(self, sequences: Sequence[_Ints]) -> None:
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        columns = np.arange(int(lengths.max(initial=0)))
        matrix = np.full((len(lengths), len(columns)), -1, dtype=np.int32)
        if lengths.sum():
            matrix[columns < lengths[:, None]] = np.concatenate(sequences)
        order = np.lexsort(matrix.T[::-1]) if len(columns) else np.arange(len(lengths))
        matrix, lengths = matrix[order], lengths[order]
        self._row = np.empty(len(order), dtype=np.int64)  # place of each caption in the sorted order
        self._row[order] = np.arange(len(order))

        # how much of each sequence its predecessor has already brought
        shared = np.zeros(len(lengths), dtype=np.int64)
        if len(lengths) > 1:
            same = np.logical_and.accumulate(matrix[1:] == matrix[:-1], axis=1).sum(axis=1)
            shared[1:] = np.minimum(np.minimum(same, lengths[1:]), lengths[:-1])
        new = lengths - shared
        start = np.cumsum(new) - new
        created = (columns >= shared[:, None]) & (columns < lengths[:, None])
        self.tokens = matrix[created].astype(np.int64)
        self._owner = np.repeat(np.arange(len(lengths)), new)
        self.depths = np.broadcast_to(columns, created.shape)[created].astype(np.int64)
        # node at each (sorted caption, depth): the last one created at that depth
        numbers = np.where(created, (start - shared)[:, None] + columns, -1).astype(np.int32)
        self._paths = np.maximum.accumulate(numbers, axis=0)
        # a node's descendants end where a later sequence leaves the path at its depth or above
        leaves = np.where(shared[:, None] <= columns, start[:, None], len(self.tokens)).astype(np.int32)
        following = np.minimum.accumulate(leaves[::-1], axis=0)[::-1]
        following = np.concatenate([following[1:], np.full((1, len(columns)), len(self.tokens), np.int32)])
        self.ends = following[: len(lengths)][created].astype(np.int64)

    def __len__(self) -> int:
        return len(self.tokens)

    def nodes(self, captions: Int[NDArray[np.int64], " m"], depths: Int[NDArray[np.int64], " m"]) -> _Ints:
        """Node of each (caption, depth), shape (m,); a depth beyond the caption's sequence has none and is not caught."""
        return self._paths[self._row[captions], depths].astype(np.int64)

    def ancestors(self, node: int) -> _Ints:
        """The nodes above a node, the root first, shape (depth,)."""
        return self._paths[self._owner[node], : self.depths[node]].astype(np.int64)

    def packs(self, budget: int, *, block: int = BLOCK) -> Iterator[Pack]:
        """Cut the tree into packs of `budget` nodes each, the last one smaller.

        Raises
        ------
        ConfigError
            A budget that is no multiple of the block, or does not exceed the longest sequence, whose pack would
            consist of repeated ancestors only.
        """
        longest = int(self.depths.max(initial=0)) + 1
        if budget % block or budget <= longest:
            raise ConfigError(
                f"a pack of {budget} nodes must be a multiple of {block} and hold more than the longest sequence, {longest}"
            )
        first = 0
        while first < len(self):
            pack = self._pack(first, budget, block)
            yield pack
            first += pack.n

    def _pack(self, first: int, budget: int, block: int) -> Pack:
        above = self.ancestors(first)
        offset = len(above)
        n = min(budget - offset, len(self) - first)
        used = offset + n
        size = -(-used // block) * block
        # padding of the last block: roots of their own that no other node attends to
        tokens, depths = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
        ends = np.arange(1, size + 1)
        members = np.concatenate([above, np.arange(first, first + n)])
        tokens[:used], depths[:used] = self.tokens[members], self.depths[members]
        ends[:used] = np.minimum(self.ends[members], first + n) - first + offset

        starts = np.arange(0, size, block)
        reach = depths[starts]  # a block's first row has as many ancestors as it is deep
        width = int(reach.max())
        keys = np.zeros((len(starts), width + block), dtype=np.int64)
        limits = np.zeros_like(keys)  # one past the rows that see the key; none see an empty slot
        for b, at in enumerate(starts.tolist()):
            if reach[b] > 0:
                rows = self._above(at, first, offset)
                keys[b, : reach[b]], limits[b, : reach[b]] = rows, ends[rows]
            keys[b, width:], limits[b, width:] = np.arange(at, at + block), ends[at : at + block]
        queries = np.arange(size).reshape(len(starts), block, 1)
        mask: Bool[NDArray[np.bool_], "b q k"] = (keys[:, None, :] <= queries) & (queries < limits[:, None, :])
        return Pack(tokens, depths, first, n, offset, keys, mask)

    def _above(self, row: int, first: int, offset: int) -> _Ints:
        """Rows of the pack that are ancestors of one of its rows."""
        if row < offset:
            return np.arange(row)
        nodes = self.ancestors(first + row - offset)
        # an ancestor before the window stands at its own depth in the pack
        return np.where(nodes < first, np.arange(len(nodes)), nodes - first + offset)
