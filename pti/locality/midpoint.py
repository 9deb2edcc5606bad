"""The locality regulariser: midway between the concept and its class word, stay what the frozen model is.

    λ · E ‖ε_θ(z_t, t, c½) − ε_base(z_t, t, c½)‖²

with the same noise and timestep on both sides, where c½ lies between the post-transformer embeddings of a prompt with
the token and of the same prompt with the class word. The square is a mean over the prediction's components, as in the
denoising loss, so that λ = 1 weighs both alike whatever the size of a latent.

This is not the regulariser of Roich et al. (arXiv 2106.05744), which walks a fixed distance towards random points: here
the one direction is that of the class word, and the point is the middle. Their reason was an editable neighbourhood;
here it is that what the class leaves open (position, background) stays open while the appearance is learnt. It can be
held open only where a prompt leaves it open and it is still undecided: see ``locality.whole_captions``.

On a share of the pictures the empty prompt stands in for c½. Guidance subtracts what the model says to it, and low-rank
changes that are trained on captions alone move that towards the concept too: guidance then takes away what was learnt.

A causal encoder gives both prompts the same states before the placeholder; all later ones, EOS and padding too, carry
the concept, each with a centre of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clipgeom import aslerp, lerp, slerp, vslerp
from clipgeom.errors import ConfigError
from pti.locality.certification import Decision, Place
from pti.models.pipeline import Model
from pti.models.prompt_embeds import Conditions, tokenize

__all__ = ["Route", "difference", "interpolate", "midpoint", "places_of", "routes_of"]


@dataclass(frozen=True, slots=True)
class Route:
    """Where one prompt's states are interpolated in one encoder.

    Attributes
    ----------
    first, last : int
        Positions from `first` up to, not including, `last`.
    eos : int
        Position of the end.
    pooled : bool
        Whether the pooled state is interpolated as well.
    """

    first: int
    last: int
    eos: int
    pooled: bool

    def position(self, index: int) -> str:
        """A position as certificates name it."""
        return str(index) if index < self.eos else "eos" if index == self.eos else f"padded:{index}"


def routes_of(model: Model, prompts: Sequence[str], positions: str) -> list[tuple[Route, ...]]:
    """Where each prompt is interpolated, in each encoder.

    Parameters
    ----------
    model : Model
        With a pivot.
    prompts : sequence of str
        With ``{token}``.
    positions : {"suffix", "placeholder"}

    Raises
    ------
    ConfigError
        A prompt and the same with the class word do not align; the message names the tokens (trap 12).
    """
    pivot = model.pivot
    assert pivot is not None
    vectors = len(pivot.tokens)
    routes: list[list[Route]] = [[] for _ in prompts]
    for index, encoder in enumerate(model.encoders):
        new = tokenize(encoder, [pivot.in_prompt(p) for p in prompts])
        plain = tokenize(encoder, [pivot.in_class(p) for p in prompts])
        for row, prompt in enumerate(prompts):
            here = (new.ids[row] == pivot.ids[index][0]).nonzero()
            if not len(here):
                raise ConfigError(f"the new word is not in the prompt {prompt[:100]!r}")
            first = int(here[0])
            others = [i for i in range(encoder.length) if int(new.ids[row, i]) not in pivot.ids[index]]
            aligned = int(new.eos[row]) == int(plain.eos[row]) and bool(
                torch.equal(new.ids[row][others], plain.ids[row][others])
            )
            if not aligned:
                raise ConfigError(
                    f"the prompts {prompt[:80]!r} with the token and with {pivot.class_word!r} do not align in "
                    f"{encoder.name}: {_named(encoder.tokenizer, new.ids[row])} against "
                    f"{_named(encoder.tokenizer, plain.ids[row])}. Both words need as many tokens, set apart by spaces"
                )
            suffix = positions == "suffix"
            last = encoder.length if suffix else first + vectors
            routes[row].append(Route(first, last, int(new.eos[row]), encoder.pools and suffix))
    return [tuple(r) for r in routes]


def places_of(model: Model, routes: Sequence[tuple[Route, ...]]) -> set[Place]:
    """Every place at which anything is interpolated."""
    places = set()
    for route in routes:
        for index, (encoder, part) in enumerate(zip(model.encoders, route, strict=True)):
            places |= {Place(index, encoder.representation, part.position(i)) for i in range(part.first, part.last)}
            if part.pooled:
                places.add(Place(index, "projected", "eos"))
    return places


def midpoint(
    model: Model,
    decision: Decision,
    routes: Sequence[tuple[Route, ...]],
    token: Conditions,
    plain: Conditions,
    times: torch.Tensor,
) -> Conditions:
    """Conditions between those of prompts with the token and those with the class word.

    Parameters
    ----------
    model : Model
    decision : Decision
        How to interpolate, place by place.
    routes : sequence of n tuples of Route
    token, plain : Conditions, n of them
        Of the prompts with the token, and with the class word.
    times : Tensor, shape (n,)
        0 is the token, 1 the class word.

    Returns
    -------
    Conditions
        With the sizes of `token`. Outside the routes the states are those of the token's prompt.
    """
    widths = [encoder.width for encoder in model.encoders]
    made = []
    pooled = token.pooled
    for index, (a, b) in enumerate(
        zip(torch.split(token.states, widths, dim=-1), torch.split(plain.states, widths, dim=-1), strict=True)
    ):
        representation = model.encoders[index].representation
        rows: dict[str, list[tuple[int, int, torch.Tensor | None]]] = {}
        for row, route in enumerate(routes):
            for position in range(route[index].first, route[index].last):
                ruling = decision.rulings[Place(index, representation, route[index].position(position))]
                rows.setdefault(ruling.mode, []).append((row, position, ruling.center))
        for mode, entries in rows.items():
            of = torch.tensor([row for row, _, _ in entries], device=a.device)
            at = torch.tensor([position for _, position, _ in entries], device=a.device)
            between = interpolate(mode, a[of, at], b[of, at], times.to(a)[of], _centers(entries, a))
            a = a.index_put((of, at), between)
        made.append(a)
        if routes[0][index].pooled and token.pooled is not None and plain.pooled is not None:
            ruling = decision.rulings[Place(index, "projected", "eos")]
            center = None if ruling.center is None else ruling.center.to(token.pooled)
            pooled = interpolate(ruling.mode, token.pooled, plain.pooled, times.to(token.pooled), center)
    return Conditions(torch.cat(made, dim=-1), pooled, token.sizes)


def interpolate(
    mode: str, a: torch.Tensor, b: torch.Tensor, times: torch.Tensor, center: torch.Tensor | None
) -> torch.Tensor:
    """Interpolate rows of shape (n, d) at times of shape (n,), about a centre where the mode has one."""
    if mode == "slerp":
        return slerp(a, b, times)
    if mode == "lerp":
        return lerp(a, b, times)
    if center is None:
        raise ConfigError(f"{mode} needs a centre")
    if mode == "aslerp":
        return aslerp(a, b, times, center=center)
    return vslerp(a, b, times, center=center, keep_norm=mode == "vslerp_norm")


def difference(tuned: torch.Tensor, frozen: torch.Tensor) -> torch.Tensor:
    """‖ε_θ − ε_base‖² of each prediction, as a mean over its components, shape (n,); in float32."""
    return (tuned.float() - frozen.float()).square().mean(dim=(1, 2, 3))


def _centers(entries: Sequence[tuple[int, int, torch.Tensor | None]], like: torch.Tensor) -> torch.Tensor | None:
    centers = [center for _, _, center in entries if center is not None]
    return torch.stack(centers).to(like) if centers else None


def _named(tokenizer: object, ids: torch.Tensor) -> str:
    pieces: list[str] = tokenizer.convert_ids_to_tokens([int(i) for i in ids])  # type: ignore[attr-defined]
    end = tokenizer.eos_token  # type: ignore[attr-defined]
    return " ".join(pieces[1 : pieces.index(end) if end in pieces else None])
