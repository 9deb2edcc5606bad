"""The numbers of the study of interpolated conditioning, from its pictures as the judges saw them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from clipgeom.geometry.estimate import Estimate
from clipgeom.miniworld import FACTORS

__all__ = ["JUDGES", "PREDICTORS", "TIMES", "Judged", "facts", "modes_of"]

TIMES = (0.25, 0.5, 0.75)
# by the pictures: how sure the readers are, what both prompts say is there, the classifier is deceived
JUDGES = ("confidence", "kept", "deceived")
PREDICTORS = ("on_shell", "auc")
_SHARED = ("position", "background", "style")
_PENALTY, _RESAMPLES = 0.01, 2000

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What the judges say, by pairs of prompts, which are what is resampled.

    Attributes
    ----------
    means : dict of ndarray, shape (pairs,)
        By kind and time, such as ``slerp@0.5``, and the quantity: ``confidence``, ``kept``, ``lands``.
    wins : dict of ndarray, shape (pairs, pairs)
        How often a made picture of pair j looks more made than a real one of pair i, ties counting half. Pairs of an even
        place are judged by what the odd ones have taught, and the reverse; only pairs of one half are compared.
    sizes : dict of ndarray, shape (2, pairs)
        How many real and made pictures each pair has.
    weights : ndarray, shape (resamples, pairs)
        How often each pair is in each resample.
    """

    means: dict[tuple[str, str], Array]
    wins: dict[str, Array]
    sizes: dict[str, Array]
    weights: Array

    def mean(self, cell: str, what: str) -> tuple[float, Array]:
        """Value and replicates."""
        x = self.means[cell, what]
        return float(x.mean()), self.weights @ x / self.weights.sum(axis=1)

    def auc(self, cell: str) -> tuple[float, Array]:
        """Value and replicates, the mean of both halves.

        Chance that makes real and made pictures differ in one half alike to the other moves both halves' AUCs, for each is
        the other's teacher: two errors that are one. The replicates, which know the classifiers as they are, are
        widened by √2, as for one half alone.
        """
        wins, (real, made) = self.wins[cell], self.sizes[cell]
        values, replicates = [], []
        for half in (slice(0, None, 2), slice(1, None, 2)):
            w, won = self.weights[:, half], wins[half, half]
            values.append(float(won.sum() / (real[half].sum() * made[half].sum())))
            with np.errstate(invalid="ignore", divide="ignore"):  # a resample without any pair of a half
                replicates.append(((w @ won) * w).sum(axis=1) / ((w @ real[half]) * (w @ made[half])))
        value = float(np.mean(values))
        return value, np.clip(value + np.sqrt(2) * (np.mean(replicates, axis=0) - value), 0.0, 1.0)

    @classmethod
    def of(cls, table: pd.DataFrame, embeddings: NDArray[Any], *, seed: int = 0) -> Judged:
        """From the raw table and its embeddings."""
        table = table.reset_index(drop=True)
        table["cell"] = [
            kind if kind in ("real", "control", "fade") else f"{kind}@{t:g}"
            for kind, t in zip(table["kind"], table["time"], strict=True)
        ]
        table["confidence"] = table[[f"sure.{name}" for name in FACTORS]].mean(axis=1)
        table["kept"] = np.mean([table[f"read.{name}"] == table[f"wanted.{name}"] for name in _SHARED], axis=0)
        table["lands"] = (table["read.class"] == table["first.class"]) | (table["read.class"] == table["second.class"])
        pairs = np.sort(table["pair"].unique())
        means, wins, sizes = {}, {}, {}
        real = table[table["cell"] == "real"]
        for cell, some in table.groupby("cell"):
            for what in ("confidence", "kept", "lands"):
                means[str(cell), what] = some.groupby("pair")[what].mean().reindex(pairs).to_numpy(float)
            if cell != "real":
                both = pd.concat([real, some])
                made = both["cell"].to_numpy() != "real"
                places = np.searchsorted(pairs, both["pair"].to_numpy())
                scores = _out_of_fold(embeddings[both.index].astype(float), made, places % 2)
                wins[str(cell)], sizes[str(cell)] = _wins(scores, places, made, len(pairs))
        rng = np.random.default_rng(seed)
        drawn = rng.integers(len(pairs), size=(_RESAMPLES, len(pairs)))
        weights = np.stack([np.bincount(row, minlength=len(pairs)) for row in drawn]).astype(float)
        return cls(means, wins, sizes, weights)


def modes_of(judged: Judged) -> list[str]:
    """The modes that pictures were drawn by, in their order."""
    return list(dict.fromkeys(cell.partition("@")[0] for cell, _ in judged.means if "@" in cell))


def facts(raw: Path) -> dict[str, Estimate]:
    """Every number that the report tells, by name."""
    table, embeddings = pd.read_parquet(raw / "pictures.parquet"), np.load(raw / "embeddings.npy")
    states = json.loads((raw / "states.json").read_text(encoding="utf-8"))
    judged = Judged.of(table, embeddings)
    n = judged.weights.shape[1]
    found = {
        "pairs": Estimate(n),
        "draws": Estimate(int(table["draw"].nunique())),
        "pictures": Estimate(len(table)),
        "minutes": Estimate(states["seconds"] / 60),
        "places": Estimate(states["places"]),
        "share.vslerp_norm": Estimate(states["recommended"].get("vslerp_norm", 0.0)),
        "share.slerp": Estimate(states["recommended"].get("slerp", 0.0)),
    }

    def tell(name: str, value: float, replicates: Array) -> None:
        found[name] = Estimate.from_resamples(value, replicates, n)

    for what in ("confidence", "kept", "lands"):
        for kind in ("real", "control", "fade"):
            tell(f"{kind}.{what}", *judged.mean(kind, what))
    for kind in ("control", "fade"):
        tell(f"{kind}.auc", *judged.auc(kind))

    modes = modes_of(judged)
    for mode in modes:
        cells = [f"{mode}@{t:g}" for t in TIMES]
        for cell in cells:
            tell(f"{cell}.auc", *judged.auc(cell))
            for what in ("confidence", "kept", "lands"):
                tell(f"{cell}.{what}", *judged.mean(cell, what))
            for what in PREDICTORS:
                found[f"{cell}.check.{what}"] = Estimate(states["cells"][cell][what])
        for what in PREDICTORS:
            found[f"{mode}.check.{what}"] = Estimate(float(np.mean([states["cells"][cell][what] for cell in cells])))
        own = {what: _over_times(judged, mode, what) for what in ("auc", "confidence", "kept", "lands")}
        slerp = {what: _over_times(judged, "slerp", what) for what in own}
        for what, (value, replicates) in own.items():
            tell(f"{mode}.{what}", value, replicates)
            tell(f"{mode}.minus_slerp.{what}", value - slerp[what][0], replicates - slerp[what][1])
            if what in ("confidence", "kept"):
                real = judged.mean("real", what)
                tell(f"{mode}.minus_real.{what}", value - real[0], replicates - real[1])
            if what == "auc":
                control = judged.auc("control")
                tell(f"{mode}.minus_control.auc", value - control[0], replicates - control[1])
    for predictor in PREDICTORS:
        for judge in JUDGES:
            tell(f"predict.{predictor}.{judge}", *_predicted(judged, states["cells"], modes, predictor, judge))
    return found


def _over_times(judged: Judged, mode: str, what: str) -> tuple[float, Array]:
    read: Callable[[str], tuple[float, Array]] = judged.auc if what == "auc" else lambda cell: judged.mean(cell, what)
    each = [read(f"{mode}@{t:g}") for t in TIMES]
    return float(np.mean([value for value, _ in each])), np.mean([replicates for _, replicates in each], axis=0)


def _predicted(
    judged: Judged, said: dict[str, dict[str, float]], modes: list[str], predictor: str, judge: str
) -> tuple[float, Array]:
    """Rank correlation over modes and times between the check and a judge of pictures; both turned so that more is better."""
    cells = [f"{mode}@{t:g}" for mode in modes if mode != "auto" for t in TIMES]
    x = np.array([said[cell][predictor] for cell in cells]) * (-1 if predictor == "auc" else 1)
    if judge == "deceived":
        each = [judged.auc(cell) for cell in cells]
        values, replicates = (-np.maximum(0.5, part) for part in _stacked(each))
    else:
        values, replicates = _stacked([judged.mean(cell, judge) for cell in cells])
    return float(_spearman(x, values[None])[0]), _spearman(x, replicates.T)


def _stacked(each: list[tuple[float, Array]]) -> tuple[Array, Array]:
    return np.array([value for value, _ in each]), np.stack([replicates for _, replicates in each])


def _spearman(x: Array, y: Array) -> Array:
    """Of x, shape (cells,), with each row of y, shape (b, cells); ties by mean ranks, no number where a row is constant."""
    a = rankdata(x) - (len(x) + 1) / 2
    b = rankdata(y, axis=1) - (len(x) + 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(b @ a / np.sqrt((a**2).sum() * (b**2).sum(axis=1)))


def _out_of_fold(x: Array, made: NDArray[np.bool_], halves: NDArray[Any]) -> Array:
    """How made each picture looks to a classifier that has seen the other half of the pairs alone."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=_PENALTY, class_weight="balanced", max_iter=500))
    folds = LeaveOneGroupOut()
    return np.asarray(cross_val_predict(classifier, x, made, groups=halves, cv=folds, method="decision_function"))


def _wins(scores: Array, places: NDArray[Any], made: NDArray[np.bool_], count: int) -> tuple[Array, Array]:
    """Wins between pairs, shape (count, count), and how many pictures of either kind they have."""
    above = (scores[made][None] > scores[~made][:, None]) + 0.5 * (scores[made][None] == scores[~made][:, None])
    wins = np.zeros((count, count))
    np.add.at(wins, (places[~made][:, None], places[made][None]), above)
    return wins, np.stack([np.bincount(places[side], minlength=count) for side in (~made, made)]).astype(float)
