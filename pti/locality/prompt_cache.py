"""Cache of caption embeddings in stage 2: placeholder token, class word, midpoint and empty prompt.

If the text encoder is not trained, the embeddings of a caption never change and are computed once. If it is trained, they
are computed at every step with its LoRA. The base model's embeddings are cached in both cases.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pti.config.schema import ExperimentalSection
from pti.locality.alignment import TokenSpan, align_prompts
from pti.locality.certification import InterpolationPlan
from pti.locality.midpoint import midpoint
from pti.models.lora import Lora
from pti.models.pipeline import DiffusionModel
from pti.models.prompt_embeds import PromptEmbeds, concatenate, empty_prompt_embeds, encode_prompts

__all__ = ["PromptEmbedCache"]


class PromptEmbedCache:
    """Caption embeddings; those that training does not change are cached.

    Parameters
    ----------
    model : DiffusionModel
        With a placeholder token, which is frozen.
    lora : Lora
    settings : ExperimentalSection
    decision : InterpolationPlan or None
        Interpolation mode at each position; None if no midpoints are needed.
    """

    def __init__(
        self, model: DiffusionModel, lora: Lora, settings: ExperimentalSection, decision: InterpolationPlan | None
    ) -> None:
        assert model.placeholder is not None
        self.model, self.pivot, self.lora = model, model.placeholder, lora
        self.settings, self.decision = settings, decision
        self._kept: dict[tuple[str, str], PromptEmbeds] = {}
        self._routes: dict[str, tuple[TokenSpan, ...]] = {}
        self._empty: PromptEmbeds | None = None

    @property
    def requires_grad(self) -> bool:
        """Whether the embeddings depend on trained parameters in the current context."""
        return self.lora.in_text and torch.is_grad_enabled()

    def encode(self, captions: Sequence[str], word: str) -> PromptEmbeds:
        """Encode captions with the placeholder token or the class word; `word` is ``token`` or ``class``.

        With gradients and a tuned text encoder, its LoRA is applied. Otherwise the base model's embeddings are
        returned.
        """
        write = self.pivot.in_prompt if word == "token" else self.pivot.in_class_prompt
        if self.requires_grad:
            return encode_prompts(self.model, [write(caption) for caption in captions])
        for caption in dict.fromkeys(captions):
            if (word, caption) not in self._kept:
                with torch.no_grad(), self.lora.disabled():
                    self._kept[word, caption] = encode_prompts(self.model, [write(caption)]).detached()
        return concatenate([self._kept[word, caption] for caption in captions])

    def midpoints(self, captions: Sequence[str], times: torch.Tensor | None = None) -> PromptEmbeds:
        """Interpolate between the embeddings with the token and with the class word, tuned or frozen as in `encode`.

        Parameters
        ----------
        captions : sequence of str
        times : Tensor, shape (n,), optional
            Interpolation parameters; by default ``experimental.locality_t`` (½ if that is ``uniform``),
            computed once for each caption.
        """
        if times is not None or self.requires_grad:
            return self._midpoint(captions, times)
        for caption in dict.fromkeys(captions):
            if ("midpoint", caption) not in self._kept:
                self._kept["midpoint", caption] = self._midpoint([caption], None).detached()
        return concatenate([self._kept["midpoint", caption] for caption in captions])

    def encode_mixed(
        self, captions: Sequence[str], ways: Sequence[str], times: torch.Tensor | None = None
    ) -> PromptEmbeds:
        """Encode each caption as its own kind of prompt: midpoint, placeholder token, class word, or empty.

        Parameters
        ----------
        captions : sequence of n str
        ways : sequence of n {"midpoint", "token", "class", "empty"}
            ``empty`` is the empty prompt.
        times : Tensor, shape (n,), optional
            Interpolation parameters, as in `midpoints`.
        """
        parts, places = [], []
        for way in dict.fromkeys(ways):
            rows = [row for row, other in enumerate(ways) if other == way]
            texts = [captions[row] for row in rows]
            if way == "empty":
                parts.append(self.empty()[[0] * len(rows)])
            elif way == "midpoint":
                parts.append(self.midpoints(texts, None if times is None else times[rows]))
            else:
                parts.append(self.encode(texts, way))
            places += rows
        return concatenate(parts)[torch.tensor(places).argsort()]

    def empty(self) -> PromptEmbeds:
        """Return the embeddings of the empty prompt, one row, tuned or frozen as in `encode`."""
        if self.requires_grad:
            return empty_prompt_embeds(self.model)
        if self._empty is None:
            with torch.no_grad(), self.lora.disabled():
                self._empty = empty_prompt_embeds(self.model).detached()
        return self._empty

    def _midpoint(self, captions: Sequence[str], times: torch.Tensor | None) -> PromptEmbeds:
        assert self.decision is not None
        for caption in captions:
            if caption not in self._routes:
                (self._routes[caption],) = align_prompts(self.model, [caption], self.settings.locality_positions)
        if times is None:
            t = 0.5 if isinstance(self.settings.locality_t, str) else self.settings.locality_t
            times = torch.full((len(captions),), t, device=self.model.device)
        routes = [self._routes[caption] for caption in captions]
        return midpoint(
            self.model, self.decision, routes, self.encode(captions, "token"), self.encode(captions, "class"), times
        )
