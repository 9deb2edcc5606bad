"""The package's weights: locate, verify and load them.

Nothing is written beside them, so a read-only package folder is fine.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clipgeom._extras import clone, install_command, needs_extra
from clipgeom.errors import WeightsError

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

__all__ = ["CHECKSUMS", "Part", "checked_folder", "digests", "load_clip", "load_pipeline", "weights_folder"]

CHECKSUMS = "checksums.json"
Part = Literal["clip", "pipeline", "readers"]


def _restore() -> str:
    """Return the command that restores the weights."""
    folder = clone()
    if folder is not None:
        return f"Get them back: git -C {shlex.quote(str(folder))} checkout -- clipgeom/miniworld/weights"
    return f"Get them back: {install_command('', '--force-reinstall', '--no-deps')}"


def weights_folder() -> Path:
    """Return the folder of all weights, unchecked."""
    return Path(str(files("clipgeom.miniworld") / "weights"))


def checked_folder(part: Part, /, *, root: Path | None = None) -> Path:
    """Return the folder of one part after verifying all of its files.

    Parameters
    ----------
    part : {"clip", "pipeline", "readers"}
        A transformers `CLIPModel` directory; a diffusers `StableDiffusionPipeline` directory; the attribute
        classifiers.
    root : Path, optional
        Folder of weights; by default the package's.

    Raises
    ------
    WeightsError
        A file is missing or has changed; the message names it and the command that restores it.
    """
    root = weights_folder() if root is None else root
    if not root.is_dir():
        raise WeightsError(f"miniworld's weights are not there: {root} does not exist. {_restore()}")
    try:
        expected: dict[str, str] = json.loads((root / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"miniworld's weights are not whole: {root / CHECKSUMS} cannot be read. {_restore()}"
        ) from error
    names = [name for name in expected if name.startswith(f"{part}/")]
    if not names:
        raise WeightsError(f"miniworld's weights have no part {part!r}: {root / CHECKSUMS} lists none. {_restore()}")
    for name in names:
        path = root / name
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise WeightsError(
                f"miniworld's weights are not whole: {path} cannot be read ({error.strerror}). {_restore()}"
            ) from error
        if found != expected[name]:
            raise WeightsError(
                f"miniworld's weights are damaged: {path} has SHA-256 {found[:12]}…, expected {expected[name][:12]}…. "
                f"{_restore()}"
            )
    return root / part


def digests(root: Path, /) -> dict[str, str]:
    """SHA-256 of every file in a folder by relative name, without the list of checksums."""
    paths = sorted(path for path in root.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def load_clip(*, root: Path | None = None) -> tuple[CLIPModel, CLIPTokenizer]:
    """Load miniworld's CLIP, both towers, in float32 and frozen, and its tokenizer.

    Raises
    ------
    WeightsError
        A file is missing or damaged.
    MissingExtraError
        torch or transformers is not installed.
    """
    folder = checked_folder("clip", root=root)
    with needs_extra("report", "loading miniworld's CLIP"):
        import torch
        from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    return model.train(False).requires_grad_(False), tokenizer


def load_pipeline(*, root: Path | None = None) -> Any:
    """Load miniworld's `StableDiffusionPipeline`, in float32; images are 64 × 64.

    Raises
    ------
    WeightsError
        A file is missing or damaged.
    MissingExtraError
        diffusers is not installed.
    """
    folder = checked_folder("pipeline", root=root)
    with needs_extra("pti", "loading miniworld's diffusion model"):
        import torch
        from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    return pipeline.to(torch.float32)  # the argument's name differs between versions
