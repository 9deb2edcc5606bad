"""The command: what it prints, what it leaves, and one line for what is wrong."""

import json

import numpy as np
import pytest
from PIL import Image

from clipgeom.miniworld.weights import CHECKSUMS, digests
from pti.config.toml_io import read_config, toml_of
from pti.models.pipeline import load_pipeline
from pti.workflow import run_stages
from tests.tiny.runs import configuration, save_sd, write_pictures


@pytest.fixture
def file(sd, tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(toml_of(configuration(sd, tmp_path / "run")), encoding="utf-8")
    return path


def test_init_writes_a_configuration_once(pti, tmp_path):
    code, out, _ = pti("init", "mine.toml")
    assert (code, out) == (0, "configuration: mine.toml\n")
    assert read_config(tmp_path / "mine.toml") == read_config()
    code, _, err = pti("init", "mine.toml")
    assert code == 2
    assert err == "pti: mine.toml exists already; give another name, or delete it\n"


def test_stages_one_by_one_then_pictures(pti, file, tmp_path):
    code, out, err = pti("invert", file)
    assert (code, out) == (0, f"run: {tmp_path / 'run'}\n"), err
    assert not list((tmp_path / "run" / "checkpoints").glob("tune-*"))
    code, _, err = pti("tune", tmp_path / "run")
    assert code == 0, err
    assert "pti: locality: slerp at" in err
    code, out, err = pti("sample", "run", "--prompt", "{token} at night", "--prompt", "a {class}", "--count", 3)
    assert (code, out) == (0, "images: sample.png\n"), err
    with Image.open(tmp_path / "sample.png") as drawn:
        assert drawn.size == (3 * 8, 2 * 8)
        default = np.asarray(drawn).copy()
    pti("sample", "run", "--prompt", "{token} at night", "--prompt", "a {class}", "--count", 3, "--seed", 9)
    with Image.open(tmp_path / "sample.png") as drawn:
        assert (np.asarray(drawn) != default).any()


def test_run_goes_through_all_stages_in_order(pti, file, tmp_path, monkeypatch):
    called = []
    for stage in ("evaluate", "export"):
        monkeypatch.setattr(
            {"evaluate": "pti.evaluation.run.evaluate_run", "export": "pti.export.run.export_run"}[stage],
            lambda folder, stage=stage, **_: called.append((stage, folder)),
        )
    code, _, err = pti("run", file)
    assert code == 0, err
    assert called == [("evaluate", tmp_path / "run"), ("export", tmp_path / "run")]
    assert pti("run", file)[0] == 0
    assert len(called) == 2  # done already, for this checkpoint and these settings
    pti("evaluate", "run")
    pti("export", "run")
    assert [stage for stage, _ in called] == ["evaluate", "export"] * 2
    del called[:]
    for change, stages in (("export.name=other", ["export"]), ("evaluation.images_per_prompt=3", ["evaluate"])):
        assert pti("run", "run", "--set", change)[0] == 0
        assert [stage for stage, _ in called] == stages
        del called[:]
    stages = json.loads((tmp_path / "run" / "record.json").read_text())["stages"]
    assert list(stages) == ["invert", "tune", "evaluate", "export"]


def test_flags_override_and_a_stage_can_be_the_last(pti, file, tmp_path):
    code, out, err = pti("run", file, "--until", "invert", "--set", "inversion.steps=2", "--out", "other")
    assert (code, out) == (0, "run: other\n"), err
    assert read_config(tmp_path / "other").inversion.steps == 2
    code, _, err = pti("run", file, "--until", "inverted")
    assert code == 2
    assert "expected --until to be one of invert, tune, evaluate, export" in err


def wrong(pti, file, *arguments):
    code, out, err = pti("run", file, "--until", "tune", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("pti: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def test_bad_input_is_one_line(pti, file, tmp_path, sd):
    """The issue's list, as a user meets it."""
    (tmp_path / "empty").mkdir()
    assert "has no images" in wrong(pti, file, "--set", "data.source=empty")
    broken = write_pictures(tmp_path / "broken", ("{token}", "{token} at night"))
    (broken / "1.png").write_bytes(b"no picture")
    assert "prior_preservation.class_images: expected a folder" in wrong(
        pti, file, "--set", "prior_preservation.weight=1", "--set", 'prior_preservation.class_images="absent"'
    )
    assert "1.png cannot be decoded" in wrong(pti, file, "--set", 'data.source="broken"')
    write_pictures(tmp_path / "plain", ("a knight",))
    assert "0.png lacks {token}" in wrong(pti, file, "--set", 'data.source="plain"')
    write_pictures(tmp_path / "fine", ("a {token}", "{token}"))
    assert "concept.class_word is not set" in wrong(pti, file, "--set", 'data.source="fine"')
    assert "'knight' is a token of" in wrong(pti, file, "--set", "concept.placeholder_token=knight")
    several = wrong(pti, file, "--set", "concept.class_word=red knight")
    assert "2 token(s) of text_encoder ('red</w>', 'knight</w>')" in several
    assert "did you mean 'rank'" in wrong(pti, file, "--set", "lora.rnak=3")
    assert "has no model_index.json" in wrong(pti, file, "--set", 'model.pretrained_model="empty"')
    assert "there is no pipeline directory ./absent" in wrong(pti, file, "--set", "model.pretrained_model=./absent")
    assert "make one with: clipgeom check" in wrong(pti, file, "--set", "locality.interpolation=aslerp")
    for path in (tmp_path / "run", tmp_path / "other"):
        assert not path.exists()  # nothing is left of what was refused
    pti("run", file, "--until", "invert")
    assert "inversion.learning_rate was 0.01, is 0.5" in (
        said := wrong(pti, file, "--set", "inversion.learning_rate=0.5")
    )
    assert f"or delete {tmp_path / 'run'}/checkpoints/invert-*.safetensors to restart that stage" in said


def test_what_would_fail_hours_later_fails_at_once(pti, file, tmp_path):
    """Prompts of previews and of the evaluation, files of the export, the place of it all."""
    long = "{token} " * 80

    def refused(*changes):
        code, out, err = pti("run", file, *(part for change in changes for part in ("--set", change)))
        assert (code, out) == (2, "")
        assert not (tmp_path / "run").exists()
        assert err.count("\n") == 1
        return err

    assert "evaluation.prompts has 'a knight', which lacks {token}" in refused('evaluation.prompts=["a knight"]')
    assert "evaluation.prompts is empty" in refused("evaluation.prompts=[]")
    assert "is too long: expected a prompt of at most 77 tokens, got 82" in refused(f'evaluation.prompts=["{long}"]')
    assert "one of validation.prompts is too long" in refused(f'validation.prompts=["{long}"]')
    assert "the caption of miniworld:bramble/0 is too long" in refused(f'data.instance_prompt="{long}"')
    assert "sampler.num_inference_steps is at most 100" in refused("sampler.num_inference_steps=101")
    assert "leaves no timestep below the end of the schedule, 100" in refused("loss.min_timestep=100")
    assert "cannot name a LoRA file" in refused('export.name="a/b"')
    assert "see export.name" in refused('concept.placeholder_token="<checkpoint>"')
    assert "is the name of the file for diffusers" in refused('export.name="pytorch_lora_weights"')
    assert "is the name of the file for diffusers" in refused('export.name="PyTorch_LoRA_weights"')
    assert "has 256 bytes, more than 255" in refused(f'export.name="{"é" * 119}x"')
    assert "control characters" in refused('export.name="a\\u001b[2J"')
    assert "'clip_l' cannot be a token" in refused('concept.placeholder_token="clip_l"')
    assert "'clip_l' cannot be a token" in refused('concept.placeholder_token="clip_l"', "lora.steps=1")
    assert "to be the token that replaces {token}" in refused('concept.placeholder_token="{token}"')
    code, _, err = pti("invert", file, "--out", file)
    assert (code, err) == (2, f"pti: {file} is a file, not a folder; give another --out\n")
    code, _, err = pti("tune", file)
    assert (code, err) == (
        2,
        f"pti: {tmp_path / 'run'} has no finished inversion; run pti invert first, or pti run\n",
    )
    assert not (tmp_path / "run").exists()


def test_files_of_something_else_stay(pti, file, tmp_path):
    """In the run folder, at the picture and at the configuration."""
    for name in ("config.toml", "record.json", "evaluation.json", "export/README.md"):
        place = tmp_path / name.replace("/", "-")
        (place / name).parent.mkdir(parents=True)
        (place / name).write_text("{}")
        code, _, err = pti("run", file, "--out", place)
        assert code == 2
        path = place / name.split("/")[0]
        assert err == f"pti: {path} was not made by `pti run` and will not be replaced; give another --out\n"
        assert [str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()] == [name]
        assert (place / name).read_text() == "{}"
    for name in ("sweep.json", "sweep.parquet"):
        place = tmp_path / name.replace(".", "-")
        place.mkdir()
        (place / name).write_text("{}")
        code, _, err = pti("sweep", file, "--seeds", 2, "--out", place)
        assert (code, "was not made by `pti sweep`" in err) == (2, True)
        assert [p.name for p in place.iterdir()] == [name]
    Image.new("RGB", (4, 4)).save(tmp_path / "mine.png")
    before = (tmp_path / "mine.png").read_bytes()
    code, _, err = pti("sample", "run", "--out", "mine.png")
    assert (code, err) == (
        2,
        "pti: mine.png was not made by `pti sample` and will not be replaced; choose another --out\n",
    )
    assert (tmp_path / "mine.png").read_bytes() == before
    (tmp_path / "ahead.toml").symlink_to("later.toml")
    assert pti("init", "ahead.toml")[0] == 0
    assert (tmp_path / "ahead.toml").is_symlink()
    assert read_config(tmp_path / "later.toml") == read_config()


def test_a_run_goes_on_in_its_own_folder_whatever_else_is_there(pti, file, tmp_path):
    changes = ("--until", "invert", "--set", "inversion.steps=2")
    assert pti("run", file, *changes)[0] == 0
    (tmp_path / "run" / "notes.txt").write_text("mine")
    (tmp_path / "run" / "record.json").unlink()  # as the message about a damaged record recommends
    code, _, err = pti("run", tmp_path / "run", *changes)
    assert code == 0, err
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_a_size_that_the_autoencoder_cannot_have_is_told(pti, file):
    assert (
        "data.resolution = 9 becomes 8, a multiple of 2"
        in pti("run", file, "--until", "invert", "--set", "data.resolution=9")[2]
    )


def test_evaluation_tells_what_it_lacks(pti, file, tmp_path, monkeypatch):
    """No network, and no CLIP in the cache: one line, and at once."""
    import huggingface_hub

    def unreachable(*_, **__):
        raise OSError("the hub cannot be reached\nby any means")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    few = ("--set", "evaluation.images_per_prompt=2", "--set", 'evaluation.prompts=["{token}"]')
    code, _, err = pti("run", file, *few)
    assert code == 0, err
    (line,) = [line for line in err.splitlines() if "CLIP" in line]
    assert line.startswith("pti: evaluation without CLIP: openai/clip-vit-large-patch14 cannot be loaded")
    assert "the hub cannot be reached; set evaluation.clip_model to another one" in line
    assert pti("evaluate", "run")[:2] == (0, "evaluation: run/evaluation.json\n")
    assert pti("export", "run")[:2] == (0, "export: run/export\n")
    code, _, err = pti("run", file, *few, "--set", "evaluation.clip_model=./absent")
    assert (code, err.splitlines()[-1]) == (
        2,
        "pti: expected a folder or a hub id as a judge of images, got ./absent, which is absent",
    )


def test_a_run_whose_pictures_are_gone_still_draws(pti, file, tmp_path):
    import shutil

    write_pictures(tmp_path / "fine", ("a {token}", "{token}"))
    code, _, err = pti("invert", file, "--set", 'data.source="fine"', "--set", "concept.class_word=knight")
    assert code == 0, err
    shutil.rmtree(tmp_path / "fine")
    assert pti("sample", "run", "--count", 1)[0] == 0
    for argument, message in (
        ("--lora-scale=nan", "a finite number, got nan"),
        ("--steps=101", "at most 100 sampling steps"),
    ):
        code, _, err = pti("sample", "run", argument)
        assert code == 2
        assert message in err
    record = tmp_path / "run" / "record.json"
    record.write_text("{")
    code, _, err = pti("sample", "run")
    assert code == 2
    assert "record.json cannot be read" in err
    record.unlink()
    assert "has no record.json; write it again with: pti run run" in pti("sample", "run")[2]


def test_a_pipeline_without_safetensors(pti, file, tmp_path):
    import shutil

    folder = save_sd(tmp_path / "pickled")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80")
    message = wrong(pti, file, "--set", f'model.pretrained_model="{folder}"')
    assert "unet has pickled weights only (diffusion_pytorch_model.bin), which can run code" in message
    assert "safe_serialization=True" in message
    shutil.rmtree(folder / "vae")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    assert "vae has no weights" in wrong(pti, file, "--set", f'model.pretrained_model="{folder}"')


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"_class_name": "FluxPipeline"}, "to be a pipeline of Stable Diffusion 1.x, 2.x or XL, got FluxPipeline"),
        (None, "cannot be read"),
    ],
)
def test_other_pipelines_are_refused(pti, file, tmp_path, content, message):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_index.json").write_text("{" if content is None else json.dumps(content))
    assert message in wrong(pti, file, "--set", 'model.pretrained_model="other"')


def test_miniworld_is_the_default(sd, tmp_path, monkeypatch):
    """With its weights in place nothing has to be said; the class word comes with the character."""
    import shutil

    root = tmp_path / "weights"
    shutil.copytree(sd, root / "pipeline")
    (root / CHECKSUMS).write_text(json.dumps(digests(root)))
    changes = [c for c in toml_of(configuration("miniworld", tmp_path / "run")).splitlines() if "max_images" not in c]
    (tmp_path / "mini.toml").write_text("\n".join(changes))
    config = read_config(tmp_path / "mini.toml", ("data.resolution=8",))
    run_stages(config, ("invert",), root=root)
    assert read_config(tmp_path / "run").concept.class_word == "dragon"
    assert json.loads((tmp_path / "run" / "record.json").read_text())["data"]["n"] == 6
    assert load_pipeline("miniworld", root=root).source == "miniworld"
