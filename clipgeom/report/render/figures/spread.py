"""Figures of spectra, conformity, the two modalities, and token lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn as sns

from clipgeom.report.measure.rows import RowArrays
from clipgeom.report.render.figures.svg import (
    CENTERED,
    DOTS,
    INK,
    MUTED,
    NARROW,
    RAW,
    SERIES,
    WIDE,
    Picture,
    board,
    decades,
    file_name,
    finish,
    legend,
    mark,
    shorten,
    ticks,
    unique,
)
from clipgeom.report.render.numbers import correlation, number
from clipgeom.report.render.summary import CONSTANT, has_spread

__all__ = ["conformities", "modality", "spectra", "tokens"]

_DASHES = ("-", (0, (4, 1.6)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))


def spectra(rows: Sequence[RowArrays]) -> list[Picture]:
    """Eigenvalues of the covariances, and their cumulative share."""
    spread = [row for row in rows if row.eigenvalues.sum() > (CONSTANT * row.raw_norms.mean()) ** 2]
    if not spread:
        return []
    kinds = list(dict.fromkeys(row.representation for row in spread))
    places = list(dict.fromkeys(row.position for row in spread))
    pictures = []
    for name, title, caption in (
        ("scree", "share of variance, λ / tr Σ", "Shares of the single eigenvalues; below 10⁻⁷ not drawn."),
        ("cumulative", "cumulative share of variance", "What the leading eigenvalues hold together."),
    ):
        figure = board(WIDE, 3.1 + 0.16 * math.ceil(len(spread) / 2))
        axis = figure.subplots()
        for row in spread:
            share = row.eigenvalues / row.eigenvalues.sum()
            rank = np.arange(1, len(share) + 1)
            axis.plot(
                rank,
                np.where(share > 1e-7, share, np.nan) if name == "scree" else np.cumsum(share),
                color=SERIES[kinds.index(row.representation) % len(SERIES)],
                linestyle=_DASHES[places.index(row.position) % len(_DASHES)],
                label=shorten(f"{row.representation} · {row.position}"),
            )
        axis.set_xscale("log")
        decades(axis, "x")
        if name == "scree":
            axis.set_yscale("log")
            low, high = axis.get_ylim()
            axis.set_ylim(10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high)))
            decades(axis, "y")
        else:
            axis.set_ylim(0, 1.02)
        axis.grid(visible=True)
        axis.set(xlabel="rank of the eigenvalue", ylabel=title)
        sns.despine(ax=axis)
        figure.legend(loc="outside lower center", ncols=2, handlelength=2.4)
        pictures.append(
            finish(
                figure,
                name=f"spectra-{name}",
                alt=f"{title} by rank, for {len(spread)} rows: see the table",
                caption=caption,
            )
        )
    return pictures


def conformities(entries: list[dict[str, Any]], rows: Sequence[RowArrays]) -> list[Picture]:
    """Conformity against the cosine with the mean, one image for each entry that has a spread."""
    found = [row for row in rows if row.conformity is not None and row.cosines is not None]
    drawn = [(entry, row) for entry, row in zip(entries, found, strict=True) if has_spread(entry)]
    names = unique([file_name("conformity", row.representation, row.position) for _, row in drawn])
    pictures = []
    for (entry, row), name in zip(drawn, names, strict=True):
        values, cosines = np.asarray(row.conformity), np.asarray(row.cosines)
        figure = board(NARROW, 2.75)
        axis, side = figure.subplots(1, 2, sharey=True, width_ratios=(5, 1))
        sns.scatterplot(
            x=cosines,
            y=values,
            ax=axis,
            color=DOTS,
            s=7,
            alpha=min(1.0, 0.25 + 30 / len(values)),
            linewidth=0,
            rasterized=True,
        )
        if entry["slope"] is not None:
            ends = np.array([cosines.min(), cosines.max()])
            axis.plot(ends, entry["slope"] * ends + entry["intercept"], color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
            sign = "+" if entry["intercept"] >= 0 else "−"
            law = (
                f"C ≈ {number(entry['slope'], entry['ci95']['slope']).text}·cos {sign} "
                f"{number(abs(entry['intercept']), entry['ci95']['intercept']).text}"
                f"\nPearson {correlation(entry['pearson']).text}"
            )
            axis.text(0.04, 0.97, law, transform=axis.transAxes, va="top", fontsize=8)
        axis.set(xlabel="cosine with the mean", ylabel="conformity C")
        axis.xaxis.set_major_locator(ticks(4))
        axis.yaxis.set_major_locator(ticks(5))
        axis.set_title(shorten(f"{row.representation} · {row.position}"))
        sns.histplot(
            y=values,
            bins=min(40, max(5, math.isqrt(len(values)))),
            ax=side,
            color=CENTERED,
            alpha=0.4,
            element="step",
            linewidth=0.8,
        )
        side.set(xticks=[], xlabel="", ylabel="")
        side.tick_params(left=False, labelleft=False)
        sns.despine(ax=axis)
        sns.despine(ax=side, left=True, bottom=True)
        pictures.append(
            finish(
                figure,
                name=name,
                alt=f"Conformity against the cosine with the mean for {row.representation} · {row.position}: "
                f"mean {number(entry['mean']).text}, Pearson {correlation(entry['pearson']).text}",
                caption=f"Mean {number(entry['mean']).text} ± {number(entry['std']).text} std. Dashed: the linear fit.",
            )
        )
    return pictures


def modality(modality: dict[str, Any] | None) -> list[Picture]:
    """Offset sweep: divergence of the conformities, and the contrastive loss for paired samples."""
    offsets = (modality or {}).get("offsets") or []
    pictures = []
    for key, title in (
        ("conformity_divergence", "divergence of the conformities (bits)"),
        ("contrastive_loss", "contrastive loss (nats)"),
    ):
        points = [(point["alpha"], point[key]) for point in offsets if point[key] is not None]
        if len(points) < 2:
            continue
        alphas, values = np.array(points).T
        best = int(values.argmin())
        figure = board(WIDE, 2.5)
        axis = figure.subplots()
        axis.axvline(0, color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
        axis.plot(alphas, values, color=CENTERED, marker="o", markersize=3.5)
        axis.plot([alphas[best]], [values[best]], marker="D", color=RAW, markersize=6)
        axis.set_ylim(bottom=0)
        axis.margins(y=0.12)
        axis.set(xlabel="offset α  (x − α·m, 0 = as given, 1 = centred)", ylabel=title)
        legend(axis, [mark(RAW, f"least, at α = {alphas[best]:g}".replace("-", "−"), "D")])
        sns.despine(ax=axis)
        pictures.append(
            finish(
                figure,
                name=file_name("offset", key),
                alt=f"{title} over the offset α: least at {alphas[best]:g}, {number(values[best]).text}",
                caption=f"{title[:1].upper()}{title[1:]}: least {number(values[best]).text}"
                + (f", {number(values[list(alphas).index(0)]).text} as given." if 0 in alphas else "."),
            )
        )
    return pictures


def tokens(captions: dict[str, Any] | None) -> list[Picture]:
    """Numbers of tokens of the captions."""
    if captions is None:
        return []
    counts = captions["token_length"]["counts"]
    lengths = np.array([int(key) for key in counts])
    figure = board(WIDE, 2.1)
    axis = figure.subplots()
    axis.bar(lengths, list(counts.values()), width=0.86, color=CENTERED, alpha=0.75, linewidth=0)
    axis.set_xlim(min(lengths.min() - 1, 1), lengths.max() + 1)
    axis.xaxis.set_major_locator(ticks(8))
    axis.yaxis.set_major_locator(ticks(4))
    axis.set(xlabel="tokens, BOS and EOS included", ylabel="captions")
    sns.despine(ax=axis)
    summary = captions["token_length"]
    return [
        finish(
            figure,
            name="token-lengths",
            alt=f"Token lengths: median {summary['median']}, from {summary['min']} to {summary['max']}",
            caption=f"Tokens a caption: median {summary['median']}, mean {summary['mean']:.1f}, "
            f"95 % have at most {summary['p95']}, the longest {summary['max']}.",
        )
    ]
