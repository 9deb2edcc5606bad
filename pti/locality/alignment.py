"""Alignment of prompts with the placeholder token and with the class word: which positions are interpolated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clipgeom.errors import ConfigError
from pti.models.pipeline import DiffusionModel
from pti.models.prompt_embeds import tokenize

__all__ = ["TokenPosition", "TokenSpan", "align_prompts", "interpolated_positions"]


@dataclass(frozen=True, slots=True, order=True)
class TokenPosition:
    """A token position of one representation of one encoder, as in certificates (``eos``, ``5``, ``padded:20``)."""

    encoder: int
    representation: str
    position: str


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """The interpolated positions of one prompt in one encoder.

    Attributes
    ----------
    first, last : int
        Positions from `first` up to, not including, `last`.
    eos : int
        Position of EOS.
    pooled : bool
        Whether the pooled state is interpolated as well.
    """

    first: int
    last: int
    eos: int
    pooled: bool

    def position(self, index: int) -> str:
        """Return the name of a position, as in certificates."""
        return str(index) if index < self.eos else "eos" if index == self.eos else f"padded:{index}"


def align_prompts(model: DiffusionModel, prompts: Sequence[str], positions: str) -> list[tuple[TokenSpan, ...]]:
    """Return the interpolated positions of each prompt in each encoder.

    Parameters
    ----------
    model : DiffusionModel
        With a placeholder token.
    prompts : sequence of str
        With ``{token}``.
    positions : {"suffix", "placeholder"}

    Raises
    ------
    ConfigError
        A prompt and its version with the class word do not align; the message names the tokens (docs/traps.md, 12).
    """
    pivot = model.placeholder
    assert pivot is not None
    vectors = len(pivot.tokens)
    routes: list[list[TokenSpan]] = [[] for _ in prompts]
    for index, encoder in enumerate(model.encoders):
        new = tokenize(encoder, [pivot.in_prompt(p) for p in prompts])
        plain = tokenize(encoder, [pivot.in_class_prompt(p) for p in prompts])
        for row, prompt in enumerate(prompts):
            here = (new.ids[row] == pivot.ids[index][0]).nonzero()
            if not len(here):
                raise ConfigError(f"the placeholder token is not in the prompt {prompt[:100]!r}")
            first = int(here[0])
            others = [i for i in range(encoder.length) if int(new.ids[row, i]) not in pivot.ids[index]]
            aligned = int(new.eos[row]) == int(plain.eos[row]) and bool(
                torch.equal(new.ids[row][others], plain.ids[row][others])
            )
            if not aligned:
                raise ConfigError(
                    f"the prompts {prompt[:80]!r} with the token and with {pivot.class_word!r} do not align in "
                    f"{encoder.name}: {_named(encoder.tokenizer, new.ids[row])} against "
                    f"{_named(encoder.tokenizer, plain.ids[row])}. Both need the same number of tokens, separated by spaces"
                )
            suffix = positions == "suffix"
            last = encoder.length if suffix else first + vectors
            routes[row].append(TokenSpan(first, last, int(new.eos[row]), encoder.pools and suffix))
    return [tuple(r) for r in routes]


def interpolated_positions(model: DiffusionModel, routes: Sequence[tuple[TokenSpan, ...]]) -> set[TokenPosition]:
    """Return every position that is interpolated in any prompt."""
    places = set()
    for route in routes:
        for index, (encoder, part) in enumerate(zip(model.encoders, route, strict=True)):
            places |= {
                TokenPosition(index, encoder.representation, part.position(i)) for i in range(part.first, part.last)
            }
            if part.pooled:
                places.add(TokenPosition(index, "projected", "eos"))
    return places


def _named(tokenizer: object, ids: torch.Tensor) -> str:
    pieces: list[str] = tokenizer.convert_ids_to_tokens([int(i) for i in ids])  # type: ignore[attr-defined]
    end = tokenizer.eos_token  # type: ignore[attr-defined]
    return " ".join(pieces[1 : pieces.index(end) if end in pieces else None])
