"""Texts of strangers (captions, file names, names of models) made safe to show."""

from __future__ import annotations

import re

__all__ = ["one_line", "printable"]

# C0 and C1 control characters (escape sequences of a terminal begin with one), and marks that reorder a line
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LONE = re.compile("[\ud800-\udfff]")  # half of a surrogate pair: no encoding can write it


def printable(text: str, /) -> str:
    """Remove control characters and marks of direction, except tabs and line ends; replace what UTF-8 cannot encode."""
    return _LONE.sub("\ufffd", _UNSAFE.sub("", text))


def one_line(text: str, /) -> str:
    """Put a text on one line, with single spaces, without control characters."""
    return " ".join(printable(text).split())
