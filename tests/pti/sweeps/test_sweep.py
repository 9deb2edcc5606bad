"""Sweeps: that each run is done once, and that what fails is told and stops nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from clipgeom.errors import ConfigError
from pti.config.toml_io import toml_of
from pti.runs import checkpoint, metrics_log
from pti.sweeps.sweep import Sweep, collect, sweep
from pti.workflow import run_stages
from tests.conftest import ROOT
from tests.tiny.runs import configuration, write_pictures

QUICK = (
    "inversion.steps=2",
    "lora.steps=2",
    "output.checkpointing_steps=1",
    "validation.prompts=[]",
    "locality.interpolation=none",
)
RATES = {"lora.learning_rate": [0.01, 0.02]}
SEEDS = {"runtime.seed": [0, 1]}


def counted(patch):
    """What is run in this process, in order: (kind of folder, stages)."""
    from pti.sweeps import worker as sweep_run

    calls = []

    def counting(config, stages, **options):
        calls.append((Path(config.output.dir).parent.name, *stages))
        return run_stages(config, stages, **options)

    patch.setattr(sweep_run, "run_stages", counting)
    return calls


@pytest.fixture
def executed(monkeypatch):
    return counted(monkeypatch)


@pytest.fixture(scope="module")
def base(sd):
    return configuration(sd, "unused", *QUICK)


@pytest.fixture(scope="module")
def swept(base, tmp_path_factory):
    """Two runs of one inversion: their folder, and what was run. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("swept") / "sweep"
    with pytest.MonkeyPatch.context() as patch:
        calls = counted(patch)
        assert sweep(Sweep(base, vary=RATES), folder, measure=once) == folder / "sweep.parquet"
    return folder, calls


def once(folder):
    """One row for a run; leaves a trace of having been called."""
    with (folder / "measured").open("a") as file:
        file.write("x")
    return {"letters": len((folder / "measured").read_text()), "ok": True}


def each_checkpoint(folder):
    return [{"checkpoint": int(p.stem[-7:])} for p in sorted((folder / "checkpoints").glob("invert-*"))]


def stubborn(folder, hopeless):
    if f"seed={hopeless}" in folder.name and not (folder / "mended").exists():
        (folder / "mended").touch()
        raise ValueError("cannot be measured")
    return {}


def deadly(folder):
    if "rate=0.02" in folder.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


# ----------------------------------------------------------------------------------------------------------- the runs


def test_an_inversion_is_shared_and_a_run_is_what_it_is_alone(base, swept, tmp_path):
    folder, executed = swept
    assert executed == [("inversions", "invert"), ("runs", "invert", "tune"), ("runs", "invert", "tune")]
    alone = run_stages(
        configuration(base.model.pretrained_model, tmp_path / "alone", *QUICK, "lora.learning_rate=0.02"),
        ("invert", "tune"),
    )
    (run,) = folder.glob("runs/learning_rate=0.02-*")
    for stage in ("invert", "tune"):
        ours, theirs = (checkpoint.load(checkpoint.latest(f / "checkpoints", stage)) for f in (run, alone))
        assert ours.state == theirs.state
        assert ours.tensors.keys() == theirs.tensors.keys()
        assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in ours.tensors)
    for name in ("metrics.jsonl", "record.json"):
        assert (run / name).read_text() == (alone / name).read_text()
    files = [{p.relative_to(f) for p in f.rglob("*")} - {Path("result.json"), Path("measured")} for f in (run, alone)]
    assert files[0] == files[1]


def test_the_table(swept):
    folder, _ = swept
    table = pd.read_parquet(folder / "sweep.parquet")
    known = ["run", "status", "error", "lora.learning_rate", "seconds.invert", "seconds.tune", "marks"]
    assert list(table.columns[: len(known)]) == known
    assert {"invert.loss", "invert.distance", "invert.path", "tune.loss", "tune.weight_distance"} < set(table.columns)
    assert list(table.columns[-2:]) == ["letters", "ok"]
    assert table.status.tolist() == ["done", "done"]
    assert table.error.isna().all()
    assert table.ok.dtype == bool
    assert (table[["seconds.invert", "seconds.tune"]] > 0).all(axis=None)
    assert table["seconds.invert"].nunique() == 1  # of the one inversion
    metrics = pd.read_parquet(folder / "runs" / table.run[0] / "metrics.parquet")
    tuned = metrics[metrics.stage == "tune"]
    assert table["tune.loss"][0] == pytest.approx(tuned.loss.mean())
    assert table["tune.weight_distance"][0] == tuned.weight_distance.iloc[-1]
    assert table["tune.steps"].tolist() == [2, 2]
    assert table["invert.stopped"].tolist() == ["2 steps made"] * 2
    about = json.loads((folder / "sweep.json").read_text())
    assert (about["done"], about["failed"], about["missing"]) == (2, 0, 0)
    assert about["varies"] == RATES
    assert about["base"]["inversion.steps"] == 2
    assert "lora.learning_rate" not in about["base"]
    assert about["versions"]["torch"] == torch.__version__


def test_the_table_is_made_anew_from_the_results(swept, tmp_path):
    folder, _ = swept
    content = (folder / "sweep.parquet").read_bytes()
    (folder / "sweep.parquet").unlink()
    assert collect(folder).read_bytes() == content
    with pytest.raises(ConfigError, match="has no sweep"):
        collect(tmp_path)


def test_losses_are_means_of_the_last_hundred_steps():
    from pti.sweeps.worker import _flat, _last

    rows = [{"stage": "tune", "step": i, "loss": float(i), "rate": 1.0 / i} for i in range(1, 251)]
    rows[199]["weight_distance"] = 3.0
    rows[20]["locality"] = 9.0
    assert _last(rows, "tune") == {
        "tune.loss": 200.5,
        "tune.rate": 1 / 250,
        "tune.weight_distance": 3.0,
        "tune.locality": None,
        "tune.steps": 250,
    }
    measured = {"recognition": {"hat": {"token": {"value": 0.5, "ci95": [0.1, None], "n": 4}}}, "n_token": 8}
    assert _flat(measured, "evaluate") == {
        "evaluate.recognition.hat.token": 0.5,
        "evaluate.recognition.hat.token.low": 0.1,
        "evaluate.recognition.hat.token.high": None,
        "evaluate.recognition.hat.token.n": 4,
        "evaluate.n_token": 8,
    }


def test_what_is_done_is_not_done_again(base, executed, swept, tmp_path):
    folder = tmp_path / "sweep"
    shutil.copytree(swept[0], folder)
    first = pd.read_parquet(folder / "sweep.parquet")
    assert pd.read_parquet(sweep(Sweep(base, vary=RATES), folder, measure=once)).equals(first)
    assert executed == []
    grown = Sweep(base, vary={"lora.learning_rate": [0.02, 0.01], "runtime.seed": [1, 0]})
    table = pd.read_parquet(sweep(grown, folder, measure=once))
    assert executed == [("inversions", "invert")] + [("runs", "invert", "tune")] * 2  # of the other seed
    assert table.run.tolist()[1::2] == first.run.tolist()[::-1]  # though something else varies now
    assert (table.letters == 1).all()
    executed.clear()
    table = pd.read_parquet(sweep(Sweep(base, vary=RATES), folder, measure=each_checkpoint))
    assert executed == [("runs", "invert", "tune")] * 2  # which find both stages finished
    assert table.checkpoint.tolist() == [1, 2] * 2
    assert table["seconds.tune"].tolist() == first["seconds.tune"].repeat(2).tolist()
    executed.clear()
    other = configuration(base.model.pretrained_model, "unused", *QUICK, "lora.steps=3")
    table = pd.read_parquet(sweep(Sweep(other, vary={"lora.learning_rate": [0.01]}), folder))
    assert table["tune.steps"].tolist() == [3]
    assert executed == [("runs", "invert", "tune")]


def test_a_later_stage_is_done_on_top(base, executed, swept, tmp_path, monkeypatch):
    def evaluated(folder, **_):
        estimate = {"value": 0.5, "ci95": [0.25, 0.75], "n": 4}
        content = {"schema": "x", "prompts": ["a"], "recognition": {"all": {"token": estimate}}, "marks": []}
        (folder / "evaluation.json").write_text(json.dumps(content))

    monkeypatch.setattr("pti.evaluation.run.evaluate_run", evaluated)
    folder = tmp_path / "sweep"
    shutil.copytree(swept[0], folder)
    plan = Sweep(base, vary={"lora.learning_rate": [0.01]})
    table = pd.read_parquet(sweep(plan, folder, stages=("invert", "tune", "evaluate")))
    assert executed == [("runs", "invert", "tune"), ("runs", "evaluate")]
    assert table["evaluate.recognition.all.token.low"].tolist() == [0.25]
    assert [name for name in table.columns if name.startswith("evaluate.")] == [
        f"evaluate.recognition.all.token{end}" for end in ("", ".low", ".high", ".n")
    ]
    assert table["seconds.evaluate"].notna().all()


def test_failures_are_recorded_and_the_others_go_on(base, executed, tmp_path):
    broken = write_pictures(tmp_path / "broken", ("a {token}", "{token}"))
    (broken / "1.png").write_bytes(b"no picture")
    fine = write_pictures(tmp_path / "fine", ("a {token}", "{token}"))
    base = configuration(base.model.pretrained_model, "unused", *QUICK, "concept.class_word=knight")
    plan = Sweep(base, vary={"data.source": [str(broken), str(fine)], "lora.learning_rate": [0.01, 1e30]})
    table = pd.read_parquet(sweep(plan, tmp_path / "sweep"))
    assert table.status.tolist() == ["failed", "failed", "done", "failed"]
    assert table.error[0] == table.error[1]
    assert table.error[0].startswith("DataError: ")
    assert "1.png cannot be decoded" in table.error[0]
    assert table.error[3].startswith("TrainingError: tune: the loss")
    assert table["tune.loss"].notna().tolist() == [False, False, True, False]
    executed.clear()
    assert pd.read_parquet(sweep(plan, tmp_path / "sweep")).equals(table)
    assert executed == []
    write_pictures(broken, ("a {token}", "{token}"))
    table = pd.read_parquet(sweep(plan, tmp_path / "sweep", retry=True))
    assert table.status.tolist() == ["done", "failed", "done", "failed"]
    assert executed == [("inversions", "invert")] + [("runs", "invert", "tune")] * 3


def test_a_measure_that_fails_is_a_failure_of_its_run(base, executed, tmp_path):
    plan, measure = Sweep(base, vary=SEEDS), partial(stubborn, hopeless=1)
    table = pd.read_parquet(sweep(plan, tmp_path / "sweep", stages=("invert",), measure=measure))
    assert table.status.tolist() == ["done", "failed"]
    assert table.error[1] == "ValueError: cannot be measured"
    result = json.loads((tmp_path / "sweep" / "runs" / table.run[1] / "result.json").read_text())
    assert "in stubborn" in result["error"]["traceback"]
    executed.clear()
    table = pd.read_parquet(sweep(plan, tmp_path / "sweep", stages=("invert",), measure=measure, retry=True))
    assert table.status.tolist() == ["done", "done"]
    assert executed == [("runs", "invert")]


def test_rows_of_other_kinds_are_told(tmp_path):
    from pti.sweeps.sweep import _uniform
    from pti.sweeps.worker import _rows

    assert _rows({"a": np.float32(0.5), "b": np.int64(2), "c": float("nan")}, set()) == [{"a": 0.5, "b": 2, "c": None}]
    assert _rows([], set()) == [{}]
    for wrong, message in (({"a": [1]}, "gives a as list"), ("text", "got str"), (None, "got NoneType"), ([1], "list")):
        with pytest.raises(ConfigError, match=message):
            _rows(wrong, set())
    with pytest.raises(ConfigError, match=r"gives 'tune\.loss', which the table has already"):
        _rows({"tune.loss": 1.0}, {"tune.loss"})
    assert _uniform([1, None, 2.5]) == [1, None, 2.5]
    assert _uniform([1, None, "x", True]) == ["1", None, "x", "True"]


def test_precision_may_vary_in_one_process(base, tmp_path):
    plan = Sweep(base, vary={"runtime.mixed_precision": ["no", "bf16"]})
    assert pd.read_parquet(sweep(plan, tmp_path / "sweep", stages=("invert",))).status.tolist() == ["done", "done"]


@pytest.mark.slow
def test_two_jobs_find_what_one_does_and_a_killed_process_is_a_failed_run(base, swept, tmp_path):
    one = pd.read_parquet(swept[0] / "sweep.parquet")
    two = pd.read_parquet(sweep(Sweep(base, vary=RATES), tmp_path / "two", jobs=2, measure=deadly))
    assert two.status.tolist() == ["done", "failed"]
    assert two.error[1] == "Died: its process was killed by SIGKILL (out of memory?)"
    same = [name for name in two.columns if not name.startswith("seconds")]
    pd.testing.assert_frame_equal(one.loc[:0, same], two.loc[:0, same], check_dtype=False)


def test_a_file_is_no_folder_of_a_sweep(base, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        sweep(Sweep(base, vary=SEEDS), tmp_path / "file")


def test_a_stopped_sweep_has_its_table(base, tmp_path, monkeypatch):
    from pti.sweeps import worker as sweep_run

    def interrupted(config, stages, **options):
        if "runs/seed=1" in config.output.dir:
            raise KeyboardInterrupt
        return run_stages(config, stages, **options)

    monkeypatch.setattr(sweep_run, "run_stages", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(Sweep(base, vary=SEEDS), tmp_path / "sweep", stages=("invert",))
    assert pd.read_parquet(tmp_path / "sweep" / "sweep.parquet").status.tolist() == ["done", "missing"]


@pytest.mark.slow
def test_killed_it_does_what_is_missing(base, tmp_path, monkeypatch):
    """The power goes in the middle of the second run."""
    steps = 40
    long = configuration(base.model.pretrained_model, "unused", *QUICK, f"lora.steps={steps}")
    (tmp_path / "base.toml").write_text(toml_of(long))
    folder = tmp_path / "sweep"
    with subprocess.Popen(
        [sys.executable, "-m", "pti", "sweep", tmp_path / "base.toml", "--seeds=2", f"--out={folder}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    ) as process:
        while not list(folder.glob("runs/*seed=1*/checkpoints/tune-*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert pd.read_parquet(collect(folder)).status.tolist() == ["done", "missing"]
    before = [path.read_text() for path in sorted(folder.glob("runs/*/metrics.jsonl"))]

    appended = []
    honest = metrics_log.MetricsLog.append
    monkeypatch.setattr(metrics_log.MetricsLog, "append", lambda *given: (appended.append(given[1]), honest(*given)))
    table = pd.read_parquet(sweep(Sweep(tmp_path / "base.toml", vary=SEEDS), folder))
    assert table.status.tolist() == ["done"] * 2
    assert table["tune.steps"].tolist() == [steps] * 2
    assert set(appended) == {"tune"}
    made = before[1].count('"tune"')
    assert before[0].count('"tune"') == steps
    assert 1 <= made < steps
    assert steps - made <= len(appended) <= steps - made + 2  # not more than the steps since a checkpoint


# -------------------------------------------------------------------------------------------------------- the command


def test_the_command(pti, base, tmp_path):
    (tmp_path / "base.toml").write_text(toml_of(base))
    swept = ("sweep", "base.toml", "--vary", "lora.learning_rate=0.01,1e30", "--until", "tune", "--out", "grid")
    code, out, err = pti(*swept)
    assert code == 2
    assert out == "table: grid/sweep.parquet (2 runs, 1 failed)\n"
    assert err.splitlines()[-1] == (
        "pti: 1 of 2 runs failed; see the column error of grid/sweep.parquet. Try them again with --retry"
    )
    code, out, err = pti("sweep", "base.toml", "--set", "lora.steps=1", "--together", "runtime.seed=0,1;lora.rank=2,3")
    assert (code, out) == (0, "table: sweep/sweep.parquet (2 runs, 0 failed)\n"), err
    table = pd.read_parquet(tmp_path / "sweep" / "sweep.parquet")
    assert table[["runtime.seed", "lora.rank", "tune.steps"]].to_numpy().tolist() == [[0, 2, 1], [1, 3, 1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing varies; name a setting"),
        (("--vary", "lora.rnak=1"), "did you mean 'rank'?"),
        (("--vary", "lora.rank=1,"), "lora.rank is a whole number; got None"),
        (("--seeds", "2", "--vary", "runtime.seed=1"), "runtime.seed varies twice"),
        (("--seeds", "2", "--until", "tuned"), "expected --until to be one of"),
        (("--seeds", "2", "absent.toml"), "there is no configuration absent.toml"),
    ],
)
def test_the_command_refuses_in_one_line(pti, tmp_path, arguments, message):
    code, out, err = pti("sweep", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "sweep").exists()
