"""Pictures drawn once and kept as arrays on disk, for stages that look at them many times."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipgeom._io.files import replacing, write_whole
from clipgeom.miniworld.characters import draw_character
from clipgeom.miniworld.drawing.canvas import SIZE
from clipgeom.miniworld.drawing.render import Jitter, render
from clipgeom.miniworld.factors import FACTORS, Scene, draw_factors

__all__ = ["Pool", "draw_pool", "draw_pool_scene", "kept_pool", "pool_marks"]

Pool = tuple[NDArray[np.uint8], list[Scene]]


def draw_pool(folder: Path, n: int, seed: int, /, *, new_characters: float) -> Pool:
    """`n` pictures and their factors, a share of them of new characters drawn at random, kept in `folder`."""
    drawn = (draw_pool_scene(seed, index, new_characters) for index in range(n))
    return kept_pool(folder, f"pool-{seed}-{n}", n, drawn)


def kept_pool(folder: Path, name: str, n: int, drawn: Iterable[tuple[Scene, NDArray[np.uint8]]], /) -> Pool:
    """`n` scenes and their pictures under a name in `folder`; drawn only where they are not there yet."""
    pictures_path, factors_path = folder / f"{name}.npy", folder / f"{name}.json"
    if not factors_path.exists():
        factors = []
        with replacing(pictures_path) as partial:
            pictures = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(n, SIZE, SIZE, 3))
            for index, (scene, picture) in enumerate(drawn):
                pictures[index] = picture
                factors.append(list(scene.values()))
            pictures.flush()
        write_whole(factors_path, json.dumps(factors).encode())
    rows = json.loads(factors_path.read_text(encoding="utf-8"))
    return np.load(pictures_path, mmap_mode="r"), [dict(zip(FACTORS, row, strict=True)) for row in rows]


def draw_pool_scene(seed: int, index: int, new_characters: float, /) -> tuple[Scene, NDArray[np.uint8]]:
    """One scene of a pool and its picture."""
    rng = np.random.default_rng((seed, index))
    if rng.random() >= new_characters:
        scene = draw_factors(rng)
        return scene, render(scene, Jitter.draw(rng))
    new = draw_character(rng)
    scene = draw_factors(rng, new.factors)
    return scene, render(scene, Jitter.draw(rng), new.appearance)


def pool_marks(n: int, seed: int, new_characters: float, /) -> list[dict[str, str]]:
    """The marks of the characters in a pool: pattern, emblem, whether the headgear has two tones."""
    marks = []
    for index in range(n):
        rng = np.random.default_rng((seed, index))
        new = draw_character(rng) if rng.random() < new_characters else None
        marks.append(
            {
                "pattern": "plain" if new is None or new.pattern is None else new.pattern,
                "emblem": "none" if new is None or new.emblem is None else new.emblem,
                "two_tone": "yes" if new is not None and new.headgear_second is not None else "no",
            }
        )
    return marks
