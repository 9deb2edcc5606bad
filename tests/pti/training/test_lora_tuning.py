"""Stage 2: what changes, by how much, and what must not."""

import pytest
import torch
from peft.tuners.tuners_utils import delete_adapter

from clipgeom.errors import ConfigError
from pti.errors import TrainingError
from pti.losses import predict_noise
from pti.models.lora import base_weights_sha256
from pti.models.pipeline import load_pipeline
from pti.models.placeholder import add_placeholder_token
from pti.models.prompt_embeds import encode_prompts
from pti.models.sampling import sample_images
from tests.tiny.runs import configuration, tuning_of


@pytest.fixture
def tune(sd, tmp_path):
    """Run stage 2 with some settings; gives back the stage and its records."""

    def run(*changes, pipeline=sd, steps=True):
        tuning = tuning_of(configuration(pipeline, tmp_path / "run", *changes))
        return tuning, list(tuning.run()) if steps else []

    return run


def test_pivot_and_base_weights_are_bit_identical_and_the_changes_come_off(tune, any_pipeline):
    """Figure 2 of stage 2; traps 1 and 2."""
    tuning, records = tune("lora.train_text_encoder=true", pipeline=any_pipeline)
    fresh = add_placeholder_token(load_pipeline(str(any_pipeline)), "<tok>", "dragon")
    assert base_weights_sha256(fresh) == base_weights_sha256(tuning.model)
    assert all(torch.equal(a, b) for a, b in zip(tuning.pivot.embeddings, tuning._initial_rows, strict=True))
    assert not any(row.requires_grad for row in tuning.pivot.embeddings)
    assert records[-1].weight_distance > 0
    assert records[-1].function_distance > 0

    def said(model):
        sizes = torch.tensor([[8.0, 8, 0, 0, 8, 8]])
        conditions = encode_prompts(model, ["a <tok> at night"], rows=tuning.pivot.embeddings).with_time_ids(sizes)
        return predict_noise(model, torch.ones(1, 4, 4, 4), torch.tensor([50]), conditions)

    with torch.no_grad():
        base, changed = said(fresh), said(tuning.model)
        with tuning.lora.disabled():
            assert torch.equal(said(tuning.model), base)
            with tuning.lora.disabled():
                pass
            assert torch.equal(said(tuning.model), base)
        assert torch.equal(said(tuning.model), changed)
    assert (changed - base).abs().max() > 1e-4
    prompts, settings = ["a {class} at night"], {"seed": 3, "steps": 2}
    off = sample_images(tuning.model, prompts, lora_scale=0.0, **settings)
    assert (off == sample_images(fresh, prompts, **settings)).all()
    tuning.model.unet.unload_lora()
    for encoder in tuning.model.encoders:
        delete_adapter(encoder.network, "default", "lora_")
    with torch.no_grad():
        assert torch.equal(said(tuning.model), base)


def test_whatever_moves_is_noticed(tune):
    tuning, _ = tune(steps=False)
    tuning.pivot.embeddings[0].data.add_(1e-6)
    with pytest.raises(TrainingError, match="embeddings have changed in stage 2"):
        list(tuning.run())
    tuning, _ = tune(steps=False)
    tuning.model.unet.conv_in.weight.data[0, 0, 0, 0] += 1e-6
    with pytest.raises(TrainingError, match="a base weight has changed in stage 2"):
        list(tuning.run())


def test_distances_of_weights_and_of_predictions(tune):
    tuning, records = tune("lora.alpha=3", 'lora.target_modules=["to_q", "to_v", "conv1"]', "lora.learning_rate=0.05")
    total = 0.0
    tuning.result()
    for layer in tuning.lora.layers:
        change = layer.get_delta_weight("default").detach().double()
        total += float(change.square().sum())
    assert any(layer.lora_A["default"].weight.ndim == 4 for layer in tuning.lora.layers)
    assert records[-1].weight_distance == pytest.approx(total**0.5, rel=1e-5)
    assert tuning.function_distance() == pytest.approx(records[-1].function_distance, rel=1e-6)
    with tuning.lora.scaled(0.0):
        assert tuning.function_distance() == 0.0
    assert records[0].weight_distance is None


def test_limits_of_distance_stop(tune):
    _, records = tune("lora.max_weight_distance=1e-6")
    assert len(records) == 2
    assert "weight distance" in records[-1].stopped
    _, records = tune("lora.max_prediction_distance=1e-6", "lora.distance_every=1")
    assert len(records) == 1
    assert "function distance" in records[-1].stopped


def test_there_is_no_second_copy_of_the_unet(tune):
    tuning, _ = tune()
    held = {id(p) for p in tuning.model.unet.parameters()}
    assert {id(p) for p in tuning.model.pipeline.unet.parameters()} == held
    trained = sum(p.numel() for p in tuning.lora.parameters.values())
    assert sum(p.numel() for p in tuning.descent.parameters.values()) == trained
    assert trained < 0.2 * sum(p.numel() for p in tuning.model.unet.parameters())


def test_changes_start_at_nothing_and_follow_the_seed(tune):
    def first(seed):
        tuning, _ = tune(f"runtime.seed={seed}", steps=False)
        assert tuning.lora.weight_distance() == 0.0
        assert tuning.function_distance() == 0.0
        return torch.cat([p.flatten() for p in tuning.lora.parameters.values()])

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a = first(1)
    assert torch.equal(torch.rand(1), expected)  # nobody else's random numbers are used up
    assert torch.equal(a, first(1))
    assert not torch.equal(a, first(2))


def test_targets_that_are_not_there_are_named(tune):
    with pytest.raises(ConfigError, match=r"lora\.target_modules names 'to_w', but unet has no such layer"):
        tune('lora.target_modules=["to_q", "to_w"]')
    with pytest.raises(
        ConfigError, match=r"lora\.text_encoder_target_modules names 'to_q', but text_encoder has no such layer"
    ):
        tune("lora.train_text_encoder=true", 'lora.text_encoder_target_modules=["to_q"]')
    with pytest.raises(ConfigError, match="names nothing"):
        tune("lora.target_modules=[]")
    with pytest.raises(ConfigError, match=r"lora\.target_modules names 'norm1', in unet a \w*Norm; name linear"):
        tune('lora.target_modules=["norm1"]')


def test_a_newer_transformers_may_ask_for_an_unreleased_peft(tune, monkeypatch):
    for module in ("transformers.integrations.peft", "diffusers.loaders.peft"):
        monkeypatch.setattr(f"{module}.MIN_PEFT_VERSION", "999")
    tuning, _ = tune("lora.train_text_encoder=true", steps=False)
    assert tuning.lora.in_text


def test_an_error_of_peft_is_not_blamed_on_a_setting(tune, monkeypatch):
    def fail(*_args, **_named):
        raise ValueError("of its own")

    monkeypatch.setattr("peft.inject_adapter_in_model", fail)
    with pytest.raises(ValueError, match=r"^of its own$") as raised:
        tune()
    assert not isinstance(raised.value, ConfigError)


def test_what_a_prompt_leaves_open_is_held_where_captions_are_whole(tune):
    """At every noise level captions are trained on whole; those of the midpoints leave parts out nevertheless."""

    def held():
        tuning, _ = tune(
            "data.tag_dropout_max_timestep=0",
            "data.caption_tag_dropout_rate=0.9",
            "lora.batch_size=6",
            "locality.batch_fraction=1",
            "locality.mix_captions=false",
            steps=False,
        )
        draw, said = tuning.plan_batch("tune", tuning.latents, 0), tuning.locality_loss.caption
        return [tuning.latents.caption(view) for view in draw.views], [said(draw, i) for i in range(6)]

    whole, loose = held()
    assert all(text in sample for text, sample in zip([t.split(",")[0] for t in loose], whole, strict=True))
    assert sum(map(len, loose)) < sum(map(len, whole))
    assert len(set(whole)) == 3


def test_the_scale_of_the_changes(tune):
    tuning, _ = tune("lora.learning_rate=0.05")
    settings = {"seed": 3, "steps": 2}
    full, half, none = (
        sample_images(tuning.model, ["{token}"], lora_scale=s, **settings).astype(int) for s in (1.0, 0.5, 0.0)
    )
    again = sample_images(tuning.model, ["{token}"], **settings).astype(int)
    assert (full == again).all()
    assert 0 < abs(half - none).sum() < abs(full - none).sum()


def test_the_text_encoder_has_a_rate_of_its_own(tune):
    tuning, _ = tune("lora.train_text_encoder=true", "lora.text_encoder_learning_rate=0.02", steps=False)
    assert [group.rate for group in tuning.descent.groups] == [0.01, 0.02]
    names = list(tuning.descent.groups[1].parameters)
    assert all(name.startswith("text_encoder.") for name in names)
    list(tuning.run())
    assert all(p.abs().sum() > 0 for n, p in tuning.lora.parameters.items() if "lora_B" in n and n in names)


def test_prior_preservation_goes_on_denoising_the_class(tune, tmp_path):
    from tests.tiny.runs import write_pictures

    tuning, records = tune("prior_preservation.weight=0.5", "prior_preservation.num_class_images=3")
    assert tuning.prior.captions == ("a picture of {class}",) * 3
    for record in records:
        assert record.loss == pytest.approx(record.denoising + 0.5 * record.prior + record.locality, rel=1e-5)
    source = write_pictures(tmp_path / "class", ("a dragon", "no token is needed here"))
    tuning, records = tune("prior_preservation.weight=0.5", f'prior_preservation.class_images="{source}"')
    assert len(tuning.prior) == 2
    assert records[-1].prior > 0
