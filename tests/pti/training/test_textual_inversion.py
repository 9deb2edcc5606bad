"""Stage 1: what it moves, how far, when it stops, and what it leaves alone."""

import math

import pytest
import torch

from pti.errors import TrainingError
from pti.training.optimizer import lr_multiplier
from pti.training.textual_inversion import TextualInversion, cut_to_distance, distance, project_out, retract
from tests.tiny.runs import configuration, session


@pytest.fixture
def invert(sd, tmp_path):
    """Run stage 1 with some settings; gives back the stage and its records."""

    def run(*changes, pipeline=sd):
        made = session(configuration(pipeline, tmp_path / "run", *changes))
        inversion = TextualInversion(made.engine, made.model, made.latents, made.config)
        return inversion, list(inversion.run())

    return run


def test_records_tell_distance_path_and_rate(invert):
    inversion, records = invert("inversion.steps=6", "inversion.lr_scheduler=cosine", "inversion.lr_warmup_steps=2")
    assert [record.step for record in records] == [1, 2, 3, 4, 5, 6]
    rates = [0.01 * lr_multiplier(step, 6, 2, "cosine") for step in range(6)]
    assert [record.rate for record in records] == pytest.approx(rates)
    start = inversion.pivot.initial_embeddings[0]
    assert records[-1].distance == pytest.approx(float((inversion.rows[0].detach() - start).norm()), rel=1e-6)
    assert records[-1].distance_per_rate == pytest.approx(records[-1].distance / sum(rates))
    assert records[-1].path >= records[-1].distance
    assert records[0].path == pytest.approx(records[0].distance)
    # Adam's first step is the rate in every component
    assert records[0].distance == pytest.approx(rates[0] * math.sqrt(start.numel()), rel=1e-3)
    assert records[-1].norm == pytest.approx(float(inversion.rows[0].detach().norm()), rel=1e-6)
    assert records[-1].stopped == "6 steps made"
    assert not any(record.stopped for record in records[:-1])


def test_everything_but_the_pivot_is_bit_identical(invert, any_pipeline):
    """Figure 2 of stage 1, with weight decay on, which moves rows of a whole table (trap 4)."""
    from pti.models.pipeline import load_pipeline

    inversion, _ = invert("inversion.weight_decay=0.1", pipeline=any_pipeline)
    fresh = load_pipeline(str(any_pipeline))
    for ours, theirs in zip(inversion.model.networks(), fresh.networks(), strict=True):
        for (name, a), (other, b) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
            assert name == other
            assert torch.equal(a, b), name
            assert not a.requires_grad
    assert all(not torch.equal(a, b) for a, b in zip(inversion.rows, inversion.start, strict=True))


def test_a_table_that_moves_is_noticed(invert):
    made, _ = invert("inversion.steps=1")
    again = TextualInversion(made.engine, made.model, made.latents, made.config)
    steps = again.run()
    again._check_plateau = lambda loss: again.model.encoders[0].table.weight.data[5].add_(1e-6)
    with pytest.raises(TrainingError, match="the embedding table of text_encoder has changed"):
        list(steps)


def test_the_distance_limit_is_met_exactly(invert):
    for norm in ("off", "fixed"):
        inversion, records = invert(
            "inversion.steps=50", "inversion.max_distance=0.1", f"experimental.embedding_norm={norm}"
        )
        assert records[-1].stopped == "distance 0.1 reached"
        assert len(records) < 50
        assert records[-1].distance == pytest.approx(0.1, rel=1e-5)
        assert all(record.distance < 0.1 for record in records[:-1])
        if norm == "fixed":
            torch.testing.assert_close(inversion.rows[0].norm(dim=-1), inversion.start[0].norm(dim=-1))


def test_a_fixed_norm_stays_and_directions_move(invert):
    inversion, _ = invert("experimental.embedding_norm=fixed", "inversion.learning_rate=0.1")
    torch.testing.assert_close(inversion.rows[0].norm(dim=-1), inversion.start[0].norm(dim=-1))
    assert distance(inversion.rows, inversion.start) > 0.05
    inversion, _ = invert("experimental.embedding_norm=fixed", "experimental.embedding_norm_target=table")
    assert float(inversion.rows[0].detach().norm()) == pytest.approx(inversion.pivot.table_norms[0], rel=1e-5)


def test_decay_pulls_the_norm_to_its_target(invert):
    free, _ = invert("inversion.learning_rate=0.2")
    held, _ = invert(
        "inversion.learning_rate=0.2", "experimental.embedding_norm=decay", "experimental.embedding_norm_decay=0.5"
    )
    gap = [abs(float(i.rows[0].detach().norm() - i.start[0].norm())) for i in (free, held)]
    assert gap[1] < gap[0]


def test_gradients_of_directions():
    generator = torch.Generator().manual_seed(0)
    rows, gradient = (torch.randn((3, 8), generator=generator, dtype=torch.float64) for _ in range(2))
    across = project_out(gradient, rows)
    torch.testing.assert_close((across * rows).sum(-1), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(project_out(across, rows), across)
    norms = torch.full((3, 1), 2.0, dtype=torch.float64)
    assert torch.allclose(retract(rows, norms, 1.0).norm(dim=-1), norms[:, 0])
    assert torch.equal(retract(rows, norms, 0.0), rows)


def test_a_step_is_cut_on_its_own_line():
    start, before, end = torch.zeros(1, 2), torch.tensor([[3.0, 0.0]]), torch.tensor([[3.0, 9.0]])
    rows = [end.clone()]
    cut_to_distance(rows, [before], [start], 5.0)
    torch.testing.assert_close(rows[0], torch.tensor([[3.0, 4.0]]))


def test_a_plateau_stops(invert):
    _, records = invert(
        "inversion.steps=60", "inversion.early_stopping_patience=5", "inversion.early_stopping_min_delta=0.5"
    )
    assert "a plateau" in records[-1].stopped
    assert 10 <= len(records) < 60
    losses = [record.loss for record in records]
    assert sum(losses[-5:]) > 0.5 * sum(losses[-10:-5])


def test_accumulated_parts_are_one_step_on_all_of_them(invert):
    """Trap 10: micro-batches are not steps."""
    _, records = invert("runtime.gradient_accumulation_steps=3")
    assert len(records) == 4
    inversion, _ = invert("runtime.gradient_accumulation_steps=3", "inversion.steps=1", "inversion.optimizer=sgd")
    row = inversion.rows[0].detach().clone()
    inversion.descent.step = 0
    parts = []
    for part in range(3):
        inversion.rows[0].data.copy_(inversion.start[0])
        inversion.rows[0].grad = None
        inversion._compute_losses(part)["loss"].backward()
        parts.append(inversion.rows[0].grad.clone())
    mean = torch.stack(parts).mean(0)
    mean *= min(1.0, 1.0 / float(mean.norm()))
    torch.testing.assert_close(row, inversion.start[0] - 0.01 * mean)


def test_a_loss_that_is_no_number_stops_before_anything_is_changed(invert):
    made, _ = invert("inversion.steps=1")
    again = TextualInversion(made.engine, made.model, made.latents, made.config)
    before = again.rows[0].detach().clone()
    again.model.alphas_cumprod.fill_(float("nan"))
    with pytest.raises(TrainingError, match="the loss of step 1 is nan"):
        list(again.run())
    assert torch.equal(again.rows[0], before)


def test_schedules():
    assert [lr_multiplier(s, 10, 4, "constant") for s in (0, 1, 3, 4, 9)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert lr_multiplier(5, 10, 0, "cosine") == pytest.approx(0.5)
    assert lr_multiplier(5, 10, 0, "linear") == pytest.approx(0.5)
    assert lr_multiplier(0, 10, 0, "linear") == 1.0
