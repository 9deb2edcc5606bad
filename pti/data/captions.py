"""Caption variants with tags left out.

A placeholder token that is trained only inside long captions is weaker in short prompts, because a text encoder mixes
the words of a prompt. Tag dropout, common in trainers for tagged images, makes the token work in prompts of any
length. The cost: the token also learns what a caption leaves out, for instance the position in the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipgeom._text import PLACEHOLDER

__all__ = ["drop_tags", "mix_captions"]

_SEPARATOR = ","


def drop_tags(
    caption: str, /, *, dropout: float, count: int, rng: np.random.Generator, templates: Sequence[str] = ()
) -> tuple[str, ...]:
    """Apply caption dropout: return the full caption, then variants from which each tag is dropped at random.

    Parameters
    ----------
    caption : str
    dropout : float
        That probability, 0 … 1. Tags are separated by commas. The tag with ``{token}`` is never dropped; without one,
        the first is kept.
    count : int
        Number of variants in all; 1 if nothing is dropped.
    rng : Generator
    templates : sequence of str
        Replacements for the tag with ``{token}``; one is chosen with the same probability. This drops other words of
        the tag, such as a style.

    Returns
    -------
    tuple of str
    """
    parts = [part.strip() for part in caption.split(_SEPARATOR)]
    kept = np.array([PLACEHOLDER in part for part in parts])
    kept[0] |= not kept.any()
    if dropout == 0 or kept.all():
        return (caption,) * (count if dropout else 1)
    made = [caption]
    for _ in range(count - 1):
        stays = kept | (rng.random(len(parts)) >= dropout)
        plain = str(rng.choice(templates)) if templates and rng.random() < dropout else None
        tags = [part if plain is None or PLACEHOLDER not in part else plain for part in parts]
        made.append(", ".join(tag for tag, stay in zip(tags, stays, strict=True) if stay))
    return tuple(made)


def mix_captions(captions: Sequence[str], /, *, rng: np.random.Generator) -> tuple[str, ...]:
    """Exchange tags between captions, for prompts that combine what no single image shows.

    Parameters
    ----------
    captions : sequence of str
    rng : Generator

    Returns
    -------
    tuple of str
        As many captions. The n-th tag of each is the n-th tag of a random one. A tag with ``{token}`` is only
        exchanged for another with ``{token}``.
    """
    split = [[part.strip() for part in caption.split(_SEPARATOR)] for caption in captions]

    def sample(index: int, own: str) -> str:
        tags = [parts[index] for parts in split if len(parts) > index]
        return str(rng.choice([tag for tag in tags if (PLACEHOLDER in tag) == (PLACEHOLDER in own)]))

    return tuple(", ".join(sample(index, own) for index, own in enumerate(parts)) for parts in split)
