"""Captions of scenes: the mentioned factors, and the words for them.

A caption can mention any subset of the factors; an image of the caption may have any value of the others. Whenever a
caption opens with its style, the word for the character is at position 5 if no other factor comes before it:
``an ink illustration of knight`` is BOS an ink illustration of **knight**.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from clipgeom.errors import ConfigError
from clipgeom.miniworld.factors import FACTORS, Scene

__all__ = ["FACING", "GENERAL_WORD", "SAID_RATE", "draw_caption", "draw_said", "full_caption", "vocabulary"]

GENERAL_WORD = "character"  # for any class

_FULL = 0.5  # share of captions that mention everything
SAID_RATE = {name: 0.75 if name in ("position", "background") else 0.6 for name in FACTORS}  # in the others

_PLACES = {
    "meadow": ("in a meadow", "on the meadow", "meadow background", "with a meadow behind"),
    "night": ("at night", "under the night sky", "night background", "with the night sky behind"),
    "desert": ("in the desert", "in the hot desert", "desert background", "with a desert behind"),
    "sea": ("by the sea", "in front of the sea", "sea background", "with the sea behind"),
    "snow": ("in the snow", "on the snow", "snow background", "with snow behind"),
    "castle": ("in a castle", "inside a castle", "castle background", "with a castle behind"),
}
_BODY = ("{} body", "dressed in {}", "in {}")
_HEADGEAR = ("{}", "with a {}", "wearing a {}", "a {} on the head")
_HEADGEAR_COLOR = ("{} headgear", "with {} headgear", "wearing {} headgear")
FACING = ("facing {}", "looking {}", "turned to the {}")
_POSITION = ("{}", "at the {}", "in the {}", "placed at the {}")
_OPENINGS = ("a picture of", "a drawing of", "this is")


def draw_said(rng: np.random.Generator, /) -> frozenset[str]:
    """Choose the factors that a caption mentions: all of them half of the time, otherwise each independently."""
    full = rng.random() < _FULL
    draws = {name: rng.random() for name in FACTORS}
    return frozenset(name for name in FACTORS if full or draws[name] < SAID_RATE[name])


def draw_caption(
    scene: Scene, rng: np.random.Generator, /, *, said: Collection[str] | None = None, word: str | None = None
) -> str:
    """Write a caption for a scene.

    Parameters
    ----------
    scene : Scene
    rng : Generator
        Chooses the words, and the factors if `said` is not given.
    said : collection of str, optional
        The factors to mention.
    word : str, optional
        Used for the character in place of its class: a placeholder, such as ``{token}``.

    Raises
    ------
    ConfigError
        A factor to mention is unknown.
    """
    said = draw_said(rng) if said is None else said
    if unknown := [name for name in said if name not in FACTORS]:
        raise ConfigError(f"miniworld has no factor {unknown[0]!r}; its factors: {', '.join(FACTORS)}.")
    name = word if word is not None else scene["class"] if "class" in said else GENERAL_WORD
    tags = _details(scene, rng, said)
    style = scene["style"] if "style" in said else None
    form = rng.random()
    if form < 0.6:  # tags: the character comes first
        subject = name
    else:  # a sentence
        color = f"{scene['body']} " if "body" in tags and rng.random() < 0.7 else ""
        if color:
            del tags["body"]
        subject = f"{_article(color or name)} {color}{name}"
    order = list(tags)
    rng.shuffle(order)
    comma = ", " if form < 0.6 or rng.random() < 0.5 else " "
    if style is not None and rng.random() < 0.85:
        opening = f"{_article(style)} {style} of "
        style = None
    else:
        opening = f"{_pick(rng, _OPENINGS)} " if rng.random() < 0.4 else ""
    if "background" in tags and form >= 0.9 and not opening:
        order.remove("background")
        opening = f"{tags['background']}, "
    return comma.join([opening + subject, *(tags[tag] for tag in order), *([style] if style else [])])


def full_caption(scene: Scene, /, *, word: str | None = None, looks: bool = True) -> str:
    """The simplest caption that mentions all factors, or all but the appearance, always in the same words."""
    style = scene["style"]
    told = f"{scene['body']} body, {scene['headgear_color']} {scene['headgear']}, " if looks else ""
    return (
        f"{_article(style)} {style} of {word or scene['class']}, {told}facing {scene['facing']}, {scene['position']}, "
        f"{_PLACES[scene['background']][0]}"
    )


def vocabulary() -> tuple[str, ...]:
    """All words that captions can contain, sorted."""
    phrases: list[str] = [GENERAL_WORD, "a", "an", "of", ","]
    for values in FACTORS.values():
        phrases += values
    for group in (_BODY, _HEADGEAR, _HEADGEAR_COLOR, FACING, _POSITION, _OPENINGS, *_PLACES.values()):
        phrases += [phrase.replace("{}", " ") for phrase in group]
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))


def _details(scene: Scene, rng: np.random.Generator, said: Collection[str]) -> dict[str, str]:
    """The phrase for all mentioned factors other than class and style."""
    tags = {}
    if "body" in said:
        tags["body"] = _pick(rng, _BODY).format(scene["body"])
    if "headgear" in said:
        color = f"{scene['headgear_color']} " if "headgear_color" in said else ""
        tags["headgear"] = _pick(rng, _HEADGEAR[0 if color else 1 :]).format(color + scene["headgear"])
    elif "headgear_color" in said:
        tags["headgear"] = _pick(rng, _HEADGEAR_COLOR).format(scene["headgear_color"])
    if "facing" in said:
        tags["facing"] = _pick(rng, FACING).format(scene["facing"])
    if "position" in said:
        tags["position"] = _pick(rng, _POSITION).format(scene["position"])
    if "background" in said:
        tags["background"] = _pick(rng, _PLACES[scene["background"]])
    return tags


def _article(phrase: str) -> str:
    return "an" if phrase.lstrip("<{")[:1] in "aeiou" else "a"


def _pick(rng: np.random.Generator, phrases: Sequence[str]) -> str:
    return phrases[int(rng.integers(len(phrases)))]
