"""The numbers of the study of the finetuning distance, from the table of its sweep."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.common.curves import Curves, crossing
from analysis.common.distributions import aligned, corrected_distance, significance
from analysis.common.factors import APPEARANCE, FREE
from analysis.common.resampling import estimate
from clipgeom.geometry.bootstrap import resample_groups
from clipgeom.geometry.estimate import Estimate
from clipgeom.miniworld import FACTORS, NEW_CHARACTERS

__all__ = [
    "AXES",
    "COLUMNS",
    "DIVERSITIES",
    "LEARNT",
    "REFERENCES",
    "SEEN",
    "by_pair",
    "curves",
    "facts",
    "facts_of",
    "table_of",
]

LAST = 1000
DIVERSITIES = {1: "one", 3: "three", 9: "nine"}
AXES = {"weight": "weight_distance", "function": "function_distance"}
REFERENCES = ("base", "pivot")  # the class word, and the inverted word, both on the frozen model
SEEN = ("appearance", "position", "background", "facing", "leakage")  # the curves
# what is told of each rate at its last step
COLUMNS = (
    "weight_distance",
    "function_distance",
    "appearance",
    "position",
    "leakage",
    "taught_share",
    "placed",
    "gain",
)
LEARNT = 0.1  # a factor has been learnt if it rose by more than this: the largest value of a curve of noise is no zero
_ENOUGH = 0.95
_LEVEL = 0.05

Pair = tuple[int, str]


def table_of(raw: Path) -> pd.DataFrame:
    """The sweep's table with what follows from it; only runs that are done."""
    table = pd.read_parquet(raw / "sweep.parquet")
    table = table[table["status"] == "done"].copy().reset_index(drop=True)
    start = table[table["step"] == 0].set_index("run")
    base, pivot = ({run: json.loads(text) for run, text in start[name].items()} for name in ("base", "seen"))
    found = []
    for run, step, character, taught, text in zip(
        *(table[name] for name in ("run", "step", "character", "taught", "seen")), strict=True
    ):
        seen = json.loads(text)
        wanted = NEW_CHARACTERS[character].factors
        row = {"appearance": float(np.mean([_share(seen[factor], [wanted[factor]]) for factor in APPEARANCE]))}
        row |= {
            factor: corrected_distance(*aligned(seen[factor], base[run][factor], FACTORS[factor])) for factor in FREE
        }
        row["leakage"] = float(np.mean([row[factor] for factor in FREE]))
        row["taught_share"] = _share(seen["position"], json.loads(taught))
        for name, other in (("base", base[run]), ("pivot", pivot[run])):
            # the inverted word is not compared with itself
            row[f"p.{name}"] = (
                significance(*aligned(seen["position"], other["position"], FACTORS["position"]))
                if step or name == "base"
                else 1.0
            )
        found.append(row)
    table = table.join(pd.DataFrame(found))
    table["placed"] = table[["placed.position", "placed.background", "placed.style"]].mean(axis=1)
    table["gain"] = 1 - table["held_out_loss"] / table["run"].map(start["held_out_loss"])
    for name in REFERENCES:
        table[f"away.{name}"] = False
        for _, rows in table.groupby(["places", "runtime.seed", "character"]):
            points = _points(rows, name)
            table.loc[points.index, f"away.{name}"] = _holm(points[f"p.{name}"].to_numpy(float))
    return table


def _holm(p: NDArray[np.float64], /) -> NDArray[np.bool_]:
    """Which of some tests are significant, all at once at 5 % (Holm 1979)."""
    # imported here, since it is slow to load
    from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

    rejected: NDArray[np.bool_] = multipletests(p, alpha=_LEVEL, method="holm")[0]
    return rejected


def _points(rows: pd.DataFrame, reference: str) -> pd.DataFrame:
    """A pair's points that are compared with a reference: the inverted word, which rates share, only once, and not with itself."""
    moved = rows[rows["step"] > 0]
    return pd.concat([rows[rows["step"] == 0].head(1), moved]) if reference == "base" else moved


def facts(raw: Path) -> dict[str, Estimate]:
    """Every number that the report tells, by name."""
    return facts_of(table_of(raw))


def facts_of(table: pd.DataFrame) -> dict[str, Estimate]:
    """The same from the table, whose tests take most of the time."""
    pairs = {*zip(table["runtime.seed"], table["character"], strict=True)}
    found: dict[str, Estimate] = {
        "runs": Estimate(table["run"].nunique()),
        "pairs": Estimate(len(pairs)),
        "characters": Estimate(table["character"].nunique()),
        "hours": Estimate(_seconds(table) / 3600),
    }
    for places, name in DIVERSITIES.items():
        some = by_pair(table[table["places"] == places])
        if not some:
            continue
        found |= {f"{name}.{key}": fact for key, fact in _learnt(some).items()}
        for reference in REFERENCES:
            found |= {f"{name}.{reference}.{key}": fact for key, fact in _departures(some, reference).items()}
        for rate, rows in table[(table["places"] == places) & (table["step"] == LAST)].groupby("lora.learning_rate"):
            for column in COLUMNS:
                found[f"{name}.rate-{rate:g}.{column}"] = estimate(
                    {pair: float(row[column].iloc[0]) for pair, row in by_pair(rows).items()}
                )
    return found | _between(table)


def curves(some: Mapping[Pair, pd.DataFrame], axis: str) -> Curves:
    """Of what is seen against a distance, of each pair; the rates' points together."""
    moved = [rows[rows["step"] > 0] for rows in some.values()]
    return Curves.of(
        [rows[AXES[axis]].to_numpy(float) for rows in moved], [rows[list(SEEN)].to_numpy(float) for rows in moved]
    )


def _learnt(some: Mapping[Pair, pd.DataFrame]) -> dict[str, Estimate]:
    """How much of everything is learnt, and at what distance half of it."""
    start = np.stack([rows[rows["step"] == 0][list(SEEN)].mean().to_numpy(float) for rows in some.values()])
    of_axis = {axis: curves(some, axis) for axis in AXES}

    def told(runs: NDArray[np.int64]) -> dict[str, float]:
        values: dict[str, float] = {}
        for axis, made in of_axis.items():
            pooled, before = made.pooled(runs), start[runs].mean(axis=0)
            # a curve begins where nothing has changed yet, with the noise that the rest of it is drawn from: what is learnt is
            # measured from there, and not from the pictures of the word before tuning, which have other noise
            begun, largest = pooled[:, 0], pooled.max(axis=1)
            halves = {}
            for i, factor in enumerate(SEEN):
                halves[factor] = (
                    crossing(made.grid, pooled[i], (begun[i] + largest[i]) / 2) if largest[i] > begun[i] else np.nan
                )
                values[f"{factor}.half.{axis}"] = 10 ** halves[factor]
                if axis == "weight":
                    values |= {f"{factor}.start": before[i], f"{factor}.largest": largest[i]}
                    values[f"{factor}.change"] = largest[i] - begun[i]
            for factor in SEEN[1:]:
                values[f"{factor}.after.{axis}"] = halves[factor] - halves["appearance"]
            values[f"appearance.enough.{axis}"] = 10 ** crossing(made.grid, pooled[0], _ENOUGH * float(largest[0]))
        return values

    return _over(told, [character for _, character in some])


@dataclass(frozen=True, slots=True)
class _Departure:
    """Of one pair's position from a reference, over all rates.

    `first` is the smallest distance at which it is significant: 0 for the inverted word itself, infinite for never. `still` is the
    largest measured one below it, or the smallest of all where none is below.
    """

    first: float
    still: float

    @classmethod
    def of(cls, rows: pd.DataFrame, reference: str, axis: str) -> _Departure:
        """From the pair's rows, with Holm's correction made."""
        distances, away = rows[AXES[axis]].to_numpy(float), rows[f"away.{reference}"].to_numpy(bool)
        first = float(distances[away].min()) if away.any() else float("inf")
        measured = distances[distances > 0]
        below = measured[measured < first]
        return cls(first, float(below.max()) if len(below) else float(measured.min()))


def _departures(some: Mapping[Pair, pd.DataFrame], reference: str) -> dict[str, Estimate]:
    """Where position departs, and the window between there and enough of the appearance."""
    found: dict[str, Estimate] = {}
    for axis in AXES:
        made = curves(some, axis)
        away, window, light = {}, {}, {}
        departures = {pair: _Departure.of(rows, reference, axis) for pair, rows in some.items()}
        for number, (pair, departure) in enumerate(departures.items()):
            if 0 < departure.first < np.inf:
                away[pair] = float(np.log10(departure.first))
            appearance = made.pooled([number])[0]
            still = float(np.log10(departure.still))
            largest = float(appearance.max())
            window[pair] = still - crossing(made.grid, appearance, _ENOUGH * largest)
            light[pair] = float(np.interp(still, made.grid, appearance)) / largest
        firsts = [departure.first for departure in departures.values()]
        found |= {
            "at_pivot": Estimate(sum(first == 0 for first in firsts)),
            "never": Estimate(sum(first == np.inf for first in firsts)),
            "departing": Estimate(len(away)),
            f"departs.{axis}": _power(away),
            f"still.{axis}": _power({pair: float(np.log10(each.still)) for pair, each in departures.items()}),
            f"window.{axis}": estimate(window),
            f"light.{axis}": estimate(light),
        }
    return found


def _between(table: pd.DataFrame) -> dict[str, Estimate]:
    """How much farther position departs with three places than with one, in decades, by the pairs that depart in both."""
    found: dict[str, Estimate] = {}
    for reference in REFERENCES:
        for axis in AXES:
            firsts = {
                name: {
                    pair: _Departure.of(rows, reference, axis).first
                    for pair, rows in by_pair(table[table["places"] == places]).items()
                }
                for places, name in DIVERSITIES.items()
            }
            for more, fewer in (("three", "one"), ("nine", "three")):
                ratios = {
                    pair: float(np.log10(first / firsts[fewer][pair]))
                    for pair, first in firsts[more].items()
                    if 0 < first < np.inf and 0 < firsts[fewer].get(pair, 0) < np.inf
                }
                if ratios:
                    found[f"{reference}.{more}-{fewer}.{axis}"] = estimate(ratios)
    return found


def _power(logs: Mapping[Pair, float]) -> Estimate:
    """A geometric mean, from decadic logarithms."""
    if not logs:
        return Estimate(np.nan, np.nan, np.nan, 0)
    return estimate(dict(logs), lambda x: float(10 ** np.mean(x)))


def _over(told: Callable[[NDArray[np.int64]], Mapping[str, float]], characters: list[str]) -> dict[str, Estimate]:
    """Statistics of runs that are computed together, with intervals over resampled runs."""
    made = pd.DataFrame([told(runs) for runs in resample_groups(characters)])
    found = {}
    for name, value in told(np.arange(len(characters))).items():
        kept = made[name].to_numpy(float)
        kept = kept[np.isfinite(kept)]
        # an interval of those resamples alone in which a thing exists would say too much
        if np.isfinite(value) and len(kept) >= len(made) / 2:
            low, high = np.quantile(kept, [0.025, 0.975])
            found[name] = Estimate(float(value), float(low), float(high), len(characters))
        else:
            found[name] = Estimate(np.nan, np.nan, np.nan, len(characters))
    return found


def _seconds(table: pd.DataFrame) -> float:
    """Of training; rates share their inversions."""
    inversions = table.drop_duplicates(["places", "runtime.seed", "character"])["seconds.invert"]
    return float(inversions.sum() + table.drop_duplicates("run")["seconds.tune"].sum())


def _share(counts: Mapping[str, int], values: list[str]) -> float:
    return sum(counts.get(value, 0) for value in values) / sum(counts.values())


def by_pair(table: pd.DataFrame) -> dict[Pair, pd.DataFrame]:
    """Rows by seed and character."""
    groups: Any = table.groupby(["runtime.seed", "character"])
    return {(int(seed), str(character)): rows for (seed, character), rows in groups}
