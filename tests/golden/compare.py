"""Two collections of golden values beside each other."""

import math
import re

from .digests import parsed

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.])")


def differences(stored, found, *, rtol=None, path=""):
    """A line for each value that differs; numbers and digests by a tolerance, if there is one."""
    if isinstance(stored, dict) and isinstance(found, dict):
        lines = []
        for key in [*stored, *(key for key in found if key not in stored)]:
            place = f"{path}/{key}"
            if key not in found:
                lines.append(f"{place} is gone; it was {_short(stored[key])}")
            elif key not in stored:
                lines.append(f"{place} is new: {_short(found[key])}")
            else:
                lines += differences(stored[key], found[key], rtol=rtol, path=place)
        return lines
    if isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        pairs = enumerate(zip(stored, found, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, rtol=rtol, path=f"{path}/{i}")]
    if same(stored, found, rtol):
        return []
    return [f"{path} was {_short(stored)}, is {_short(found)}"]


def same(stored, found, rtol):
    """Whether two values are equal, or near each other where there is a tolerance."""
    if type(stored) is type(found) and stored == found:
        return True
    if rtol is None:
        return False
    if isinstance(stored, float) and isinstance(found, int | float) and not isinstance(found, bool):
        return math.isclose(stored, found, rel_tol=rtol, abs_tol=rtol * 1e-3)
    if not (isinstance(stored, str) and isinstance(found, str)):
        return False
    if parsed(stored) and parsed(found):
        return _near(parsed(stored), parsed(found), rtol)
    return _near_text(stored, found, rtol)


def _near_text(stored, found, rtol):
    """The same words; a number may differ by one in its last place, where it was rounded to the other side."""
    words, words_now = _NUMBER.split(stored), _NUMBER.split(found)
    numbers, numbers_now = _NUMBER.findall(stored), _NUMBER.findall(found)
    if words != words_now:
        return False
    places = (10.0 ** -len(number.partition(".")[2]) if "." in number else 0.0 for number in numbers)
    pairs = zip(numbers, numbers_now, places, strict=True)
    return all(math.isclose(float(a), float(b), rel_tol=rtol, abs_tol=1.001 * place) for a, b, place in pairs)


def _near(stored, found, rtol):
    (kind, n, mean, norm), (kind_now, _, mean_now, norm_now) = stored, found
    size = norm / math.sqrt(n) if n else 0.0  # a mean may be zero by chance
    if kind.startswith("uint8"):  # pictures: a value may be rounded to the other side
        size, norm, norm_now, rtol = 1.0, size, norm_now / math.sqrt(n), max(rtol, 0.01)
    return kind == kind_now and abs(mean - mean_now) <= rtol * size and math.isclose(norm, norm_now, rel_tol=rtol)


def _short(value, limit=120):
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
