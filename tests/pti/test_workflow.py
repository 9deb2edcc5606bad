"""Whole runs, small: both stages on every layout, what is left in the folder, and what is not moved."""

import json

import numpy as np
import pandas as pd

from pti.models.sampling import sample_images
from pti.runs.run import load_run
from pti.workflow import run_stages
from tests.tiny.runs import configuration

TRAINED = ("invert", "tune")


def test_both_stages_on_every_layout(any_pipeline, tmp_path):
    folder = run_stages(configuration(any_pipeline, tmp_path / "run"), TRAINED)
    table = pd.read_parquet(folder / "metrics.parquet")
    assert list(table.stage) == ["invert"] * 4 + ["tune"] * 4
    assert table.loss.notna().all()
    assert table[table.stage == "tune"].locality.notna().all()
    assert table[table.stage == "tune"].function_distance.notna().tolist() == [False, True, False, True]
    record = json.loads((folder / "record.json").read_text())
    assert record["stages"] == {s: {"steps": 4, "stopped": "4 steps made"} for s in TRAINED}
    shown = sorted(p.name for p in (folder / "previews").iterdir())
    assert shown == ["focus.png", "invert-0000004.png", "tune-0000004.png"]
    run = load_run(folder)
    drawn = sample_images(run.model, ["a picture of {token}"] * 2, seed=1, steps=2)
    assert drawn.shape == (2, 8, 8, 3)
    assert drawn.dtype == np.uint8
