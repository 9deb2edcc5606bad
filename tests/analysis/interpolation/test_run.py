"""The study of interpolated conditioning, on tables whose truth is known."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.common.citations import untold
from analysis.interpolation import report as interpolation_report
from analysis.interpolation.facts import Judged, _spearman, facts
from analysis.interpolation.run import MODES, TIMES, Concepts, said_of_states
from clipgeom.miniworld import FACTORS
from pti.locality.alignment import TokenSpan

# how far each mode's pictures lie from real ones, and how sure the readers are of them
_MOVED = {"lerp": 2.0, "slerp": 1.5, "vslerp": 0.6, "vslerp_norm": 0.0, "aslerp": 1.0, "auto": 0.0}


def _write(raw: Path, pairs: int = 60, moved: dict[str, float] = _MOVED, kept: float = 0.9) -> None:
    """Made pictures differ from real ones along one axis; the check's figures are in the order of how far."""
    rng = np.random.default_rng(0)
    cells = [("real", 0.0), ("real", 1.0), ("control", 0.0), ("fade", 0.5)] + [(m, t) for m in moved for t in TIMES]
    rows, vectors = [], []
    for pair in range(pairs):
        for draw in range(2):
            for kind, t in cells:
                far = {"real": 0.0, "control": 0.0, "fade": 4.0}.get(kind, moved.get(kind, 0.0))
                row = {
                    "pair": pair,
                    "draw": draw,
                    "kind": kind,
                    "time": t,
                    "first.class": "knight",
                    "second.class": "robot",
                }
                for name, values in FACTORS.items():
                    row[f"sure.{name}"] = np.clip(0.95 - 0.1 * far + 0.02 * rng.normal(), 0, 1)
                    row[f"read.{name}"] = values[0]
                    row[f"wanted.{name}"] = (
                        values[0] if kind in ("real", "control") or rng.random() < kept else values[1]
                    )
                rows.append(row)
                vectors.append(rng.normal(size=6) + far * np.eye(6)[0])
    raw.mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(raw / "pictures.parquet", index=False)
    np.save(raw / "embeddings.npy", np.array(vectors, dtype=np.float16))
    said = {
        f"{mode}@{t:g}": {"on_shell": 0.9 - 0.3 * far, "auc": 0.5 + 0.2 * far}
        for mode, far in moved.items()
        for t in TIMES
    }
    states = {"places": 72, "recommended": {"vslerp_norm": 0.9, "slerp": 0.1}, "cells": said, "seconds": 60.0}
    (raw / "states.json").write_text(json.dumps(states), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("interpolation")
    _write(out / "raw")
    return out


def test_the_classifier_finds_what_is_there_and_nothing_else(folder: Path) -> None:
    found = facts(folder / "raw")
    # two unit normals whose means are d apart have an AUC of Φ(d/√2)
    for mode, expected in (("lerp", 0.921), ("slerp", 0.856), ("vslerp", 0.664)):
        assert found[f"{mode}.auc"].value == pytest.approx(expected, abs=0.06), mode
    assert found["control.auc"].low < 0.5 < found["control.auc"].high  # type: ignore[operator]
    assert not found["vslerp_norm.auc"].above(0.55)
    assert found["vslerp_norm.minus_slerp.auc"].below(-0.2)
    assert found["fade.auc"].above(0.98)


def test_what_is_lost_is_the_share_that_is_read_wrong(folder: Path) -> None:
    found = facts(folder / "raw")
    assert found["real.kept"].value == 1
    assert found["slerp.minus_real.kept"].value == pytest.approx(-0.1, abs=0.02)
    assert found["slerp.minus_real.kept"].below(0)


def test_a_check_that_orders_the_modes_rightly_predicts_and_one_in_reverse_does_not(
    folder: Path, tmp_path: Path
) -> None:
    found = facts(folder / "raw")
    for predictor in ("on_shell", "auc"):
        assert found[f"predict.{predictor}.confidence"].above(0.9)
        assert found[f"predict.{predictor}.deceived"].above(0.7)
    _write(tmp_path / "raw")
    path = tmp_path / "raw" / "states.json"
    states = json.loads(path.read_text(encoding="utf-8"))
    for cell in states["cells"].values():
        cell["on_shell"] = 1 - cell["on_shell"]
    path.write_text(json.dumps(states), encoding="utf-8")
    assert facts(tmp_path / "raw")["predict.on_shell.confidence"].below(-0.9)


def test_an_auc_by_pairs_is_the_plain_one_and_its_interval_grows_with_fewer_pairs(tmp_path: Path) -> None:
    from sklearn.metrics import roc_auc_score

    from analysis.interpolation.facts import _wins

    rng = np.random.default_rng(1)
    pairs, made = np.repeat(np.arange(10), 6), np.tile([False, False, False, False, True, True], 10)
    scores = np.round(rng.normal(size=60) + made, 1)  # with ties
    wins, (real, tried) = _wins(scores, pairs, made, 10)
    assert wins.sum() / (real.sum() * tried.sum()) == pytest.approx(roc_auc_score(made, scores))
    widths = []
    for count in (15, 60):
        _write(tmp_path / str(count) / "raw", pairs=count)
        table = pd.read_parquet(tmp_path / str(count) / "raw" / "pictures.parquet")
        value, replicates = Judged.of(table, np.load(tmp_path / str(count) / "raw" / "embeddings.npy")).auc("slerp@0.5")
        assert abs(replicates.mean() - value) < 0.02
        widths.append(float(np.diff(np.quantile(replicates, [0.025, 0.975]))[0]))
    assert widths[0] > 1.5 * widths[1]


def test_the_interval_of_an_auc_holds_where_there_is_nothing_to_find() -> None:
    from analysis.interpolation.facts import _out_of_fold, _wins

    places = np.concatenate([np.repeat(np.arange(40), 4), np.repeat(np.arange(40), 2)])
    made = np.arange(len(places)) >= 160
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scores = _out_of_fold(rng.normal(size=(len(places), 6)), made, places % 2)
        wins, sizes = _wins(scores, places, made, 40)
        drawn = rng.integers(40, size=(300, 40))
        weights = np.stack([np.bincount(row, minlength=40) for row in drawn]).astype(float)
        _, replicates = Judged({}, {"slerp@0.5": wins}, {"slerp@0.5": sizes}, weights).auc("slerp@0.5")
        low, high = np.quantile(replicates, [0.025, 0.975])
        held += low < 0.5 < high
    assert held >= 53  # 57 are expected; without the widening there are 47


def test_rank_correlation_is_scipys() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(2)
    x, y = rng.integers(4, size=12).astype(float), rng.normal(size=(3, 12)).round(0)
    np.testing.assert_allclose(_spearman(x, y), [spearmanr(x, row).statistic for row in y])


def test_prompts_of_a_pair_differ_in_class_and_body_alone() -> None:
    for index in range(30):
        pair = Concepts.drawn(index)
        first, second, third = (pair.prompt(i).split() for i in range(3))
        assert len(first) == len(second) == len(third)
        assert [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b] == [5, 6]
        assert len({look[0] for look in pair.looks}) == len({look[1] for look in pair.looks}) == 3


def test_the_checks_figures_are_weighted_by_how_often_a_position_is_interpolated() -> None:
    class Entry:
        def __init__(self, recommended: str, rate: float) -> None:
            self.recommended = recommended
            rates = {mode: dict.fromkeys(map(str, TIMES), rate) for mode in MODES}
            rates["slerp"] = dict.fromkeys(map(str, TIMES), 0.0)
            self.figures = {"on_shell_by_time": rates, "auc": {mode: {"auc": 0.4} for mode in MODES}}

    class Certificate:
        def entry(self, representation: str, position: str) -> Entry:
            return {"6": Entry("slerp", 0.2), "eos": Entry("vslerp_norm", 0.5), "padded:8": Entry("vslerp_norm", 1.0)}[
                position
            ]

    # two prompts end at 7; only one of them goes on to 8
    routes = [TokenSpan(6, 9, 7, pooled=False), TokenSpan(7, 8, 7, pooled=False)]
    places = {"6": 1, "eos": 2, "padded:8": 1}
    said = said_of_states(Certificate(), routes)  # type: ignore[arg-type]
    assert said["places"] == len(places)
    assert said["recommended"] == {"slerp": 0.25, "vslerp_norm": 0.75}
    assert said["cells"]["lerp@0.5"]["on_shell"] == pytest.approx((0.2 + 2 * 0.5 + 1.0) / 4)
    assert said["cells"]["auto@0.5"]["on_shell"] == pytest.approx((0.0 + 2 * 0.5 + 1.0) / 4)
    assert said["cells"]["lerp@0.5"]["auc"] == 0.5  # a detector below one half has found nothing


def test_every_number_of_the_report_is_a_fact_and_words_follow_the_facts(folder: Path, tmp_path: Path) -> None:
    interpolation_report.write(folder)
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert untold(report, facts(folder / "raw")) == []
    assert "Surely harder to tell from real pictures than slerp's: vslerp, vslerp with the norm restored" in report
    assert "is surely lost by lerp" in report
    _write(tmp_path / "raw", moved=dict.fromkeys(MODES, 0.0), kept=1.0)
    interpolation_report.write(tmp_path)
    other = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert untold(other, facts(tmp_path / "raw")) == []
    assert "is surely lost by no mode" in other
    assert "the pictures of no mode are surely easier to tell" in other
