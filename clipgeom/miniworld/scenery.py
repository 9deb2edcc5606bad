"""Scenes: images, captions and their factors."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from clipgeom._repr import short_repr
from clipgeom._text import PLACEHOLDER
from clipgeom.errors import ConfigError
from clipgeom.miniworld.captions import draw_caption, full_caption
from clipgeom.miniworld.characters import NewCharacter
from clipgeom.miniworld.characters import character as find_character
from clipgeom.miniworld.drawing.canvas import SIZE
from clipgeom.miniworld.drawing.render import Jitter, render
from clipgeom.miniworld.factors import FACTORS, Fixed, Scene, check_fixed, draw_factors

__all__ = ["Scenes", "captions", "picture", "scenes"]

_PICTURE, _WORDS = 0, 1  # each scene has two random streams, so that captions do not depend on the images


@short_repr
@dataclass(frozen=True, slots=True, eq=False)
class Scenes:
    """Some scenes.

    Attributes
    ----------
    pictures : ndarray of uint8, shape (n, 64, 64, 3)
    captions : tuple of str
    factors : tuple of Scene
        For each scene, the value of every factor, mentioned or not.
    """

    pictures: NDArray[np.uint8]
    captions: tuple[str, ...]
    factors: tuple[Scene, ...]

    def __len__(self) -> int:
        return len(self.captions)

    def codes(self, factor: str) -> NDArray[np.int64]:
        """The values of one factor as indices into ``FACTORS[factor]``, shape (n,)."""
        values = FACTORS[factor]
        return np.array([values.index(scene[factor]) for scene in self.factors], dtype=np.int64)


def scenes(
    n: int,
    /,
    seed: int = 0,
    *,
    fixed: Fixed = MappingProxyType({}),
    said: Collection[str] | None = None,
    character: str | NewCharacter | None = None,
    word: str | None = None,
) -> Scenes:
    """Generate scenes.

    The i-th scene depends on `seed` and i alone: a larger `n` adds scenes and changes none. Factors are uniform and
    independent of each other.

    Parameters
    ----------
    n : int
        How many.
    seed : int
    fixed : mapping, optional
        Factors restricted to one value or to several.
    said : collection of str, optional
        The factors that every caption mentions, in the plainest words if those are all of them. By default captions
        vary: half of them mention everything, the others a random subset.
    character : str or NewCharacter, optional
        A new character, in place of those that captions can describe. Its captions contain `word` and nothing else
        about its appearance; by default they mention all other factors, in the simplest words.
    word : str, optional
        The word for the character in captions; with `character`, ``{token}`` by default.

    Returns
    -------
    Scenes

    Raises
    ------
    ConfigError
        `n` is not positive; a factor, a value or a character is unknown.
    """
    n, seed = _whole("n", n, least=1), _whole("seed", seed, least=0)
    check_fixed(fixed)
    new = find_character(character) if isinstance(character, str) else character
    if new is not None:
        if clash := sorted(new.factors.keys() & fixed.keys()):
            raise ConfigError(f"{clash[0]} cannot be fixed: it is part of the character {new.name!r}.")
        fixed = {**fixed, **new.factors}
    pictures = np.empty((n, SIZE, SIZE, 3), dtype=np.uint8)
    texts, factors = [], []
    for index in range(n):
        rng = np.random.default_rng((seed, index, _PICTURE))
        scene = draw_factors(rng, fixed)
        pictures[index] = render(scene, Jitter.draw(rng), None if new is None else new.appearance)
        texts.append(_caption(scene, seed, index, said=said, new=new, word=word))
        factors.append(scene)
    return Scenes(pictures, tuple(texts), tuple(factors))


def captions(n: int, /, seed: int = 0) -> Iterator[str]:
    """Captions of `scenes(n, seed)`, without rendering the images.

    Raises
    ------
    ConfigError
        `n` is not positive.
    """
    n, seed = _whole("n", n, least=1), _whole("seed", seed, least=0)
    for index in range(n):
        scene = draw_factors(np.random.default_rng((seed, index, _PICTURE)))
        yield _caption(scene, seed, index, said=None, new=None, word=None)


def picture(index: int, /, seed: int = 0) -> NDArray[np.uint8]:
    """The image of one scene of `scenes(n, seed)`, shape (64, 64, 3)."""
    rng = np.random.default_rng((seed, index, _PICTURE))
    scene = draw_factors(rng)
    return render(scene, Jitter.draw(rng))


def _caption(
    scene: Scene, seed: int, index: int, *, said: Collection[str] | None, new: NewCharacter | None, word: str | None
) -> str:
    rng = np.random.default_rng((seed, index, _WORDS))
    if new is None and said is not None and set(said) == FACTORS.keys():
        return full_caption(scene, word=word)
    if new is not None:
        word = PLACEHOLDER if word is None else word
        if said is None:
            return full_caption(scene, word=word, looks=False)
        said = [name for name in said if name not in new.factors]
    return draw_caption(scene, rng, said=said, word=word)


def _whole(name: str, value: object, *, least: int) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # numpy's integers pass, floats do not
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, not {value!r}.")
    return number
