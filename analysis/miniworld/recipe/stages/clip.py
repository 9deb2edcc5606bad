"""The CLIP of the world: two small transformers, trained on pictures and captions to find each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from analysis.miniworld.recipe.loop import Plan, Record, Training, generator_of
from analysis.miniworld.recipe.pools import Pool, kept_pool
from clipgeom._images import to_tensor
from clipgeom.miniworld.captions import draw_caption, draw_said, full_caption
from clipgeom.miniworld.drawing.canvas import SIZE
from clipgeom.miniworld.drawing.render import Jitter, render
from clipgeom.miniworld.factors import FACTORS, Scene, draw_factors
from clipgeom.miniworld.scenery import scenes
from clipgeom.miniworld.tokenizer import MAX_LENGTH

__all__ = [
    "PATCH",
    "WIDTH",
    "agreement",
    "build_clip",
    "draw_groups",
    "image_features",
    "recall_at_1",
    "text_features",
    "text_states",
    "tokenize",
    "train_clip",
]

_SEED = 201
_GROUPS, _GROUP = 10_000, 4  # a scene, and three that differ from it in one factor each
_GROUPS_A_BATCH = 16
_ALONE = 0.5  # weight of captions that say one thing: pictures choose among all values of each factor
_PLAIN = 0.5  # share of captions that say everything, and of those in the plainest words
_LARGEST_SCALE = 100.0  # of the logits, as in CLIP
_PLACE_STD = 0.1

VISION_LAYERS = TEXT_LAYERS = 3
WIDTH = 128
PATCH = 8  # pixels a side


def build_clip(tokenizer: CLIPTokenizer, /) -> CLIPModel:
    """An untrained `CLIPModel`."""
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": 4,
        "projection_dim": WIDTH,
    }
    text = {
        **tower,
        **special,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_LENGTH,
        "num_hidden_layers": TEXT_LAYERS,
    }
    vision = {**tower, "image_size": SIZE, "patch_size": PATCH, "num_hidden_layers": VISION_LAYERS}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
    _lay_out(model)
    return model


@torch.no_grad()
def _lay_out(model: CLIPModel) -> None:
    """Start the image tower with places told apart, by row and by column, as loudly as patches are.

    From transformers' start (0.02 each) the tower had not begun to tell places or shapes after 1,600 steps.
    """
    table = model.vision_model.embeddings.position_embedding.weight
    side = SIZE // PATCH
    rows, columns = (_PLACE_STD * torch.randn(side, WIDTH) for _ in range(2))
    table[1:] += (rows[:, None] + columns[None, :]).reshape(side * side, WIDTH)


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str], /, *, whole: bool = False) -> torch.Tensor:
    """Token ids padded to the longest, or to all 77 positions."""
    padding = "max_length" if whole else "longest"
    return tokenizer(
        list(texts), padding=padding, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
    ).input_ids


def text_features(model: CLIPModel, ids: torch.Tensor, /) -> torch.Tensor:
    """Projected text embeddings, un-normalised."""
    return model.text_projection(model.text_model(input_ids=ids).pooler_output)


def image_features(model: CLIPModel, pictures: torch.Tensor, /) -> torch.Tensor:
    """Projected image embeddings, un-normalised."""
    return model.visual_projection(model.vision_model(pixel_values=pictures).pooler_output)


@torch.no_grad()
def text_states(model: CLIPModel, ids: torch.Tensor, /) -> torch.Tensor:
    """What conditions the generator: the states of all positions after the final LayerNorm."""
    return model.text_model(input_ids=ids).last_hidden_state


def train_clip(
    folder: Path,
    plan: Plan,
    pool_folder: Path,
    tokenizer: CLIPTokenizer,
    /,
    *,
    seeing: Mapping[str, torch.Tensor],
) -> Iterator[Record]:
    """Train it, in `folder`, from an image tower that is `seeing`: its state, from the stage before."""
    pictures, factors = draw_groups(pool_folder)
    torch.manual_seed(_SEED)
    model = build_clip(tokenizer)
    model.vision_model.load_state_dict(seeing)
    training = Training(model, plan, folder)
    codes = np.array([[values.index(scene[name]) for name, values in FACTORS.items()] for scene in factors])

    def loss(step: int) -> dict[str, torch.Tensor]:
        rng = generator_of(_SEED, step)
        groups = np.sort(rng.choice(_GROUPS, _GROUPS_A_BATCH, replace=False))
        rows = (groups[:, None] * _GROUP + np.arange(_GROUP)).ravel()
        said = _subjects(rng, len(rows))
        texts = [_words(factors[row], subjects, rng) for row, subjects in zip(rows, said, strict=True)]
        alone = [draw_caption({name: v}, rng, said=[name]) for name, values in FACTORS.items() for v in values]
        unit = torch.nn.functional.normalize
        images = unit(image_features(model, to_tensor(pictures[rows]).contiguous()))
        words, alone_words = (unit(text_features(model, tokenize(tokenizer, some))) for some in (texts, alone))
        scale = model.logit_scale.exp().clamp(max=_LARGEST_SCALE)
        logits = scale * words @ images.T
        fits = torch.from_numpy(agreement(codes[rows], said)).float()
        cross = torch.nn.functional.cross_entropy
        pairs = (cross(logits, fits / fits.sum(1, keepdim=True)) + cross(logits.T, (fits / fits.sum(0)).T)) / 2
        floor = (torch.log(fits.sum(1)).mean() + torch.log(fits.sum(0)).mean()) / 2  # of it, where many fit
        terms = {"excess": pairs - floor, "scale": scale}
        singles = []
        sizes = [len(values) for values in FACTORS.values()]
        for column, similar in enumerate(torch.split(scale * images @ alone_words.T, sizes, 1)):
            right = torch.from_numpy(codes[rows, column])
            singles.append(cross(similar, right))
            terms[list(FACTORS)[column]] = (similar.argmax(1) == right).float().mean()
        return {"loss": pairs + _ALONE * torch.stack(singles).sum(), **terms}

    yield from training.run(loss)


@torch.no_grad()
def recall_at_1(model: CLIPModel, tokenizer: CLIPTokenizer, n: int, seed: int, /) -> float:
    """Share of `n` held-out pictures whose nearest full caption is their own, captions equal in text being one."""
    held_out = scenes(n, seed, said=tuple(FACTORS))
    images = torch.cat(
        [image_features(model, to_tensor(part).contiguous()) for part in np.array_split(held_out.pictures, 10)]
    )
    words = text_features(model, tokenize(tokenizer, held_out.captions))
    unit = torch.nn.functional.normalize
    nearest = (unit(images) @ unit(words).T).argmax(1).tolist()
    texts = held_out.captions
    return float(np.mean([texts[found] == texts[own] for own, found in enumerate(nearest)]))


def agreement(codes: NDArray[np.int64], said: NDArray[np.bool_], /) -> NDArray[np.bool_]:
    """Which caption (row) fits which picture (column): all that is said of its own scene holds for the other.

    Parameters
    ----------
    codes : ndarray, shape (n, factors)
        Values of the scenes.
    said : ndarray of bool, shape (n, factors)
        What the caption of each scene mentions.
    """
    equal = codes[:, None, :] == codes[None, :, :]
    return np.asarray((equal | ~said[:, None, :]).all(-1))


def _subjects(rng: np.random.Generator, n: int) -> NDArray[np.bool_]:
    """What each caption of a batch says."""
    said = np.zeros((n, len(FACTORS)), dtype=bool)
    for row in range(n):
        subjects = FACTORS if rng.random() < _PLAIN else draw_said(rng)
        said[row] = [name in subjects for name in FACTORS]
    return said


def _words(scene: Scene, said: NDArray[np.bool_], rng: np.random.Generator) -> str:
    if said.all() and rng.random() < _PLAIN:
        return full_caption(scene)
    return draw_caption(scene, rng, said=[name for name, mentioned in zip(FACTORS, said, strict=True) if mentioned])


def draw_groups(folder: Path, /) -> Pool:
    """Groups of scenes that differ in one factor, drawn once."""
    drawn = (member for group in range(_GROUPS) for member in _group(group))
    return kept_pool(folder, f"groups-{_SEED}", _GROUPS * _GROUP, drawn)


def _group(group: int) -> list[tuple[Scene, NDArray[np.uint8]]]:
    rng = np.random.default_rng((_SEED, group, 1))
    base = draw_factors(rng)
    members = [base]
    for name in rng.permutation(list(FACTORS))[: _GROUP - 1]:
        others = [value for value in FACTORS[name] if value != base[name]]
        members.append({**base, name: others[int(rng.integers(len(others)))]})
    return [(scene, render(scene, Jitter.draw(rng))) for scene in members]
