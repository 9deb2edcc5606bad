"""The recipe's parts: a run that is cut off goes on as if it had not been, words are one token, targets are what is said."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from analysis.miniworld.recipe.loop import Plan, Training, generator_of, latest_step
from analysis.miniworld.recipe.muon import Muon, orthogonal
from analysis.miniworld.recipe.pools import draw_pool, pool_marks
from analysis.miniworld.recipe.recipe import run_stage
from analysis.miniworld.recipe.stages import details, patches
from analysis.miniworld.recipe.stages.autoencoder import build_autoencoder, latent_statistics, psnr
from analysis.miniworld.recipe.stages.clip import agreement, build_clip, text_features, text_states, tokenize
from analysis.miniworld.recipe.stages.diffusion import build_scheduler, build_unet, sample
from clipgeom.errors import ConfigError
from clipgeom.miniworld.captions import vocabulary
from clipgeom.miniworld.drawing.render import middle
from clipgeom.miniworld.factors import FACTORS
from clipgeom.miniworld.tokenizer import build_tokenizer


def small_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(2, 6, 3, padding=1), torch.nn.GroupNorm(2, 6), torch.nn.Conv2d(6, 2, 1))


def train(folder, steps, *, stop=None, matrix_rate=0.02):
    module = small_network()
    plan = Plan(steps=steps, rate=1e-2, matrix_rate=matrix_rate, warmup=2, ema=0.9, save_every=1)
    training = Training(module, plan, folder)

    def loss(step):
        batch = torch.from_numpy(generator_of(7, step).standard_normal((3, 2, 5, 5), dtype=np.float32))
        return {"loss": (module(batch) - batch.flip(1)).square().mean()}

    losses = []
    for record in training.run(loss):
        losses.append(record.losses["loss"])
        if record.step == stop:
            break
    return training, losses


@pytest.mark.parametrize("matrix_rate", [0.0, 0.02])
def test_a_run_that_was_cut_off_ends_as_one_that_was_not(tmp_path, matrix_rate):
    whole, losses = train(tmp_path / "whole", 12, matrix_rate=matrix_rate)
    _, before = train(tmp_path / "cut", 12, stop=5, matrix_rate=matrix_rate)
    assert latest_step(tmp_path / "cut") == 5
    resumed, after = train(tmp_path / "cut", 12, matrix_rate=matrix_rate)
    assert before + after == losses
    for name, value in whole.averaged().items():
        torch.testing.assert_close(resumed.averaged()[name], value, rtol=0, atol=0)
    for name, value in whole.module.state_dict().items():
        torch.testing.assert_close(resumed.module.state_dict()[name], value, rtol=0, atol=0)
    assert losses[-1] < 0.8 * losses[0]
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["checkpoint.safetensors"]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    module = small_network()
    training = Training(module, Plan(steps=5, rate=1e-2, save_every=1), tmp_path)

    def loss(step):
        value = module(torch.ones(1, 2, 3, 3)).mean()
        return {"loss": value * (float("nan") if step == 2 else 1.0)}

    with pytest.raises(ConfigError, match="loss of step 3 is nan"):
        list(training.run(loss))
    assert latest_step(tmp_path) == 2


def test_parts_side_by_side_make_the_step_of_the_whole_batch(tmp_path):
    def trained(name, split):
        module = small_network()
        training = Training(module, Plan(steps=4, rate=1e-2, matrix_rate=0.02, warmup=2, save_every=9), tmp_path / name)

        def loss(step):
            batch = torch.from_numpy(generator_of(7, step).standard_normal((4, 2, 5, 5), dtype=np.float32))

            def part(rows):
                return {"loss": (module(rows) - rows.flip(1)).square().mean()}

            return [lambda rows=rows: part(rows) for rows in batch.chunk(2)] if split else part(batch)

        losses = [record.losses["loss"] for record in training.run(loss)]
        return torch.cat([p.detach().flatten() for p in module.parameters()]), losses

    whole, losses = trained("whole", False)
    halves, others = trained("halves", True)
    torch.testing.assert_close(halves, whole, atol=1e-5, rtol=1e-4)
    assert others == pytest.approx(losses, rel=1e-4)
    assert torch.equal(halves, trained("again", True)[0])


def test_rates_rise_then_fall():
    plan = Plan(steps=100, rate=1.0, warmup=10)
    shares = [plan.share_at(step) for step in range(100)]
    assert max(shares) == pytest.approx(1.0)
    assert shares[0] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(shares[10:]))
    assert shares[-1] < 0.02


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (4, 3, 3, 3)])
def test_orthogonal_keeps_directions_and_evens_sizes(shape):
    torch.manual_seed(1)
    made = orthogonal(torch.randn(shape))
    assert made.shape == shape
    values = torch.linalg.svdvals(made.flatten(1))
    assert values.min() > 0.5
    assert values.max() < 1.4
    assert not orthogonal(torch.zeros(shape)).any()


def test_muon_walks_downhill():
    weight = torch.nn.Parameter(torch.eye(4))
    optimizer = Muon([weight], lr=0.05)
    first = None
    for _ in range(150):
        optimizer.zero_grad()
        loss = (weight - 2 * torch.ones(4, 4)).square().sum()
        first = loss.item() if first is None else first
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * first


def test_every_word_is_one_token_and_ends_are_clips_own():
    tokenizer = build_tokenizer()
    assert all(len(tokenizer.tokenize(word)) == 1 for word in vocabulary())
    ids = tokenizer("an ink illustration of knight").input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id == len(tokenizer) - 1
    assert tokenizer.convert_ids_to_tokens(ids)[5] == "knight</w>"
    assert len(tokenizer.tokenize("zebra")) > 1
    assert tokenizer("A  Knight").input_ids == tokenizer("a knight").input_ids


def test_whole_captions_are_padded_with_the_end():
    tokenizer = build_tokenizer()
    ids = tokenize(tokenizer, ["a red knight", "ghost"], whole=True)
    assert ids.shape == (2, 77)
    assert (ids[1, 2:] == tokenizer.eos_token_id).all()


def test_a_caption_fits_the_pictures_of_which_it_is_true():
    codes = np.array([[0, 1], [0, 2], [1, 1]])
    said = np.array([[True, False], [True, True], [False, True]])
    np.testing.assert_array_equal(
        agreement(codes, said), [[True, True, False], [False, True, False], [True, False, True]]
    )


def test_text_pools_at_the_first_end_whatever_the_padding():
    tokenizer = build_tokenizer()
    model = build_clip(tokenizer).train(False)
    texts = ["a red knight at night", "ghost"]
    short, whole = (text_features(model, tokenize(tokenizer, texts, whole=w)) for w in (False, True))
    torch.testing.assert_close(short, whole, rtol=1e-4, atol=1e-5)
    assert text_states(model, tokenize(tokenizer, texts, whole=True)).shape == (2, 77, 128)


def test_shapes_of_the_generator():
    latents = build_autoencoder().encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean
    assert latents.shape == (1, 4, 8, 8)
    unet = build_unet().eval()
    states = torch.randn(2, 77, 128)
    drawn = [sample(unet, states, states[:1], seed=s, steps=2) for s in (1, 1, 2)]
    assert drawn[0].shape == (2, 4, 8, 8)
    torch.testing.assert_close(drawn[0], drawn[1])
    assert (drawn[0] - drawn[2]).abs().max() > 0.1
    assert float(build_scheduler().alphas_cumprod[-1]) == pytest.approx(0.0, abs=1e-6)


def test_psnr_and_statistics():
    a = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    b = a.copy()
    b[1] += 255
    assert psnr(a, b)[1] == pytest.approx(0.0)
    assert psnr(a, b)[0] > 100
    assert latent_statistics(torch.tensor([1.0, 3.0])) == (2.0, pytest.approx(2**0.5))


def test_pools_are_kept_and_know_their_marks(tmp_path):
    pictures, factors = draw_pool(tmp_path, 30, 5, new_characters=0.5)
    before = pictures.copy()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again, same = draw_pool(tmp_path, 30, 5, new_characters=0.5)
    np.testing.assert_array_equal(again, before)
    assert same == factors
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times
    marks = pool_marks(30, 5, 0.5)
    marked = [mark != {"pattern": "plain", "emblem": "none", "two_tone": "no"} for mark in marks]
    assert 5 < sum(marked) < 25
    plain = [i for i in range(30) if not marked[i]]
    from clipgeom.miniworld.drawing.render import Jitter, render
    from clipgeom.miniworld.factors import draw_factors

    rng = np.random.default_rng((5, plain[0]))
    rng.random()
    np.testing.assert_array_equal(render(draw_factors(rng), Jitter.draw(rng)), pictures[plain[0]])


def test_stages_need_their_forerunners(tmp_path):
    with pytest.raises(
        ConfigError, match=r"no stage 'vae'.*patches, clip, autoencoder, details, decoder, readers, diffusion"
    ):
        next(run_stage("vae", tmp_path))
    with pytest.raises(ConfigError, match="'decoder' has not run"):
        next(run_stage("readers", tmp_path))


def test_figures_are_measured_on_seeds_that_no_stage_trained_on():
    from analysis.miniworld.recipe import measure, recipe
    from analysis.miniworld.recipe.stages import autoencoder, clip, details, diffusion, patches, readers
    from clipgeom.miniworld import default

    trained = {module._SEED for module in (autoencoder, clip, details, diffusion, patches, readers)}
    judged = {default.SEED, *(measure.TEST_SEED + i for i in range(3)), recipe._VALIDATION}
    trained.add(details._DECODER_SEED)
    assert (len(trained), len(judged)) == (7, 5)
    assert not trained & judged


def test_patches_are_told_where_the_figure_is():
    covered = patches._covered().reshape(-1, 8, 8)
    assert covered.shape[0] == len(FACTORS["position"])
    for position, patch in zip(FACTORS["position"], covered, strict=True):
        x, y = middle(position)
        assert patch[int(y // 8), int(x // 8)], position
        assert 6 <= patch.sum() <= 16, position
        rows, columns = torch.nonzero(patch, as_tuple=True)
        assert abs(8 * (rows.double().mean() + 0.5) - y) <= 4
        assert abs(8 * (columns.double().mean() + 0.5) - x) <= 4


def test_errors_on_the_figure_weigh_more():
    weights = details._weights(torch.tensor([[14.0, 18.5], [50.0, 48.5]]))
    assert weights.shape == (2, 1, 64, 64)
    torch.testing.assert_close(weights.mean(dim=(1, 2, 3)), torch.ones(2))
    assert weights[0, 0, 18, 14] == details._FIGURE_WEIGHT * weights[0, 0, 63, 63]
    assert weights[1, 0, 48, 50] == details._FIGURE_WEIGHT * weights[1, 0, 0, 0]
