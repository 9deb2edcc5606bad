"""Settings: read, checked, overridden, written out; a wrong one is named, and what was meant is guessed."""

import re
from dataclasses import fields, replace

import pytest

from clipgeom.errors import ConfigError
from pti.config.former_names import FORMER_SECTIONS, FORMER_SETTINGS, REMOVED_SETTINGS
from pti.config.identity import differences, fingerprint
from pti.config.presets import names_of_presets, read_preset
from pti.config.schema import Config
from pti.config.toml_io import changed, explained, read_config, starting_file, toml_of


@pytest.mark.parametrize("preset", [*names_of_presets(), "none"])
def test_the_written_files_have_the_values_of_the_preset(tmp_path, preset):
    expected = read_config(None, (f"preset={preset}",))
    assert expected.preset == preset
    text = explained(preset)
    (tmp_path / "a.toml").write_text(text, encoding="utf-8")
    (tmp_path / "short.toml").write_text(starting_file(preset), encoding="utf-8")
    assert read_config(tmp_path / "a.toml") == expected
    assert read_config(tmp_path / "short.toml") == expected
    for name in Config().flat():
        assert re.search(rf"^(# )?{name.split('.')[1]} = ", text, re.MULTILINE), name
    for written in (text, starting_file(preset)):  # the examples are valid as well
        (tmp_path / "b.toml").write_text(re.sub(r"^# (\w+ = )", r"\1", written, flags=re.MULTILINE), encoding="utf-8")
        read_config(tmp_path / "b.toml")
    (tmp_path / "b.toml").write_text(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE), encoding="utf-8")
    assert None not in read_config(tmp_path / "b.toml").flat().values()


def test_the_starting_file_is_short():
    settings = [line for line in starting_file().splitlines() if re.match(r"(# )?\w+ = ", line)]
    assert 20 <= len(settings) <= 30
    assert all("  # " in line for line in settings)


def test_there_are_few_settings():
    names = list(Config().flat())
    experimental = [name for name in names if name.startswith("experimental.")]
    assert len(experimental) <= 10
    assert len(names) - len(experimental) <= 90


def test_the_preset_of_the_bundled_model_is_the_default_when_nothing_is_configured(tmp_path):
    assert read_config().preset == "miniworld"
    assert read_config(None, ("model.pretrained_model=miniworld",)) == read_config()
    plain = read_config(None, ('model.pretrained_model="some/other"',))
    assert plain == changed(Config(), {"model.pretrained_model": "some/other"})
    assert plain.lora.learning_rate == 1e-4
    assert read_config(None, ("preset=none",)) == Config()
    taken = read_config(None, ('model.pretrained_model="some/other"', "preset=miniworld"))
    assert taken.lora.learning_rate == read_config().lora.learning_rate == 4e-3
    (tmp_path / "a.toml").write_text('preset = "miniworld"\n[lora]\nrank = 3\n', encoding="utf-8")
    mine = read_config(tmp_path / "a.toml", ("lora.ema_gamma=", "lora.alpha=2"))
    assert mine == changed(read_config(), {"lora.rank": 3, "lora.ema_gamma": None, "lora.alpha": 2.0})
    with pytest.raises(
        ConfigError, match=r"preset is one of miniworld, none; got 'minworld' \(did you mean 'miniworld'"
    ):
        read_config(None, ("preset=minworld",))


def test_presets_are_complete():
    """Every setting that has a value by default is named, so that a changed default changes no preset."""
    there = {name for name, value in Config().flat().items() if value is not None}
    for preset in names_of_presets():
        named = {f"{section}.{key}" for section, values in read_preset(preset).items() for key in values}
        assert there <= named <= set(Config().flat())


def test_help_texts_are_short_and_name_no_files_of_the_repository():
    for section in Config.sections():
        for key in fields(section.default_factory):
            text = key.metadata["help"]
            assert not re.search(r"\b(reports|docs|analysis)/", text), key.name
            assert all(len(sentence.split()) <= 25 for sentence in re.split(r"(?<=\.)\s", text)), key.name


def test_help_texts_name_settings_that_exist():
    names = set(re.findall(rf"\b(?:{'|'.join(f.name for f in Config.sections())})\.\w+", explained()))
    assert "experimental.embedding_norm_target" in names
    assert names - {"metadata.jsonl"} <= set(Config().flat())


def test_what_is_written_is_read_back(tmp_path):
    config = read_config(
        None, ("lora.learning_rate=1e-7", 'validation.prompts=["a \\"b\\"", "é"]', "data.resolution=64", "output.dir=7")
    )
    assert config.lora.learning_rate == 1e-7
    assert config.validation.prompts == ('a "b"', "é")
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
        ("experimental.locality_t=1.5", "experimental.locality_t is at least 0 and at most 1; got 1.5"),
        ("experimental.locality_t=uniforn", "experimental.locality_t is a number or \"uniform\"; got 'uniforn'"),
        ("experimental.locality_t=true", "experimental.locality_t is a number; got True"),
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
        ("lora.averaging=0.5", "lora.averaging is now called lora.ema_gamma, as 1/averaging - 1; use that name"),
        ("locality.time_drawn=true", 'locality.time_drawn was removed: write experimental.locality_t = "uniform"'),
        (
            "sampling.seed=1",
            "[sampling] is now called [sampler] and [validation]; write sampling.seed as validation.seed",
        ),
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
    assert {name.partition(",")[0] for name in FORMER_SETTINGS.values()} <= set(known)
    assert not {*FORMER_SETTINGS, *REMOVED_SETTINGS} & set(known)
    assert not set(FORMER_SETTINGS) & set(REMOVED_SETTINGS)
    sections = {name.partition(".")[0] for name in known}
    assert {part for name in FORMER_SECTIONS.values() for part in name.split("] and [")} <= sections
    assert not set(FORMER_SECTIONS) & sections


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
    quiet = replace(base, output=replace(base.output, dir="b"), validation=replace(base.validation, every_n_steps=0))
    assert fingerprint(base, "tune") == fingerprint(quiet, "tune")


def test_two_processes_with_half_the_batch_are_one_with_all_of_it():
    half = read_config(None, ("inversion.batch_size=2", "lora.batch_size=3"))
    whole = read_config(None, ("inversion.batch_size=4", "lora.batch_size=6"))
    assert fingerprint(half, "tune", processes=2) == fingerprint(whole, "tune")
    assert fingerprint(half, "tune") != fingerprint(whole, "tune")
