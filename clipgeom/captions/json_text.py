"""Incremental JSON parsing: one value of a large file at a time, and the same rules for all kinds of files."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

__all__ = ["JsonFault", "JsonText", "parse_json"]

_CHUNK = 1 << 18
_LONGEST = 1 << 26  # characters of one value; a caption has a few hundred
_MARGIN = 16  # a literal or a number may go on in the next chunk: -Infinity, 1.5e+300
_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\n\r]*")


class JsonFault(ValueError):
    """Text that is not JSON, or beyond the limits on numbers, depth and length. The message is one clause."""


def _refuse_constant(name: str) -> Any:
    raise JsonFault(f"{name} is not a JSON value; write null for a missing value")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def parse_json(text: str) -> Any:
    """Parse one JSON text.

    Raises
    ------
    JsonFault
        It is not valid, is nested too deeply, or contains an integer with more digits than Python converts.
    """
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise _fault(error) from error


def _fault(error: ValueError | RecursionError) -> JsonFault:
    if isinstance(error, JsonFault):
        return error
    if isinstance(error, json.JSONDecodeError):
        return JsonFault(f"{error.msg} (column {error.colno})" if error.lineno == 1 else error.msg)
    if isinstance(error, RecursionError):
        return JsonFault("lists and objects are nested too deeply")
    return JsonFault("an integer has too many digits")  # the only other ValueError: sys.get_int_max_str_digits()


class JsonText:
    """A JSON file that is read in chunks and parsed value by value.

    Only the value that is being read is in memory, at most 64 million characters. Every method raises `JsonFault` for
    text that is not JSON.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._read = 0  # bytes
        self._ended = False

    def peek(self) -> str:
        """Return the next character that is not white space, "" at the end; it is not taken."""
        if self._at < len(self._text) and self._text[self._at] > " ":  # nearly always
            return self._text[self._at]
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def expect(self, *characters: str) -> str:
        """Take one of these characters and return it."""
        found = self.peek()
        if found not in characters:
            wanted = " or ".join(map(repr, characters))
            raise JsonFault(f"expected {wanted}, found {found!r}" if found else "the file is cut off, or empty")
        self._at += 1
        return found

    def value(self) -> Any:
        """Take the next value."""
        while True:
            if not self.peek():
                raise JsonFault("the file is cut off, or empty")
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                at_end = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _MARGIN
                if at_end and self._more():
                    continue
                raise JsonFault("the file is cut off" if at_end else error.msg) from error
            except (ValueError, RecursionError) as error:
                raise _fault(error) from error
            if end > len(self._text) - _MARGIN and self._more():
                continue
            self._at = end
            return value

    def items(self) -> Iterator[Any]:
        """Take a list, and iterate over its values."""
        self.expect("[")
        if self.peek() == "]":
            self.expect("]")
            return
        yield self.value()
        while self.expect(",", "]") == ",":
            yield self.value()

    def keys(self) -> Iterator[str]:
        """Take an object, and iterate over its keys; the caller takes the value of each before it goes on."""
        self.expect("{")
        if self.peek() == "}":
            self.expect("}")
            return
        while True:
            if self.peek() != '"':
                self.expect('"')
            key: str = self.value()
            self.expect(":")
            yield key
            if self.expect(",", "}") == "}":
                return

    def skip(self) -> None:
        """Take the next value and forget it; of a list, one value at a time is in memory."""
        if self.peek() == "[":
            for _ in self.items():
                pass
        else:
            self.value()

    def _more(self) -> bool:
        """Read another chunk, as long as what is pending: a value over many chunks is not parsed once for each."""
        if self._ended:
            return False
        pending = self._text[self._at :]
        if len(pending) > _LONGEST:
            raise JsonFault(f"a value is longer than {_LONGEST:,} characters")
        data = self._file.read(max(_CHUNK, len(pending)))
        if self._read == 0:
            data = data.removeprefix(_BOM)  # JSON forbids it, and some editors write it
        kept = len(self._decoder.getstate()[0])  # bytes of a character that the last chunk began
        self._ended = not data
        try:
            self._text = pending + self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            place, byte = self._read - kept + error.start + 1, error.object[error.start]
            raise JsonFault(f"byte {place:,} (0x{byte:02x}) is not UTF-8; save the file as UTF-8") from error
        self._at = 0
        self._read += len(data)
        return True
