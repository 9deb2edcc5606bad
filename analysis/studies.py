"""What the studies of the trainer share: running a sweep into raw results, intervals, and numbers that can be checked.

A study computes its figures from raw results alone, keeps every one of them with its interval and sample size in
``raw/figures.json``, and writes no number into its report that is not there: ``analysis/check_numbers.py`` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["Figure", "bootstrap", "keep_figures", "over_pairs", "swept"]

DRAWS = 1000
_SEED = 0
_LEVEL = 0.95


def swept(
    plan: Any,
    runs: Path,
    raw: Path,
    *,
    stages: Sequence[str],
    measure: Callable[[Path], Any],
    jobs: int,
) -> None:
    """Do what is missing of a sweep, and take its table and its pictures' readings over into the raw results."""
    from clipgeom._progress import Progress
    from pti.sweep import sweep

    with Progress("done", "runs", speaker=runs.name) as progress:
        table = pd.read_parquet(sweep(plan, runs, stages=stages, measure=measure, jobs=jobs, progress=progress))
    raw.mkdir(parents=True, exist_ok=True)
    pictures = [
        pd.read_parquet(path).assign(run=name)
        for name in dict.fromkeys(table["run"])
        if (path := runs / "runs" / name / "pictures.parquet").is_file()
    ]
    for name, frame in (("runs", table), ("pictures", pd.concat(pictures, ignore_index=True))):
        frame.to_parquet(raw / f"{name}.parquet", index=False, compression="zstd")


@dataclass(frozen=True, slots=True)
class Figure:
    """A number, the interval that holds it in 95 of 100 repetitions, how many it comes from, and of what."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    of: str = ""

    def told(self, digits: int = 2, *, percent: bool = False) -> str:
        """As a report says it: 0.12 [0.10, 0.15]."""
        scale, sign = (100.0, " %") if percent else (1.0, "")
        if self.low is None or self.high is None:
            return f"{scale * self.value:.{digits}f}{sign}"
        return f"{scale * self.value:.{digits}f}{sign} [{scale * self.low:.{digits}f}, {scale * self.high:.{digits}f}]"


def over_pairs(
    frame: pd.DataFrame,
    statistic: Callable[[pd.DataFrame], float],
    *,
    pair: str = "pair",
    draws: int = DRAWS,
    of: str = "",
) -> Figure:
    """A statistic of rows, with a bootstrap over the pairs of seed and character and over the rows of each.

    Five pairs are few: intervals of so few groups are somewhat too narrow, and the reports say how many there are.
    """
    rng = np.random.default_rng(_SEED)
    groups = [group for _, group in frame.groupby(pair)]
    found = []
    for _ in range(draws):
        parts = []
        for index in rng.integers(len(groups), size=len(groups)):
            group = groups[int(index)]
            parts.append(group.iloc[rng.integers(len(group), size=len(group))])
        found.append(statistic(pd.concat(parts)))
    low, high = np.nanquantile(found, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Figure(float(statistic(frame)), float(low), float(high), len(frame), of)


def bootstrap(values: Sequence[float], /, *, draws: int = DRAWS, of: str = "") -> Figure:
    """The mean of one number for each pair, with a bootstrap over them."""
    array = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(_SEED)
    means = array[rng.integers(len(array), size=(draws, len(array)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Figure(float(array.mean()), float(low), float(high), len(array), of)


def keep_figures(path: Path, figures: dict[str, Figure]) -> None:
    """Write the figures that a report's numbers are."""
    content = {name: {key: v for key, v in asdict(figure).items() if v is not None} for name, figure in figures.items()}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
