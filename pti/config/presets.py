"""Presets: complete settings for a family of models, in the TOML files of ``pti/presets``."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["names_of_presets", "read_preset"]

_FOLDER = files("pti") / "presets"


@cache
def names_of_presets() -> tuple[str, ...]:
    """Names of all presets, sorted."""
    return tuple(sorted(file.name.removesuffix(".toml") for file in _FOLDER.iterdir() if file.name.endswith(".toml")))


def read_preset(name: str) -> dict[str, dict[str, Any]]:
    """Read the settings of a preset by section and name; they are not checked here."""
    return tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
