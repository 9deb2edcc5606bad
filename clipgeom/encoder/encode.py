"""Streaming encoder: captions to vectors, chunk by chunk, and each chunk in pieces.

A chunk of captions is tokenized, its distinct prefixes are cut into packs, and each pack gives one piece: some rows of
the chunk's vectors, in no particular order. While one chunk runs, the next is being prepared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipgeom.encoder.load import TextEncoder, parse_representations
from clipgeom.encoder.positions import Position, parse_positions
from clipgeom.encoder.prefix_tree import BLOCK, Pack, PrefixTree
from clipgeom.encoder.tokens import TokenizedBatch
from clipgeom.encoder.workers import in_order
from clipgeom.errors import ConfigError, DomainError

if TYPE_CHECKING:
    import torch

__all__ = ["Chunk", "Key", "Piece", "There", "Wanted", "check_pack_size", "encode", "encode_chunks"]

Key = tuple[str, Position]
_Ints = NDArray[np.int64]
_Job = Callable[[], "Piece"]
There = Callable[[int, Mapping[Position, _Ints]], bool]
T = TypeVar("T")

CHUNK = 32_768  # captions whose prefixes are shared; only their tokens are in memory
_BATCH = 32  # sequences per forward pass for a tower without packs


@dataclass(frozen=True, slots=True)
class Wanted:
    """Representations to read at one position, and for how many captions from the first on."""

    position: Position
    representations: tuple[str, ...]
    first: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Some vectors of a chunk.

    `values[representation, position]`, shape (m, dim) in float32, belong into the rows `slots[position]`, shape (m,),
    of the chunk's result for that position. `captions` is the number of captions that this completes. `skipped` means
    that the piece was not computed, because the caller has it.
    """

    slots: dict[Position, _Ints]
    values: dict[Key, NDArray[np.float32]]
    captions: int
    skipped: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Consecutive captions, tokenized and ready to be encoded.

    `start` is the index of its first caption. `present[position]`, shape (n,), selects the captions that have the
    position and for which it is wanted.
    """

    start: int
    tokens: TokenizedBatch
    present: dict[Position, NDArray[np.bool_]]
    _run: Callable[[There], Iterator[Piece]]

    def pieces(self, there: There = lambda _number, _slots: False) -> Iterator[Piece]:
        """Encode the chunk piece by piece.

        Parameters
        ----------
        there : callable
            Called in the calling thread with the number and the slots of each piece, in their order and before it is
            computed; returns whether to skip it.
        """
        return self._run(there)


def encode_chunks(
    encoder: TextEncoder, texts: Iterable[str], wanted: Sequence[Wanted], *, pack_size: int | None = None
) -> Iterator[Chunk]:
    """Encode a stream of captions chunk by chunk; memory does not grow with the stream.

    Chunks and pieces depend only on the captions, `wanted` and the pack size, so that an interrupted run can skip
    finished ones. The tower is causal: a result depends on the tokens before it and on nothing else. Only for
    positions of kind ``padded`` are captions continued with the tokenizer's pad token, with no attention mask, as
    Stable Diffusion's pipeline does.

    Parameters
    ----------
    encoder : TextEncoder
    texts : iterable of str
    wanted : sequence of Wanted
        One entry a position.
    pack_size : int, optional
        Tokens per forward pass; affects speed and memory only. The default depends on the encoder's device.

    Raises
    ------
    EncoderError
        The encoder lacks a representation.
    ConfigError
        A pack size that is no multiple of 32 or does not exceed the length of a sequence.
    DomainError
        The encoder returns NaN or infinity (possible in float16).
    """
    for entry in wanted:
        encoder.require(entry.representations)
    size = check_pack_size(pack_size, encoder.max_positions) or _pack_size(encoder)
    stream = iter(texts)

    def prepared() -> Iterator[Chunk]:
        start = 0
        while batch := list(islice(stream, CHUNK)):
            yield _prepare(encoder, start, encoder.tokens(batch), wanted, size)
            start += len(batch)

    return _ahead(prepared())


def encode(
    encoder: TextEncoder,
    texts: Iterable[str],
    *,
    representations: str | Sequence[str] = ("hidden",),
    positions: str | int | Sequence[str | int] = ("eos",),
    pack_size: int | None = None,
    progress: Callable[[int], None] = lambda _n: None,
) -> dict[tuple[str, str], tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Encode captions at some positions, with all vectors in memory.

    Parameters
    ----------
    encoder : TextEncoder
    texts : iterable of str
    representations, positions
        The same as on the command line: ``"hidden,projected"`` and ``"eos,5"``, or sequences.
    pack_size : int, optional
        Tokens per forward pass; affects speed and memory only.
    progress : callable
        Called with the number of captions that each piece completes.

    Returns
    -------
    dict
        ``(representation, position)`` → (vectors of shape (m, dim) in float32, indices of shape (m,) of the captions
        that have the position, in order).

    Examples
    --------
    >>> encoder = load_text_encoder("openai/clip-vit-large-patch14")        # doctest: +SKIP
    >>> vectors, rows = encode(encoder, ["a cat"], representations="projected")["projected", "eos"]  # doctest: +SKIP
    """
    names = parse_representations(representations)
    places = parse_positions(positions, max_positions=encoder.max_positions)
    parts: dict[Key, list[NDArray[np.float32]]] = {
        (name, place): [np.empty((0, encoder.dim(name)), np.float32)] for name in names for place in places
    }
    rows: dict[Position, list[_Ints]] = {place: [np.empty(0, np.int64)] for place in places}
    wanted = [Wanted(place, names) for place in places]
    for chunk in encode_chunks(encoder, texts, wanted, pack_size=pack_size):
        for place in places:
            found = np.flatnonzero(chunk.present[place])
            rows[place].append(chunk.start + found)
            for name in names:
                parts[name, place].append(np.empty((len(found), encoder.dim(name)), np.float32))
        for piece in chunk.pieces():
            for key, values in piece.values.items():
                parts[key][-1][piece.slots[key[1]]] = values
            progress(piece.captions)
    return {
        (name, str(place)): (np.concatenate(vectors), np.concatenate(rows[place]))
        for (name, place), vectors in parts.items()
    }


def check_pack_size(pack_size: int | None, max_positions: int) -> int | None:
    """Refuse an invalid pack size before any work is done.

    Raises
    ------
    ConfigError
        It is no multiple of the block, or does not exceed the longest sequence.
    """
    if pack_size is not None and (pack_size % BLOCK or pack_size <= max_positions):
        raise ConfigError(
            f"expected a pack size that is a multiple of {BLOCK} and above {max_positions} tokens, got {pack_size}"
        )
    return pack_size


def _pack_size(encoder: TextEncoder) -> int:
    # a CPU's matrix products gain nothing from more; a GPU needs more work at a time
    return 1024 if encoder.device == "cpu" else 16_384


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """Reads at one position: which captions of the chunk, in the order of their slots, at which row of each."""

    wanted: Wanted
    captions: _Ints
    depths: _Ints

    @property
    def position(self) -> Position:
        return self.wanted.position


def _prepare(
    encoder: TextEncoder, start: int, tokens: TokenizedBatch, wanted: Sequence[Wanted], pack_size: int
) -> Chunk:
    n = len(tokens.ids)
    present, readings = {}, []
    last = np.full(n, -1, dtype=np.int64)
    for entry in wanted:
        here = entry.position.present(tokens.eos)
        if entry.first is not None:
            here &= np.arange(start, start + n) < entry.first
        captions = np.flatnonzero(here)
        depths = entry.position.rows(tokens.eos[captions])
        last[captions] = np.maximum(last[captions], depths)
        present[entry.position] = here
        readings.append(_Reading(entry, captions, depths))
    if encoder.tower is None:
        # one by one: transformers collects the states of a forward pass globally, across threads
        return Chunk(start, tokens, present, lambda there: _batches(encoder, tokens.ids, readings, there))
    # a row does not depend on later ones, so that nothing after the last wanted row is run
    sequences = [
        _continued(encoder, ids, end + 1)[: end + 1] for ids, end in zip(tokens.ids, last.tolist(), strict=True)
    ]
    tree = PrefixTree(sequences)

    def run(there: There) -> Iterator[Piece]:
        return in_order(_packs(encoder, tree, last, readings, pack_size, there), encoder.device)

    return Chunk(start, tokens, present, run)


def _continued(encoder: TextEncoder, ids: _Ints, length: int) -> _Ints:
    """Token ids with pad tokens after them up to a length."""
    lacking = length - len(ids)
    return ids if lacking <= 0 else np.pad(ids, (0, lacking), constant_values=encoder.tokens.pad_id)


def _packs(
    encoder: TextEncoder, tree: PrefixTree, last: _Ints, readings: Sequence[_Reading], pack_size: int, there: There
) -> Iterator[_Job]:
    """Encode one pack per piece: the values of the nodes that the pack is the first to compute."""
    assert encoder.tower is not None
    asked = []  # of each position: nodes in order, and the slot that each belongs into
    for reading in readings:
        nodes = tree.nodes(reading.captions, reading.depths)
        order = np.argsort(nodes, kind="stable")
        asked.append((nodes[order], order))
    running = np.flatnonzero(last >= 0)
    ends = np.sort(tree.nodes(running, last[running]))
    idle = len(last) - len(running)  # captions that have nothing to give are done at once
    if not len(tree):
        yield partial(Piece, {}, {}, idle)

    def run(pack: Pack, slots: dict[Position, _Ints], spans: Sequence[slice], captions: int) -> Piece:
        assert encoder.tower is not None
        unique = np.unique(np.concatenate([nodes[span] for (nodes, _), span in zip(asked, spans, strict=True)]))
        names = {name for reading in readings for name in reading.wanted.representations}
        states = _values(encoder, encoder.tower.run(pack, unique - pack.first + pack.offset, names), readings)
        values = {}
        for reading, (nodes, _), span in zip(readings, asked, spans, strict=True):
            picked = np.searchsorted(unique, nodes[span])
            for name in reading.wanted.representations:
                values[name, reading.position] = states[name][picked]
        return Piece(slots, values, captions)

    for number, pack in enumerate(_ahead(tree.packs(pack_size))):
        window = (pack.first, pack.first + pack.n)
        low, high = np.searchsorted(ends, window)
        captions = int(high - low) + (idle if number == 0 else 0)
        spans = [slice(*np.searchsorted(nodes, window)) for nodes, _ in asked]
        slots = {r.position: places[span] for r, (_, places), span in zip(readings, asked, spans, strict=True)}
        if there(number, slots):
            yield partial(Piece, {}, {}, captions, skipped=True)
        else:
            yield partial(run, pack, slots, spans, captions)


def _batches(encoder: TextEncoder, ids: Sequence[_Ints], readings: Sequence[_Reading], there: There) -> Iterator[Piece]:
    """Encode whole sequences of one length together, for a tower without packs.

    Captions in their own length come first, then those of padded positions in full length.
    """
    import torch

    padded = [reading for reading in readings if reading.position.kind == "padded"]
    own = [reading for reading in readings if reading.position.kind != "padded"]
    full = [_continued(encoder, row, encoder.max_positions) for row in ids] if padded else []
    continued = _captions(padded)
    number = completed = 0
    for group, sequences in ((own, ids), (padded, full)):
        members = _captions(group)
        lengths = np.array([len(sequences[member]) for member in members.tolist()], dtype=np.int64)
        for batch in _equal_lengths(members, lengths):
            captions = len(batch) if group is padded else int((~np.isin(batch, continued)).sum())
            completed += captions
            rows = {reading.position: np.flatnonzero(np.isin(batch, reading.captions)) for reading in group}
            slots = {r.position: np.searchsorted(r.captions, batch[rows[r.position]]) for r in group}
            number += 1
            if there(number - 1, slots):
                yield Piece({}, {}, captions, skipped=True)
                continue
            names = tuple({name: None for reading in group for name in reading.wanted.representations})
            stacked = torch.from_numpy(np.stack([sequences[member] for member in batch.tolist()]))
            states = _values(encoder, encoder.forward(stacked, names), group)
            values = {}
            for reading in group:
                depths = reading.depths[slots[reading.position]]
                for name in reading.wanted.representations:
                    values[name, reading.position] = states[name][rows[reading.position], depths]
            yield Piece(slots, values, captions)
    yield Piece({}, {}, len(ids) - completed, skipped=there(number, {}))


def _captions(readings: Sequence[_Reading]) -> _Ints:
    """The captions in any of the readings, in order."""
    return np.unique(np.concatenate([np.empty(0, np.int64), *(reading.captions for reading in readings)]))


def _equal_lengths(members: _Ints, lengths: _Ints) -> Iterator[_Ints]:
    """The members in batches of one length each."""
    for length in np.unique(lengths):
        same = members[lengths == length]
        yield from (same[start : start + _BATCH] for start in range(0, len(same), _BATCH))


def _values(
    encoder: TextEncoder, states: Mapping[str, torch.Tensor], readings: Sequence[_Reading]
) -> dict[str, NDArray[np.float32]]:
    """Convert states to arrays; NaN and infinity are errors."""
    arrays = {name: state.float().cpu().numpy() for name, state in states.items()}
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            places = ", ".join(str(r.position) for r in readings if name in r.wanted.representations)
            raise DomainError(
                f"the encoder gives NaN or infinity in {name} at {places} with {encoder.dtype}; use --dtype float32"
            )
    return arrays


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Prepare each item in a thread of its own while the one before is in use."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="clipgeom-prepare") as pool:
        pending = pool.submit(next, items, end)
        while (item := pending.result()) is not end:
            pending = pool.submit(next, items, end)
            yield item  # type: ignore[misc]  # the end was told apart above
