"""Several wordings of a caption, with some of its parts left out.

A word that is only ever trained inside long captions is weaker in short prompts: what the rest of a caption says
changes what a text encoder makes of the word. Leaving out parts of captions, as trainers for tagged pictures do, lets
the word stand in prompts of any length. What is left out of a caption is left to the word, though: a place that no
caption says is learnt with the concept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["drop_tags", "mix_captions"]

_SEPARATOR = ","


def drop_tags(
    caption: str, /, *, dropout: float, count: int, rng: np.random.Generator, templates: Sequence[str] = ()
) -> tuple[str, ...]:
    """The caption as it is, then others from which each part between commas is left out with a probability.

    Parameters
    ----------
    caption : str
    dropout : float
        That probability, 0 … 1. A part that holds ``{token}`` is never left out; without any, the first is kept.
    count : int
        How many wordings in all; 1 where nothing is dropped.
    rng : Generator
    templates : sequence of str
        What may stand in place of the part that holds ``{token}``, one of them with the same probability: what that part says
        beside the word, such as a style, is left out then.

    Returns
    -------
    tuple of str
    """
    parts = [part.strip() for part in caption.split(_SEPARATOR)]
    kept = np.array(["{token}" in part for part in parts])
    kept[0] |= not kept.any()
    if dropout == 0 or kept.all():
        return (caption,) * (count if dropout else 1)
    made = [caption]
    for _ in range(count - 1):
        stays = kept | (rng.random(len(parts)) >= dropout)
        plain = str(rng.choice(templates)) if templates and rng.random() < dropout else None
        said = [part if plain is None or "{token}" not in part else plain for part in parts]
        made.append(", ".join(part for part, stay in zip(said, stays, strict=True) if stay))
    return tuple(made)


def mix_captions(captions: Sequence[str], /, *, rng: np.random.Generator) -> tuple[str, ...]:
    """Captions whose parts between commas were exchanged: prompts for what no picture shows together.

    Parameters
    ----------
    captions : sequence of str
    rng : Generator

    Returns
    -------
    tuple of str
        As many. The n-th part of each is the n-th part of any of them; one with ``{token}`` stands in for another such.
    """
    split = [[part.strip() for part in caption.split(_SEPARATOR)] for caption in captions]

    def drawn(place: int, own: str) -> str:
        offered = [parts[place] for parts in split if len(parts) > place]
        return str(rng.choice([part for part in offered if ("{token}" in part) == ("{token}" in own)]))

    return tuple(", ".join(drawn(place, own) for place, own in enumerate(parts)) for parts in split)
