"""Locality loss: at prompts midway between placeholder token and class word, match the base model's prediction.

    λ · E ‖ε_θ(z_t, t, c½) − ε_base(z_t, t, c½)‖²

Both predictions use the same noise and timestep. c½ lies between the text encoder's outputs for a prompt with the
token and for the same prompt with the class word. The square is a mean over the prediction's components, as in the
denoising loss. Hence λ = 1 weights both losses equally for every latent size.

The regularization of Roich et al. (arXiv 2106.05744) differs: it moves a fixed distance towards random points, for an
editable neighbourhood. Here the direction is that of the class word, and the point is the midpoint. The aim is that
the token does not learn what the class leaves open, such as position and background. This works only if prompts leave
it open at timesteps where it is undecided, so that tag dropout applies here at every timestep.

For a fraction of the images the empty prompt replaces c½. Guidance subtracts the prediction for the empty prompt.
LoRA trained on captions alone moves this prediction towards the concept, so that guidance would remove the concept.

A causal encoder gives both prompts the same outputs before the placeholder. All later positions, including EOS and
padding, depend on the concept, and each has its own centre.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clipgeom import interpolate
from pti.locality.alignment import TokenPosition, TokenSpan
from pti.locality.certification import InterpolationPlan
from pti.models.pipeline import DiffusionModel
from pti.models.prompt_embeds import PromptEmbeds

__all__ = ["difference", "midpoint"]


def midpoint(
    model: DiffusionModel,
    decision: InterpolationPlan,
    routes: Sequence[tuple[TokenSpan, ...]],
    token: PromptEmbeds,
    plain: PromptEmbeds,
    times: torch.Tensor,
) -> PromptEmbeds:
    """Interpolate between the embeddings of prompts with the token and with the class word.

    Parameters
    ----------
    model : DiffusionModel
    decision : InterpolationPlan
        The interpolation mode at each position.
    routes : sequence of n tuples of TokenSpan
    token, plain : PromptEmbeds, n of them
        Embeddings of the prompts with the token, and with the class word.
    times : Tensor, shape (n,)
        Interpolation parameter: 0 is the token, 1 the class word.

    Returns
    -------
    PromptEmbeds
        With the `time_ids` of `token`. Outside the token spans the embeddings are those of the token's prompt.
    """
    widths = [encoder.width for encoder in model.encoders]
    made = []
    pooled = token.pooled_prompt_embeds
    for index, (a, b) in enumerate(
        zip(
            torch.split(token.prompt_embeds, widths, dim=-1),
            torch.split(plain.prompt_embeds, widths, dim=-1),
            strict=True,
        )
    ):
        representation = model.encoders[index].representation
        rows: dict[str, list[tuple[int, int, torch.Tensor | None]]] = {}
        for row, route in enumerate(routes):
            for position in range(route[index].first, route[index].last):
                ruling = decision.rulings[TokenPosition(index, representation, route[index].position(position))]
                rows.setdefault(ruling.mode, []).append((row, position, ruling.center))
        for mode, entries in rows.items():
            of = torch.tensor([row for row, _, _ in entries], device=a.device)
            at = torch.tensor([position for _, position, _ in entries], device=a.device)
            between = interpolate(a[of, at], b[of, at], times.to(a)[of], mode=mode, center=_centers(entries, a))
            a = a.index_put((of, at), between)
        made.append(a)
        if (
            routes[0][index].pooled
            and token.pooled_prompt_embeds is not None
            and plain.pooled_prompt_embeds is not None
        ):
            ruling = decision.rulings[TokenPosition(index, "projected", "eos")]
            center = None if ruling.center is None else ruling.center.to(token.pooled_prompt_embeds)
            pooled = interpolate(
                token.pooled_prompt_embeds,
                plain.pooled_prompt_embeds,
                times.to(token.pooled_prompt_embeds),
                mode=ruling.mode,
                center=center,
            )
    return PromptEmbeds(torch.cat(made, dim=-1), pooled, token.time_ids)


def difference(noise_pred: torch.Tensor, base_pred: torch.Tensor) -> torch.Tensor:
    """‖ε_θ − ε_base‖² of each prediction, as a mean over its components, shape (n,), in float32."""
    return (noise_pred.float() - base_pred.float()).square().mean(dim=(1, 2, 3))


def _centers(entries: Sequence[tuple[int, int, torch.Tensor | None]], like: torch.Tensor) -> torch.Tensor | None:
    centers = [center for _, _, center in entries if center is not None]
    return torch.stack(centers).to(like) if centers else None
