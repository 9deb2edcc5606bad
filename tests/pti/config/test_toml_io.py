"""Settings: read, checked, overridden, written out; a wrong one is named, and what was meant is guessed."""

import json
import re
from dataclasses import fields, replace

import pytest

from clipgeom.errors import ConfigError
from pti.config.former_names import FORMER_SECTIONS, FORMER_SETTINGS
from pti.config.identity import differences, fingerprint
from pti.config.schema import EARLIER, Config
from pti.config.toml_io import commented, read_config, toml_of


def test_the_commented_file_holds_the_defaults_and_explains_every_setting(tmp_path):
    text = commented()
    (tmp_path / "a.toml").write_text(text, encoding="utf-8")
    assert read_config(tmp_path / "a.toml") == Config() == read_config()
    for name in Config().flat():
        assert re.search(rf"^(# )?{name.split('.')[1]} = ", text, re.MULTILINE), name
    for section in fields(Config):
        for key in fields(section.default):
            assert len(key.metadata["help"]) > 10
    uncommented = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)  # the examples are valid as well
    (tmp_path / "b.toml").write_text(uncommented, encoding="utf-8")
    assert None not in read_config(tmp_path / "b.toml").flat().values()


def test_help_texts_are_short_and_name_no_files_of_the_repository():
    for section in fields(Config):
        for key in fields(section.default):
            text = key.metadata["help"]
            assert not re.search(r"\b(reports|docs|analysis)/", text), key.name
            assert all(len(sentence.split()) <= 25 for sentence in re.split(r"(?<=\.)\s", text)), key.name


def test_help_texts_name_settings_that_exist():
    names = set(re.findall(rf"\b(?:{'|'.join(f.name for f in fields(Config))})\.\w+", commented()))
    assert "inversion.embedding_norm_target" in names
    assert names - {"metadata.jsonl"} <= set(Config().flat())


def test_what_is_written_is_read_back(tmp_path):
    config = read_config(
        None, ("lora.learning_rate=1e-7", 'sampling.prompts=["a \\"b\\"", "é"]', "data.resolution=64", "output.dir=7")
    )
    assert config.lora.learning_rate == 1e-7
    assert config.sampling.prompts == ('a "b"', "é")
    assert config.output.dir == "7"
    (tmp_path / "config.toml").write_text(toml_of(config), encoding="utf-8")
    assert read_config(tmp_path) == config
    assert read_config(tmp_path, ("data.resolution=",)).data.resolution is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lora.rnak=4", r"\[lora\] has no setting 'rnak' \(did you mean 'rank'\?\)"),
        ("lorra.rank=4", r"no section \[lorra\] \(did you mean 'lora'\?\)"),
        ("lora.rank=true", "lora.rank is a whole number; got True"),
        ("lora.rank=2.5", "lora.rank is a whole number; got 2.5"),
        ("lora.rank=0", "lora.rank is at least 1; got 0"),
        ("lora.learning_rate=0", "lora.learning_rate is more than 0"),
        ("lora.learning_rate=nan", "lora.learning_rate is more than 0; got nan"),
        ("lora.learning_rate=inf", "lora.learning_rate is more than 0 and finite; got inf"),
        ("locality.interpolation_t=1.5", "locality.interpolation_t is at least 0 and at most 1; got 1.5"),
        (
            "locality.interpolation=slurp",
            r"locality.interpolation is one of .*; got 'slurp' \(did you mean 'slerp'\?\)",
        ),
        ("data.random_flip=1", "data.random_flip is true or false; got 1"),
        ("lora.target_modules=[1]", "lora.target_modules is a list of texts"),
        ("lora.steps=", "lora.steps is a whole number; got None"),
        ('data.source=""', "data.source is empty; leave it out to have its default"),
        ('output.dir=" "', "output.dir is empty"),
        ("rank=4", "--set takes section.key=value"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        read_config(None, (change,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("inversion.rate=0.1", "inversion.rate is now called inversion.learning_rate; use that name"),
        ("tuning.rate=0.1", "[tuning] is now called [lora]; write tuning.rate as lora.learning_rate"),
        ("tuning.rate=", "[tuning] is now called [lora]; write tuning.rate as lora.learning_rate"),
        ("tuning.rnak=4", "[tuning] is now called [lora]"),
    ],
)
def test_former_names_are_refused_with_the_present_ones(change, message):
    with pytest.raises(ConfigError) as refused:
        read_config(None, (change,))
    assert str(refused.value) == message


def test_former_names_lead_to_settings_that_exist():
    known = Config().flat()
    assert set(FORMER_SETTINGS.values()) <= set(known)
    assert not set(FORMER_SETTINGS) & set(known)
    sections = {name.partition(".")[0] for name in known}
    assert set(FORMER_SECTIONS.values()) <= sections
    assert not set(FORMER_SECTIONS) & sections
    renamed = {name for name in known if name.partition(".")[0] in FORMER_SECTIONS.values()}
    assert renamed <= set(FORMER_SETTINGS.values())


def test_files_that_are_no_configuration(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no configuration .*a\.toml; write a commented one with: pti init"):
        read_config(tmp_path / "a.toml")
    with pytest.raises(ConfigError, match=r"is no run folder: it holds no config\.toml"):
        read_config(tmp_path)
    (tmp_path / "a.toml").write_text("lora = 3")
    with pytest.raises(ConfigError, match="lora is a section"):
        read_config(tmp_path / "a.toml")
    (tmp_path / "a.toml").write_text("[lora\n")
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        read_config(tmp_path / "a.toml")


def test_a_checkpoint_belongs_to_what_its_stage_reads():
    base = Config()
    other = replace(base, lora=replace(base.lora, rank=16))
    assert fingerprint(base, "invert") == fingerprint(other, "invert")
    assert differences(fingerprint(base, "tune"), fingerprint(other, "tune")) == ["lora.rank was 8, is 16"]
    quiet = replace(base, output=replace(base.output, dir="b"), sampling=replace(base.sampling, every_n_steps=0))
    assert fingerprint(base, "tune") == fingerprint(quiet, "tune")


def test_two_processes_with_half_the_batch_are_one_with_all_of_it():
    half = read_config(None, ("inversion.batch_size=2", "lora.batch_size=3"))
    whole = read_config(None, ("inversion.batch_size=4", "lora.batch_size=6"))
    assert fingerprint(half, "tune", processes=2) == fingerprint(whole, "tune")
    assert fingerprint(half, "tune") != fingerprint(whole, "tune")


def test_a_setting_that_came_later_leaves_older_runs_what_they_were(tmp_path):
    others = {
        "loss.unmasked_weight": 0.1,
        "lora.averaging": 1.0,
        "locality.keep_captions_whole": False,
        "lora.text_rate_share": 0.5,
        "locality.outside_timesteps": "class",
        "locality.mix_captions": True,
        "data.prompt_templates": ["one {token}"],
        "data.latent_refinement_steps": 150,
    }
    assert set(others) == set(EARLIER)
    for name, value in EARLIER.items():
        before, now = (read_config(None, [f"{name}={json.dumps(v)}"]) for v in (value, others[name]))
        assert name not in fingerprint(before, "tune")
        assert name in fingerprint(now, "tune")
        told = differences(fingerprint(before, "tune"), fingerprint(now, "tune"))
        assert told == [f"{name} was {json.dumps(value)}, is {json.dumps(others[name])}"]
        key = name.partition(".")[2]
        written = toml_of(now).replace(f"{key} = {json.dumps(others[name])}\n", "")
        (tmp_path / "config.toml").write_text(written, encoding="utf-8")
        assert read_config(tmp_path) == before  # a run folder of then, which holds every setting that there was
