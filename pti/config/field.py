"""A setting: a dataclass field with its limits and its documentation."""

from __future__ import annotations

from dataclasses import field
from typing import Any

__all__ = ["option"]


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    example: Any = None,
) -> Any:
    """Make a field with its documentation and limits: at least `low`, greater than `above`, at most `high`.

    `example` is the value in a commented file for a setting that is off by default.
    """
    metadata = {"help": help, "choices": choices, "low": low, "high": high, "above": above, "example": example}
    return field(default=default, metadata=metadata)
