"""miniworld's tokenizer: CLIP's byte-level BPE, trained on its few words, each of which becomes one token."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from clipgeom.miniworld.captions import vocabulary

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

__all__ = ["END", "MAX_LENGTH", "START", "build_tokenizer", "learn_merges"]

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 77
_SUFFIX = "</w>"


def build_tokenizer() -> CLIPTokenizer:
    """Build a `CLIPTokenizer` with bytes, merges and the two special tokens, in CLIP's order; EOS is the pad token."""
    from transformers import CLIPTokenizer

    merges = learn_merges(vocabulary())
    alphabet = _byte_alphabet()
    tokens = [*alphabet, *(byte + _SUFFIX for byte in alphabet), *("".join(pair) for pair in merges), START, END]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,  # type: ignore[arg-type]  # its annotation names the form of the file, not of the list
        model_max_length=MAX_LENGTH,
    )


def learn_merges(words: tuple[str, ...], /) -> list[tuple[str, str]]:
    """Byte-pair merges, the most frequent pair first (ties by the alphabet), until every word is one token."""
    pieces = {word: [*word[:-1], word[-1] + _SUFFIX] for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for parts in pieces.values() for pair in pairwise(parts))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = {word: _merge(parts, best) for word, parts in pieces.items()}


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def _byte_alphabet() -> list[str]:
    """The 256 printable characters that stand for bytes in GPT-2's and CLIP's vocabularies, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
