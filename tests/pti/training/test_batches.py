"""What a step draws depends on its number alone, and on the batch of all processes together."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pti.training.batches import BatchSlice, SamplingSpace, plan_micro_batch, sample_order, sample_timesteps


def drawn(step=3, part=0, share=None, **changes):
    space = SamplingSpace(
        n_images=5,
        crops=3,
        flips=True,
        wordings=2,
        latent_shape=(4, 2, 2),
        timesteps=range(100),
        timestep_sampling="stratified",
    )
    batch_slice = share or BatchSlice(0, 1, 4)
    return plan_micro_batch(7, "tune", step, part, parts=2, batch_slice=batch_slice, space=replace(space, **changes))


def test_two_processes_draw_the_halves_of_what_one_draws():
    whole = drawn()
    halves = [drawn(share=BatchSlice(rank, 2, 2)) for rank in (0, 1)]
    assert whole.views == halves[0].views + halves[1].views
    for name in ("timesteps", "noise", "latent_noise", "offset", "interpolation_t"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(half, name) for half in halves])), name
    np.testing.assert_array_equal(whole.rows, np.concatenate([half.rows for half in halves]))


def test_steps_parts_and_streams_differ_and_repeat():
    base = drawn()
    assert torch.equal(base.noise, drawn().noise)
    for other in (drawn(step=4), drawn(part=1)):
        assert not torch.equal(base.noise, other.noise)
    assert not torch.equal(base.noise, base.latent_noise)


def test_every_picture_comes_once_an_epoch_in_another_order_each_time():
    sequence = sample_order(1, "tune", 5, 0, 50).reshape(10, 5)
    assert (np.sort(sequence, axis=1) == np.arange(5)).all()
    assert len({tuple(row) for row in sequence}) > 5
    np.testing.assert_array_equal(sample_order(1, "tune", 5, 13, 9), sequence.ravel()[13:22])
    parts = [drawn(step, part).views for step in range(5) for part in range(2)]
    seen = [view.sample for views in parts for view in views]
    np.testing.assert_array_equal(seen, sample_order(7, "tune", 5, 0, 40))


@pytest.mark.parametrize("n", [1, 3, 8])
def test_stratified_noise_levels_take_one_of_every_stretch(n):
    rng = np.random.default_rng(0)
    for _ in range(50):
        times = sample_timesteps(rng, n, range(100), "stratified")
        for stretch, time in enumerate(sorted(times)):
            assert stretch * 100 // n <= time <= (stretch + 1) * 100 / n
        assert times.max() < 100
    uniform = sample_timesteps(rng, 10_000, range(100), "uniform")
    assert set(uniform) == set(range(100))
    assert abs(uniform.mean() - 49.5) < 1.5
    for kind in ("stratified", "uniform"):
        assert set(sample_timesteps(rng, 2000, range(30, 40), kind)) == set(range(30, 40))


def test_views_vary_only_as_asked():
    views = [view for step in range(20) for view in drawn(step).views]
    assert {view.crop for view in views} == {0, 1, 2}
    assert {view.mirrored for view in views} == {True, False}
    assert {view.wording for view in views} == {0, 1}
    some = [drawn(step, complete_from=40) for step in range(20)]
    for noisy in (True, False):
        found = {
            v.wording for draw in some for v, t in zip(draw.views, draw.timesteps, strict=True) if (t >= 40) == noisy
        }
        assert found == ({0} if noisy else {0, 1})
        free = {w for draw in some for w, t in zip(draw.wordings, draw.timesteps, strict=True) if (t >= 40) == noisy}
        assert free == {0, 1}
    plain = [view for step in range(5) for view in drawn(step, crops=1, flips=False, wordings=1).views]
    assert {(view.crop, view.mirrored, view.wording) for view in plain} == {(0, False, 0)}
