"""Short representations of results, for a console or a notebook."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

__all__ = ["short_repr"]

C = TypeVar("C", bound=type)

_WIDTH = 100  # characters of a line
_LONGEST = 40  # characters of a text
_NESTED = 2  # fields that are written of a result within a result
_ITEMS = 4  # entries that are written of a tuple or dict


def short_repr(cls: C, /) -> C:
    """Give a dataclass a ``repr`` of a few lines: arrays as shape and dtype, long containers by their length."""
    cls.__repr__ = _repr  # type: ignore[method-assign, assignment]
    return cls


def _repr(self: Any) -> str:
    parts = [f"{field.name}={_value(getattr(self, field.name), 0)}" for field in fields(self)]
    text = f"{type(self).__name__}({', '.join(parts)})"
    return textwrap.fill(text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _value(value: Any, depth: int) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None or isinstance(value, (bool, int)):
        return repr(value)
    if isinstance(value, str):
        return repr(value if len(value) <= _LONGEST else f"{value[: _LONGEST - 1]}…")
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"<{'×'.join(map(str, value.shape)) or 'scalar'} {str(value.dtype).removeprefix('torch.')}>"
    if isinstance(value, Mapping):
        if len(value) <= _ITEMS and all(isinstance(v, (bool, int)) for v in value.values()):
            return "{" + ", ".join(f"{k!r}: {v!r}" for k, v in value.items()) + "}"
        return f"<{len(value)} entries>"
    if isinstance(value, (tuple, list)):
        if len(value) <= _ITEMS and not any(is_dataclass(v) for v in value):
            return "(" + ", ".join(_value(v, depth + 1) for v in value) + ")"
        return f"<{len(value)} entries>"
    if is_dataclass(value) and depth == 0:
        names = [field.name for field in fields(value)]
        parts = [f"{name}={_value(getattr(value, name), depth + 1)}" for name in names[:_NESTED]]
        return f"{type(value).__name__}({', '.join([*parts, *(['…'] if len(names) > _NESTED else [])])})"
    return f"<{type(value).__name__}>"
