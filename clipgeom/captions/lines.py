"""Text files, line by line, and the checks that a value is a caption, or the id of an image."""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO

from clipgeom.captions.stream import Caption
from clipgeom.errors import CaptionError, ConfigError

__all__ = ["TextLines", "checked_image_id", "checked_text", "decoded_lines", "open_binary"]

_BOM = b"\xef\xbb\xbf"
_SHOWN = 60  # characters of a wrong value in a message


@dataclass(frozen=True, slots=True)
class TextLines:
    r"""A text file, a caption a line. Lines end with ``\n`` or ``\r\n`` and nowhere else."""

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

    Bytes are split before they are decoded: only so can an error name its line, and only so does ``\n`` alone end a
    line (`str.splitlines` also breaks at ``\x0b``, ``\x85`` and U+2028, which captions scraped from the web contain).

    Raises
    ------
    CaptionError
        A line is not UTF-8, or holds NUL characters (a binary file, or UTF-16).
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
    """Return `value` if it is text that can be written as UTF-8.

    Raises
    ------
    CaptionError
        It is not; the message begins with `where`.
    """
    if not isinstance(value, str):
        found = "nothing (null)" if value is None else f"{type(value).__name__}: {value!r:.{_SHOWN}}"
        raise CaptionError(f"{where}: expected a caption (text), found {found}.")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise CaptionError(
                f"{where}: the caption holds half of a surrogate pair, which is not text: {value!a}."
            ) from error
    return value


def checked_image_id(value: object, where: str) -> str | None:
    """Return the id as text, None for a missing one (null, not a number, empty text).

    Whole numbers lose a ``.0``, which tables with gaps give to a column of integers: an image has one id in every
    format.

    Raises
    ------
    CaptionError
        It is neither text nor a whole number; the message begins with `where`.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return checked_text(value, where)
    if isinstance(value, float | Decimal) and value == value // 1:
        return str(int(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise CaptionError(
        f"{where}: expected an image id (text or a whole number), found {type(value).__name__}: {value!r:.{_SHOWN}}."
    )
