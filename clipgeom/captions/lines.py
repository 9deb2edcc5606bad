"""Text files with a caption per line, and checks of captions and image ids."""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO

from clipgeom.captions.stream import Caption
from clipgeom.errors import CaptionError, ConfigError

__all__ = ["TextLines", "checked_image_id", "checked_text", "decoded_lines", "open_binary", "usable_id"]

_BOM = b"\xef\xbb\xbf"
_SHOWN = 60  # characters of a wrong value in a message
_EXACT = 2**53  # beyond it, a float is no longer one whole number


@dataclass(frozen=True, slots=True)
class TextLines:
    r"""A text file with a caption per line. Lines end with ``\n`` or ``\r\n`` only."""

    path: Path

    @property
    def description(self) -> str:
        """The path."""
        return str(self.path)

    def rows(self) -> Generator[Caption, None, None]:
        """Read the lines; the id of a caption is the number of its line, from 1."""
        with open_binary(self.path) as file:
            for number, line in enumerate(decoded_lines(file, self.description), 1):
                yield Caption(str(number), line)


def open_binary(path: Path) -> BinaryIO:
    """Open a file for reading, with an error that names it.

    Raises
    ------
    ConfigError
        The file cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise ConfigError(f"{path} cannot be opened: {error.strerror}.") from error


def decoded_lines(file: BinaryIO, where: str) -> Iterator[str]:
    r"""Decode UTF-8 text line by line, without a byte order mark, line ends kept.

    Bytes are split before they are decoded, so that an error can name its line and only ``\n`` ends a line.
    `str.splitlines` also breaks at ``\x0b``, ``\x85`` and U+2028, which captions scraped from the web contain.

    Raises
    ------
    CaptionError
        A line is not UTF-8, or contains NUL characters (a binary file, or UTF-16).
    """
    for number, line in enumerate(file, 1):
        if number == 1:
            line = line.removeprefix(_BOM)
        if b"\x00" in line:
            raise CaptionError(
                f"{where}, line {number}: found a NUL character where text was expected; the file is binary or UTF-16; "
                "save it as UTF-8."
            )
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise CaptionError(
                f"{where}, line {number}: byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not UTF-8; "
                "save the file as UTF-8."
            ) from error


def checked_text(value: object, where: str) -> str:
    """Return `value` if it is text that can be written as UTF-8, "" for a missing one (null, not a number).

    Raises
    ------
    CaptionError
        It is something else, or contains NUL or half of a surrogate pair; the message begins with `where`.
    """
    if _missing(value):
        return ""
    if not isinstance(value, str):
        raise CaptionError(f"{where}: expected a caption (text), found {type(value).__name__}: {_shown(value)}.")
    if not is_text(value):
        fault = "a NUL character" if "\x00" in value else "half of a surrogate pair"
        raise CaptionError(f"{where}: the caption contains {fault}, which is not text: {_shown(value)}; repair it.")
    return value


def checked_image_id(value: object, where: str) -> str | None:
    """Return the id as text, None for a missing one (null, not a number, empty text).

    Raises
    ------
    CaptionError
        It is neither text nor a whole number; the message begins with `where`.
    """
    if value == "" or _missing(value):
        return None
    identifier = usable_id(value)
    if identifier is None:
        raise CaptionError(
            f"{where}: expected an image id (text or a whole number), found {type(value).__name__}: {_shown(value)}."
        )
    return identifier


def usable_id(value: object) -> str | None:
    """Return an id as text, None for values that cannot be ids.

    Whole numbers lose a ``.0``, which tables with gaps give to a column of integers: an image has one id in every
    format.
    """
    if isinstance(value, int):
        return None if isinstance(value, bool) else str(value)
    if isinstance(value, str):
        return value if value and is_text(value) else None
    if isinstance(value, Decimal):
        value = float(value) if value.is_finite() else math.nan
    if isinstance(value, float):
        return str(int(value)) if abs(value) < _EXACT and value.is_integer() else None
    return None


def is_text(value: str) -> bool:
    """Whether text can be written as UTF-8 without NUL."""
    if "\x00" in value:
        return False
    try:
        value.isascii() or value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _shown(value: object) -> str:
    """Return the beginning of a wrong value, for a message."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
