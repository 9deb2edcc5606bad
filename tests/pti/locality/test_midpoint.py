"""The regulariser: its midpoints, its gradient, its absence."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from clipgeom import slerp, vslerp
from clipgeom.errors import ConfigError
from pti.data.views import ImageView
from pti.locality.alignment import TokenPosition, align_prompts, interpolated_positions
from pti.locality.certification import InterpolationPlan, PositionMode
from pti.locality.midpoint import difference, midpoint
from pti.losses import add_noise, predict_noise
from pti.models.pipeline import load_pipeline
from pti.models.placeholder import add_placeholder_token
from pti.models.prompt_embeds import empty_prompt_embeds, encode_prompts
from pti.training.batches import BatchSlice
from tests.tiny.runs import configuration, tuning_of

PROMPTS = ["a {token} at night", "{token}"]


def prepared(folder):
    model = add_placeholder_token(load_pipeline(str(folder)), "<tok>", "knight")
    rows = [row.flip(-1) for row in model.placeholder.embeddings]
    pivot = model.placeholder.with_embeddings(rows)
    return replace(model, placeholder=pivot)


def ruled(model, routes, mode, center=None):
    return InterpolationPlan({place: PositionMode(mode, center, "") for place in interpolated_positions(model, routes)})


def ends(model):
    with torch.no_grad():
        return (
            encode_prompts(model, [write(p) for p in PROMPTS])
            for write in (model.placeholder.in_prompt, model.placeholder.in_class_prompt)
        )


@pytest.mark.parametrize("positions", ["suffix", "placeholder"])
def test_midpoints_are_a_plain_loop_over_positions(any_pipeline, positions):
    model = prepared(any_pipeline)
    routes = align_prompts(model, PROMPTS, positions)
    token, plain = ends(model)
    times = torch.tensor([0.5, 0.25])
    made = midpoint(model, ruled(model, routes, "slerp"), routes, token, plain, times)
    starts = (2, 1)
    offset = 0
    for encoder in model.encoders:
        part = slice(offset, offset + encoder.width)
        offset += encoder.width
        for row in range(2):
            for i in range(77):
                a, b = (c.prompt_embeds[row, i, part].numpy().astype(np.float64) for c in (token, plain))
                last = 77 if positions == "suffix" else starts[row] + 1
                inside = starts[row] <= i < last
                expected = slerp(a, b, float(times[row])) if inside else a
                np.testing.assert_allclose(made.prompt_embeds[row, i, part].numpy(), expected, rtol=1e-4, atol=1e-5)
    before = [made.prompt_embeds[row, : starts[row]] for row in range(2)]
    assert all(torch.equal(b, plain.prompt_embeds[row, : starts[row]]) for row, b in enumerate(before))
    if model.kind == "sdxl":
        pooled = (
            slerp(token.pooled_prompt_embeds, plain.pooled_prompt_embeds, times)
            if positions == "suffix"
            else token.pooled_prompt_embeds
        )
        torch.testing.assert_close(made.pooled_prompt_embeds, pooled)


def test_each_position_has_its_own_centre(sd):
    model = prepared(sd)
    routes = align_prompts(model, PROMPTS, "suffix")
    token, plain = ends(model)
    rng = np.random.default_rng(0)
    rulings = {}
    for place in interpolated_positions(model, routes):
        mode = {"2": "aslerp", "eos": "lerp"}.get(place.position, "vslerp_norm")
        center = None if mode == "lerp" else torch.from_numpy(rng.normal(size=16))
        rulings[place] = PositionMode(mode, center, "")
    made = midpoint(model, InterpolationPlan(rulings), routes, token, plain, torch.full((2,), 0.5))
    center = rulings[TokenPosition(0, "hidden", "padded:20")].center.float()
    expected = vslerp(token.prompt_embeds[:, 20], plain.prompt_embeds[:, 20], 0.5, center=center, keep_norm=True)
    torch.testing.assert_close(made.prompt_embeds[:, 20], expected)
    eos = [int(routes[row][0].eos) for row in range(2)]
    assert eos == [5, 2]  # BOS a <tok> at night EOS, and BOS <tok> EOS
    for row in range(2):
        middle = (token.prompt_embeds[row, eos[row]] + plain.prompt_embeds[row, eos[row]]) / 2
        torch.testing.assert_close(made.prompt_embeds[row, eos[row]], middle)


def test_places_are_named_as_certificates_name_them(sdxl):
    model = prepared(sdxl)
    routes = align_prompts(model, ["a {token} at night"], "suffix")
    named = {p.position for p in interpolated_positions(model, routes) if p.encoder == 0}
    assert named == {"2", "3", "4", "eos", *(f"padded:{i}" for i in range(6, 77))}
    assert TokenPosition(1, "projected", "eos") in interpolated_positions(model, routes)
    placeholder = interpolated_positions(model, align_prompts(model, ["a {token} at night"], "placeholder"))
    assert placeholder == {TokenPosition(0, "penultimate", "2"), TokenPosition(1, "penultimate", "2")}


def test_prompts_that_do_not_align_are_refused_with_their_tokens(sd):
    """Trap 12: BPE may melt a word with what follows it."""
    model = prepared(sd)
    with pytest.raises(ConfigError, match=r"do not align in text_encoder: <tok> s</w> against k n i gh t s</w>"):
        align_prompts(model, ["{token}s"], "suffix")
    with pytest.raises(ConfigError, match="the placeholder token is not in the prompt"):
        align_prompts(model, ["a knight"], "suffix")


def test_the_gradient_is_that_of_a_finite_difference(sd, tmp_path):
    """Figure 6, in float64: with respect to a low-rank factor."""
    tuning = tuning_of(configuration(sd, tmp_path / "run", "lora.learning_rate=0.05", "locality.batch_fraction=1"))
    list(tuning.run())
    model = tuning.model
    model.unet.double()
    captions = [tuning.latents.caption(view) for view in tuning.plan_batch("tune", tuning.latents, 0).views]
    noisy, times = torch.randn(2, 4, 4, 4, dtype=torch.float64), torch.tensor([20, 70])
    conditions = tuning.conditions.midpoints(captions)
    with torch.no_grad(), tuning.lora.disabled():
        base = predict_noise(model, noisy, times, conditions)

    def value():
        said = predict_noise(model, noisy, times, conditions)
        return (said - base).square().mean(dim=(1, 2, 3)).mean()

    # the function that is trained on, up to its float32
    assert float(difference(predict_noise(model, noisy, times, conditions), base).mean().detach()) == pytest.approx(
        float(value().detach()), rel=1e-6
    )
    for parameter in list(tuning.lora.parameters.values())[:4]:
        (gradient,) = torch.autograd.grad(value(), parameter)
        direction = torch.randn(parameter.shape, dtype=torch.float64)
        h = 1e-6
        with torch.no_grad():
            parameter += h * direction
            up = value()
            parameter -= 2 * h * direction
            down = value()
            parameter += h * direction
        slope = float((gradient * direction).sum())
        assert float((up - down) / (2 * h)) == pytest.approx(slope, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize(("share", "silent"), [(0.0, []), (0.5, [1]), (1.0, [0, 1])])
def test_what_is_walked_is_that_gradient_by_the_whole_step(sd, tmp_path, share, silent):
    """The gradient of the batched step is the sum of those of its two losses, each computed alone."""
    changes = (
        "locality.weight=3.0",
        "locality.batch_fraction=1",
        f"locality.empty_prompt_fraction={share}",
        "locality.mix_captions=false",
    )
    tuning = tuning_of(configuration(sd, tmp_path / "run", *changes))
    list(tuning.run())
    tuning.descent.step = 2
    terms = tuning._compute_losses(0)
    parameters = list(tuning.lora.parameters.values())
    whole = torch.autograd.grad(terms["loss"], parameters)
    draw = tuning.plan_batch("tune", tuning.latents, 0)
    clean, _ = tuning.latents.of(draw.views, draw.latent_noise)
    noisy = tuning.model.alphas_cumprod[draw.timesteps].sqrt().view(-1, 1, 1, 1) * clean
    noisy = noisy + (1 - tuning.model.alphas_cumprod[draw.timesteps]).sqrt().view(-1, 1, 1, 1) * draw.noise
    captions = [tuning.latents.caption(view) for view in draw.views]
    token = encode_prompts(tuning.model, [tuning.pivot.in_prompt(c) for c in captions])
    plain = encode_prompts(tuning.model, [tuning.pivot.in_class_prompt(c) for c in captions])
    states = token.prompt_embeds.clone()
    for row, text in enumerate(captions):
        first = tuning.model.encoders[0].tokenizer(tuning.pivot.in_prompt(text)).input_ids.index(tuning.pivot.ids[0][0])
        states[row, first:] = slerp(token.prompt_embeds[row, first:], plain.prompt_embeds[row, first:], 0.5)
    states[silent] = encode_prompts(tuning.model, [""]).prompt_embeds

    def unet(conditions):
        return tuning.model.unet(noisy, draw.timesteps, encoder_hidden_states=conditions).sample

    with torch.no_grad(), tuning.lora.disabled():
        base = unet(states)
    loss = (unet(token.prompt_embeds) - draw.noise).square().mean() + 3.0 * (unet(states) - base).square().mean()
    assert float(terms["loss"].detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
    for ours, alone in zip(whole, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(ours, alone, rtol=1e-3, atol=1e-6)


def test_weight_zero_is_none_bit_for_bit(sd, tmp_path):
    """Figure 6."""
    found = []
    for change in ("locality.weight=0", "locality.interpolation=none", "locality.weight=2.0"):
        tuning = tuning_of(configuration(sd, tmp_path / change, change))
        records = list(tuning.run())
        found.append((records, torch.cat([p.detach().flatten() for p in tuning.lora.parameters.values()])))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][0][0].locality is None
    assert not torch.equal(found[0][1], found[2][1])


def test_it_holds_the_midpoint_where_it_was(sd, tmp_path):
    """After the same steps the tuned midpoint is nearer to the frozen one than without the regulariser."""
    stages = []
    for weight in (20.0, 0.0):
        changes = (f"locality.weight={weight}", "lora.steps=25", "locality.batch_fraction=1")
        stages.append(tuning_of(configuration(sd, tmp_path / str(weight), *changes)))
        list(stages[-1].run())
    stages[1].conditions.decision = stages[0].decision
    moved = []
    for tuning in stages:
        captions = [sample.caption for sample in tuning.latents._samples]
        noisy, times = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([20, 50, 80])
        with torch.no_grad():
            conditions = tuning.conditions.midpoints(captions)
            tuned = predict_noise(tuning.model, noisy, times, conditions)
            with tuning.lora.disabled():
                base = predict_noise(tuning.model, noisy, times, conditions)
        moved.append(float(difference(tuned, base).mean()))
    assert moved[0] < 0.5 * moved[1]


def test_every_so_many_steps_and_pictures(sd, tmp_path):
    tuning = tuning_of(
        configuration(
            sd, tmp_path / "run", "experimental.locality_every=2", "locality.batch_fraction=0.5", "lora.batch_size=3"
        )
    )
    sizes, original = [], tuning.model.unet.forward

    def counting(sample, *args, **kwargs):
        sizes.append((len(sample), torch.is_grad_enabled()))
        return original(sample, *args, **kwargs)

    tuning.model.unet.forward = counting
    tuning.settings = replace(tuning.settings, distance_every=100, steps=5)
    records = [tuning._train_step() for _ in range(4)]
    assert [record.locality is not None for record in records] == [True, False, True, False]
    # rows 0 and 2 of three: one pass without gradient, and one for everything that is trained
    assert sizes == [(2, False), (5, True), (3, True)] * 2


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_empty_prompt_has_its_share_of_the_pictures(sd, tmp_path, share):
    """Whatever is regularised on: with a picture a step as well, where steps take turns."""
    for changes in (
        ("lora.batch_size=4", "locality.batch_fraction=0.5"),
        ("lora.batch_size=1",),
        ("lora.batch_size=3", "experimental.locality_every=2"),
    ):
        tuning = tuning_of(configuration(sd, tmp_path / "run", f"locality.empty_prompt_fraction={share}", *changes))
        every, found = tuning.config.experimental.locality_every, []
        for step in range(0, 12 * every, every):
            tuning.descent.step = step
            draw = tuning.plan_batch("tune", tuning.latents, 0)
            chosen = torch.from_numpy(tuning.locality_loss.regularized(draw.rows).nonzero()[0])
            found += tuning.locality_loss.is_empty_prompt(step, 0, draw, chosen)
        assert np.mean(found) == share


@pytest.mark.parametrize("text_encoder", ["false", "true"])
@pytest.mark.parametrize("untrained", ["class_word", "placeholder"])
def test_levels_that_training_leaves_out_are_held(sd, tmp_path, untrained, text_encoder):
    """There the token's prediction is that of the frozen model, for the class word or for itself."""
    gaps, kind = [], {"class_word": "class", "placeholder": "token"}[untrained]
    for weight in (50.0, 0.0):
        changes = (
            f"locality.weight={weight}", "locality.batch_fraction=1", "locality.empty_prompt_fraction=0",
            f"locality.outside_timesteps={untrained}",
            "loss.max_timestep=30", "lora.steps=40", "lora.learning_rate=0.01", "lora.ema_gamma=",
            f"lora.train_text_encoder={text_encoder}",
        )  # fmt: skip
        tuning = tuning_of(configuration(sd, tmp_path / str(weight), *changes))
        list(tuning.run())
        captions = [tuning.latents.caption(ImageView(i)) for i in range(3)]
        clean, _ = tuning.latents.of([ImageView(i) for i in range(3)], torch.zeros(3, 4, 4, 4))
        times = torch.tensor([40, 60, 80])
        noise = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
        noisy = add_noise(tuning.model.alphas_cumprod, clean, noise, times)
        with torch.no_grad():
            said = predict_noise(
                tuning.model, noisy, times, encode_prompts(tuning.model, [tuning.pivot.in_prompt(c) for c in captions])
            )
            with tuning.lora.disabled():
                wanted = predict_noise(tuning.model, noisy, times, tuning.conditions.encode(captions, kind))
        gaps.append(float(difference(said, wanted).mean()))
    assert gaps[0] < 0.5 * gaps[1]


def test_levels_that_are_held(sd, tmp_path):
    """Those of training where nothing else is held; otherwise of the whole schedule, and the token beyond the former."""

    def drawn(*changes):
        tuning = tuning_of(
            configuration(
                sd,
                tmp_path / "run",
                "lora.batch_size=8",
                "locality.batch_fraction=1",
                "locality.empty_prompt_fraction=0",
                *changes,
            )
        )
        draw = tuning.plan_batch("tune", tuning.latents, 0)
        levels = tuning.locality_loss.sample_timesteps(0, 0, draw)
        return draw.timesteps, levels, *tuning.locality_loss.prompt_kinds(0, 0, draw, levels, torch.arange(8))

    times, levels, tuned, frozen = drawn("loss.max_timestep=30", "locality.outside_timesteps=none")
    assert torch.equal(times, levels)
    assert set(tuned) == set(frozen) == {"midpoint"}
    times, levels, tuned, frozen = drawn("loss.max_timestep=30", "loss.min_timestep=20")
    in_order = enumerate(sorted(levels.tolist()))
    assert all(int(12.5 * k) <= level < 12.5 * (k + 1) for k, level in in_order)  # one from each stretch
    assert set(times.tolist()) <= set(range(20, 30))
    assert [way == "midpoint" for way in frozen] == [20 <= level < 30 for level in levels]
    assert [way.replace("class", "token") for way in frozen] == tuned
    times, levels, _, frozen = drawn("loss.max_timestep=100")
    assert torch.equal(times, levels)
    assert set(frozen) == {"midpoint"}


def test_two_processes_hold_the_halves_of_what_one_holds(sd, tmp_path, monkeypatch):
    """Figure 7, at levels that are only held."""
    tuning = tuning_of(
        configuration(sd, tmp_path / "run", "lora.batch_size=6", "locality.batch_fraction=0.5", "loss.max_timestep=50")
    )

    def held(share):
        monkeypatch.setattr(type(tuning.engine), "batch_slice", lambda self, batch: share)
        draw = tuning.plan_batch("tune", tuning.latents, 1)
        chosen = torch.tensor([i for i, row in enumerate(draw.rows) if row % 2 == 0])
        levels = tuning.locality_loss.sample_timesteps(5, 1, draw)[chosen]
        said = [tuning.locality_loss.caption(draw, int(i)) for i in chosen]
        return levels.tolist(), said, *tuning.locality_loss.prompt_kinds(5, 1, draw, levels, chosen)

    whole, *halves = (held(share) for share in (BatchSlice(0, 1, 6), BatchSlice(0, 2, 3), BatchSlice(1, 2, 3)))
    assert len(whole[0]) == 3
    assert whole == tuple(a + b for a, b in zip(*halves, strict=True))


@pytest.mark.parametrize("text_encoder", ["false", "true"])
def test_it_holds_what_guidance_subtracts(sd, tmp_path, text_encoder):
    """The tuned answer to no prompt stays nearer to the frozen one than without the regulariser."""
    moved = []
    for weight in (20.0, 0.0):
        changes = (
            f"locality.weight={weight}",
            "locality.empty_prompt_fraction=1",
            "locality.batch_fraction=1",
            "lora.steps=25",
        )
        tuning = tuning_of(
            configuration(sd, tmp_path / str(weight), *changes, f"lora.train_text_encoder={text_encoder}")
        )
        list(tuning.run())
        noisy, times = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([20, 50, 80])
        with torch.no_grad():
            tuned = predict_noise(tuning.model, noisy, times, empty_prompt_embeds(tuning.model)[[0, 0, 0]])
            with tuning.lora.disabled():
                base = predict_noise(tuning.model, noisy, times, empty_prompt_embeds(tuning.model)[[0, 0, 0]])
        moved.append(float(difference(tuned, base).mean()))
    assert moved[0] < 0.5 * moved[1]


@pytest.mark.parametrize("text_encoder", ["false", "true"])
def test_own_pictures_of_the_midpoint(sd, tmp_path, text_encoder):
    config = configuration(
        sd,
        tmp_path / "run",
        "experimental.locality_inputs=generated",
        "experimental.locality_num_generated=4",
        f"lora.train_text_encoder={text_encoder}",
    )
    tuning = tuning_of(config)
    assert tuning.own.latents.shape == (4, 4, 4, 4)
    assert set(tuning.own.captions) <= set(tuning.latents.captions(exchanged=True))
    assert len(set(tuning.own.captions)) == 4
    records = list(tuning.run())
    assert records[-1].locality > 0
    again = tuning_of(config)
    assert torch.equal(again.own.latents, tuning.own.latents)


def test_a_tuned_text_encoder_is_held_as_well(sdxl, tmp_path):
    """Trap 11: the frozen pass is without the changes of the text encoders, the tuned one with them."""
    tuning = tuning_of(configuration(sdxl, tmp_path / "run", "lora.train_text_encoder=true", "lora.learning_rate=0.05"))
    list(tuning.run())
    caption = [tuning.latents.caption(tuning.plan_batch("tune", tuning.latents, 0).views[0])]
    tuned = tuning.conditions.midpoints(caption)
    with torch.no_grad(), tuning.lora.disabled():
        base = tuning.conditions.midpoints(caption)
    assert (tuned.prompt_embeds - base.prompt_embeds).abs().max() > 1e-4
    fresh = add_placeholder_token(load_pipeline(str(sdxl)), "<tok>", "dragon")
    with torch.no_grad():
        states = encode_prompts(fresh, [tuning.pivot.in_class_prompt(caption[0])]).prompt_embeds
        with tuning.lora.disabled():
            assert torch.equal(tuning.conditions.encode(caption, "class").prompt_embeds, states)
