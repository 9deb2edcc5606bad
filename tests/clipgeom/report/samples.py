"""Measured reports of synthetic vectors, for the tests of what is written from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgeom.encoder.positions import Position
from clipgeom.geometry.vectors import ArrayVectors
from clipgeom.report.folder import SCHEMA
from clipgeom.report.measure.build import ReportData, measure_embeddings
from clipgeom.report.measure.rows import VectorSet, json_ready, measure_profile, measure_row

NASTY = (
    "<script>alert(1)</script>",
    "</style></svg><img src=x onerror=alert(2)>",
    "&quot; onmouseover=&quot;alert(3)",
    '" autofocus onfocus="alert(4)',
    "\u202eright to left\u202c and \u05d0\u05d1\u05d2 \u200f",
    "🐈‍⬛ 👩🏽‍🚀 \U0001f9ff",
    "w" * 3000,
    "{{ 7 * 7 }} {% raw %} ${x} $y^2$",
    "half a pair \ud83d",
    "nul \x00 and bell \x07",
)


def vectors(kind: str, n: int, dim: int = 12, seed: int = 0) -> NDArray[np.float64]:
    """n vectors: `sphere` about the origin, `shell` about a far centre, `ball` about the origin, or `constant`."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dim)) + 0.4
    if kind == "constant":
        return np.broadcast_to(x[:1], x.shape).copy()
    if kind == "ball":
        return x
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    if kind == "sphere":
        return x * dim**0.5
    x -= x.mean(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x + 1.5 * np.eye(dim)[0]


def captioned(
    rows: Sequence[tuple[str, str, str]] = (("hidden", "eos", "sphere"), ("projected", "5", "shell")),
    *,
    n: int = 200,
    captions: Sequence[str] = ("a plain caption",),
    model: str = "openai/clip-vit-base-patch32",
    seed: int = 0,
    profile: bool = False,
    check: bool = False,
) -> ReportData:
    """A report on captions with one row for each (representation, position, kind of vectors)."""

    def describe(indices: Any) -> list[dict[str, str]]:
        return [{"id": str(int(i)), "text": captions[int(i) % len(captions)]} for i in indices]

    measured = [
        measure_row(
            VectorSet(
                ArrayVectors(vectors(kind, n, seed=seed + i)),
                representation,
                position,
                describe,
                n_excluded=0 if position == "eos" else 7,
            ),
            seed=0,
            check=check,
        )
        for i, (representation, position, kind) in enumerate(rows)
    ]
    points = []
    for representation in dict.fromkeys(representation for representation, _, _ in rows) if profile else ():
        for population, first, last in (("content", 0, 9), ("padded", 7, 12)):
            for index in range(first, last):
                kind = "constant" if index == 0 else "sphere"
                point = measure_profile(ArrayVectors(vectors(kind, max(3, n - 20 * index), seed=index)))
                assert point is not None
                del point["center"]
                points.append({"representation": representation, "population": population, "position": index, **point})
    report = json_ready(
        {
            "schema": SCHEMA,
            "provenance": {
                "model": model,
                "revision": None,
                "fingerprint": f"{seed:064x}",
                "dtype": "float32",
                "device": "cpu",
                "captions": "captions.txt",
                "selection": {"limit": n, "sample": "first", "seed": 0, "per_image": "all", "unique": False},
                "captions_sha256": "c" * 64,
                "seed": 0,
                "command": "clipgeom report --captions captions.txt",
                "versions": {"python": "3.11.0", "clipgeom": "0.1.0"},
                "created": "2026-01-02T03:04:05+00:00",
            },
            "captions": {
                "n_read": n + 1,
                "n_blank": 1,
                "n_same_image": 0,
                "n_duplicates": 2,
                "n_unsampled": 0,
                "n_used": n,
                "groups": None,
                "n_groups": None,
                "n_truncated": 0,
                "token_length": {
                    "mean": 6.5,
                    "min": 5,
                    "median": 6,
                    "p95": 8,
                    "max": 9,
                    "counts": {"5": n // 3, "6": n // 3, "9": n - 2 * (n // 3)},
                },
                "excluded": {position: 0 if position == "eos" else 7 for _, position, _ in rows},
            },
            "statistics": [row.statistics for row in measured],
            "centering": [row.centering for row in measured if row.centering is not None],
            "conformity": [row.conformity for row in measured if row.conformity is not None],
            "profile": points,
            "modality": None,
        }
    )
    centers = {f"{row.statistics['representation']}.{row.statistics['position']}": row.center for row in measured}
    return ReportData(report, centers, [row.arrays for row in measured])


def full(n: int = 400) -> ReportData:
    """Twelve rows, one of them constant as at BOS."""
    names = ("token", "prenorm", "penultimate", "hidden", "projected", "normalized")
    kinds = ("ball", "shell", "ball", "sphere", "shell", "sphere")
    rows = [(name, place, kind) for name, kind in zip(names, kinds, strict=True) for place in ("eos", "padded:20")]
    rows[1] = ("token", "0", "constant")
    return captioned(rows, n=n, profile=True)


def tiny(captions: Sequence[str] = ("one", "two", "three"), *, profile: bool = False) -> ReportData:
    """Three captions in more dimensions than that."""
    return captioned(n=3, captions=captions, profile=profile)


def paired(n: int = 60, group_size: int | None = None) -> ReportData:
    """Embeddings of images and texts."""
    rng = np.random.default_rng(1)
    shared = rng.normal(size=(n, 10))
    texts, images = shared + 1, shared + 0.3 * rng.normal(size=(n, 10)) - np.eye(10)[0] * 4
    return measure_embeddings(
        ArrayVectors(texts),
        source=Path("texts.npy"),
        representation="projected",
        position=Position("eos"),
        images=ArrayVectors(images),
        image_source=Path("images.npy"),
        group_size=group_size,
    )
