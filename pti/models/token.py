"""The placeholder token: its names, ids and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from clipgeom._text import CLASS_PLACEHOLDER, PLACEHOLDER
from clipgeom.errors import ConfigError

__all__ = ["PlaceholderToken", "placeholders"]


@dataclass(frozen=True, slots=True, eq=False)
class PlaceholderToken:
    """A placeholder token in all text encoders of a model.

    Attributes
    ----------
    token : str
        The name in prompts; its first token.
    tokens : tuple of str
        All of its tokens: ``<tok>``, ``<tok>_1``, … as in diffusers.
    class_word : str
    ids : tuple of tuple of int
        Token ids for each encoder.
    embeddings : tuple of Tensor, each of shape (vectors, width)
        Embeddings for each encoder, float32.
    initial_embeddings : tuple of Tensor
        The embeddings before any training, e₀.
    table_norms : tuple of float
        Mean norm of each encoder's embedding table.
    """

    token: str
    tokens: tuple[str, ...]
    class_word: str
    ids: tuple[tuple[int, ...], ...]
    embeddings: tuple[torch.Tensor, ...]
    initial_embeddings: tuple[torch.Tensor, ...]
    table_norms: tuple[float, ...]

    @property
    def written(self) -> str:
        """All tokens, separated as in a prompt."""
        return " ".join(self.tokens)

    def in_prompt(self, text: str) -> str:
        """Write out ``{token}`` or the token itself in a prompt, and replace ``{class}`` by the class word."""
        text = text.replace(PLACEHOLDER, self.token).replace(CLASS_PLACEHOLDER, self.class_word)
        if len(self.tokens) > 1 and self.tokens[1] not in text:
            text = text.replace(self.token, self.written)
        return text

    def in_class_prompt(self, text: str) -> str:
        """Return the prompt with the class word in place of the token."""
        for token in (*reversed(self.tokens[1:]),):
            text = text.replace(f" {token}", "")
        return (
            text.replace(PLACEHOLDER, self.class_word)
            .replace(self.token, self.class_word)
            .replace(CLASS_PLACEHOLDER, self.class_word)
        )

    def with_embeddings(self, rows: Sequence[torch.Tensor]) -> PlaceholderToken:
        """Return the same placeholder token with other embeddings."""
        return replace(self, embeddings=tuple(rows))


def placeholders(token: str, vectors: int) -> tuple[str, ...]:
    """Names of the tokens of a placeholder with several vectors, as in diffusers."""
    if not token.strip() or token != token.strip() or len(token.split()) != 1:
        raise ConfigError(
            f"expected concept.placeholder_token to be one word without spaces, such as <concept>; got {token!r}"
        )
    if PLACEHOLDER in token or CLASS_PLACEHOLDER in token:
        raise ConfigError(
            f"expected concept.placeholder_token to be the token that replaces {PLACEHOLDER}, such as <concept>; got {token!r}"
        )
    return (token, *(f"{token}_{i}" for i in range(1, vectors)))
