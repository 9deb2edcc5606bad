"""Plan of a sweep: a base configuration, the settings that vary, and the resulting runs."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from clipgeom.errors import ConfigError
from pti.config.identity import fingerprint
from pti.config.schema import Config, OutputSection
from pti.config.toml_io import changed, read_config, value_of

__all__ = ["Point", "Sweep", "digest_of", "read_together", "read_vary"]

_LONGEST = 100  # digits of the digest in a run's name
# Stage 1 also depends on where it is computed and which checkpoints are kept; its checkpoints do not record these
_OF_INVERSION = ("runtime.device", "output.checkpointing_steps", "output.checkpoints_total_limit")


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes
    ----------
    values : dict
        The run's values of the settings that vary, by full name.
    config : Config
        Every setting; ``output.dir`` is the default, since a run does not depend on its folder.
    label : str
        The settings that vary, in readable form.
    """

    values: dict[str, Any]
    config: Config
    label: str

    @cached_property
    def digest(self) -> str:
        """Digest of every setting but ``output.dir``, which identifies the run."""
        return digest_of({name: value for name, value in self.config.flat().items() if name != "output.dir"})

    @cached_property
    def inversion(self) -> str:
        """Digest of the settings that stage 1 depends on; points with the same digest share their inversion."""
        flat = self.config.flat()
        return digest_of(fingerprint(self.config, "invert") | {name: flat[name] for name in _OF_INVERSION})

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self.label}-{self.digest[:8]}"

    def __str__(self) -> str:
        return ", ".join(f"{name}={_written(value)}" for name, value in self.values.items()) or "the only one"


@dataclass(frozen=True, slots=True)
class Sweep:
    """A base configuration and the settings that vary: the full grid of `vary` and `together`.

    Parameters
    ----------
    base : Config, str or Path, optional
        A configuration, its file, or a run folder; by default the default settings. Its ``output.dir`` is not used.
    overrides : sequence of str
        ``section.key=value`` changes to the base, as for ``--set``.
    vary : mapping of str to sequence
        Values by full name, such as ``{"inversion.learning_rate": [1e-4, 1e-3]}``. Every combination of values is
        run.
    together : sequence of sequences of mappings
        Groups of settings that vary together. Each is a list of mappings with the same keys, such as
        ``[[{"runtime.seed": 0, "data.source": "miniworld:bramble"}, {"runtime.seed": 1, "data.source":
        "miniworld:comet"}]]``.

    Examples
    --------
    >>> plan = Sweep(vary={"inversion.learning_rate": [1e-4, 1e-3], "runtime.seed": range(3)})
    >>> len(plan.points())
    6
    """

    base: Config | str | Path | None = None
    overrides: Sequence[str] = ()
    vary: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    together: Sequence[Sequence[Mapping[str, Any]]] = ()

    @property
    def keys(self) -> list[str]:
        """Full names of the settings that vary."""
        return [*self.vary, *(key for group in self.together for key in (group[0] if len(group) else ()))]

    def points(self) -> list[Point]:
        """Return every run, with its settings checked.

        Raises
        ------
        ConfigError
            A key is unknown, has no values, varies twice or is ``output.dir``; a value is not valid; a run occurs
            twice.
        """
        config = self._config()
        self._check()
        short = _short(self.keys)
        axes: list[list[dict[str, Any]]] = [[{key: _plain(value)} for value in self.vary[key]] for key in self.vary]
        axes += [[{key: _plain(value) for key, value in point.items()} for point in group] for group in self.together]
        for axis in axes:
            for values in axis:  # name the value itself in the error, not the first of the many points that contain it
                _changed(config, values)
        found: dict[str, Point] = {}
        for parts in itertools.product(*axes):
            asked = {key: value for part in parts for key, value in part.items()}
            made = _changed(config, asked)
            flat = made.flat()
            values = {key: flat[key] for key in asked}  # converted to the setting's type: 1 becomes 1.0 for a float
            point = Point(values, made, _label(values, short))
            if point.digest in found:
                raise ConfigError(f"the sweep has the same run twice: {point}; name each value once")
            found[point.digest] = point
        return list(found.values())

    def _config(self) -> Config:
        if isinstance(self.base, Config):
            if self.overrides:
                raise ConfigError(
                    "overrides are for a file or the defaults; change the Config itself, or leave them out"
                )
            config = self.base
        else:
            config = read_config(self.base, self.overrides)
        return replace(config, output=replace(config.output, dir=OutputSection().dir))

    def _check(self) -> None:
        for key, values in self.vary.items():
            if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
                raise ConfigError(f"{key} varies over a list of values; got {values!r}")
            if not len(values):
                raise ConfigError(f"{key} has no values to vary over; give at least one, or leave it out")
        for group in self.together:
            if not len(group) or not group[0]:
                raise ConfigError("a group that varies together is empty; give at least one point, or leave it out")
            for point in group:
                if set(point) != set(group[0]):
                    raise ConfigError(
                        f"points that vary together name the same settings; got {', '.join(group[0])} "
                        f"and {', '.join(point) or 'none'}"
                    )
        twice = [key for key, times in Counter(self.keys).items() if times > 1]
        if twice:
            raise ConfigError(f"{twice[0]} varies twice; name it once, in the grid or in one group")
        if "output.dir" in self.keys:
            raise ConfigError("output.dir cannot vary: a sweep gives each run a folder of its own; leave it out")


def digest_of(content: Any) -> str:
    """Digest of JSON content, independent of key order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_vary(text: str) -> tuple[str, list[Any]]:
    """Parse ``key=value,value`` of a command line; values as for ``--set``, whole numbers also as ``0..4``.

    Raises
    ------
    ConfigError
        The key or the values are missing.
    """
    key, equals, written = text.partition("=")
    key = key.strip()
    if not (equals and key and written.strip()):
        raise ConfigError(f"--vary takes section.key=value,value, such as lora.rank=4,8; got {text!r}")
    values: list[Any] = []
    for part in _split(written, ","):
        span = re.fullmatch(r"\s*(-?\d+)\.\.(-?\d+)\s*", part)
        if span and int(span[1]) <= int(span[2]):
            values += range(int(span[1]), int(span[2]) + 1)
        else:
            values.append(value_of(key, part))
    return key, values


def read_together(text: str) -> list[dict[str, Any]]:
    """Parse ``key=a,b;key=c,d`` of a command line: the first values vary together, then the second, and so on.

    Raises
    ------
    ConfigError
        The lists have different lengths, or one is not valid for `read_vary`.
    """
    lists = [read_vary(part) for part in _split(text, ";")]
    twice = [key for key, times in Counter(key for key, _ in lists).items() if times > 1]
    if twice:
        raise ConfigError(f"--together names {twice[0]} twice; name it once")
    lengths = {key: len(values) for key, values in lists}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{key} has {n}" for key, n in lengths.items())
        raise ConfigError(f"expected --together with the same number of values for each setting; {counts}")
    return [dict(zip(lengths, values, strict=True)) for values in zip(*(values for _, values in lists), strict=True)]


def _split(text: str, at: str) -> list[str]:
    """Split at a character outside brackets and quotes."""
    parts, depth, quote, before = [""], 0, "", ""
    for sign in text:
        if sign == at and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
        if quote:
            quote = "" if sign == quote and before != "\\" else quote
        elif sign in "\"'" and before in ("", "=", ",", ";", "["):
            quote = sign  # an apostrophe within plain text is no quote
        elif sign in "[]":
            depth += 1 if sign == "[" else -1
        before = before if sign == " " else sign
    return parts


def _changed(config: Config, values: Mapping[str, Any]) -> Config:
    try:
        return changed(config, values)
    except ConfigError as error:
        point = ", ".join(f"{name}={_written(value)}" for name, value in values.items())
        raise ConfigError(f"in the sweep, at {point}: {error}") from error


def _plain(value: Any) -> Any:
    """Convert NumPy numbers to Python's, for instance those from `np.logspace`."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value


def _short(keys: Sequence[str]) -> dict[str, str]:
    """Shorten names to their last parts where these differ."""
    last = Counter(key.rpartition(".")[2] for key in keys)
    return {key: key.rpartition(".")[2] if last[key.rpartition(".")[2]] == 1 else key for key in keys}


def _label(values: Mapping[str, Any], short: Mapping[str, str]) -> str:
    text = "-".join(f"{short[key]}={_written(value)}" for key, value in values.items()) or "run"
    return re.sub(r"[^A-Za-z0-9._=+]+", "-", text)[:_LONGEST].strip("-.")


def _written(value: Any) -> str:
    if value is None:
        return "off"
    if isinstance(value, bool):
        return str(value).lower()
    return "+".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
