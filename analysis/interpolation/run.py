"""Study: whether pictures at interpolated conditioning are valid scenes, and whether the centering check says which.

    python -m analysis interpolation             # draw and judge the pictures, then write reports/interpolation
    python -m analysis interpolation --report-only      # only write the report again from its raw results
    python -m analysis interpolation --pairs 2 --out elsewhere   # a trial

Nothing is trained. Each pair of prompts shares style, place and background and differs in class and body colour; the states
between the two, from the first word that differs on, are made as the trainer's regulariser makes them, and the
base model draws them from the same noise as both ends. The raw results are a row for each picture and its embedding.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from analysis import ROOT
from analysis.common import world as reading
from clipgeom import Certificate
from clipgeom._images import to_tensor
from clipgeom._progress import Progress
from clipgeom.centering import CENTERED_MODES
from clipgeom.miniworld import FACTORS, load_clip
from pti._logging import silence
from pti.config.schema import LocalitySection
from pti.locality.alignment import (
    TokenPosition,
    TokenSpan,
    interpolated_positions,
)
from pti.locality.certification import InterpolationPlan, plan_interpolation
from pti.locality.midpoint import midpoint
from pti.models.pipeline import DiffusionModel, load_pipeline
from pti.models.prompt_embeds import PromptEmbeds, concatenate, encode_prompts, tokenize
from pti.models.sampling import decode_latents, sample_latents, starting_noise

OUT = ROOT / "reports" / "interpolation"
CERTIFICATE = ROOT / "reports" / "miniworld" / "certificate.safetensors"
MODES = (
    "lerp",
    "slerp",
    "vslerp",
    "vslerp_norm",
    "aslerp",
    "auto",
)  # auto: what the certificate recommends, place by place
TIMES = (0.25, 0.5, 0.75)
SHARED = ("position", "background", "style")
PAIRS, DRAWS = 90, 2

_SEED, _NOISE_SEED = 8000, 8100
_PHRASES = {
    "meadow": "in a meadow",
    "night": "at night",
    "desert": "in the desert",
    "sea": "by the sea",
    "snow": "in the snow",
    "castle": "in a castle",
}


@dataclass(frozen=True, slots=True)
class Concepts:
    """Two prompts that share all but class and body, and a third of the same kind, whose pictures are a control."""

    shared: Mapping[str, str]
    looks: tuple[tuple[str, str], tuple[str, str], tuple[str, str]]  # body and class

    @classmethod
    def drawn(cls, index: int) -> Concepts:
        """The pair of this number: no two of its three share a class or a colour."""
        rng = np.random.default_rng((_SEED, index))
        shared = {name: FACTORS[name][int(rng.integers(len(FACTORS[name])))] for name in SHARED}
        bodies, classes = (rng.choice(list(FACTORS[name]), size=3, replace=False) for name in ("body", "class"))
        first, second, third = ((str(b), str(c)) for b, c in zip(bodies, classes, strict=True))
        return cls(shared, (first, second, third))

    def prompt(self, which: int) -> str:
        """In words whose tokens align: only body and class differ."""
        body, kind = self.looks[which]
        style = self.shared["style"]
        article = "an" if style[0] in "aeiou" else "a"
        return f"{article} {style} of a {body} {kind}, {self.shared['position']}, {_PHRASES[self.shared['background']]}"


def route_of(model: DiffusionModel, first: str, second: str) -> TokenSpan:
    """Where the states of two aligned prompts are interpolated: from the first token that differs to the end."""
    tokens = tokenize(model.encoders[0], [first, second])
    assert int(tokens.eos[0]) == int(tokens.eos[1]), (first, second)
    differs = int((tokens.ids[0] != tokens.ids[1]).nonzero()[0])
    return TokenSpan(differs, model.encoders[0].length, int(tokens.eos[0]), pooled=False)


def decisions_of(model: DiffusionModel, places: set[TokenPosition]) -> dict[str, InterpolationPlan]:
    """For each mode how to interpolate at each place; about the certificate's centres, validated there or not."""
    return {
        mode: plan_interpolation(
            LocalitySection(
                interpolation=mode, certificates=(str(CERTIFICATE),), allow_uncertified=mode in CENTERED_MODES
            ),
            model,
            places,
        )
        for mode in MODES
    }


def measure(count: int, progress: Progress) -> tuple[pd.DataFrame, NDArray[np.float16], dict[str, Any]]:
    """A row for each picture, its embeddings in the same order, and what the check says of the states."""
    silence()
    model = load_pipeline("miniworld")
    concepts = [Concepts.drawn(i) for i in range(count)]
    routes = [route_of(model, c.prompt(0), c.prompt(1)) for c in concepts]
    decisions = decisions_of(model, interpolated_positions(model, [(route,) for route in routes]))
    embed = _embedder()
    rows, embeddings = [], []
    progress.expect(count)
    for index, (pair, route) in enumerate(zip(concepts, routes, strict=True)):
        for number in range(DRAWS):
            told, pictures = _pictures(model, pair, route, decisions, index, number)
            embeddings.append(embed(pictures))
            sure = reading.readers().probabilities(pictures)
            for place, (kind, t) in enumerate(told):
                row: dict[str, Any] = {"pair": index, "draw": number, "kind": kind, "time": t}
                row |= {f"wanted.{name}": value for name, value in pair.shared.items()}
                row |= {"first.class": pair.looks[0][1], "second.class": pair.looks[1][1]}
                for name, values in FACTORS.items():
                    likeliest = int(sure[name][place].argmax())
                    row |= {f"read.{name}": values[likeliest], f"sure.{name}": float(sure[name][place][likeliest])}
                rows.append(row)
        progress(1)
    return pd.DataFrame(rows), np.concatenate(embeddings), said_of_states(Certificate.load(CERTIFICATE), routes)


@torch.no_grad()
def _pictures(
    model: DiffusionModel,
    pair: Concepts,
    route: TokenSpan,
    decisions: Mapping[str, InterpolationPlan],
    index: int,
    number: int,
) -> tuple[list[tuple[str, float]], NDArray[np.uint8]]:
    """Both ends and all points between them from one noise, another prompt from another, and the ends faded into each other."""
    ends = [encode_prompts(model, [pair.prompt(which)]) for which in range(3)]
    told: list[tuple[str, float]] = [("real", 0.0), ("real", 1.0)]
    parts: list[PromptEmbeds] = [ends[0], ends[1]]
    for mode in MODES:
        for t in TIMES:
            told.append((mode, t))
            parts.append(midpoint(model, decisions[mode], [(route,)], ends[0], ends[1], torch.tensor([t])))
    first = index * DRAWS + number
    noise = starting_noise(model, _NOISE_SEED, 1, first=first).repeat(len(parts), 1, 1, 1)
    other = starting_noise(model, _NOISE_SEED + 1, 1, first=first)
    told.append(("control", 0.0))
    latents = sample_latents(
        model,
        concatenate([*parts, ends[2]]),
        torch.cat([noise, other]),
        seed=_NOISE_SEED,
        steps=reading.STEPS,
        guidance=reading.GUIDANCE,
    )
    pictures = decode_latents(model, latents)
    faded = (pictures[0].astype(np.uint16) + pictures[1]) // 2
    told.append(("fade", 0.5))
    return told, np.concatenate([pictures, faded[None].astype(np.uint8)])


def said_of_states(certificate: Certificate, routes: Sequence[TokenSpan]) -> dict[str, Any]:
    """The check's on-shell rate and AUC for each mode and time, as means over the positions that are interpolated."""
    places = Counter(route.position(i) for route in routes for i in range(route.first, route.last))
    total = sum(places.values())
    found: dict[str, Any] = {"places": len(places), "recommended": Counter(), "cells": {}}
    entries = {place: certificate.entry("hidden", place) for place in places}
    for place, n in places.items():
        found["recommended"][entries[place].recommended] += n
    for mode in MODES:
        for t in TIMES:
            on_shell = auc = 0.0
            for place, n in places.items():
                used = entries[place].recommended if mode == "auto" else mode
                figures = entries[place].figures
                on_shell += n * figures["on_shell_by_time"][used][str(t)]
                auc += n * max(0.5, figures["auc"][used]["auc"])
            found["cells"][f"{mode}@{t:g}"] = {"on_shell": on_shell / total, "auc": auc / total}
    found["recommended"] = {mode: n / total for mode, n in found["recommended"].items()}
    return found


def _embedder() -> Any:
    """Pictures to unit vectors of the world's CLIP, shape (n, d)."""
    clip, _ = load_clip()

    def embed(pictures: NDArray[np.uint8]) -> NDArray[np.float16]:
        with torch.inference_mode():
            projected = clip.visual_projection(clip.vision_model(pixel_values=to_tensor(pictures)).pooler_output)
            unit: NDArray[np.float16] = torch.nn.functional.normalize(projected, dim=-1).numpy().astype(np.float16)
        return unit

    return embed


def main() -> None:
    from analysis.interpolation import report as interpolation_report

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report-only", action="store_true", help="only write the report again from its raw results")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"pairs of prompts ({PAIRS})")
    parser.add_argument("--out", type=Path, default=OUT, help="the report's folder")
    arguments = parser.parse_args()
    raw = arguments.out / "raw"
    if not arguments.report_only:
        begun = time.perf_counter()
        with Progress("drew", "pairs") as progress:
            table, embeddings, states = measure(arguments.pairs, progress)
        raw.mkdir(parents=True, exist_ok=True)
        table.to_parquet(raw / "pictures.parquet", index=False)
        np.save(raw / "embeddings.npy", embeddings)
        seconds = time.perf_counter() - begun
        (raw / "states.json").write_text(json.dumps({**states, "seconds": seconds}, indent=1) + "\n", encoding="utf-8")
    interpolation_report.write(arguments.out)
    print(f"report: {arguments.out / 'report.md'}")
