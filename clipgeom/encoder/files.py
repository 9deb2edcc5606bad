"""Files of an encoder, and its weights under one canonical set of names.

A text tower comes as a `CLIPTextModel`, a `CLIPTextModelWithProjection` or inside a full `CLIPModel`; in one file or
in shards; with or without the prefix ``text_model.``; its tokenizer beside it or, inside a Stable Diffusion
repository, in a folder of its own. This module converts all of them to the same dictionary of tensors. A tower then
has one fingerprint, and a missing tensor is an error instead of random values.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipgeom._networks import read_json
from clipgeom.errors import EncoderError, first_line

if TYPE_CHECKING:
    import torch

__all__ = [
    "MINIWORLD",
    "EncoderFiles",
    "find_files",
    "read_config",
    "read_projection",
    "section",
    "tower_name",
    "weight_files",
]

MINIWORLD = "miniworld"
_PROJECTION = "text_projection.weight"
_INDEX = "model.safetensors.index.json"
_PICKLED = ("pytorch_model*.bin", "*.ckpt", "*.pt", "*.pth", "flax_model.msgpack", "tf_model.h5")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
_MODEL_TYPES = ("clip", "clip_text_model")
_FETCHED = ("config.json", "model.safetensors", "model-*.safetensors", _INDEX)
_FETCHED_TOKENIZER = ("tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True, slots=True)
class EncoderFiles:
    """The folders of one encoder's weights and tokenizer, and the revision they were fetched at (None: local)."""

    weights: Path
    tokenizer: Path
    revision: str | None


def find_files(model: str | Path, *, subfolder: str | None = None, revision: str | None = None) -> EncoderFiles:
    """Find the folders of an encoder in a directory or on the Hub, from which only the needed files are downloaded.

    ``miniworld`` is the encoder of the embedded world, unless a directory of that name lies here.

    Raises
    ------
    EncoderError
        No such directory; a hub that cannot be reached; no weights in safetensors; no tokenizer.
    WeightsError
        The embedded world's weights are missing or damaged.
    """
    local = Path(model).expanduser()
    if str(model) == MINIWORLD and not local.exists():
        if subfolder is not None or revision is not None:
            given = "--subfolder" if subfolder is not None else "--revision"
            raise EncoderError(f"{given} does not apply to {MINIWORLD}: its encoder comes with the package")
        from clipgeom.miniworld.weights import checked_folder

        return _within(checked_folder("clip"), None, None)
    if local.is_dir():
        if revision is not None:
            raise EncoderError(f"--revision applies to a hub id; {local} is a directory")
        return _within(local, subfolder, None)
    if local.exists():
        raise EncoderError(f"{local} is a file; give the directory with config.json and model.safetensors")
    name = str(model)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise EncoderError(
            f"there is no directory {name}; give an existing one or a hub id such as openai/clip-vit-base-patch32"
        )
    root, commit = _fetch(name, subfolder, revision)
    return _within(root, subfolder, commit)


def _fetch(name: str, subfolder: str | None, revision: str | None) -> tuple[Path, str | None]:
    from huggingface_hub import snapshot_download

    inside = f"{subfolder}/" if subfolder else ""
    patterns = [inside + p for p in _FETCHED] + [inside + p for p in _FETCHED_TOKENIZER]
    if not subfolder:
        patterns += ["model_index.json", *(f"text_encoder/{p}" for p in _FETCHED)]
        patterns += [f"tokenizer/{p}" for p in _FETCHED_TOKENIZER]
    elif sibling := _tokenizer_folder(subfolder):
        patterns += [f"{sibling}/{p}" for p in _FETCHED_TOKENIZER]
    try:
        root = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises a dozen unrelated kinds of errors
        raise EncoderError(
            f"{name!r} is no directory here, and fetching it from the hub failed ({first_line(error)}); "
            "check the name and the network, or pass a local directory"
        ) from error
    # the cache stores a snapshot as …/snapshots/<commit>
    return root, root.name if root.parent.name == "snapshots" else revision


def _within(root: Path, subfolder: str | None, revision: str | None) -> EncoderFiles:
    if subfolder is None and not (root / "config.json").is_file() and (root / "text_encoder" / "config.json").is_file():
        subfolder = "text_encoder"  # a pipeline's own folder: the first text encoder is meant
    weights = root / subfolder if subfolder else root
    if not weights.is_dir():
        there = sorted(p.name for p in root.iterdir() if p.is_dir())
        raise EncoderError(f"{root} has no subfolder {subfolder!r}; there are: {', '.join(there) or 'none'}")
    if not (weights / "config.json").is_file():
        raise EncoderError(f"{weights} holds no config.json; it is not a transformers model directory")
    candidates = [weights]
    if sibling := _tokenizer_folder(weights.name):
        candidates.append(weights.parent / sibling)
    if subfolder:
        candidates += [root / "tokenizer", root]
    for folder in candidates:
        if any((folder / name).is_file() for name in _TOKENIZER_FILES):
            return EncoderFiles(weights, folder, revision)
    looked = ", ".join(str(folder) for folder in candidates)
    raise EncoderError(f"no tokenizer (tokenizer.json, or vocab.json with merges.txt) in {looked}")


def _tokenizer_folder(name: str) -> str | None:
    """Name of the tokenizer's folder beside a diffusers pipeline's text encoder, such as tokenizer_2."""
    return name.replace("text_encoder", "tokenizer") if name.startswith("text_encoder") else None


def read_config(folder: Path) -> dict[str, Any]:
    """Read the text tower's configuration as a flat dictionary, extracted from a full model's if nested.

    Raises
    ------
    EncoderError
        Not JSON, or not the configuration of a CLIP model.
    """
    path = folder / "config.json"
    config = read_json(path)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _MODEL_TYPES:
        raise EncoderError(f"{path} describes a {kind!r} model; expected one of {', '.join(_MODEL_TYPES)}")
    if kind == "clip":
        text = section(config, "text_config", path)
        # the full model's projection has the outer dimension; the inner one may be a left-over default
        text["projection_dim"] = config.get("projection_dim", text.get("projection_dim", 512))
        return text
    return config


def section(config: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """Copy one tower's settings out of a full model's; with a section ``…_dict``, which wins, as in transformers.

    Raises
    ------
    EncoderError
        A section is no JSON object.
    """
    inner, later = (config.get(key) for key in (name, f"{name}_dict"))
    for key, value in ((name, inner), (f"{name}_dict", later)):
        if value is not None and not isinstance(value, dict):
            raise EncoderError(
                f"{path}: expected {key} to be an object, got {str(value)[:40]!r}; fetch or save the model again"
            )
    # transformers completes the later section by defaults, which then win as well: nothing of the first is left
    return dict(later if later is not None else inner or {})


def read_projection(folder: Path) -> torch.Tensor | None:
    """Read the text projection, in its stored dtype; None where the model has none.

    Raises
    ------
    EncoderError
        No safetensors, a damaged or missing shard.
    """
    from safetensors import SafetensorError, safe_open

    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                    if _canonical(key) == _PROJECTION:
                        tensor: torch.Tensor = file.get_tensor(key)
                        return tensor
        except (SafetensorError, OSError) as error:
            raise EncoderError(f"{path} cannot be read as safetensors ({error}); fetch or save it again") from error
    return None


def tower_name(key: str) -> str | None:
    """Canonical name of a text tower's tensor without the projection, or None for other tensors."""
    name = _canonical(key)
    return None if name == _PROJECTION else name


def weight_files(folder: Path) -> list[Path]:
    """List a model's safetensors: one, or the shards of its index.

    Raises
    ------
    EncoderError
        There are none, or one is missing.
    """
    whole, index = folder / "model.safetensors", folder / _INDEX
    if whole.is_file():
        return [whole]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise EncoderError(f"{index} is not an index of shards: {error}") from error
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise EncoderError(f"{folder} lacks the shard(s) {', '.join(absent)} that {index.name} names")
        return [folder / name for name in names]
    pickled = sorted(p.name for pattern in _PICKLED for p in folder.glob(pattern))
    if pickled:
        raise EncoderError(
            f"{folder} holds pickled weights only ({', '.join(pickled)}), which can run code and are refused. "
            "Convert them where you trust their source: AutoModel.from_pretrained(folder).save_pretrained(new_folder)"
        )
    raise EncoderError(f"{folder} holds no model.safetensors (nor shards with {_INDEX})")


def _canonical(key: str) -> str | None:
    """Canonical name of a text tower's tensor, or None for other tensors."""
    name = key.removeprefix("clip.").removeprefix("text_model.")
    if name.endswith("position_ids"):
        return None  # a buffer that old versions stored: 0, 1, 2, …
    wanted = name.startswith(("embeddings.", "encoder.", "final_layer_norm."))
    if wanted and "vision_model" not in key:
        return name
    return name if name == _PROJECTION else None
