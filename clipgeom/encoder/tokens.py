"""Tokenization of captions: truncated to the encoder's length with EOS kept, and truncations counted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipgeom.errors import EncoderError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenizedBatch", "Tokens"]


@dataclass(frozen=True, slots=True)
class TokenizedBatch:
    """Token ids of some captions, BOS and EOS included, none longer than the encoder.

    `eos` (shape (n,)) is the index of the first end-of-text token of each; `truncated` marks truncated captions.
    """

    ids: list[NDArray[np.int64]]
    eos: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each caption, BOS and EOS included, shape (n,)."""
        return np.array([len(row) for row in self.ids], dtype=np.int64)


_PROBES = (
    "A Photo of   two\tDOGS, 12 cats & the man's cafe\u0301!",
    "na\u00efve \u65e5\u672c \U0001f600 \u200b don't we'll <tok1> a_b-c",
    "<|startoftext|> the end <|endoftext|> after",
)


_IRRELEVANT = ("version", "truncation", "padding", "decoder")  # of a serialised tokenizer, for the ids


class Tokens:
    """The tokenizer of one encoder.

    It contains a copy of the fast tokenizer without truncation and padding, so that settings of the caller's
    tokenizer do not change a result. Captions are truncated here, where they can be counted.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_positions: int) -> None:
        from tokenizers import Tokenizer

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise EncoderError(
                f"{type(tokenizer).__name__} has no fast tokenizer behind it; save a tokenizer.json "
                "(AutoTokenizer.from_pretrained(…).save_pretrained(…)) and try again"
            )
        if tokenizer.eos_token_id is None:
            raise EncoderError("the tokenizer names no end-of-text token; CLIP's EOS cannot be found without it")
        self._backend = Tokenizer.from_str(backend.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self.eos_id = int(tokenizer.eos_token_id)
        self.bos_id = None if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)
        pad = tokenizer.pad_token_id
        self.pad_id = self.eos_id if pad is None else int(pad)
        self.max_positions = max_positions

    def __call__(self, texts: Sequence[str]) -> TokenizedBatch:
        """Tokenize captions.

        Raises
        ------
        EncoderError
            If the tokenizer closes a caption without its end-of-text token.
        """
        rows, eos, truncated = [], [], []
        for text, encoding in zip(texts, self._backend.encode_batch(list(texts)), strict=True):
            ids = np.array(encoding.ids, dtype=np.int64)
            cut = len(ids) > self.max_positions
            if cut:
                ids = np.append(ids[: self.max_positions - 1], self.eos_id)
            found = np.flatnonzero(ids == self.eos_id)
            if not found.size:
                raise EncoderError(
                    f"the tokenizer gave no end-of-text token (id {self.eos_id}) for {text[:60]!r}; is it CLIP's?"
                )
            rows.append(ids)
            eos.append(int(found[0]))
            truncated.append(cut)
        return TokenizedBatch(rows, np.array(eos, dtype=np.int64), np.array(truncated, dtype=bool))

    @property
    def size(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def digest(self) -> str:
        """SHA-256 of everything that determines the ids.

        It covers the serialised tokenizer (normalizer, splitting, model, table of added tokens, post-processing)
        without the parts for decoding. Vocabulary and merges are in a form that both file layouts share. The ids of a
        few probe captions stand for the version of the tokenizers library.
        """
        content = json.loads(self._backend.to_str())
        described = {key: value for key, value in content.items() if key not in _IRRELEVANT}
        merges = described["model"].pop("merges", [])
        del described["model"]["vocab"]
        canonical = {
            "tokenizer": described,
            "vocab": sorted(self._backend.get_vocab(with_added_tokens=True).items()),
            "merges": [" ".join(merge) if isinstance(merge, list) else merge for merge in merges],
            "special": [self.bos_id, self.eos_id, self.pad_id],
            "max_positions": self.max_positions,
            "probes": [self._backend.encode(text).ids for text in _PROBES],
        }
        return hashlib.sha256(json.dumps(canonical, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
