"""Study: at what distance to invert.

    python -m analysis inversion-distance --jobs 2   # invert and measure what is missing, then write reports/inversion-distance
    python -m analysis inversion-distance --report-only     # only write the report again from its raw results

Ten ways to move a new word's vector, by five pairs of a seed and a character; every vector is measured at steps 0, 10, 30,
100, 300 and 1000. The sweep is kept in the folder ``inversion-distance`` and goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from analysis import ROOT
from analysis.common import world as reading
from analysis.common.factors import FREE, LOOKS
from analysis.common.study import PAIRS
from clipgeom.centering.shells import FittedShells, Whitening
from clipgeom.miniworld import NEW_CHARACTERS, scenes
from clipgeom.miniworld.readers import entropy
from pti.models.pipeline import DiffusionModel
from pti.models.prompt_embeds import encode_prompts, tokenize
from pti.runs import checkpoint
from pti.runs.metrics_log import MetricsLog
from pti.runs.run import load_run
from pti.sweeps.sweep import Sweep

OUT = ROOT / "reports" / "inversion-distance"
BASE = Path(__file__).with_name("base.toml")  # every setting of the study, independent of later defaults
STEPS = (0, 10, 30, 100, 300, 1000)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to move the vector."""

    optimizer: str
    rate: float
    norm: str

    @property
    def settings(self) -> dict[str, str | float]:
        """By full name."""
        return {
            "inversion.optimizer": self.optimizer,
            "inversion.learning_rate": self.rate,
            "experimental.embedding_norm": self.norm,
        }


WAYS = (
    *(Way("adamw", rate, "off") for rate in (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)),
    *(Way("adamw", rate, "fixed") for rate in (1e-3, 1e-2)),
    Way("adamw", 1e-2, "decay"),
    Way("sgd", 3e-1, "off"),
)
PLAN = Sweep(
    BASE,
    together=[
        [way.settings for way in WAYS],
        [{"runtime.seed": seed, "data.source": f"miniworld:{character}"} for seed, character in PAIRS],
    ],
)

FREE_AT = (STEPS[0], STEPS[-1])  # steps whose entropies are kept
PICTURES, EACH = 16, 4  # of "a picture of …", and of each of the four prompts that say place, background and style
_DRAWING_SEED = 1000
_CAPTIONS, _CAPTIONS_SEED = 2000, 5000  # whose states are the shells: half of them for the centre, half for the radii
_PROMPTS, _PROMPTS_SEED = 200, 6000  # in which the new word takes the class word's place


def measure(folder: Path) -> list[dict[str, Any]]:
    """A row for each measured step of an inversion."""
    run = load_run(folder, images=False)
    assert run.model.placeholder is not None
    character = run.config.data.source.removeprefix("miniworld:")
    stepped = {row["step"]: row for row in MetricsLog(folder).rows() if row["stage"] == "invert"}
    models = {
        0: replace(
            run.model, placeholder=run.model.placeholder.with_embeddings(run.model.placeholder.initial_embeddings)
        )
    }
    for step in STEPS[1:]:
        rows = checkpoint.load(folder / "checkpoints" / f"invert-{step:07d}.safetensors").tensors["parameter.rows.0"]
        models[step] = replace(run.model, placeholder=run.model.placeholder.with_embeddings([rows]))
    held_out = reading.held_out(list(models.values()), run.config.data, character)
    class_states = None
    found = []
    for (step, model), denoised in zip(models.items(), held_out, strict=True):
        states = _states(model)
        class_states = states if class_states is None else class_states
        row: dict[str, Any] = {
            "step": step,
            "held_out_loss": denoised["loss"],
            **_seen(model, step, run.config.runtime.seed, character),
        }
        row["control"] = denoised["control"]
        for name in ("distance", "path", "distance_per_rate", "norm"):
            row[name] = stepped[step][name] if step else 0.0
        if not step:
            row["norm"] = float(model.placeholder.initial_embeddings[0].norm(dim=-1).mean())  # type: ignore[union-attr]
        for place, shells in _shells(run.model).items():
            moved = states[place] - class_states[place]
            row[f"{place}.distance"] = float(np.linalg.norm(moved, axis=1).mean())
            row[f"{place}.angle"] = _angle(states[place] - shells.center, class_states[place] - shells.center)
            row[f"{place}.on_shell"] = float(shells.hold(states[place]).mean())
        found.append(row)
    return found


def _seen(model: DiffusionModel, step: int, seed: int, character: str) -> Mapping[str, float]:
    """Shares of the drawn pictures that are what they should be; of the class word, once for all ways."""
    if not step and (seed, character) in _OF_CLASS:
        return _OF_CLASS[seed, character]
    looks = reading.looks(model, PICTURES, seed=_DRAWING_SEED + seed)
    wanted = NEW_CHARACTERS[character].factors
    shares = {
        f"looks.{factor}": float(np.mean([value == wanted[factor] for value in looks[factor]])) for factor in LOOKS
    }
    if step in FREE_AT:
        shares |= {f"free.{factor}": entropy(looks[factor]) for factor in FREE}
    placed = reading.placed(model, EACH, seed=_DRAWING_SEED + seed)
    shares |= {f"placed.{factor}": share for factor, share in placed.items()}
    if not step:
        _OF_CLASS[seed, character] = shares
    return shares


_OF_CLASS: dict[tuple[int, str], dict[str, float]] = {}


@dataclass(frozen=True, slots=True, eq=False)
class _Shells:
    """Where the encoder's own states lie, at one place in the prompt."""

    whitening: Whitening
    shells: FittedShells

    @property
    def center(self) -> NDArray[np.float64]:
        return self.whitening.center

    def hold(self, states: NDArray[np.float64]) -> NDArray[np.bool_]:
        return self.shells.hold(self.whitening.radii(states)).all(axis=1)

    @classmethod
    def of(cls, states: NDArray[np.float64]) -> _Shells:
        half = len(states) // 2
        whitening = Whitening.fit(states[:half])
        return cls(whitening, FittedShells.of(whitening.radii(states[half:])))


_KEPT: list[dict[str, _Shells]] = []


def _shells(model: DiffusionModel) -> dict[str, _Shells]:
    """Of the states of real captions, at the class word and at EOS."""
    if not _KEPT:
        drawn = scenes(_CAPTIONS, _CAPTIONS_SEED)
        words = [scene["class"] for scene in drawn.factors]
        _KEPT.append({place: _Shells.of(x) for place, x in _encoded(model, drawn.captions, words).items()})
    return _KEPT[0]


def _states(model: DiffusionModel) -> dict[str, NDArray[np.float64]]:
    """Of prompts with the new word in the class word's place, at the new word and at EOS."""
    assert model.placeholder is not None
    word = model.placeholder.class_word
    captions = _prompts(word)
    texts = [text.replace(word, model.placeholder.written, 1) for text in captions]
    return _encoded(model, texts, [model.placeholder.written] * len(texts))


@cache
def _prompts(word: str) -> Sequence[str]:
    return scenes(_PROMPTS, _PROMPTS_SEED, fixed={"class": word}).captions


def _encoded(model: DiffusionModel, texts: Sequence[str], words: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """States after the transformer, shape (n, width), at each text's word and at its EOS."""
    encoder = model.encoders[0]
    at_word, at_end = [], []
    with torch.no_grad():
        for start in range(0, len(texts), 200):
            some = list(texts[start : start + 200])
            tokens = tokenize(encoder, some)
            ids = torch.tensor(
                [encoder.tokenizer.convert_tokens_to_ids(_token(encoder, w)) for w in words[start : start + 200]]
            )
            places = (tokens.ids == ids[:, None]).int().argmax(dim=1)
            states = encode_prompts(model, some).prompt_embeds
            rows = torch.arange(len(some))
            at_word.append(states[rows, places])
            at_end.append(states[rows, tokens.eos])
    return {"word": torch.cat(at_word).double().numpy(), "eos": torch.cat(at_end).double().numpy()}


def _token(encoder: Any, word: str) -> str:
    pieces = encoder.tokenizer.tokenize(word)
    assert len(pieces) == 1, pieces
    return str(pieces[0])


def _angle(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Mean angle of rows about the centre, in degrees."""
    cosines = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).mean())


measure.version = "inversion-distance/1"  # of the results in raw/: a change of the measurements needs a new one


def main() -> None:
    from analysis.common import study as studies
    from analysis.inversion_distance import report as inversion_distance_report

    studies.main(__doc__, PLAN, measure, ("invert",), OUT, "inversion-distance", inversion_distance_report.write)
