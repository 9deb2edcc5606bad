"""Pipelines are refused where tensors or settings are not those of their networks; nothing is random, nothing fetched."""

import json
import shutil
import socket

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from clipgeom.errors import ClipGeomError, ConfigError, EncoderError
from pti.models.pipeline import load_pipeline


@pytest.fixture
def copied(sd, sdxl, tmp_path):
    return lambda kind: shutil.copytree({"sd": sd, "sdxl": sdxl}[kind], tmp_path / "copy")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def change(folder, part, **settings):
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize(
    ("kind", "part", "name"),
    [
        ("sd", "text_encoder", "encoder.layers.1.mlp.fc1.weight"),
        ("sdxl", "text_encoder_2", "text_projection.weight"),
        ("sd", "unet", "conv_out.bias"),
        ("sd", "vae", "decoder.conv_in.weight"),
    ],
)
def test_a_missing_tensor_is_named(copied, kind, part, name):
    folder = copied(kind)
    (path,) = (folder / part).glob("*.safetensors")
    kept = {key: tensor for key, tensor in load_file(path).items() if not key.endswith(name)}
    save_file(kept, path)
    with pytest.raises(EncoderError, match=rf"{part} lacks 1 tensor\(s\): .*{name}; fetch"):
        load_pipeline(str(folder))


def test_networks_are_those_that_diffusers_loads(any_pipeline):
    model = load_pipeline(str(any_pipeline))
    kind = StableDiffusionPipeline if model.kind == "sd" else StableDiffusionXLPipeline
    own = kind.from_pretrained(any_pipeline)
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        network = getattr(own, name, None)
        if network is not None:
            found = getattr(model.pipeline, name)
            torch.testing.assert_close(found.state_dict(), network.state_dict(), rtol=0, atol=0)
    assert type(model.pipeline.scheduler) is type(own.scheduler)
    assert torch.equal(model.pipeline.scheduler.alphas_cumprod, own.scheduler.alphas_cumprod)


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        ("unet", {"block_out_channels": [2**19, 2**19]}, "shape|lacks|no place for"),
        ("unet", {"layers_per_block": 0}, "layers_per_block to be a whole number from 1"),
        ("unet", {"cross_attention_dim": None}, "cross_attention_dim"),
        ("unet", {"_class_name": ["UNet2DConditionModel"]}, "_class_name"),
        ("unet", {"down_block_types": ["os.system", "DownBlock2D"]}, "down_block_types"),
        ("vae", {"_class_name": "AutoencoderTiny"}, "_class_name to be AutoencoderKL"),
        ("vae", {"latents_mean": [0.0], "latents_std": [1.0]}, "latents_mean to have 4 numbers"),
        ("vae", {"scaling_factor": 0}, "scaling_factor"),
        ("scheduler", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "_class_name"),
        ("scheduler", {"num_train_timesteps": 2**62}, "num_train_timesteps"),
        ("scheduler", {"beta_start": None}, "beta_start"),
        ("scheduler", {"trained_betas": [0.1]}, "trained_betas"),
        ("text_encoder", {"hidden_size": 2**19}, "shape"),
        ("text_encoder", {"num_attention_heads": 3}, "no network that can be built"),
    ],
)
def test_settings_that_cannot_be_are_named_with_their_file(copied, part, settings, message):
    folder = copied("sd")
    change(folder, part, **settings)
    with pytest.raises(ClipGeomError, match=message) as caught:
        load_pipeline(str(folder))
    assert f"{folder / part}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_that_select_code_have_no_effect(copied, sd):
    folder = copied("sd")
    chosen = {"_attn_implementation": "nobody/kernel", "attn_implementation": "nobody/kernel", "use_kernels": True}
    chosen |= {"quantization_config": {"quant_method": "x"}, "auto_map": {"AutoModel": "nobody/code--a.B"}}
    for part in ("text_encoder", "unet", "vae"):
        change(folder, part, **chosen)
    found, wanted = (load_pipeline(str(path)).encoders[0].network for path in (folder, sd))
    ids = torch.arange(8)[None]
    assert torch.equal(found(ids).last_hidden_state, wanted(ids).last_hidden_state)


def test_a_list_as_the_class_of_a_pipeline(copied):
    folder = copied("sd")
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": ["StableDiffusionPipeline"]}))
    with pytest.raises(ClipGeomError, match=r"of Stable Diffusion 1\.x, 2\.x or XL"):
        load_pipeline(str(folder))


def test_a_variant_is_read_where_a_part_has_it(copied):
    folder = copied("sd")
    plain = load_pipeline(str(folder))
    with pytest.raises(ConfigError, match="has no weights of the variant 'half'"):
        load_pipeline(str(folder), variant="half")
    tensors = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    tensors = {name: tensor / 2 for name, tensor in tensors.items()}
    save_file(tensors, folder / "unet" / "diffusion_pytorch_model.half.safetensors", metadata={"format": "pt"})
    varied = load_pipeline(str(folder), variant="half")
    for ours, theirs in zip(varied.unet.parameters(), plain.unet.parameters(), strict=True):
        assert torch.equal(ours, theirs / 2)
    assert all(map(torch.equal, varied.vae.parameters(), plain.vae.parameters()))
