"""The placeholder token in tokenizers and text encoders.

The encoder gets the token's embeddings as an argument, in place of rows of its embedding table. The table keeps its
size and bytes, and no optimiser has access to it (docs/traps.md, 4). During training the encoder gets the parameter
itself, never a copy (docs/traps.md, 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from clipgeom.errors import ConfigError
from pti.models.pipeline import DiffusionModel, PipelineTextEncoder
from pti.models.token import PlaceholderToken, placeholders

__all__ = ["add_placeholder_token", "class_word_ids", "placeholder_embeddings"]


def add_placeholder_token(
    model: DiffusionModel, token: str, class_word: str, *, initializer: str | None = None, vectors: int = 1
) -> DiffusionModel:
    """Add a placeholder token to a model.

    The tokens are added to the tokenizers; the encoders' embedding tables do not change.

    Parameters
    ----------
    model : DiffusionModel
    token : str
    class_word : str
        Must have as many tokens as there are vectors, so that both prompts align (docs/traps.md, 12).
    initializer : str, optional
        Words whose embeddings are the initial ones: as many tokens as vectors, or one.
    vectors : int

    Raises
    ------
    ConfigError
        The token exists, is blank or contains spaces; the class word or the initialiser has another number of tokens.
    """
    tokens = placeholders(token, vectors)
    for encoder in model.encoders:
        _refuse_known(encoder, tokens)
    starts = []
    for encoder in model.encoders:
        class_ids = class_word_ids(encoder, class_word, vectors)
        ids = class_ids if initializer is None else _initial(encoder, initializer, vectors)
        with torch.no_grad():
            starts.append(encoder.table.weight[ids].detach().float().clone())
    all_ids = []
    for encoder in model.encoders:
        encoder.tokenizer.add_tokens(list(tokens))
        ids = encoder.tokenizer.convert_tokens_to_ids(list(tokens))
        rows = encoder.table.num_embeddings
        if min(ids) < rows:
            raise ConfigError(
                f"the tokenizer of {encoder.name} has {min(ids)} tokens, its table {rows} rows: they do not match"
            )
        all_ids.append(tuple(int(i) for i in ids))
    norms = tuple(float(e.table.weight.detach().float().norm(dim=-1).mean()) for e in model.encoders)
    pivot = PlaceholderToken(
        token=token,
        tokens=tokens,
        class_word=class_word,
        ids=tuple(all_ids),
        embeddings=tuple(starts),
        initial_embeddings=tuple(start.clone() for start in starts),
        table_norms=norms,
    )
    return replace(model, placeholder=pivot)


def class_word_ids(encoder: PipelineTextEncoder, class_word: str, vectors: int) -> list[int]:
    """Token ids of the class word.

    Raises
    ------
    ConfigError
        It does not have as many tokens as there are vectors; the message names them.
    """
    ids = _ids(encoder, class_word)
    if len(ids) != vectors:
        pieces = ", ".join(repr(piece) for piece in encoder.tokenizer.convert_ids_to_tokens(ids)) or "none"
        raise ConfigError(
            f"the class word {class_word!r} is {len(ids)} token(s) of {encoder.name} ({pieces}), the placeholder "
            f"token is {vectors}. They must align: choose a class word of one token, or set concept.num_vectors to its number"
        )
    return ids


@contextmanager
def placeholder_embeddings(encoder: PipelineTextEncoder, ids: Sequence[int], rows: torch.Tensor) -> Iterator[None]:
    """Use `rows`, shape (vectors, width), as embeddings of the new ids within the context, gradients included."""
    new = torch.tensor(ids, device=rows.device)
    inputs: list[torch.Tensor] = []

    def before(_module: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        inputs.append(arguments[0])
        known = arguments[0] < encoder.table.num_embeddings
        return (torch.where(known, arguments[0], 0), *arguments[1:])

    def after(_module: Any, _arguments: Any, output: torch.Tensor) -> torch.Tensor:
        where = inputs.pop()[..., None] == new
        replaced = torch.nn.functional.embedding(where.int().argmax(dim=-1), rows.to(output.dtype))
        return torch.where(where.any(dim=-1, keepdim=True), replaced, output)

    handles = [encoder.table.register_forward_pre_hook(before), encoder.table.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _refuse_known(encoder: PipelineTextEncoder, tokens: Sequence[str]) -> None:
    known = encoder.tokenizer.get_vocab()
    for token in tokens:
        if any(form in known for form in (token, f"{token}</w>", token.lower(), f"{token.lower()}</w>")):
            raise ConfigError(
                f"{token!r} is a token of {encoder.name}'s tokenizer already; choose another concept.placeholder_token, "
                f"such as <{token.strip('<>')}-1>"
            )


def _initial(encoder: PipelineTextEncoder, words: str, vectors: int) -> list[int]:
    ids = _ids(encoder, words)
    if len(ids) == 1:
        return ids * vectors
    if len(ids) != vectors:
        pieces = ", ".join(repr(piece) for piece in encoder.tokenizer.convert_ids_to_tokens(ids)) or "none"
        raise ConfigError(
            f"concept.initializer_token {words!r} is {len(ids)} token(s) of {encoder.name} ({pieces}); "
            f"it needs one, or as many as concept.num_vectors = {vectors}"
        )
    return ids


def _ids(encoder: PipelineTextEncoder, words: str) -> list[int]:
    return [int(i) for i in encoder.tokenizer(words, add_special_tokens=False).input_ids]
