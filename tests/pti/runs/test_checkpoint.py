"""Checkpoints are whole or absent, and know what they belong to."""

import errno
import os

import pytest
import torch

from clipgeom._progress import Quiet
from pti.errors import CheckpointError, TrainingError
from pti.runs import checkpoint
from pti.runs.record import read_record
from pti.runs.run import load_run
from pti.runs.threads import as_begun
from pti.training.lora_tuning import LoraTuning
from pti.training.textual_inversion import TextualInversion
from pti.workflow import run_stages
from tests.pti.fuzz_run import fuzz
from tests.tiny.runs import configuration, session

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3, dtype=torch.int64)}


def test_what_is_saved_is_loaded(tmp_path):
    path = checkpoint.save(tmp_path, "tune", TENSORS, {"step": 7, "stopped": ""}, {"x.y": 1.5})
    found = checkpoint.load(path)
    assert (found.stage, found.state, found.belongs) == ("tune", {"step": 7, "stopped": ""}, {"x.y": 1.5})
    assert all(torch.equal(found.tensors[k], v) for k, v in TENSORS.items())
    assert not found.finished
    found.require({"x.y": 1.5})


def test_another_configuration_is_refused_with_every_difference(tmp_path):
    path = checkpoint.save(tmp_path, "tune", TENSORS, {"step": 7}, {"a.b": 1, "c.d": ["x"], "e.f": None})
    message = r'a.b was 1, is 2; c.d was \["x"\], is \["y"\]\. Set these back'
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(path).require({"a.b": 2, "c.d": ("y",), "e.f": None})


def test_the_last_ones_are_kept(tmp_path):
    for step in (2, 10, 100):
        checkpoint.save(tmp_path, "tune", TENSORS, {"step": step}, {})
    checkpoint.save(tmp_path, "invert", TENSORS, {"step": 1}, {})
    checkpoint.prune(tmp_path, "tune", 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "invert-0000001.safetensors",
        "tune-0000010.safetensors",
        "tune-0000100.safetensors",
    ]
    assert checkpoint.latest(tmp_path, "tune").name == "tune-0000100.safetensors"
    assert checkpoint.latest(tmp_path, "export") is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path, monkeypatch, number):
    before = checkpoint.save(tmp_path, "tune", TENSORS, {"step": 1}, {})
    content = before.read_bytes()

    def full(_handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"no space left on the disk.*the one before it is whole: .*tune-0000001"):
        checkpoint.save(tmp_path, "tune", TENSORS, {"step": 2}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["tune-0000001.safetensors"]
    assert before.read_bytes() == content


def damages(content):
    """Each damage of a file, by what it does."""
    flipped = bytearray(content)
    flipped[-20] ^= 1
    yield "a bit of a tensor", bytes(flipped)
    yield "the state", content.replace(b'\\"step\\": 1', b'\\"step\\": 2')
    yield "what it belongs to", content.replace(b'\\"x.y\\": 1.5', b'\\"x.y\\": 1.6')
    yield "a name", content.replace(b'"a":', b'"c":')
    yield "a shape", content.replace(b"[2,3]", b"[3,2]")
    yield "a type", content.replace(b'"F32"', b'"I32"')
    yield "no digest", content.replace(b"sha256", b"sha257")
    yield "cut", content[:-3]
    yield "cut in its header", content[:60]
    yield "empty", b""
    yield "something else", b"x" * 40


def test_damaged_files_are_named(tmp_path, subtests):
    path = checkpoint.save(tmp_path, "tune", TENSORS, {"step": 1}, {"x.y": 1.5})
    content = path.read_bytes()
    for name, damage in damages(content):
        with subtests.test(name):
            assert damage != content
            path.write_bytes(damage)
            with pytest.raises(
                CheckpointError, match=r"tune-0000001.safetensors is damaged, or no checkpoint .*; delete"
            ):
                checkpoint.load(path)


def test_a_checkpoint_under_the_name_of_another_is_refused(tmp_path):
    one, other = (checkpoint.save(tmp_path, "tune", TENSORS, {"step": step}, {}) for step in (1, 2))
    other.write_bytes(one.read_bytes())
    with pytest.raises(CheckpointError, match="it is of step 1 of tune"):
        checkpoint.load(other)


def test_damaged_latents_are_made_anew_with_a_note(sd, tmp_path):
    notes = []

    class Told(Quiet):
        def note(self, text):
            notes.append(text)

    settings = (
        "data.latent_refinement_steps=2",
        "loss.unmasked_weight=0.5",
        "experimental.locality_inputs=generated",
        "experimental.locality_num_generated=2",
    )
    settings += (
        "prior_preservation.weight=0.3",
        "prior_preservation.num_class_images=2",
        "inversion.steps=1",
        "lora.steps=1",
        "validation.prompts=[]",
    )
    folder = run_stages(configuration(sd, tmp_path / "run", *settings), ("invert", "tune"))
    kept = {folder / f"{name}.safetensors": b"" for name in ("latents", "focus", "own", "prior")}
    kept = {path: path.read_bytes() for path in kept}
    [last] = (folder / "checkpoints").glob("tune-*")
    expected = last.read_bytes()
    flipped = {path: content[:-6] + bytes([content[-6] ^ 1]) + content[-5:] for path, content in kept.items()}
    cut = {path: content[:-3] for path, content in kept.items()}
    swapped = dict(zip(kept, list(kept.values())[::-1], strict=True))
    for damaged in (flipped, cut, swapped):
        for path, content in damaged.items():
            path.write_bytes(content)
        for path in (folder / "checkpoints").iterdir():
            path.unlink()
        notes.clear()
        run_stages(configuration(sd, tmp_path / "run", *settings), ("invert", "tune"), progress=Told())
        assert {path: path.read_bytes() for path in kept} == kept
        assert last.read_bytes() == expected
        assert damaged is swapped or all(
            any(f"{path} is damaged" in note and "computing it again" in note for note in notes) for path in kept
        )


def test_a_run_refuses_a_folder_of_other_settings_and_leaves_it_alone(sd, tmp_path):
    folder = run_stages(configuration(sd, tmp_path / "run"), ("invert", "tune"))
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(
        CheckpointError,
        match=r"inversion.learning_rate was 0.01, is 0.02; concept|inversion.learning_rate was 0.01, is 0.02\.",
    ):
        run_stages(configuration(sd, tmp_path / "run", "inversion.learning_rate=0.02"), ("invert",))
    with pytest.raises(CheckpointError, match=r"lora\.rank was 2, is 3"):
        run_stages(configuration(sd, tmp_path / "run", "lora.rank=3"), ("tune",))
    with pytest.raises(CheckpointError, match=r"data \(its content\) was"):
        run_stages(configuration(sd, tmp_path / "run", "data.source=miniworld:ember"), ("invert",))
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_what_is_finished_is_not_done_again(sd, tmp_path, monkeypatch):
    config = configuration(sd, tmp_path / "run")
    folder = run_stages(config, ("invert", "tune"))
    before = (folder / "metrics.jsonl").read_bytes()

    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr("pti.training.optimizer.OptimizationLoop.take_step", never)
    run_stages(config, ("invert", "tune"))
    assert (folder / "metrics.jsonl").read_bytes() == before
    with pytest.raises(AssertionError):  # it would have been noticed
        run_stages(configuration(sd, tmp_path / "other"), ("invert",))


def test_tuning_needs_a_finished_inversion(sd, tmp_path):
    with pytest.raises(CheckpointError, match="has no finished inversion; run pti invert first"):
        run_stages(configuration(sd, tmp_path / "run"), ("tune",))
    with pytest.raises(CheckpointError, match="is no run folder"):
        load_run(tmp_path)


@pytest.mark.parametrize("stage", ["invert", "tune"])
def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(sd, tmp_path, monkeypatch, stage):
    calls = []

    def spoiled(*arguments):
        calls.append(1)
        loss = honest(*arguments)
        return loss * float("nan") if len(calls) == 4 else loss

    kind = {"invert": TextualInversion, "tune": LoraTuning}[stage]
    honest = kind._denoising_loss
    monkeypatch.setattr(kind, "_denoising_loss", spoiled)
    config = configuration(sd, tmp_path / "run")
    with pytest.raises(
        TrainingError, match=rf"{stage}: the loss of step 4 is nan; the last good checkpoint is .*{stage}-0000002"
    ):
        run_stages(config, ("invert", "tune"))
    found = checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints", stage))
    assert found.state["step"] == 2
    assert all(torch.isfinite(t).all() for t in found.tensors.values())


def test_a_resumed_run_uses_the_threads_that_it_was_begun_with(sd, tmp_path, monkeypatch):
    honest, seen = TextualInversion._denoising_loss, []

    def watched(*arguments):
        seen.append(torch.get_num_threads())
        if len(seen) == stop:
            raise KeyboardInterrupt
        return honest(*arguments)

    def threads(count, by_user=False):
        """As in a process that has chosen its threads by the load, or in which the user has set them."""
        monkeypatch.setenv("OMP_NUM_THREADS", str(count))
        monkeypatch.setenv("CLIPGEOM_FREE_CPUS", "" if by_user else str(count))
        torch.set_num_threads(count)

    monkeypatch.setattr(TextualInversion, "_denoising_loss", watched)
    before = torch.get_num_threads()
    try:
        for count, stop in ((1, 1), (2, 2)):
            threads(count)
            with pytest.raises(KeyboardInterrupt):
                run_stages(configuration(sd, tmp_path / "run"), ("invert",))
            assert seen == [1] * stop
            assert torch.get_num_threads() == count
        assert read_record(tmp_path / "run")["threads"] == 1
        threads(2, by_user=True)
        with as_begun(tmp_path / "run"):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_moments_and_vectors_are_in_it(sd, tmp_path):
    """Trap 7."""
    made = session(configuration(sd, tmp_path / "run", "inversion.early_stopping_patience=2"))
    inversion = TextualInversion(made.engine, made.model, made.latents, made.config)
    steps = inversion.run()
    next(steps)
    next(steps)
    kept = inversion.tensors()
    assert set(kept) == {
        "parameter.rows.0",
        "optimizer.step.rows.0",
        "optimizer.exp_avg.rows.0",
        "optimizer.exp_avg_sq.rows.0",
        "start.0",
        "losses",
    }
    assert len(kept["losses"]) == 2


def test_no_random_change_to_an_interrupted_run_gives_another_result(sd, tmp_path):
    counts, wrong = fuzz(tmp_path, sd, changes=6, seed=0)
    assert wrong == []
    assert counts["refused"] + counts["made anew with a note"] > 3
