"""A setting: a dataclass field with its limits and its documentation."""

from __future__ import annotations

from dataclasses import field
from typing import Any

__all__ = ["NEVER", "option"]

NEVER = object()  # it always was a setting


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    example: Any = None,
    before: Any = NEVER,
) -> Any:
    """A field with its documentation and limits: at least `low`, greater than `above`, at most `high`.

    `example` is what the commented file shows for a setting that is off by default. `before` is what runs did before a
    later version made it a setting: with that value they are the same runs, whose checkpoints and results still count.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "low": low,
        "high": high,
        "above": above,
        "example": example,
        "before": before,
    }
    return field(default=default, metadata=metadata)
