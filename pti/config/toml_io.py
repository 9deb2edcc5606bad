"""Configuration files: read, check, override from the command line, and write with comments.

TOML has no null. A setting that is off is omitted from the file; ``--set model.revision=`` turns it off.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from clipgeom.errors import ConfigError
from pti.config.former_names import FORMER_SECTIONS, FORMER_SETTINGS, REMOVED_SETTINGS
from pti.config.presets import names_of_presets, read_preset
from pti.config.schema import Config

__all__ = [
    "Config",
    "changed",
    "explained",
    "explanation",
    "read_config",
    "starting_file",
    "toml_of",
    "value_of",
    "written_value",
]


DEFAULT_PRESET = "miniworld"  # for the bundled model of the same name
NO_PRESET = "none"

# What `pti init` writes: at most 30 settings
_STARTING = (
    "model.pretrained_model",
    "concept.placeholder_token",
    "concept.class_word",
    "concept.num_vectors",
    "data.source",
    "data.instance_prompt",
    "data.resolution",
    "data.random_flip",
    "inversion.steps",
    "inversion.batch_size",
    "inversion.learning_rate",
    "lora.steps",
    "lora.batch_size",
    "lora.learning_rate",
    "lora.rank",
    "lora.train_text_encoder",
    "locality.interpolation",
    "locality.weight",
    "locality.certificates",
    "sampler.guidance_scale",
    "validation.prompts",
    "evaluation.prompts",
    "export.dtype",
    "runtime.seed",
    "runtime.mixed_precision",
    "runtime.gradient_checkpointing",
    "output.dir",
)


def read_config(path: str | Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration: values of its preset, then those of a file, then overrides.

    The preset is that of the key ``preset``. Without the key it is ``miniworld`` for the bundled model, and ``none``,
    the plain defaults, for any other model.

    Parameters
    ----------
    path : str or Path, optional
        A TOML file, or a run folder with ``config.toml``.
    overrides : iterable of str
        ``section.key=value``, or ``preset=NAME``; the value is TOML or plain text.

    Raises
    ------
    ConfigError
        The file is missing or not TOML, a section, key or preset is unknown, or a value has the wrong type or is out of
        range.
    """
    raw: dict[str, Any] = {}
    if path is not None:
        file = Path(path)
        file = file / "config.toml" if file.is_dir() else file
        try:
            raw = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if Path(path).is_dir():
                raise ConfigError(f"{path} is no run folder: it holds no config.toml") from None
            raise ConfigError(
                f"there is no configuration {file}; write a commented one with: pti init {file}"
            ) from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} cannot be read as TOML: {error}") from error
    removed: list[str] = []
    for text in overrides:
        removed += _override(raw, text)
    preset = raw.pop("preset", None)
    if preset is None:
        model = raw.get("model")
        named = model.get("pretrained_model") if isinstance(model, Mapping) else None
        preset = DEFAULT_PRESET if named in (None, DEFAULT_PRESET) else NO_PRESET
    return _parse(_merged(_values_of(preset), raw, removed), preset)


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a configuration with other values, by full name such as ``lora.rank``; None turns a setting off.

    Raises
    ------
    ConfigError
        A section or key is unknown, or a value has the wrong type or is out of range.
    """
    raw: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, dot, key = name.partition(".")
        if not (dot and key):
            raise ConfigError(f"a setting is named section.key, such as lora.rank; got {name!r}")
        raw.setdefault(section, {})[key] = list(value) if isinstance(value, tuple) else value
    parsed = _parse(raw, config.preset)
    sections = {
        section: replace(
            getattr(config, section), **{key: getattr(getattr(parsed, section), key) for key in values_of_it}
        )
        for section, values_of_it in raw.items()
    }
    return replace(config, **sections)


def value_of(name: str, written: str) -> Any:
    """Parse the value of a setting from a command line: TOML or plain text; an empty value is None."""
    if not written.strip():
        return None
    try:
        value = tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        value = written.strip()  # plain text needs no quotes on a command line
    section, _, key = name.partition(".")
    hints = {f.name: _hints(Config)[f.name] for f in Config.sections()}
    if section in hints and _hints(hints[section]).get(key) in (str, str | None) and not isinstance(value, str):
        value = written.strip()  # a name that looks like a number
    return value


def explained(preset: str = "miniworld") -> str:
    """Return a TOML file with every setting: its explanation, and its value in a preset."""
    config = _parse(_values_of(preset), preset)
    lines = [
        "# Pivotal tuning: every setting. Delete what you do not change.",
        "",
        f"preset = {written_value(preset)}",
        "",
    ]
    for section in Config.sections():
        values = getattr(config, section.name)
        lines += [f"# {(values.__doc__ or '').strip()}", f"[{section.name}]"]
        for key in fields(values):
            lines += _wrapped(explanation(key))
            lines.append(_line(key, getattr(values, key.name)))
        lines.append("")
    return "\n".join(lines)


def starting_file(preset: str = "miniworld") -> str:
    """Return a TOML file with the settings that most runs change, at most 30, and their values in a preset."""
    config = _parse(_values_of(preset), preset)
    lines = ["# Pivotal tuning: the settings that most runs change. All settings: pti init --all", ""]
    lines += [f"preset = {written_value(preset)}  # values of all settings that are not named here", ""]
    for section in Config.sections():
        names = [name.partition(".")[2] for name in _STARTING if name.startswith(f"{section.name}.")]
        if names:
            lines.append(f"[{section.name}]")
        for name in names:
            key = next(key for key in fields(getattr(config, section.name)) if key.name == name)
            lines.append(f"{_line(key, getattr(getattr(config, section.name), name))}  # {_brief(key)}")
        lines += [""] * bool(names)
    return "\n".join(lines)


def toml_of(config: Config) -> str:
    """Convert a configuration to TOML with every value."""
    lines = [f"preset = {written_value(config.preset)}", ""]
    for section in Config.sections():
        lines.append(f"[{section.name}]")
        values = getattr(config, section.name)
        lines += [
            f"{key.name} = {written_value(value)}"
            for key in fields(values)
            if (value := getattr(values, key.name)) is not None
        ]
        lines.append("")
    return "\n".join(lines)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _parse(raw: Mapping[str, Any], preset: str = NO_PRESET) -> Config:
    sections = {section.name: _hints(Config)[section.name] for section in Config.sections()}
    made = {}
    for name, values in raw.items():
        if name not in sections:
            if name in FORMER_SECTIONS:
                raise ConfigError(_renamed(name, values if isinstance(values, Mapping) else {}))
            raise ConfigError(f"there is no section [{name}]{_close(name, sections)}; there are: {', '.join(sections)}")
        if not isinstance(values, Mapping):
            raise ConfigError(f"{name} is a section of settings, as in [{name}]; got {values!r}")
        keys = {key.name: key for key in fields(sections[name])}
        for key in values:
            if key not in keys:
                if f"{name}.{key}" in FORMER_SETTINGS:
                    raise ConfigError(f"{name}.{key} is now called {FORMER_SETTINGS[f'{name}.{key}']}; use that name")
                if f"{name}.{key}" in REMOVED_SETTINGS:
                    raise ConfigError(f"{name}.{key} was removed: {REMOVED_SETTINGS[f'{name}.{key}']}")
                raise ConfigError(f"[{name}] has no setting {key!r}{_close(key, keys)}; it has: {', '.join(keys)}")
        hints = _hints(sections[name])
        made[name] = sections[name](
            **{key: _checked(f"{name}.{key}", value, hints[key], keys[key]) for key, value in values.items()}
        )
    return Config(preset=preset, **made)


def _renamed(section: str, values: Mapping[str, Any]) -> str:
    """Return the present section and the present names of its settings."""
    keys = [f"{section}.{key}" for key in values]
    moved = [f"{key} as {FORMER_SETTINGS[key]}" for key in keys if key in FORMER_SETTINGS]
    return f"[{section}] is now called [{FORMER_SECTIONS[section]}]" + (f"; write {', '.join(moved)}" if moved else "")


def _checked(name: str, value: Any, kind: Any, key: Field[Any]) -> Any:
    if get_origin(kind) is UnionType:
        kinds = [k for k in get_args(kind) if k is not NoneType]
        if value is None and NoneType in get_args(kind):
            return None
        if len(kinds) > 1:  # a number, or one of some words
            kind, _ = kinds
            if isinstance(value, str):
                if value not in key.metadata["choices"]:
                    known = " or ".join(map(json.dumps, key.metadata["choices"]))
                    raise ConfigError(f"{name} is a number or {known}; got {value!r}")
                return value
        else:
            (kind,) = kinds
    if get_origin(kind) is tuple:
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f'{name} is a list of texts, such as ["a", "b"]; got {value!r}')
        return tuple(value)
    wrong = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{name} is {wrong[kind]}; got {value!r}")
    if isinstance(value, str) and not value.strip():
        raise ConfigError(f"{name} is empty; leave it out to have its default")
    limits = key.metadata
    if limits["choices"] and isinstance(value, str) and value not in limits["choices"]:
        known = ", ".join(limits["choices"])
        raise ConfigError(f"{name} is one of {known}; got {value!r}{_close(str(value), limits['choices'])}")
    low, high, above = limits["low"], limits["high"], limits["above"]
    fits = (low is None or value >= low) and (high is None or value <= high) and (above is None or value > above)
    if not fits or value == math.inf:  # NaN fits nowhere
        bounds = [f"at least {low}"] * (low is not None) + [f"more than {above}"] * (above is not None)
        bounds += [f"at most {high}"] * (high is not None) + ["finite"] * (value == math.inf)
        raise ConfigError(f"{name} is {' and '.join(bounds)}; got {value!r}")
    return value


def _override(raw: dict[str, Any], text: str) -> list[str]:
    """Apply ``section.key=value``; return the names of settings that it turns off."""
    name, equals, written = text.partition("=")
    name = name.strip()
    section, dot, key = name.partition(".")
    if name == "preset" and equals:
        raw["preset"] = written.strip().strip("\"'")
        return []
    if not (equals and dot and key):
        raise ConfigError(f"--set takes section.key=value, such as lora.rank=16; got {text!r}")
    if not written.strip():
        if isinstance(raw.get(section), dict):
            raw[section].pop(key, None)
        _parse({section: {key: None}})
        return [name]
    raw.setdefault(section, {})[key] = value_of(name, written)
    return []


def _values_of(preset: Any) -> dict[str, dict[str, Any]]:
    if preset == NO_PRESET:
        return {}
    if not isinstance(preset, str) or preset not in names_of_presets():
        known = ", ".join((*names_of_presets(), NO_PRESET))
        raise ConfigError(f"preset is one of {known}; got {preset!r}{_close(str(preset), names_of_presets())}")
    return read_preset(preset)


def _merged(preset: Mapping[str, Mapping[str, Any]], raw: Mapping[str, Any], removed: Iterable[str]) -> dict[str, Any]:
    """Values of a file and of overrides over those of a preset, without the preset's value of a setting that was turned off."""
    merged: dict[str, Any] = {name: dict(values) for name, values in preset.items()}
    for name in removed:
        section, _, key = name.partition(".")
        merged.get(section, {}).pop(key, None)
    for name, values in raw.items():
        known = isinstance(values, Mapping) and name in merged
        merged[name] = {**merged[name], **values} if known else values
    return merged


def explanation(key: Field[Any]) -> str:
    """Return the help of a setting with its choices."""
    choices = key.metadata["choices"]
    return key.metadata["help"] + (f" One of {', '.join(choices)}." if len(choices) > 1 else "")


def _line(key: Field[Any], value: Any) -> str:
    """One setting of a written file; one that is off stands in a comment, with an example."""
    return (
        f"# {key.name} = {written_value(key.metadata['example'])}"
        if value is None
        else f"{key.name} = {written_value(value)}"
    )


def _brief(key: Field[Any]) -> str:
    """First sentence of a setting's help."""
    help: str = key.metadata["help"]
    return re.split(r"(?<=[.:;])\s", help, maxsplit=1)[0].rstrip(".:;")


def _wrapped(text: str) -> list[str]:
    import textwrap

    # hyphens are left alone, so that paths stay whole
    return textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)


def written_value(value: Any) -> str:
    """Write a value as TOML."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(written_value(item) for item in value)}]"
    if isinstance(value, float):
        return repr(value) if "e" not in repr(value) or "." in repr(value) else repr(value).replace("e", ".0e")
    return json.dumps(value, ensure_ascii=False)  # TOML's basic strings, numbers and booleans are JSON's


def _close(word: str, known: Iterable[str]) -> str:
    match = get_close_matches(word, list(known), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""
