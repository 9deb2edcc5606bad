"""The numbers of the study of the locality regulariser, from the table of its sweep."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.common.distributions import distance
from analysis.common.factors import APPEARANCE, FREE
from clipgeom._distributions import entropy
from clipgeom.geometry.bootstrap import resample_groups
from clipgeom.geometry.estimate import Estimate
from clipgeom.miniworld import FACTORS, NEW_CHARACTERS

__all__ = [
    "BOUNDS",
    "CLASS",
    "COLUMNS",
    "FAMILIES",
    "MAIN_BOUND",
    "chosen_of",
    "facts",
    "families_of",
    "front",
    "held_out",
    "name_of",
    "settings_of",
    "table_of",
]

COLUMNS = ("appearance", "leakage", "kept", "placed", "seconds")
CLASS = "class"  # measured at the last step only
LAST, USUAL = 1000, 1.5e-3
BOUNDS, MAIN_BOUND = (0.1, 0.2, 0.3, 0.4), 0.2  # the main one is near what the inverted word leaks before any tuning
FAMILIES = ("none", "recommended", "regularised", "fewer", "prior", "rank")
_PLAIN = {"positions": "suffix", "inputs": "latents", "weight": 1.0}
_DRAWS = 400  # of a distance that chance makes

Array = NDArray[np.float64]
Told = Mapping[
    str, Mapping[str, int]
]  # of each factor, how many pictures show each value, as `reading.counted` tells it


def name_of(row: Mapping[Any, Any]) -> str:
    """What a row's setting is called: ``none-0.0003``, ``none-0.0015@300``, ``auto-0.0015-generated``."""
    rate, mode, step = float(row["lora.learning_rate"]), str(row["locality.interpolation"]), int(row["step"])
    if row["prior_preservation.weight"] > 0:
        return f"prior-{rate:g}"
    if row["lora.rank"] != 8:
        return f"rank{int(row['lora.rank'])}-{rate:g}"
    parts = [f"{mode}-{rate:g}"]
    if mode != "none":
        if row["experimental.locality_positions"] != _PLAIN["positions"]:
            parts.append(str(row["experimental.locality_positions"]))
        if row["experimental.locality_inputs"] != _PLAIN["inputs"]:
            parts.append(str(row["experimental.locality_inputs"]))
        if row["locality.weight"] != _PLAIN["weight"]:
            parts.append(f"weight{row['locality.weight']:g}")
    return "-".join(parts) + (f"@{step}" if step != LAST else "")


def families_of(name: str) -> set[str]:
    """Which families a setting may be chosen for."""
    kind = name.partition("-")[0]
    if kind == "none":
        return {"fewer"} if "@" in name else {"none"}
    if kind == "prior" or kind.startswith("rank"):
        return {"prior" if kind == "prior" else "rank"}
    return {"regularised", "recommended"} if kind == "auto" and name.count("-") == 1 else {"regularised"}


def table_of(raw: Path) -> pd.DataFrame:
    """The sweep's table with what follows from it; only runs that are done."""
    table = pd.read_parquet(raw / "sweep.parquet")
    table = table[table["status"] == "done"].copy()
    table["setting"] = [name_of(row) for row in table.to_dict("records")]
    table["character"] = table["data.source"].str.removeprefix("miniworld:")
    seen, bases = (table[column].map(json.loads) for column in ("seen", "base"))
    wanted = table["character"].map(lambda name: NEW_CHARACTERS[name].factors)
    for factor in APPEARANCE:
        table[f"looks.{factor}"] = [
            counts[factor].get(factors[factor], 0) / sum(counts[factor].values())
            for counts, factors in zip(seen, wanted, strict=True)
        ]
    for factor in FREE:
        pairs = [(_shown(counts, factor), _shown(base, factor)) for counts, base in zip(seen, bases, strict=True)]
        table[f"leakage.{factor}"] = [leaked(counts, base) for counts, base in pairs]
        table[f"chance.{factor}"] = [by_chance(sum(counts), base) for counts, base in pairs]
        table[f"kept.{factor}"] = [_entropy(counts) / _entropy(base) for counts, base in pairs]
    table["appearance"] = table[[f"looks.{factor}" for factor in APPEARANCE]].mean(axis=1)
    table["leakage"] = table[[f"leakage.{factor}" for factor in FREE]].mean(axis=1)
    table[CLASS] = [
        np.nan if pd.isna(told) else _moved(json.loads(told), base)
        for told, base in zip(table["of_class"], bases, strict=True)
    ]
    table["kept"] = table["kept.position"]
    table["placed"] = table[["placed.position", "placed.background", "placed.style"]].mean(axis=1)
    # of a run that would have been ended earlier: its share of the seconds, which leaves the start out of account
    table["seconds"] = table["seconds.tune"] * table["step"] / LAST
    return table


def _shown(told: Told, factor: str) -> tuple[int, ...]:
    """How many pictures show each value of a factor."""
    return tuple(told[factor].get(value, 0) for value in FACTORS[factor])


def _moved(seen: Told, base: Told) -> float:
    """`leaked` of the class word's own pictures, as a mean over looks and what is left open."""
    return float(np.mean([leaked(_shown(seen, factor), _shown(base, factor)) for factor in (*APPEARANCE, *FREE)]))


def leaked(counts: Sequence[int], base: Sequence[int]) -> float:
    """Total variation distance from the base's shares, less what two samples of these sizes from the base would show.

    It is 0 on average where nothing has leaked, hence below 0 now and then. A large distance owes less to chance, so that it
    is told too small by up to as much.
    """
    apart = float(distance(np.asarray(counts), np.asarray(base)))
    return apart - by_chance(sum(counts), tuple(base))


@cache
def by_chance(n: int, base: tuple[int, ...]) -> float:
    """Mean distance of two samples from the base's shares, of n pictures and of as many as its own."""
    rng = np.random.default_rng(0)
    shares = np.asarray(base, dtype=float) / sum(base)
    return float(distance(*(rng.multinomial(size, shares, size=_DRAWS) for size in (n, sum(base)))).mean())


def _entropy(counts: Sequence[int]) -> float:
    """Entropy in nats, corrected for the size of the sample."""
    seen = np.asarray([c for c in counts if c], dtype=float)
    return float(entropy(seen / seen.sum(), n=int(seen.sum())))


def settings_of(table: pd.DataFrame) -> list[str]:
    """Settings that every pair has, in the table's order."""
    return [name for name in table["setting"].unique() if (table["setting"] == name).sum() == len(_pairs(table))]


def facts(raw: Path) -> dict[str, Estimate]:
    """Every number that the report tells, by name."""
    table = table_of(raw)
    settings = settings_of(table)
    pairs = _pairs(table)
    runs = table.drop_duplicates("run")
    found: dict[str, Estimate] = {
        "runs": Estimate(len(runs)),
        "ways": Estimate(len([name for name in settings if "@" not in name])),
        "pairs": Estimate(len(pairs)),
        "characters": Estimate(len({character for _, character in pairs})),
        "hours": Estimate(float(runs["seconds.tune"].sum()) / 3600),
        "marked": Estimate(int((runs["marks"].fillna("") != "").sum())),
        "main_bound": Estimate(MAIN_BOUND),
        "chance": Estimate(float(table[[f"chance.{factor}" for factor in FREE]].to_numpy().mean())),
    }
    for mode in ("vslerp_norm", "slerp"):
        auto = runs[(runs["locality.interpolation"] == "auto") & (runs["experimental.locality_positions"] == "suffix")]
        found[f"auto.{mode}"] = Estimate(
            float(np.mean([json.loads(text).get(mode, 0) for text in auto["rulings"]] or [np.nan]))
        )
    resampled = _Resampled.of(pairs)
    values = {
        name: {
            c: _values(table, name, c, pairs)
            for c in (*COLUMNS, *(f"leakage.{f}" for f in FREE), *([] if "@" in name else [CLASS]))
        }
        for name in settings
    }
    for name, columns in values.items():
        for column, by_pair in columns.items():
            found[f"{name}.{column}"] = resampled.mean(by_pair)
    for name, against in _compared(settings):
        for column in (*COLUMNS, CLASS):
            one, other = values[name][column], values[against][column]
            found[f"{name}.minus.{against}.{column}"] = resampled.mean(one - other)
    return found | _best(values, settings, resampled)


def _compared(settings: Sequence[str]) -> list[tuple[str, str]]:
    """Which settings are told as differences: from none at the same rate, and from slerp and the certificate's choice at the usual."""
    found = []
    for name in settings:
        rate = name.split("-")[1]  # no rate here is so low that it is written with an exponent
        if not name.startswith("none") and f"none-{rate}" in settings:
            found.append((name, f"none-{rate}"))
    slerp, auto = f"slerp-{USUAL:g}", f"auto-{USUAL:g}"
    found += [(f"{m}-{USUAL:g}", slerp) for m in ("lerp", "vslerp", "vslerp_norm", "aslerp", "auto")]
    found += [(name, auto) for name in settings if name.startswith(f"{auto}-")]
    found += [(f"{m}-{USUAL:g}", auto) for m in ("lerp", "slerp", "vslerp", "vslerp_norm", "aslerp")]
    return [(a, b) for a, b in found if a in settings and b in settings]


def _best(
    values: Mapping[str, Mapping[str, Array]], settings: Sequence[str], resampled: _Resampled
) -> dict[str, Estimate]:
    """Each family at its best, chosen on the other pairs, and its differences from the best of the two that matter."""
    found: dict[str, Estimate] = {}
    # pairs by settings by columns
    x = np.stack([np.stack([values[name][c] for c in COLUMNS], axis=-1) for name in settings], axis=1)
    members = {
        family: np.array([i for i, name in enumerate(settings) if family in families_of(name)], dtype=np.int64)
        for family in FAMILIES
    }
    members["fewer"] = np.concatenate([members["none"], members["fewer"]])  # not to stop earlier is one of its choices
    made: dict[tuple[str, float], tuple[Array, Array]] = {}
    for family, of in members.items():
        found[f"{family}.settings"] = Estimate(len(of))
        if not len(of):
            continue
        for bound in BOUNDS:
            made[family, bound] = resampled.each(partial(held_out, x, of, bound))
    for (family, bound), (mean, replicates) in made.items():
        for k, column in enumerate(COLUMNS):
            name = f"best.{family}.{bound:g}.{column}"
            found[name] = resampled.fact(float(mean[k]), replicates[:, k])
            for against in ("none", "recommended"):
                if against != family and (against, bound) in made:
                    other, others = made[against, bound]
                    difference = replicates[:, k] - others[:, k]
                    found[f"{name}.minus.{against}"] = resampled.fact(float(mean[k] - other[k]), difference)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Resampled:
    """One set of resamples of characters, and of pairs within them, for every number: differences are paired."""

    rows: list[NDArray[np.int64]]
    weights: Array  # (resamples, pairs), each row of sum 1
    pairs: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, str]]) -> _Resampled:
        rows = resample_groups([character for _, character in pairs])
        weights = np.stack([np.bincount(some, minlength=len(pairs)) / len(some) for some in rows])
        return cls(rows, weights, len(pairs))

    def fact(self, value: float, replicates: Array) -> Estimate:
        """With a percentile interval over the resamples of which it is a number."""
        return Estimate.from_resamples(value, replicates, self.pairs)

    def mean(self, x: Array) -> Estimate:
        """Of numbers by pair."""
        return self.fact(float(x.mean()), self.weights @ x)

    def each(self, statistic: Callable[[NDArray[np.int64]], Array]) -> tuple[Array, Array]:
        """A statistic of which pairs there are, and its replicates."""
        return statistic(np.arange(self.pairs)), np.stack([statistic(rows) for rows in self.rows])


def held_out(x: Array, of: NDArray[np.int64], bound: float, rows: NDArray[np.int64]) -> Array:
    """Means of the columns over pairs, each with the setting that is the best on all other pairs.

    Parameters
    ----------
    x : ndarray, shape (pairs, settings, columns)
        The columns are COLUMNS.
    of : ndarray of int
        The settings to choose from.
    bound : float
        The best has the highest appearance of those whose leakage is not above it; where none is below, the least leakage.
    rows : ndarray of int
        Which pairs there are. A resample may hold a pair more than once: all its copies are left out together.

    Returns
    -------
    ndarray, shape (columns,)
        No numbers where there is one pair only.
    """
    total = np.zeros(x.shape[2])
    for pair in np.unique(rows):
        others = rows[rows != pair]
        if not len(others):
            return np.full(x.shape[2], np.nan)
        best = of[chosen_of(x[others][:, of].mean(axis=0), bound)]
        total += (rows == pair).sum() * x[pair, best]
    return np.asarray(total / len(rows))


def chosen_of(mean: Array, bound: float) -> int:
    """The rule: of settings with these means of COLUMNS, shape (settings, columns)."""
    appearance, leakage = mean[:, 0], mean[:, 1]
    allowed = leakage <= bound
    return int(np.where(allowed, appearance, -np.inf).argmax() if allowed.any() else leakage.argmin())


def front(found: Mapping[str, Estimate], settings: Sequence[str]) -> list[str]:
    """Settings that no other one beats in both means: more appearance with no more leakage, or as much with less."""
    points = {name: (found[f"{name}.appearance"].value, -found[f"{name}.leakage"].value) for name in settings}

    def beaten(name: str) -> bool:
        mine = points[name]
        return any(all(a >= b for a, b in zip(p, mine, strict=True)) and p != mine for p in points.values())

    return [name for name in settings if not beaten(name)]


def _pairs(table: pd.DataFrame) -> list[tuple[int, str]]:
    return sorted({(int(s), str(c)) for s, c in zip(table["runtime.seed"], table["character"], strict=True)})


def _values(table: pd.DataFrame, name: str, column: str, pairs: Sequence[tuple[int, str]]) -> Array:
    rows = table[table["setting"] == name].set_index(["runtime.seed", "character"])[column]
    return np.array([float(rows.loc[pair]) for pair in pairs])
