"""Safetensors files of a run, with a digest over their tensors and header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["packed", "unpacked"]

_KEY = "pti"
_SEAL = "sha256"


def packed(tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> bytes:
    """Serialise tensors and a header, which is written as JSON, to the content of a file."""
    from safetensors.torch import save

    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    content = json.loads(json.dumps(header))
    return save(plain, {_KEY: json.dumps({**content, _SEAL: _digest(plain, content)}, sort_keys=True)})


def unpacked(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read tensors and header of a file written by `packed`.

    Raises
    ------
    FileNotFoundError
    ValueError
        The file is damaged, or was not written by `packed`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, TypeError, KeyError, RuntimeError) as error:
        raise ValueError(str(error)) from error
    seal = header.pop(_SEAL, None) if isinstance(header, dict) else None
    if seal is None:
        raise ValueError("it has no digest")
    if seal != _digest(tensors, header):
        raise ValueError("its digest does not fit its content")
    return tensors, header


def _digest(tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> str:
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        found.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
