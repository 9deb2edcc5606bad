"""The numbers of the study of the inversion distance, from the table of its sweep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr

from analysis.common.factors import APPEARANCE, FREE
from analysis.common.resampling import estimate
from analysis.inversion_distance.segments import fit
from clipgeom.geometry.bootstrap import resample_groups
from clipgeom.geometry.estimate import Estimate

__all__ = ["COLUMNS", "FITS", "PREDICTED", "PREDICTORS", "curves", "facts", "table_of", "way_name"]

LAST, FIRST = 1000, 10
KEPT = 0.8  # share of the entropy of what is not said that a rate should keep, as is asked of the trainer's position
WIDTH = 128  # of the embedded world's token embeddings
DEFAULTS = ("adamw", "off")  # the ways whose points make the curves
# what is told of a way at its last step
COLUMNS = (
    "distance",
    "path",
    "norm",
    "gain",
    "appearance",
    "edit",
    "control_kept",
    "free_kept",
    "word.angle",
    "word.on_shell",
    "eos.angle",
    "eos.on_shell",
)
# what may say how much is gained, and what it costs
PREDICTORS = {
    "distance": "L2 in the token space",
    "path": "length of the path",
    "word.distance": "L2 after the transformer, at the word",
    "word.angle": "angle at the word, about the centre",
    "eos.distance": "L2 after the transformer, at EOS",
    "eos.angle": "angle at EOS, about the centre",
}
PREDICTED = ("gain", "control_kept")
FITS = 200  # resamples of the fits, of which each takes a quarter of a second
_PLACED = ("placed.position", "placed.background", "placed.style")

Runs = dict[tuple[int, str], pd.DataFrame]


def way_name(optimizer: str, rate: float, norm: str) -> str:
    """As facts call it: ``adamw-0.001``, ``fixed-0.01``."""
    return f"{optimizer if norm == 'off' else norm}-{rate:g}"


def table_of(raw: Path) -> pd.DataFrame:
    """The sweep's table with what follows from it; only runs that are done."""
    table = pd.read_parquet(raw / "sweep.parquet")
    table = table[table["status"] == "done"].copy()
    table["way"] = [
        way_name(*values)
        for values in zip(
            table["inversion.optimizer"],
            table["inversion.learning_rate"],
            table["experimental.embedding_norm"],
            strict=True,
        )
    ]
    table["character"] = table["data.source"].str.removeprefix("miniworld:")
    class_word = table[table["step"] == 0].set_index("run")
    table["gain"] = 1 - table["held_out_loss"] / table["run"].map(class_word["held_out_loss"])
    table["control_kept"] = table["control"] / table["run"].map(class_word["control"])
    free = [f"free.{factor}" for factor in FREE]
    table["free_kept"] = sum(table[name] / table["run"].map(class_word[name]) for name in free) / len(free)
    table["edit"] = table[list(_PLACED)].mean(axis=1)
    table["appearance"] = table[[f"looks.{factor}" for factor in APPEARANCE]].mean(axis=1)
    return table


def facts(raw: Path, *, fits: int = FITS) -> dict[str, Estimate]:
    """Every number that the report tells, by name; `fits` is the number of resamples of what is fitted."""
    table = table_of(raw)
    found: dict[str, Estimate] = {
        "runs": Estimate(table["run"].nunique()),
        "ways": Estimate(table["way"].nunique()),
        "pairs": Estimate(len({*zip(table["runtime.seed"], table["character"], strict=True)})),
        "characters": Estimate(table["character"].nunique()),
        "width": Estimate(float(WIDTH)),
        "root_width": Estimate(WIDTH**0.5),
        "hours": Estimate(float(table.drop_duplicates("run")["seconds.invert"].sum()) / 3600),
    }
    start = table[(table["step"] == 0) & (table["way"] == "adamw-0.001")]
    for column in ("edit", "appearance", "control", "word.on_shell", "eos.on_shell"):
        found[f"class.{column}"] = estimate(_values(start, column))
    found["rule.kept"] = Estimate(KEPT)
    found["start.norm"] = estimate(_values(start, "norm"))
    for way, rows in table.groupby("way"):
        last, first = rows[rows["step"] == LAST], rows[rows["step"] == FIRST]
        for column in COLUMNS:
            found[f"{way}.{column}"] = estimate(_values(last, column))
        rate = float(rows["inversion.learning_rate"].iloc[0])
        for name, some, steps in (("ratio", last, LAST), ("early", first, FIRST)):
            found[f"{way}.{name}"] = estimate(_values(some.assign(ratio=some["distance"] / (steps * rate)), "ratio"))
        found[f"{way}.path_ratio"] = estimate(_values(last.assign(ratio=last["path"] / (LAST * rate)), "ratio"))
        found[f"{way}.straight"] = estimate(_values(last.assign(ratio=last["distance"] / last["path"]), "ratio"))
        found[f"{way}.control_lost"] = estimate(_minus(rows, LAST, 0, "control_kept"))
    for way, against in (("fixed-0.001", "adamw-0.001"), ("fixed-0.01", "adamw-0.01"), ("decay-0.01", "adamw-0.01")):
        for column in ("gain", "control_kept", "appearance", "distance"):
            one, other = (_values(table[(table["way"] == w) & (table["step"] == LAST)], column) for w in (way, against))
            found[f"{way}.minus.{column}"] = estimate({pair: one[pair] - other[pair] for pair in one if pair in other})
    return found | _fits(table, fits)


def curves(table: pd.DataFrame) -> Runs:
    """The moved points of AdamW without norm control, by pair."""
    some = table[
        (table["inversion.optimizer"] == DEFAULTS[0])
        & (table["experimental.embedding_norm"] == DEFAULTS[1])
        & (table["step"] > 0)
    ]
    return _by_pair(some)


def _fits(table: pd.DataFrame, count: int) -> dict[str, Estimate]:
    """What needs all points of AdamW at once, with intervals over resampled runs."""
    runs = curves(table)
    frames = list(runs.values())
    whole = _statistics(pd.concat(frames))
    made = [
        _statistics(pd.concat([frames[i] for i in rows]), whole)
        for rows in resample_groups([character for _, character in runs], resamples=count)
    ]
    found = {}
    for name, value in whole.items():
        kept = np.array([values[name] for values in made if np.isfinite(values[name])])
        # what less than half of the resamples show is no finding
        low, high = np.quantile(kept, [0.025, 0.975]) if len(kept) >= count / 2 else (np.nan, np.nan)
        found[name] = Estimate(value if np.isfinite(low) else np.nan, float(low), float(high), len(frames))
    return found


def _statistics(points: pd.DataFrame, near: Mapping[str, float] | None = None) -> dict[str, float]:
    """Exponents, and for each pair of a predictor and what it predicts a rank correlation and the fit of y against log10 x.

    Both are of means over runs for each rate and step. The bend is in x's own units, slopes are per decade. `near` is where the
    search for the bends begins; NaN where a fit does not converge.
    """
    found = {"exponent": _exponent(points), "exponent_late": _exponent(points[points["step"] == LAST])}
    logs = points.assign(**{x: np.log10(points[x]) for x in PREDICTORS})
    means = logs.groupby(["inversion.learning_rate", "step"])[[*PREDICTORS, *PREDICTED]].mean()
    for y in PREDICTED:
        for x in PREDICTORS:
            name = f"{y}.{x}"
            start = None if near is None else near[f"{name}.boundary"]
            start = np.log10(start) if start is not None and np.isfinite(start) else None
            made = fit(means[x].to_numpy(float), means[y].to_numpy(float), near=start)
            values = (np.nan,) * 3 if made is None else (10**made.breakpoint, made.before, made.after)
            found |= zip((f"{name}.{what}" for what in ("boundary", "before", "after")), values, strict=True)
            found[f"{name}.rank"] = float(spearmanr(means[x], means[y]).statistic)
            if x != "distance":
                found[f"{name}.minus"] = abs(found[f"{name}.rank"]) - abs(found[f"{y}.distance.rank"])
    found["rule.rate"] = _rate_at(points, found["control_kept.distance.boundary"])
    return found


def _rate_at(points: pd.DataFrame, distance: float) -> float:
    """The rate at which the last step is so far from the start, between those that were tried; NaN beyond them."""
    last = (
        points[points["step"] == LAST].groupby("inversion.learning_rate")["distance"].apply(lambda x: np.log(x).mean())
    )
    log_rates, log_distances = np.log(last.index.to_numpy(float)), last.to_numpy(float)
    if not np.isfinite(distance) or (np.diff(log_distances) <= 0).any():
        return float("nan")
    return float(np.exp(np.interp(np.log(distance), log_distances, log_rates, left=np.nan, right=np.nan)))


def _exponent(points: pd.DataFrame) -> float:
    """Slope of log distance against log (steps × rate)."""
    x = np.log10(points["step"] * points["inversion.learning_rate"])
    return float(np.polyfit(x, np.log10(points["distance"]), 1)[0])


def _values(rows: pd.DataFrame, column: str) -> dict[tuple[int, str], float]:
    return {
        (int(seed), str(character)): float(value)
        for seed, character, value in zip(rows["runtime.seed"], rows["character"], rows[column], strict=True)
    }


def _minus(
    rows: pd.DataFrame, step: int, other: int, column: str
) -> Mapping[tuple[int, str], NDArray[np.float64] | float]:
    one, before = (_values(rows[rows["step"] == s], column) for s in (step, other))
    return {pair: one[pair] - before[pair] for pair in one}


def _by_pair(table: pd.DataFrame) -> Runs:
    return {
        (int(seed), str(character)): rows for (seed, character), rows in table.groupby(["runtime.seed", "character"])
    }
