"""Arrays in one line of text: kind, shape, mean, norm and a hash of their bytes."""

import hashlib
import re

import numpy as np

_HASH = re.compile(r"[0-9a-f]{64}")


def digest(array):
    """For example ``float32[2,3] 0.5 1.25 9f86d081884c7d65``."""
    array = np.ascontiguousarray(array)
    values = array.astype(np.float64).ravel()
    mean, norm = (float(values.mean()), float(np.linalg.norm(values))) if values.size else (0.0, 0.0)
    shape = ",".join(map(str, array.shape))
    return f"{array.dtype}[{shape}] {mean:.9g} {norm:.9g} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"


def tensors_of(path):
    """Digests of the tensors in a safetensors file by name; without those whose name is the hash of settings."""
    from safetensors.numpy import load_file

    return {name: digest(tensor) for name, tensor in sorted(load_file(path).items()) if not _HASH.fullmatch(name)}


def header_of(path):
    """The metadata of a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return file.metadata() or {}


def picture_of(path):
    """Digest of a picture's pixels."""
    from PIL import Image

    with Image.open(path) as picture:
        return digest(np.asarray(picture))


def parsed(text):
    """Kind with shape, number of values, mean and norm of a digest; None of any other text."""
    found = re.fullmatch(r"(\w+\[([\d,]*)\]) (\S+) (\S+) [0-9a-f]{16}", text)
    if found is None:
        return None
    kind, shape, mean, norm = found.groups()
    return kind, int(np.prod([int(side) for side in shape.split(",") if side])), float(mean), float(norm)
