"""Captions through the tower to vectors, in a stream: a chunk of captions is tokenized, sorted, run and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from clipgeom.encoder.load import TextEncoder, parse_representations
from clipgeom.encoder.positions import Position, parse_positions
from clipgeom.encoder.tokens import TokenizedBatch
from clipgeom.errors import ConfigError, DomainError

__all__ = ["EncodedChunk", "Key", "encode", "encode_chunks"]

Key = tuple[str, Position]

CHUNK = 2048  # captions sorted by length together; bounds what is held in memory
BATCH = 64  # sequences a forward pass


@dataclass(frozen=True, slots=True)
class EncodedChunk:
    """Vectors of a run of captions, in their order.

    `present[position]` says which of the chunk's captions have the position, shape (n,);
    `vectors[representation, position]` holds those captions' vectors only, shape (present.sum(), dim), float32.
    `tokens` is what they were encoded from.
    """

    tokens: TokenizedBatch
    present: dict[Position, NDArray[np.bool_]]
    vectors: dict[Key, NDArray[np.float32]]


def encode_chunks(
    encoder: TextEncoder,
    texts: Iterable[str],
    *,
    representations: Sequence[str],
    positions: Sequence[Position],
    batch_size: int = BATCH,
) -> Iterator[EncodedChunk]:
    """Encode a stream of captions chunk by chunk; memory does not grow with the stream.

    Captions are run in batches of similar length. The tower is causal, so that a result depends neither on the batch
    nor on the padding. Only for positions of kind ``padded`` are captions padded to full length, with the
    tokenizer's pad token and no attention mask, as Stable Diffusion's pipeline does.

    Raises
    ------
    EncoderError
        A representation that the encoder cannot give.
    DomainError
        The encoder gives NaN or infinity (as float16 may).
    """
    if batch_size < 1:
        raise ConfigError(f"expected a batch size of at least 1, got {batch_size}")
    encoder.require(representations)
    stream = iter(texts)
    while batch := list(islice(stream, CHUNK)):
        tokens = encoder.tokens(batch)
        yield _encode_chunk(encoder, tokens, tuple(representations), tuple(positions), batch_size)


def encode(
    encoder: TextEncoder,
    texts: Iterable[str],
    *,
    representations: str | Sequence[str] = ("hidden",),
    positions: str | int | Sequence[str | int] = ("eos",),
    batch_size: int = BATCH,
    progress: Callable[[int], None] = lambda _n: None,
) -> dict[tuple[str, str], tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Vectors of some captions at some positions, all in memory.

    Parameters
    ----------
    encoder : TextEncoder
    texts : iterable of str
    representations, positions
        As on the command line: ``"hidden,projected"`` and ``"eos,5"``, or sequences.
    batch_size : int
        Sequences a forward pass; changes the speed only.
    progress : callable
        Told the number of captions after each chunk.

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
    parts: dict[Key, list[NDArray[np.float32]]] = {(name, place): [] for name in names for place in places}
    rows: dict[Position, list[NDArray[np.int64]]] = {place: [] for place in places}
    start = 0
    for chunk in encode_chunks(encoder, texts, representations=names, positions=places, batch_size=batch_size):
        for place in places:
            rows[place].append(start + np.flatnonzero(chunk.present[place]))
        for key, vectors in chunk.vectors.items():
            parts[key].append(vectors)
        start += len(chunk.tokens.ids)
        progress(len(chunk.tokens.ids))
    return {
        (name, str(place)): (
            np.concatenate([*parts[name, place], np.empty((0, encoder.dim(name)), np.float32)]),
            np.concatenate([*rows[place], np.empty(0, np.int64)]),
        )
        for name, place in parts
    }


def _encode_chunk(
    encoder: TextEncoder,
    tokens: TokenizedBatch,
    names: tuple[str, ...],
    places: tuple[Position, ...],
    batch_size: int,
) -> EncodedChunk:
    n = len(tokens.ids)
    present = {place: place.present(tokens.eos) for place in places}
    slots = {place: np.cumsum(present[place]) - 1 for place in places}
    vectors = {
        (name, place): np.empty((int(present[place].sum()), encoder.dim(name)), np.float32)
        for name in names
        for place in places
    }
    padded = [place for place in places if place.kind == "padded"]
    content = [place for place in places if place.kind != "padded"]
    if content:
        # EOS sees every token before it; an index sees no further than itself, so nothing after the last one is run
        last = tokens.eos if any(p.kind == "eos" for p in content) else _last_needed(tokens.eos, content)
        order = np.argsort(last, kind="stable")
        order = order[last[order] >= 0]
        for start in range(0, len(order), batch_size):
            members = order[start : start + batch_size]
            length = int(last[members[-1]]) + 1
            _run(encoder, tokens, members, length, names, content, present, slots, vectors)
    if padded:
        length = max(place.index for place in padded) + 1
        for start in range(0, n, batch_size):
            members = np.arange(start, min(start + batch_size, n))
            _run(encoder, tokens, members, length, names, padded, present, slots, vectors)
    return EncodedChunk(tokens, present, vectors)


def _last_needed(eos: NDArray[np.int64], places: Sequence[Position]) -> NDArray[np.int64]:
    """Index of the last position asked of each caption, −1 where none is there."""
    last = np.full(len(eos), -1, dtype=np.int64)
    for place in places:
        last = np.where(place.present(eos), np.maximum(last, place.index), last)
    return last


def _run(
    encoder: TextEncoder,
    tokens: TokenizedBatch,
    members: NDArray[np.int64],
    length: int,
    names: tuple[str, ...],
    places: Sequence[Position],
    present: dict[Position, NDArray[np.bool_]],
    slots: dict[Position, NDArray[np.int64]],
    vectors: dict[Key, NDArray[np.float32]],
) -> None:
    """One forward pass, its rows written to their places in `vectors`."""
    import torch

    ids = np.full((len(members), length), encoder.tokens.pad_id, dtype=np.int64)
    for row, member in enumerate(members):
        sequence = tokens.ids[member][:length]
        ids[row, : len(sequence)] = sequence
    states = encoder.forward(torch.from_numpy(ids), names)
    for place in places:
        here = np.flatnonzero(present[place][members])
        if not here.size:
            continue
        columns = place.rows(tokens.eos[members[here]])
        rows_index, columns_index = torch.from_numpy(here), torch.from_numpy(columns)
        for name in names:
            picked = states[name][rows_index.to(states[name].device), columns_index.to(states[name].device)]
            values = picked.float().cpu().numpy()
            if not np.isfinite(values).all():
                raise DomainError(
                    f"the encoder gives NaN or infinity in {name} at {place} with {encoder.dtype}; use --dtype float32"
                )
            vectors[name, place][slots[place][members[here]]] = values
