"""What is made of a run: measures, and files that other tools load to the same pictures."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from clipgeom.errors import ConfigError, EncoderError
from pti.errors import CheckpointError
from pti.evaluation.evaluate import Evaluation
from pti.evaluation.run import evaluate_run, held_out_loss
from pti.export.run import export_run
from pti.models.prompt_embeds import encode_prompts
from pti.models.sampling import sample_latents, starting_noise
from pti.runs import checkpoint
from pti.runs.layout import EVALUATION
from pti.runs.run import load_run
from pti.workflow import run_stages
from tests.tiny.judges import save_clip, save_dino
from tests.tiny.runs import configuration

STRANGER = """
import sys, torch, numpy as np
from safetensors.torch import load_file
from diffusers import DiffusionPipeline
folder, base, noise, out, keys = sys.argv[1:]
pipeline = DiffusionPipeline.from_pretrained(base)
pipeline.set_progress_bar_config(disable=True)
vectors = load_file(f"{folder}/tok.safetensors")
if hasattr(pipeline, "text_encoder_2"):
    for key, suffix in (("clip_l", ""), ("clip_g", "_2")):
        parts = {kind: getattr(pipeline, kind + suffix) for kind in ("text_encoder", "tokenizer")}
        pipeline.load_textual_inversion(vectors[key], token="<tok>", **parts)
        for module in parts["text_encoder"].modules():  # the published configurations pool at the highest id
            if hasattr(module, "eos_token_id"):
                module.eos_token_id = parts["tokenizer"].eos_token_id
else:
    pipeline.load_textual_inversion(f"{folder}/tok.safetensors")
pipeline.load_lora_weights(folder, weight_name=keys)
drawn = pipeline(
    ["a picture of <tok>", "<tok> at night"], latents=load_file(noise)["noise"], num_inference_steps=3,
    guidance_scale=4.0, height=8, width=8, output_type="np",
).images
np.save(out, drawn)
"""


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    return (
        f'evaluation.clip_model="{save_clip(tmp_path_factory.mktemp("clip"))}"',
        f'evaluation.dino_model="{save_dino(tmp_path_factory.mktemp("dino"))}"',
        'evaluation.prompts=["a picture of {token}", "{token} at night"]',
        "evaluation.images_per_prompt=4",
    )


@pytest.fixture(scope="module")
def trained(sd, judges, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return run_stages(configuration(sd, folder, *judges, "data.holdout=1", "lora.train_text_encoder=true"))


def again(folder, name, value):
    """The same run with another setting: nothing is trained for it."""
    text = (folder / "config.toml").read_text()
    section, _, key = name.partition(".")
    head, mark, rest = text.partition(f"[{section}]\n")
    lines = [line for line in rest.split("\n") if not line.startswith(f"{key} =")]
    (folder / "config.toml").write_text(head + mark + f"{key} = {value}\n" + "\n".join(lines))


@pytest.fixture
def other(trained, tmp_path):
    """A copy of the trained run with some settings changed."""
    import shutil

    def make(**changes):
        folder = shutil.copytree(trained, tmp_path / str(len(list(tmp_path.iterdir()))))
        for name, value in changes.items():
            again(folder, name.replace("__", "."), value)
        return folder

    return make


def test_a_whole_run_leaves_measures_and_files(trained):
    content = json.loads((trained / EVALUATION).read_text())
    assert content["schema"] == "pti.evaluation/1"
    assert (content["n_token"], content["n_class_word"], content["n_training"]) == (8, 8, 2)
    assert set(content["reconstruction"]) == {"CLIP", "DINOv2"}
    assert set(content["editability"]) == {"CLIP"}
    assert "background" in content["leakage"]
    assert "background" in content["class_word_moved"]
    assert content["held_out_loss"]["token"]["n"] == 1
    assert {path.name for path in (trained / "export").iterdir()} == {
        "README.md",
        "preview-0.png",
        "pytorch_lora_weights.safetensors",
        "tok.safetensors",
        "tok_lora.safetensors",
    }
    card = (trained / "export" / "README.md").read_text()
    assert "likeness to the training images, CLIP" in card
    assert str(trained.parent) not in card
    record = json.loads((trained / "record.json").read_text())
    assert set(record["stages"]) == {"invert", "tune", "evaluate", "export"}


def test_an_evaluation_is_read_back(trained):
    content = json.loads((trained / EVALUATION).read_text())
    back = Evaluation.from_json(content).to_json()
    assert back == {key: content[key] for key in back} | {"left_out": content["left_out"]}


def test_held_out_pictures_are_denoised_at_equal_noise(trained):
    run = load_run(trained)
    first, second = held_out_loss(run), held_out_loss(run)
    assert first["token"].value == second["token"].value
    assert first["token"].value != first["class_word"].value
    with torch.no_grad():
        for row, start in zip(run.model.placeholder.embeddings, run.model.placeholder.initial_embeddings, strict=True):
            row.copy_(start)
        for parameter in run.lora.parameters.values():
            parameter.zero_()
    untrained = held_out_loss(run)
    assert untrained["token"].value == pytest.approx(untrained["class_word"].value, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [("prompts", '["{token}"]'), ("images_per_prompt", "3"), ("seed", "7"), ("concept_attributes", '["background"]')],
)
def test_settings_of_the_evaluation(trained, other, name, value):
    before = json.loads((trained / EVALUATION).read_text())
    after = json.loads(evaluate_run(other(**{f"evaluation__{name}": value})).read_text())
    assert before != after
    if name == "concept_attributes":
        assert "background" not in after["leakage"]


@pytest.mark.parametrize("name", ["clip_model", "dino_model"])
def test_judges_that_are_named_must_be_there(other, name):
    with pytest.raises(EncoderError):
        evaluate_run(other(**{f"evaluation__{name}": '"/nowhere/at/all"'}))


def test_an_attribute_that_nobody_reads(other):
    with pytest.raises(ConfigError, match="has no attribute 'hat'"):
        evaluate_run(other(evaluation__concept_attributes='["hat"]'))


def test_settings_of_the_export(trained, other):
    named = export_run(other(export__name='"mine"'))
    assert (named / "mine.safetensors").is_file()
    half = load_file(export_run(other(export__dtype='"fp16"')) / "tok_lora.safetensors")
    assert {tensor.dtype for name, tensor in half.items() if not name.endswith("alpha")} == {np.dtype("float16")}


def test_marks_are_on_everything(other):
    from PIL import Image

    folder = other()
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"marks": ["certificate overridden"]}))
    target = export_run(folder)
    assert "certificate overridden" in (target / "README.md").read_text().split("##")[0]
    assert Image.open(target / "preview-0.png").text["pti"] == "certificate overridden"
    from safetensors import safe_open

    for name in ("tok.safetensors", "tok_lora.safetensors", "pytorch_lora_weights.safetensors"):
        with safe_open(target / name, framework="np") as file:
            assert file.metadata()["marks"] == "certificate overridden", name


def test_unfinished_runs_are_refused(other):
    folder = other()
    for path in (folder / "checkpoints").glob("tune-*"):
        path.unlink()
    for finish in (evaluate_run, export_run):
        with pytest.raises(CheckpointError, match="not trained to its end"):
            finish(folder)
    assert checkpoint.latest(folder / "checkpoints", "tune") is None


@pytest.mark.parametrize("layout", ["sd", "sdxl"])
def test_a_stranger_draws_the_same_pictures(request, layout, tmp_path):
    base = request.getfixturevalue(layout)
    folder = run_stages(
        configuration(base, tmp_path / "run", "concept.num_vectors=2", 'concept.class_word="red knight"',
                      "data.source=miniworld:ember", "lora.train_text_encoder=true"),
        ("invert", "tune", "export"),
    )  # fmt: skip
    run = load_run(folder)
    noise = starting_noise(run.model, 3, 2)
    save_file({"noise": noise}, tmp_path / "noise.safetensors")
    texts = [run.model.placeholder.in_prompt(text) for text in ("a picture of {token}", "{token} at night")]
    with torch.no_grad():
        latents = sample_latents(run.model, encode_prompts(run.model, texts), noise, seed=3, steps=3, guidance=4.0)
        own = run.model.vae.decode(latents / run.model.vae.config.scaling_factor).sample
    own = (own / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    for keys in ("pytorch_lora_weights.safetensors", "tok_lora.safetensors"):
        out = tmp_path / f"{keys}.npy"
        arguments = [str(folder / "export"), str(base), str(tmp_path / "noise.safetensors"), str(out), keys]
        done = subprocess.run([sys.executable, "-c", STRANGER, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(np.load(out), own, atol=1e-4)
        assert np.abs(own[0] - own[1]).max() > 1e-3
