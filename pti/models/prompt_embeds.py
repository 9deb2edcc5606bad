"""Prompt encoding, for prompts with or without the placeholder token.

The end of a prompt is found by the tokenizer's EOS id. The published configurations of SD 1.x contain another id, for
which transformers pools at the highest id: the placeholder token (docs/traps.md, 5). As in every published pipeline,
there is no attention mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clipgeom.errors import ConfigError
from pti.models.pipeline import DiffusionModel, PipelineTextEncoder
from pti.models.placeholder import placeholder_embeddings

__all__ = ["PromptEmbeds", "Tokenized", "concatenate", "empty_prompt_embeds", "encode_prompts", "time_ids", "tokenize"]


@dataclass(frozen=True, slots=True, eq=False)
class PromptEmbeds:
    """Embeddings of n prompts, which condition the UNet.

    Attributes
    ----------
    prompt_embeds : Tensor, shape (n, 77, width)
        The outputs of all encoders, concatenated along the width.
    pooled_prompt_embeds : Tensor or None, shape (n, d)
        SDXL's projected state at EOS.
    time_ids : Tensor or None, shape (n, 6)
        SDXL's original height and width, top and left of the crop, target height and width.
    """

    prompt_embeds: torch.Tensor
    pooled_prompt_embeds: torch.Tensor | None = None
    time_ids: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def __getitem__(self, rows: torch.Tensor | slice | list[int]) -> PromptEmbeds:
        return PromptEmbeds(*(None if part is None else part[rows] for part in self._parts()))  # type: ignore[arg-type]

    def detached(self) -> PromptEmbeds:
        """The same embeddings without gradients."""
        return PromptEmbeds(*(None if part is None else part.detach() for part in self._parts()))  # type: ignore[arg-type]

    def with_time_ids(self, sizes: torch.Tensor | None) -> PromptEmbeds:
        """The same embeddings with other time ids; unchanged for a pipeline without them."""
        return (
            self
            if self.pooled_prompt_embeds is None
            else PromptEmbeds(self.prompt_embeds, self.pooled_prompt_embeds, sizes)
        )

    def _parts(self) -> tuple[torch.Tensor | None, ...]:
        return self.prompt_embeds, self.pooled_prompt_embeds, self.time_ids


@dataclass(frozen=True, slots=True, eq=False)
class Tokenized:
    """Padded ids of some prompts, shape (n, 77), and the index of each one's first EOS, shape (n,)."""

    ids: torch.Tensor
    eos: torch.Tensor


def tokenize(encoder: PipelineTextEncoder, prompts: Sequence[str]) -> Tokenized:
    """Tokenize prompts in the same way as the pipeline.

    Raises
    ------
    ConfigError
        A prompt is too long; truncation could remove the placeholder token.
    """
    ids = encoder.tokenizer(
        list(prompts), padding="max_length", max_length=encoder.length, truncation=True, return_tensors="pt"
    ).input_ids
    end = int(encoder.tokenizer.eos_token_id)
    is_end = ids == end
    for prompt in prompts:
        needed = len(encoder.tokenizer(prompt).input_ids)
        if needed > encoder.length:
            raise ConfigError(f"expected a prompt of at most {encoder.length} tokens, got {needed}: {prompt[:80]!r}…")
    return Tokenized(ids, is_end.int().argmax(dim=-1))


def encode_prompts(
    model: DiffusionModel, prompts: Sequence[str], *, rows: Sequence[torch.Tensor] | None = None
) -> PromptEmbeds:
    """Encode prompts.

    Parameters
    ----------
    model : DiffusionModel
    prompts : sequence of str
        The placeholder token is written out; see `PlaceholderToken.in_prompt`.
    rows : sequence of Tensor, each (vectors, width), optional
        Embeddings of the placeholder token for each encoder; by default those in the model.

    Returns
    -------
    PromptEmbeds
        Without `time_ids`.
    """
    states, pooled = [], None
    if rows is None and model.placeholder is not None:
        rows = model.placeholder.embeddings
    for index, encoder in enumerate(model.encoders):
        tokens = tokenize(encoder, prompts)
        device = encoder.network.device
        ids, eos = tokens.ids.to(device), tokens.eos.to(device)
        if rows is None or model.placeholder is None:
            outputs = encoder.network(ids, output_hidden_states=True)
        else:
            with placeholder_embeddings(encoder, model.placeholder.ids[index], rows[index].to(device)):
                outputs = encoder.network(ids, output_hidden_states=True)
        hidden = outputs.last_hidden_state
        states.append(hidden if encoder.representation == "hidden" else outputs.hidden_states[-2])
        if encoder.pools:
            at_end = hidden[torch.arange(len(ids), device=device), eos]
            pooled = encoder.network.text_projection(at_end)
    return PromptEmbeds(torch.cat(states, dim=-1), pooled)


def empty_prompt_embeds(model: DiffusionModel) -> PromptEmbeds:
    """Embeddings of the empty prompt for guidance; zeros if the pipeline's configuration requires them."""
    none = encode_prompts(model, [""])
    if none.pooled_prompt_embeds is not None and model.pipeline.config.force_zeros_for_empty_prompt:
        return PromptEmbeds(torch.zeros_like(none.prompt_embeds), torch.zeros_like(none.pooled_prompt_embeds))
    return none


def time_ids(size: tuple[int, int], corner: tuple[int, int], target: int) -> torch.Tensor:
    """SDXL's time ids of one image, shape (1, 6): original size, corner of the crop, final size."""
    return torch.tensor([[*size, *corner, target, target]], dtype=torch.float32)


def concatenate(parts: Sequence[PromptEmbeds]) -> PromptEmbeds:
    """Concatenate several batches."""
    if len(parts) == 1:
        return parts[0]
    columns = zip(*(part._parts() for part in parts), strict=True)
    return PromptEmbeds(*(None if column[0] is None else torch.cat(column) for column in columns))  # type: ignore[arg-type]
