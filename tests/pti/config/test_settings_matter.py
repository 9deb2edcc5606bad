"""Every setting changes something, in the stage that reads it (trap 10)."""

import json
from functools import cache

import pytest
import torch

from clipgeom.errors import ConfigError
from pti.config.schema import Config
from pti.config.toml_io import read_config
from pti.runs import checkpoint
from pti.workflow import run_stages
from tests.tiny.runs import configuration, write_pictures

# What the others are compared with: few steps, everything switched on that costs little
BASE = (
    "inversion.steps=2",
    "lora.steps=2",
    "lora.distance_every=1",
    "validation.prompts=[]",
    "data.max_images=2",
    "sampler.num_inference_steps=1",
)

# setting: (what it changes, its value, what has to be set beside it in both runs)
INVERT = {
    "concept.class_word": ("ghost", ()),
    "concept.initializer_token": ("ghost", ()),
    "data.source": ("miniworld:comet", ("concept.class_word=dragon",)),
    "data.instance_prompt": ('"ink {token}"', ()),
    "data.caption_tag_dropout_rate": ("1.0", ()),
    "experimental.prompt_templates": ('["one {token}"]', ("data.caption_tag_dropout_rate=1.0",)),
    "data.max_images": ("3", ()),
    "data.holdout": ("1", ()),
    "data.resolution": ("16", ()),
    "data.resize_mode": ("stretch", ("oblong",)),
    "data.num_random_crops": ("7", ("oblong", "data.resize_mode=random_crop")),
    "data.random_flip": ("true", ()),
    "data.vae_encoding": ("mode", ()),
    "data.latent_refinement_steps": ("9", ()),
    "loss.timestep_sampling": ("uniform", ()),
    "loss.min_timestep": ("50", ()),
    "loss.max_timestep": ("50", ()),
    "loss.min_snr_gamma": ("1.0", ()),
    "loss.noise_offset": ("0.5", ()),
    "inversion.steps": ("3", ()),
    "inversion.batch_size": ("3", ()),
    "inversion.learning_rate": ("0.02", ()),
    "inversion.lr_scheduler": ("linear", ()),
    "inversion.lr_warmup_steps": ("2", ()),
    "inversion.optimizer": ("sgd", ()),
    "inversion.weight_decay": ("0.9", ()),
    "experimental.embedding_norm": ("fixed", ()),
    "experimental.embedding_norm_target": ("table", ("experimental.embedding_norm=fixed",)),
    "experimental.embedding_norm_decay": ("0.5", ("experimental.embedding_norm=decay", "inversion.learning_rate=0.1")),
    "inversion.max_distance": ("0.01", ()),
    "inversion.early_stopping_patience": ("1", ("inversion.early_stopping_min_delta=1.0", "inversion.steps=4")),
    "inversion.early_stopping_min_delta": (
        "1.0",
        (
            "inversion.early_stopping_patience=1",
            "inversion.early_stopping_min_delta=0.0",
            "inversion.steps=4",
            "runtime.seed=2",
        ),
    ),
    "runtime.seed": ("1", ()),
    "runtime.mixed_precision": ("bf16", ()),
    "runtime.gradient_accumulation_steps": ("2", ()),
    "runtime.max_grad_norm": ("1e-4", ("inversion.optimizer=sgd",)),
}
TUNE = {
    "lora.steps": ("3", ()),
    "lora.batch_size": ("3", ()),
    "lora.learning_rate": ("0.02", ()),
    "lora.lr_scheduler": ("linear", ()),
    "lora.lr_warmup_steps": ("2", ()),
    "lora.weight_decay": ("0.9", ()),
    "lora.ema_gamma": ("0", ()),
    "lora.rank": ("3", ()),
    "lora.alpha": ("5.0", ()),
    "data.tag_dropout_max_timestep": ("0", ("data.caption_tag_dropout_rate=1.0",)),
    "lora.target_modules": ('["to_q"]', ()),
    "lora.train_text_encoder": ("true", ()),
    "lora.text_encoder_learning_rate": ("0.02", ("lora.train_text_encoder=true",)),
    "lora.text_encoder_target_modules": ('["q_proj"]', ("lora.train_text_encoder=true",)),
    "lora.max_weight_distance": ("1e-6", ()),
    "lora.max_prediction_distance": ("1e-6", ()),
    "locality.interpolation": ("lerp", ()),
    "locality.weight": ("2.0", ()),
    "experimental.locality_t": ("0.25", ()),
    "experimental.locality_positions": ("placeholder", ()),
    "locality.outside_timesteps": ("none", ("loss.max_timestep=30",)),
    "locality.mix_captions": ("false", ("locality.empty_prompt_fraction=0.0",)),
    "experimental.locality_inputs": ("generated", ()),
    "experimental.locality_num_generated": ("3", ("experimental.locality_inputs=generated",)),
    "locality.empty_prompt_fraction": ("0.0", ()),
    "locality.batch_fraction": ("1", ()),
    "experimental.locality_every": ("2", ()),
    "prior_preservation.weight": ("0.5", ()),
    "prior_preservation.class_images": ("a folder", ("prior_preservation.weight=0.5",)),
    "prior_preservation.class_prompt": ("a drawing of {class}", ("prior_preservation.weight=0.5",)),
    "prior_preservation.num_class_images": ("3", ("prior_preservation.weight=0.5", "lora.batch_size=4")),
    "sampler.guidance_scale": ("1.5", ("experimental.locality_inputs=generated",)),
}
PREVIEWS = {
    "validation.prompts": ('["{token} at night", "{token}"]', ()),
    "validation.images_per_prompt": ("3", ()),
    "validation.every_n_steps": ("1", ()),
    "validation.seed": ("5", ()),
    "sampler.num_inference_steps": ("3", ()),
}
METRICS = {"lora.distance_every": ("2", ())}
ELSEWHERE = {  # what each of these changes has a test of its own, named here
    **dict.fromkeys(
        (
            f"evaluation.{key}"
            for key in ("prompts", "images_per_prompt", "seed", "clip_model", "dino_model", "concept_attributes")
        ),
        "evaluation/test_run.test_settings_of_the_evaluation",
    ),
    **dict.fromkeys(("export.name", "export.dtype"), "evaluation/test_run.test_settings_of_the_export"),
    "model.pretrained_model": "test_other_pipelines",
    "model.revision": "test_what_belongs_to_the_hub",
    "model.variant": "test_what_belongs_to_the_hub",
    "concept.placeholder_token": "test_the_word_itself",
    "concept.num_vectors": "test_several_vectors",
    "data.split": "data/test_dataset.test_a_data_set",
    "loss.unmasked_weight": "training/test_concept_mask.test_both_stages_weigh_places",  # small ones see all places alike
    "data.image_column": "test_columns_of_a_data_set",
    "data.caption_column": "data/test_dataset.test_another_column_of_the_metadata",
    "locality.certificates": "locality/test_certification",
    "locality.allow_uncertified": "locality/test_certification",
    "runtime.device": "test_the_device",
    "runtime.gradient_checkpointing": "test_gradient_checkpointing",
    "runtime.trackers": "test_trackers",
    "output.dir": "test_checkpoints_and_their_folder",
    "output.checkpointing_steps": "test_checkpoints_and_their_folder",
    "output.checkpoints_total_limit": "test_checkpoints_and_their_folder",
}


def test_every_setting_has_its_test():
    named = [*INVERT, *TUNE, *PREVIEWS, *METRICS, *ELSEWHERE]
    assert sorted(named) == sorted(Config().flat())


@pytest.fixture(scope="module")
def outcome(sd, tmp_path_factory):
    """Run both stages with some changes; what came of it. The same changes are run once."""
    root = tmp_path_factory.mktemp("runs")
    oblong = write_pictures(root / "oblong", ("a {token}", "{token} at night"))
    pictures = write_pictures(root / "class", ("a dragon", "dragon at night"))

    @cache
    def run(*changes):
        replaced = [
            (f'data.source="{oblong}"', "concept.class_word=dragon") if change == "oblong" else (change,)
            for change in (c.replace("a folder", f'"{pictures}"') for c in changes)
        ]
        folder = root / str(len(list(root.iterdir())))
        try:
            run_stages(configuration(sd, folder, *BASE, *(c for some in replaced for c in some)), ("invert", "tune"))
        finally:
            from accelerate.state import AcceleratorState, PartialState

            AcceleratorState._reset_state()
            PartialState._reset_state()
        found = {
            stage: checkpoint.load(checkpoint.latest(folder / "checkpoints", stage)).tensors
            for stage in ("invert", "tune")
        }
        found["metrics"] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found["previews"] = {p.name: p.read_bytes() for p in (folder / "previews").glob("*")}
        return found

    return run


def same(a, b):
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", INVERT)
def test_settings_of_stage_one(outcome, name):
    value, beside = INVERT[name]
    assert not same(outcome(*beside)["invert"], outcome(*beside, f"{name}={value}")["invert"])


@pytest.mark.parametrize("name", TUNE)
def test_settings_of_stage_two_change_it_alone(outcome, name):
    value, beside = TUNE[name]
    without, along = outcome(*beside), outcome(*beside, f"{name}={value}")
    assert same(without["invert"], along["invert"])
    assert not same(without["tune"], along["tune"])


@pytest.mark.parametrize("name", PREVIEWS)
def test_settings_of_pictures_change_no_weight(outcome, name):
    value, beside = PREVIEWS[name]
    base = ('validation.prompts=["{token}"]', *beside)
    without, along = outcome(*base), outcome(*base, f"{name}={value}")
    assert without["previews"] != along["previews"]
    assert same(without["tune"], along["tune"])


@pytest.mark.parametrize("name", METRICS)
def test_settings_of_measurements_change_no_weight(outcome, name):
    value, beside = METRICS[name]
    without, along = outcome(*beside), outcome(*beside, f"{name}={value}")
    assert without["metrics"] != along["metrics"]
    assert same(without["tune"], along["tune"])


def test_several_vectors(outcome):
    one, two = outcome(), outcome("concept.num_vectors=2", "concept.class_word=red dragon")
    assert [o["tune"]["rows.0"].shape for o in (one, two)] == [(1, 16), (2, 16)]
    assert (two["tune"]["rows.0"] != two["tune"]["start.0"]).all()
    with pytest.raises(ConfigError, match="is 1 token"):
        outcome("concept.num_vectors=2")


def test_the_word_itself(outcome):
    """Another name for the new word changes what is written in prompts, and nothing that is computed."""
    assert same(outcome()["tune"], outcome("concept.placeholder_token=<other>")["tune"])
    with pytest.raises(ConfigError, match="'knight' is a token"):
        outcome("concept.placeholder_token=knight")


def test_other_pipelines(outcome, sd_v):
    assert not same(outcome()["invert"], outcome(f'model.pretrained_model="{sd_v}"')["invert"])


def test_what_belongs_to_the_hub(outcome, monkeypatch, sd):
    with pytest.raises(ConfigError, match=r"model\.revision applies to a hub id"):
        outcome("model.revision=main")
    with pytest.raises(ConfigError, match=r"has no weights of the variant 'fp16'; leave model\.variant out"):
        outcome("model.variant=fp16")
    from diffusers import DiffusionPipeline

    asked = {}

    def download(name, **settings):
        asked.update(settings, name=name)
        return str(sd)

    monkeypatch.setattr(DiffusionPipeline, "download", download)
    same(outcome()["tune"], outcome("model.pretrained_model=some/pipeline", "model.revision=abc")["tune"])
    assert asked == {"name": "some/pipeline", "revision": "abc", "variant": None, "use_safetensors": True}


def test_columns_of_a_data_set(tmp_path, monkeypatch):
    import datasets

    from pti.data.dataset import read_images

    table = datasets.load_dataset("imagefolder", data_dir=str(write_pictures(tmp_path, ("{token}",))), split="train")
    table = table.rename_column("image", "picture")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    data = read_config(None, ("data.source=somebody/pictures", "data.image_column=picture")).data
    assert len(read_images(data).samples) == 1


def test_the_device(monkeypatch):
    import accelerate

    from pti.training.accelerator import Runtime

    asked = []
    honest = accelerate.Accelerator
    monkeypatch.setattr(accelerate, "Accelerator", lambda **s: asked.append(s["cpu"]) or honest(**s))
    for there in (True, False):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda there=there: there)
        for device in ("cpu", "auto"):
            Runtime(read_config(None, (f"runtime.device={device}",)).runtime)
    assert asked == [True, False, True, True]


def test_half_precision_that_the_device_lacks():
    from pti.training.accelerator import Runtime

    if torch.cuda.is_available():
        pytest.skip("this device has it")
    with pytest.raises(ConfigError, match=r"runtime\.mixed_precision = 'fp16' does not work on the CPU"):
        Runtime(read_config(None, ("runtime.mixed_precision=fp16",)).runtime)


def test_gradient_checkpointing(outcome, monkeypatch):
    """The same numbers, each activation computed twice."""
    import torch.utils.checkpoint as recomputing

    calls = []
    honest = recomputing.checkpoint
    monkeypatch.setattr(recomputing, "checkpoint", lambda *a, **k: calls.append(1) or honest(*a, **k))
    along = outcome("runtime.gradient_checkpointing=true")
    assert calls
    for name, value in outcome()["tune"].items():
        torch.testing.assert_close(along["tune"][name], value, rtol=1e-3, atol=1e-5)


def test_trackers(sd, tmp_path, monkeypatch):
    from accelerate import tracking

    told = []

    class Recorder(tracking.GeneralTracker):
        name, requires_logging_directory, main_process_only = "tensorboard", True, True

        def __init__(self, run_name, logging_dir, **_):
            super().__init__()
            told.append(("init", run_name, logging_dir))

        @property
        def tracker(self):
            return self

        def store_init_configuration(self, values):
            told.append(("config", values["lora.rank"], values["output.dir"]))

        def log(self, values, step, **_):
            told.append((step, sorted(values)))

        def finish(self):
            told.append("finished")

    with pytest.raises(ConfigError, match=r"among .*tensorboard.*; got 'tensorbord'"):
        run_stages(configuration(sd, tmp_path / "run", *BASE, "runtime.trackers=tensorbord"), ("invert",))
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    with pytest.raises(ConfigError, match=r"'wandb', whose package is not installed: .*pip install .*wandb"):
        run_stages(configuration(sd, tmp_path / "run", *BASE, "runtime.trackers=wandb"), ("invert",))
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [tracking.LoggerType.TENSORBOARD])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Recorder)
    run_stages(configuration(sd, tmp_path / "run", *BASE, "runtime.trackers=tensorboard"), ("invert", "tune"))
    assert told[0][:2] == ("init", "pti")
    assert told[1] == ("config", 2, str(tmp_path / "run"))
    assert [entry[0] for entry in told[2:-1]] == [1, 2, 3, 4]
    assert "invert/distance" in told[2][1]
    assert "tune/locality" in told[-2][1]
    assert told[-1] == "finished"


def test_checkpoints_and_their_folder(sd, tmp_path):
    names = {}
    for every, keep in ((2, 1), (1, 1), (1, 3)):
        changes = (
            "inversion.steps=3",
            f"output.checkpointing_steps={every}",
            f"output.checkpoints_total_limit={keep}",
            "validation.prompts=[]",
        )
        folder = run_stages(configuration(sd, tmp_path / f"{every}-{keep}", *changes), ("invert",))
        names[every, keep] = sorted(p.stem for p in (folder / "checkpoints").iterdir())
    assert names == {
        (2, 1): ["invert-0000003"],
        (1, 1): ["invert-0000003"],
        (1, 3): ["invert-0000001", "invert-0000002", "invert-0000003"],
    }
    folder = run_stages(
        configuration(sd, tmp_path / "2-9", *changes[:1], "output.checkpoints_total_limit=9", "validation.prompts=[]"),
        ("invert",),
    )
    assert sorted(p.stem for p in (folder / "checkpoints").iterdir()) == ["invert-0000002", "invert-0000003"]
