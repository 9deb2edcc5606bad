"""The reference page of all settings, as Markdown: docs/configuration.md."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any, get_type_hints

from pti.config.presets import names_of_presets
from pti.config.schema import Config
from pti.config.toml_io import explanation, read_config, written_value

__all__ = ["reference"]

_HEAD = """# Settings

This page is generated from the schema ([pti/config](../pti/config)) by `bin/write-configuration`.

A setting is written `key = value` below its `[section]` in a TOML file, or `--set section.key=value` on the command line.
`--set section.key=` turns a setting off.

A key before the first section, `preset = "NAME"`, chooses the values of all settings that the file does not name.
Presets: {presets}, and `none`, the plain defaults. Without it the preset is `miniworld` for the bundled model, and `none`
for any other.

`pti init FILE` writes the settings that most runs change, and `pti init --all FILE` all of them.

{count} settings, and {experimental} under `[experimental]`.
"""


def reference() -> str:
    """Return the page: a section of settings, each with its type, default, value in each preset, and help."""
    plain, presets = Config().flat(), {name: read_config(None, (f"preset={name}",)) for name in names_of_presets()}
    experimental = sum(name.startswith("experimental.") for name in plain)
    head = _HEAD.format(
        presets=", ".join(f"`{name}`" for name in presets), count=len(plain) - experimental, experimental=experimental
    )
    lines = [head]
    for section in Config.sections():
        kind = get_type_hints(Config)[section.name]
        lines += [f"## [{section.name}]", "", (kind.__doc__ or "").strip(), ""]
        for key in fields(kind):
            name = f"{section.name}.{key.name}"
            values = [f"default {_value(plain[name])}"]
            values += [
                f"{preset} {_value(config.flat()[name])}"
                for preset, config in presets.items()
                if config.flat()[name] != plain[name]
            ]
            lines += [f"- **`{key.name}`** ({_kind(key, get_type_hints(kind)[key.name])}; {'; '.join(values)})  "]
            lines += [f"  {explanation(key)}"]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _value(value: Any) -> str:
    return "off" if value is None else f"`{written_value(value)}`"


def _kind(key: Field[Any], hint: Any) -> str:
    """Type and range of a setting."""
    limits = key.metadata
    names = {"int": "whole number", "float": "number", "bool": "true or false", "str": "text", "tuple": "list of texts"}
    text = str(hint).replace("<class '", "").replace("'>", "")
    kind = names["tuple"] if "tuple" in text else names[text.split(" ")[0]]
    if limits["choices"] and "float" in text:
        kind += " or " + " or ".join(f'"{choice}"' for choice in limits["choices"])
    elif limits["choices"]:
        kind = "choice"
    low, high, above = limits["low"], limits["high"], limits["above"]
    bounds = [f"at least {low}"] * (low is not None) + [f"above {above}"] * (above is not None)
    bounds += [f"at most {high}"] * (high is not None)
    return ", ".join([kind, *bounds])
