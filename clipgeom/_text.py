"""Placeholders in prompts, and sanitising of untrusted text (captions, file names, prompts) for terminals and Markdown.

HTML pages are written by jinja2, which escapes every value; YAML is written by a library.
"""

from __future__ import annotations

import re

__all__ = ["CLASS_PLACEHOLDER", "PLACEHOLDER", "code", "markdown", "one_line", "printable"]

# in prompts and captions, the places of the placeholder token and of the class word
PLACEHOLDER = "{token}"
CLASS_PLACEHOLDER = "{class}"

# C0 and C1 control characters (escape sequences of a terminal begin with one), and marks that reorder a line
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LONE = re.compile("[\ud800-\udfff]")  # half of a surrogate pair, which no encoding can write
# all markup within a line; "_" between letters is none
_MARKUP = re.compile(r"[\\`*{}\[\]<>|~$#&@^]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)
_AT_START = re.compile(r"^(\d*)([-+=:.)])")  # lists, rules and headings
_NAMED = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def printable(text: str, /) -> str:
    """Remove control characters and marks of direction, except tabs and line ends; replace what UTF-8 cannot encode."""
    return _LONE.sub("\ufffd", _UNSAFE.sub("", text))


def one_line(text: str, /) -> str:
    """Put a text on one line, with single spaces, without control characters."""
    return " ".join(printable(text).split())


def markdown(text: str, /) -> str:
    """Escape a text for a line or a table cell of Markdown: it has no markup, HTML, link or image, and breaks no table.

    Characters become entities rather than follow a backslash, which dialects treat differently in tables.
    """
    return _AT_START.sub(lambda found: f"{found[1]}&#{ord(found[2])};", _MARKUP.sub(_entity, one_line(text)))


def code(text: str, /) -> str:
    """Format a text as code for Markdown; one that a code span cannot show everywhere becomes plain text."""
    text = one_line(text)
    if not text:
        return ""
    return markdown(text) if any(character in text for character in "`|\\") else f"`{text}`"


def _entity(found: re.Match[str]) -> str:
    return _NAMED.get(found[0], f"&#{ord(found[0])};")
