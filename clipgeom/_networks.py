"""Networks of transformers and diffusers, built from checked settings and filled with all of their tensors.

A config.json is not trusted. Only settings that determine a network's function are used, each with a type and a
range. The network is first built without memory and compared with the names and shapes in the safetensors. Only then
is memory allocated. No tensor keeps a random value, and no setting selects code to download.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipgeom.errors import EncoderError, first_line

if TYPE_CHECKING:
    import torch

__all__ = [
    "FLAG",
    "WIDTH",
    "Setting",
    "build",
    "choice",
    "each",
    "integer",
    "number",
    "optional",
    "read_json",
    "require_whole",
    "settings_of",
    "stored",
]

_SHOWN = 3  # names in an error message


@dataclass(frozen=True, slots=True)
class Setting:
    """Allowed values of a setting, in words and as a test."""

    expected: str
    accepts: Callable[[Any], bool]


def integer(low: int, high: int) -> Setting:
    """Accept a whole number from `low` to `high`."""
    return Setting(
        f"a whole number from {low} to {high}",
        lambda x: isinstance(x, int) and not isinstance(x, bool) and low <= x <= high,
    )


def number(low: float, high: float) -> Setting:
    """Accept a number from `low` to `high`."""
    return Setting(
        f"a number from {low:g} to {high:g}",
        lambda x: isinstance(x, int | float) and not isinstance(x, bool) and low <= x <= high,
    )


def choice(*values: str) -> Setting:
    """Accept one of several words."""
    return Setting(f"one of {', '.join(values)}", lambda x: isinstance(x, str) and x in values)


def each(setting: Setting, *, alone: bool = True) -> Setting:
    """Accept a list, at most 64 long, of what `setting` accepts; or, if `alone`, one such value."""
    return Setting(
        f"{setting.expected}, or a list of such" if alone else f"a list, each {setting.expected}",
        lambda x: (
            (alone and setting.accepts(x))
            or (isinstance(x, list | tuple) and 0 < len(x) <= 64 and all(map(setting.accepts, x)))
        ),
    )


def optional(setting: Setting) -> Setting:
    """Accept null as well."""
    return Setting(f"{setting.expected}, or null", lambda x: x is None or setting.accepts(x))


FLAG = Setting("true or false", lambda x: isinstance(x, bool))
WIDTH = integer(1, 2**20)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    EncoderError
        It is absent, not JSON, or no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EncoderError(f"{path} cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise EncoderError(f"{path}: expected a JSON object, got a {type(content).__name__}; fetch or save it again")
    return content


def settings_of(
    content: Mapping[str, Any], known: Mapping[str, Setting], path: Path, *, inside: str = ""
) -> dict[str, Any]:
    """Return the known settings of a file; others are ignored.

    Raises
    ------
    EncoderError
        A value has another type, or lies out of range; the message names file and key.
    """
    found = {key: value for key, value in content.items() if key in known}
    for key, value in found.items():
        if not known[key].accepts(value):
            given = json.dumps(value, ensure_ascii=True)
            raise EncoderError(
                f"{path}: expected {inside}{key} to be {known[key].expected}, got {given[:60]}; fetch or save the model again"
            )
    return found


def build(
    make: Callable[[], torch.nn.Module],
    files: Sequence[Path],
    config: Path,
    *,
    rename: Callable[[str], str | None] = lambda name: name,
    spare: Sequence[str] = (),
) -> Any:
    """Build a network in float32 and fill it from safetensors.

    Parameters
    ----------
    make : callable
        Makes the network.
    files : sequence of Path
        Its safetensors: one, or all shards.
    config : Path
        The file that its settings are from, for messages.
    rename : callable
        The network's name for a stored tensor; None for one that is left out.
    spare : sequence of str
        Tensors that a file may lack: they do not enter what is computed here. They become zero.

    Raises
    ------
    EncoderError
        The settings do not fit each other or the tensors, a tensor is missing, a file is damaged.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with torch.device("meta"):
            network = make()
    except Exception as error:  # constructors of two libraries: whatever they raise comes from the settings
        raise EncoderError(f"{config} describes no network that can be built: {first_line(error)}") from error
    wanted = network.state_dict()
    with torch.no_grad():
        try:
            opened: list[Any] = [safe_open(path, framework="pt") for path in files]
            stored = {
                name: (file, key)
                for file in opened
                for key in file.keys()  # noqa: SIM118 - safe_open is no mapping
                if (name := rename(key)) is not None
            }
            _compare(wanted, {n: tuple(f.get_slice(k).get_shape()) for n, (f, k) in stored.items()}, config, spare)
            network.to_empty(device="cpu")
            filled = network.state_dict()
            for name, tensor in filled.items():
                if name in stored:
                    file, key = stored[name]
                    tensor.copy_(file.get_tensor(key))
                else:
                    tensor.zero_()
        except (SafetensorError, OSError) as error:
            raise EncoderError(
                f"{config.parent}: the weights cannot be read as safetensors ({first_line(error)}); fetch or save them again"
            ) from error
        for name, buffer in network.named_buffers():
            if name in filled:
                continue
            if not name.endswith("position_ids"):
                raise EncoderError(
                    f"{config.parent}: no values are stored for the buffer {name}; fetch or save it again"
                )
            buffer.copy_(torch.arange(buffer.numel()).view_as(buffer))
    return network.float().eval().requires_grad_(False)


def _compare(
    wanted: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], config: Path, spare: Sequence[str]
) -> None:
    folder = config.parent
    require_whole(folder, set(wanted) - set(shapes) - set(spare), set(shapes) - set(wanted))
    for name, shape in shapes.items():
        if shape != tuple(wanted[name].shape):
            raise EncoderError(
                f"{folder}: {name} has shape {shape}, {config.name} asks for {tuple(wanted[name].shape)}; "
                "fetch or save the model again"
            )


def require_whole(folder: Path, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Refuse weights that lack tensors of the network, or have others.

    Raises
    ------
    EncoderError
        Naming a few of them.
    """
    if absent := sorted(missing):
        raise EncoderError(f"{folder} lacks {len(absent)} tensor(s): {_named(absent)}; fetch or save the model again")
    if extra := sorted(unexpected):
        raise EncoderError(
            f"{folder} has {len(extra)} tensor(s) that config.json has no place for: {_named(extra)}; "
            "fetch or save the model again"
        )


def stored(files: Sequence[Path]) -> int:
    """Count the numbers that some safetensors contain, from their headers alone.

    Raises
    ------
    EncoderError
        A file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    total = 0
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                total += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise EncoderError(f"{path} cannot be read as safetensors ({error}); fetch or save it again") from error
    return total


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
