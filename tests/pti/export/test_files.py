"""Exported files, loaded by other people's code: the same pictures, the same changes of the weights, the same bytes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.numpy import load_file

from clipgeom.errors import ConfigError, DomainError, OutputError, ShapeError
from pti.export.files import (
    DIFFUSERS_FILE,
    add_embedding,
    pool_at_eos,
    read_embedding,
    save_embedding,
    save_lora,
)
from pti.export.model_card import Concept, loading_code
from tests.tiny.pipelines import save_sd1, save_sdxl

TOKEN = "<zork>"
PROMPT = f"an ink illustration of {TOKEN}, facing left"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]
# the same for this process and for the fresh one
DRAW = """
import torch
def draw(pipeline, prompt):
    pipeline.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "np"}
    return pipeline(prompt, generator=torch.Generator().manual_seed(7), **settings).images[0]
"""
exec(DRAW)


def load(folder, layout):
    kind = StableDiffusionXLPipeline if layout == "sdxl" else StableDiffusionPipeline
    return kind.from_pretrained(folder, local_files_only=True)


def encoders(pipeline):
    return [e for e in (pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)) if e is not None]


def teach(pipeline, n, seed=3):
    """Add `n` vectors to every text encoder as a trainer does, and give them back in the form to export."""
    generator = torch.Generator().manual_seed(seed)
    names = [TOKEN, *(f"{TOKEN}_{i}" for i in range(1, n))]
    vectors = []
    for encoder, tokenizer in zip(
        encoders(pipeline), (pipeline.tokenizer, getattr(pipeline, "tokenizer_2", None)), strict=False
    ):
        tokenizer.add_tokens(names)
        encoder.resize_token_embeddings(len(tokenizer))
        table = encoder.get_input_embeddings().weight
        rows = torch.randn((n, table.shape[1]), generator=generator)
        with torch.no_grad():
            table[tokenizer.convert_tokens_to_ids(names)] = rows
        vectors.append(rows)
    pool_at_eos(pipeline)
    return vectors[0] if len(vectors) == 1 else dict(zip(("clip_l", "clip_g"), vectors, strict=True))


def adapt(module, targets, seed=5, **config):
    """Put a LoRA upon a network, every weight of it random."""
    wanted = LoraConfig(**{"r": 3, "lora_alpha": 5, "target_modules": targets, **config})
    inject_adapter_in_model(wanted, module, adapter_name="pti")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def changes(module):
    """What the LoRA adds to the weight of each module."""
    found = {}
    for name, layer in module.named_modules():
        if isinstance(layer, LoraLayer):
            (adapter,) = layer.lora_A
            found[name] = layer.get_delta_weight(adapter).detach()
    return found


CASES = {
    "sd1": ("sd", save_sd1, 1),
    "sd1-three-vectors": ("sd", save_sd1, 3),
    "sdxl-two-vectors": ("sdxl", save_sdxl, 2),
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Pictures by case and way of loading: of this process, and of a fresh one that runs what the model card says."""
    root = tmp_path_factory.mktemp("fresh")
    pictures, jobs = {}, []
    for case, (layout, save, n) in CASES.items():
        base, out = save(root / case / "base"), root / case / "out"
        pipeline = load(base, layout)
        pictures[case, "base"] = draw(pipeline, PROMPT)
        vectors = teach(pipeline, n)
        adapt(pipeline.unet, ATTENTION)
        for encoder in encoders(pipeline):
            adapt(encoder, TEXT, lora_alpha=2)
        pictures[case, "trained"] = draw(pipeline, PROMPT)
        save_embedding(out / "zork.safetensors", TOKEN, vectors)
        files = save_lora(out, pipeline.unet, encoders(pipeline), name="zork_lora")
        concept = Concept(str(base), layout, TOKEN, n, "knight", PROMPT, "zork.safetensors", files.kohya.name)
        code = loading_code(concept, folder=str(out))
        ways = {"diffusers": code, "kohya": code.replace(DIFFUSERS_FILE, files.kohya.name)}
        if n == 1 or layout == "sdxl":
            ways["embedding alone"] = "\n".join(line for line in code.splitlines() if "lora" not in line)
            ways["pooled elsewhere"] = "\n".join(line for line in code.splitlines() if "eos" not in line)
        jobs += [[case, way, text, str(root / f"{case}.{way}.npy")] for way, text in ways.items()]
    script = f"{DRAW}\nimport json, sys\nimport numpy as np\n" + (
        "for case, way, code, path in json.load(sys.stdin):\n"
        "    names = {}\n"
        "    exec(code, names)\n"
        f"    np.save(path, draw(names['pipeline'], {PROMPT!r}))\n"
    )
    fresh = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(jobs), text=True, capture_output=True, check=False
    )
    assert fresh.returncode == 0, fresh.stderr[-3000:]
    return pictures | {(case, way): np.load(path) for case, way, _, path in jobs}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", ["diffusers", "kohya"])
def test_a_fresh_process_draws_the_same(drawn, case, way):
    assert np.abs(drawn[case, way] - drawn[case, "trained"]).max() <= 1e-4
    assert np.abs(drawn[case, "base"] - drawn[case, "trained"]).max() > 0.02
    if (case, "embedding alone") in drawn:
        assert np.abs(drawn[case, "embedding alone"] - drawn[case, "trained"]).max() > 0.02


def test_where_the_pooled_text_is_taken_from_matters_to_sdxl_alone(drawn):
    """What transformers does with the published ids once a token is added, and why the card has a line about it."""
    apart = {
        case: np.abs(drawn[case, "pooled elsewhere"] - drawn[case, "trained"]).max()
        for case in ("sd1", "sdxl-two-vectors")
    }
    assert apart["sd1"] <= 1e-4
    assert apart["sdxl-two-vectors"] > 1e-3


KINDS = {
    "one rank": [{}, {}],
    "a scale of one": [{"lora_alpha": 3}, {"lora_alpha": 3}],
    "another rank and alpha here and there": [
        {"rank_pattern": {"to_k": 2}, "alpha_pattern": {"to_v": 9}},
        {"rank_pattern": {"k_proj": 2}, "alpha_pattern": {"v_proj": 9}},
    ],
    "scaled by the root of the rank": [{"use_rslora": True}, {"use_rslora": True}],
    "other modules": [
        {
            "target_modules": [
                *ATTENTION,
                *(
                    "proj_in",
                    "proj_out",
                    "ff.net.0.proj",
                    "ff.net.2",
                    "conv1",
                    "conv2",
                    "time_emb_proj",
                    "conv_shortcut",
                ),
                *("conv_in", "conv_out", "time_embedding.linear_1", "downsamplers.0.conv", "upsamplers.0.conv"),
            ]
        },
        {"target_modules": [*TEXT, "fc1", "fc2"]},
    ],
    "queries and values alone": [{"target_modules": ["to_q", "to_v"]}, {"target_modules": ["q_proj", "v_proj"]}],
    "the text's perceptrons alone": [{}, {"target_modules": ["fc1", "fc2"]}],
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {"sd": save_sd1(root / "sd"), "sdxl": save_sdxl(root / "sdxl")}


@pytest.mark.parametrize(("kind", "layout"), [*((kind, "sdxl") for kind in KINDS), ("one rank", "sd")])
def test_either_file_changes_the_weights_alike(bases, tmp_path, layout, kind):
    on_unet, on_text = KINDS[kind]
    if kind == "other modules" and layout == "sdxl":
        on_unet = {"target_modules": [*on_unet["target_modules"], "add_embedding.linear_1", "add_embedding.linear_2"]}
    trained = load(bases[layout], layout)
    adapt(trained.unet, ATTENTION, **on_unet)
    for encoder in encoders(trained):
        adapt(encoder, TEXT, **on_text)
    files = save_lora(tmp_path, trained.unet, encoders(trained))
    expected = [changes(module) for module in (trained.unet, *encoders(trained))]
    for path in (files.diffusers, files.kohya):
        loaded = load(bases[layout], layout)
        loaded.load_lora_weights(str(tmp_path), weight_name=path.name)
        for wanted, module in zip(expected, (loaded.unet, *encoders(loaded)), strict=True):
            found = changes(module)
            assert wanted.keys() <= found.keys(), path.name
            for name, change in found.items():
                torch.testing.assert_close(change, wanted.get(name, torch.zeros_like(change)), rtol=2e-6, atol=1e-7)


def test_a_lora_on_the_unet_alone_loads(bases, tmp_path):
    trained = load(bases["sdxl"], "sdxl")
    adapt(trained.unet, ATTENTION)
    files = save_lora(tmp_path, trained.unet, encoders(trained))
    names = set(load_file(files.kohya))
    assert names
    assert all(name.startswith("lora_unet_") for name in names)
    loaded = load(bases["sdxl"], "sdxl")
    loaded.load_lora_weights(str(tmp_path))  # and a folder with both files needs no name
    assert changes(loaded.unet).keys() == changes(trained.unet).keys()
    assert not changes(loaded.text_encoder)


def test_the_names_are_those_that_comfyui_and_a1111_look_up(bases, tmp_path):
    """Read off their sources: comfy/lora.py, and extensions-builtin/Lora/networks.py."""
    for layout, text in (("sd", ["lora_te"]), ("sdxl", ["lora_te1", "lora_te2"])):
        trained = load(bases[layout], layout)
        adapt(trained.unet, ATTENTION)
        for encoder in encoders(trained):
            adapt(encoder, TEXT)
        tensors = load_file(save_lora(tmp_path / layout, trained.unet, encoders(trained)).kohya)
        for prefix in text:
            assert f"{prefix}_text_model_encoder_layers_1_self_attn_q_proj.lora_down.weight" in tensors
        name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
        down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
        scale = tensors[f"{name}.alpha"].item() / len(down)  # as both compute it
        change = changes(trained.unet)["down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"]
        np.testing.assert_allclose(scale * up @ down, change.numpy(), rtol=1e-5, atol=1e-6)
        assert all(array.shape == () for key, array in tensors.items() if key.endswith(".alpha"))


def test_networks_wrapped_by_peft_and_half_precision_weights_export_alike(bases, tmp_path):
    trained = load(bases["sd"], "sd")
    wrapped = get_peft_model(trained.unet, LoraConfig(r=2, lora_alpha=2, target_modules=ATTENTION)).half()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if ".lora_B" in name:
                parameter.fill_(0.5)
    names = load_file(save_lora(tmp_path, wrapped).diffusers)
    assert {array.dtype for array in names.values()} == {np.dtype(np.float32)}
    assert all(name.startswith(("unet.down_blocks.", "unet.mid_block.", "unet.up_blocks.")) for name in names)
    assert all((array == 0.5).all() for name, array in names.items() if name.endswith(".up.weight"))


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = save_embedding(tmp_path / "e.safetensors", TOKEN, np.ones((1, 16)))
    before = path.read_bytes()

    def fails(partial, *_):
        partial.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pti.export.files.save_tensors", fails)
    with pytest.raises(OutputError, match="no space left"):
        save_embedding(path, TOKEN, np.zeros((1, 16)))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["e.safetensors"]


def test_writing_again_gives_the_same_bytes(bases, tmp_path):
    trained = load(bases["sdxl"], "sdxl")
    adapt(trained.unet, ATTENTION)
    header = {"base_model": "somebody/something", "steps": 1000, "more": {"b": 1, "a": [2, 3]}, "token": TOKEN}
    vectors = {"clip_l": np.ones((2, 16)), "clip_g": np.ones((2, 24))}
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b", tmp_path / "a"):  # another place, and the same one again
        files = save_lora(folder, trained.unet, metadata=header)
        embedding = save_embedding(folder / "e.safetensors", TOKEN, vectors, metadata=header)
        contents.append([path.read_bytes() for path in (files.diffusers, files.kohya, embedding)])
        assert sorted(path.name for path in folder.iterdir()) == ["e.safetensors", "lora.safetensors", DIFFUSERS_FILE]
    assert contents[0] == contents[1] == contents[2]
    with safe_open(tmp_path / "a" / "lora.safetensors", framework="np") as file:
        assert file.metadata()["more"] == '{"a": [2, 3], "b": 1}'
        assert file.metadata()["ss_network_dim"] == "3"


def test_half_precision_halves_the_file_and_refuses_what_it_cannot_hold(bases, tmp_path):
    trained = load(bases["sd"], "sd")
    adapt(trained.unet, ATTENTION)
    whole = save_lora(tmp_path / "whole", trained.unet)
    half = save_lora(tmp_path / "half", trained.unet, precision="float16")
    assert {array.dtype for name, array in load_file(half.diffusers).items()} == {np.dtype(np.float16)}
    assert half.diffusers.stat().st_size < 0.8 * whole.diffusers.stat().st_size
    with torch.no_grad():
        next(p for n, p in trained.unet.named_parameters() if "lora_B" in n).fill_(1e6)
    with pytest.raises(DomainError, match="does not fit into float16"):
        save_lora(tmp_path / "large", trained.unet, precision="float16")


def test_adapters_that_cannot_be_said_are_refused(bases, tmp_path):
    pipeline = load(bases["sd"], "sd")
    with pytest.raises(ConfigError, match="no LoRA to export"):
        save_lora(tmp_path, pipeline.unet, encoders(pipeline))
    adapt(pipeline.unet, ATTENTION)
    with pytest.raises(ConfigError, match="no adapter 'other'; there are: pti"):
        save_lora(tmp_path, pipeline.unet, adapter="other")
    with pytest.warns(UserWarning, match="multiple adapters"):
        inject_adapter_in_model(LoraConfig(r=1, target_modules=["to_q"]), pipeline.unet, adapter_name="second")
    with pytest.raises(ConfigError, match=r"several adapters \(pti, second\)"):
        save_lora(tmp_path, pipeline.unet)
    save_lora(tmp_path / "named", pipeline.unet, adapter="second")
    assert len(load_file(tmp_path / "named" / DIFFUSERS_FILE)) < len(ATTENTION) * 8
    for config in ({"use_dora": True}, {"lora_bias": True, "target_modules": ["ff.net.2"]}):
        other = load(bases["sd"], "sd")
        adapt(other.unet, ATTENTION, **config)
        with pytest.raises(ConfigError, match="more than a LoRA"):
            save_lora(tmp_path, other.unet)
    for name in ("", "a/b", "my_checkpoint", "pytorch_lora_weights"):
        with pytest.raises(ConfigError):
            save_lora(tmp_path, pipeline.unet, adapter="pti", name=name)
    with torch.no_grad():
        next(p for n, p in pipeline.unet.named_parameters() if "lora_A.pti" in n).fill_(float("nan"))
    with pytest.raises(DomainError, match="NaN"):
        save_lora(tmp_path, pipeline.unet, adapter="pti")
    assert not (tmp_path / DIFFUSERS_FILE).exists()


@pytest.mark.parametrize(
    ("vectors", "error"),
    [
        (np.ones(16), ShapeError),
        (np.ones((0, 16)), ShapeError),
        (np.ones((1, 2, 16)), ShapeError),
        (np.full((1, 16), np.nan), DomainError),
        (np.full((1, 16), np.inf), DomainError),
        (np.full((1, 16), 1e300), DomainError),
        ({"clip_l": np.ones((1, 16))}, ConfigError),
        ({"clip_l": np.ones((1, 16)), "clip_g": np.ones((2, 24))}, ShapeError),
    ],
)
def test_vectors_that_are_none_are_refused(tmp_path, vectors, error):
    path = tmp_path / "e.safetensors"
    path.write_bytes(b"what was there")
    with pytest.raises(error):
        save_embedding(path, TOKEN, vectors)
    assert path.read_bytes() == b"what was there"
    assert [p.name for p in tmp_path.iterdir()] == ["e.safetensors"]


@pytest.mark.parametrize("token", ["", "two words", "clip_l", "a\tb"])
def test_tokens_that_are_none_are_refused(tmp_path, token):
    with pytest.raises(ConfigError, match="cannot be a token"):
        save_embedding(tmp_path / "e.safetensors", token, np.ones((1, 16)))


def test_an_embedding_reads_back(tmp_path, bases):
    path = save_embedding(
        tmp_path / "one.safetensors", TOKEN, torch.ones((2, 16), dtype=torch.float16, requires_grad=True)
    )
    token, tensors = read_embedding(path)
    assert (token, list(tensors)) == (TOKEN, [TOKEN])
    assert np.array_equal(tensors[TOKEN], np.ones((2, 16), np.float32))
    pipeline = load(bases["sd"], "sd")
    assert add_embedding(pipeline, path, token="<other>") == "<other>"
    rows = pipeline.text_encoder.get_input_embeddings().weight[-2:]
    assert torch.equal(rows, torch.ones(2, 16))
    assert pipeline.tokenizer.convert_tokens_to_ids("<other>_1") == len(pipeline.tokenizer) - 1
    assert pipeline.text_encoder.eos_token_id == pipeline.tokenizer.eos_token_id
    with pytest.raises(ConfigError, match="1 text encoder"):
        add_embedding(load(bases["sdxl"], "sdxl"), path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_embedding(tmp_path / "absent.safetensors")


def test_sdxl_takes_both_tensors(tmp_path, bases):
    vectors = {"clip_l": np.full((2, 16), 3.0), "clip_g": np.full((2, 24), 4.0)}
    pipeline = load(bases["sdxl"], "sdxl")
    assert add_embedding(pipeline, save_embedding(tmp_path / "e.safetensors", TOKEN, vectors)) == TOKEN
    for encoder, value in zip(encoders(pipeline), (3.0, 4.0), strict=True):
        assert (encoder.get_input_embeddings().weight[-2:] == value).all()
    assert pipeline.text_encoder_2.text_model.eos_token_id == pipeline.tokenizer_2.eos_token_id != 2
