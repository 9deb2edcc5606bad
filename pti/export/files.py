"""Export files for other tools: the embedding, and the LoRA in diffusers' and kohya's formats.

Embedding
    One safetensors file. For SD 1.x and 2.x it contains one tensor ``{token: (n, dim)}``:
    `load_textual_inversion(path)` of diffusers, ComfyUI (``embedding:file_name``) and A1111 (the file's name) load it
    unchanged. For SDXL it contains ``clip_l`` and ``clip_g``: ComfyUI and A1111 load that unchanged; diffusers loads
    the two tensors one after the other, as `add_embedding` does. The vectors of a token are called ``<tok>``,
    ``<tok>_1``, … in diffusers, and a prompt contains ``<tok>`` only.
LoRA
    ``pytorch_lora_weights.safetensors`` with diffusers' names, for `load_lora_weights`, and a file with kohya's names
    for ComfyUI, A1111 and the rest, which `load_lora_weights` reads too. `pti.export.lora_formats` gives the reasons
    for the names.

The same weights and metadata give the same bytes, and files are written atomically.

A warning for SDXL: its published configurations contain ``eos_token_id = 2``, for which transformers pools at the
*highest* id rather than at the end of the text. An added token has the highest id of all. The trainer, ComfyUI and
A1111 pool at the end of the text. A diffusers pipeline does so after `load_textual_inversion` only if `pool_at_eos`
is called. SD 1.x and 2.x use no pooled text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from clipgeom._extras import needs_extra
from clipgeom._io.files import check_name, replacing
from clipgeom._io.safetensors import save_tensors
from clipgeom._text import printable
from clipgeom.errors import ConfigError, DomainError, ShapeError
from pti.export.lora_formats import Adapter, Component, absent_output, common_alpha, diffusers_tensors, kohya_tensors

if TYPE_CHECKING:
    import torch

__all__ = [
    "DIFFUSERS_FILE",
    "SDXL_KEYS",
    "LoraFiles",
    "add_embedding",
    "export_name",
    "pool_at_eos",
    "read_embedding",
    "save_embedding",
    "save_lora",
]

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
SDXL_KEYS = ("clip_l", "clip_g")  # keys of the first and the second text encoder

_MISREAD = ("scheduler", "optimizer", "checkpoint")  # diffusers ignores files with these words in their names
_COMPONENTS: tuple[Component, ...] = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True, slots=True)
class LoraFiles:
    """The two files that `save_lora` writes."""

    diffusers: Path
    kohya: Path


def save_embedding(
    path: str | Path,
    token: str,
    vectors: Any,
    /,
    *,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Write the vectors of a token to one safetensors file, in float32.

    Parameters
    ----------
    path : str or Path
        The file's name is the embedding's name in ComfyUI and A1111.
    token : str
        Its name in prompts.
    vectors : array, shape (n, dim), or mapping of two
        The vectors of the only text encoder; for SDXL ``{"clip_l": (n, dim), "clip_g": (n, dim_2)}``.
    metadata : mapping, optional
        Written to the file's header; values that are not strings as JSON.

    Raises
    ------
    ShapeError
        The shape is not (n, dim), or the text encoders have different numbers of vectors.
    DomainError
        A value is NaN or infinite.
    ConfigError
        The token is not valid, or a key is neither ``clip_l`` nor ``clip_g``.
    """
    _check_token(token)
    if isinstance(vectors, Mapping):
        if set(vectors) != set(SDXL_KEYS):
            raise ConfigError(f"expected the vectors of {' and '.join(SDXL_KEYS)}, got {', '.join(map(str, vectors))}")
        tensors = {key: _matrix(vectors[key], key) for key in SDXL_KEYS}
    else:
        tensors = {token: _matrix(vectors, token)}
    counts = {key: len(array) for key, array in tensors.items()}
    if len(set(counts.values())) != 1:
        raise ShapeError(f"expected as many vectors for either text encoder, got {counts}")
    header = {"token": token, "vectors": next(iter(counts.values())), **(metadata or {})}
    _write(Path(path), tensors, header)
    return Path(path)


def read_embedding(path: str | Path, /) -> tuple[str, dict[str, NDArray[np.float32]]]:
    """Read the token of an embedding file, and its tensors by key.

    Raises
    ------
    ConfigError
        The file cannot be read, or is not an embedding.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as an embedding: {error}") from error
    if set(tensors) != set(SDXL_KEYS) and len(tensors) != 1:
        raise ConfigError(
            f"expected {path} to be an embedding with one tensor, or with clip_l and clip_g; got {len(tensors)} tensors"
        )
    token = metadata.get("token") or next(iter(tensors))
    return token, tensors


def add_embedding(pipeline: Any, path: str | Path, /, *, token: str | None = None) -> str:
    """Load an embedding file into all text encoders of a diffusers pipeline; return its token.

    Parameters
    ----------
    pipeline : StableDiffusionPipeline or StableDiffusionXLPipeline
    path : str or Path
    token : str, optional
        Another name for it.

    Raises
    ------
    ConfigError
        The file is for a pipeline with another number of text encoders.
    """
    import torch

    named, tensors = read_embedding(path)
    token = named if token is None else token
    double = getattr(pipeline, "text_encoder_2", None) is not None
    if double != (set(tensors) == set(SDXL_KEYS)):
        raise ConfigError(
            f"{path} contains vectors for {len(tensors)} text encoder(s), {type(pipeline).__name__} has {2 if double else 1}"
        )
    suffixes = ("", "_2") if double else ("",)
    for suffix, array in zip(suffixes, (tensors[k] for k in (SDXL_KEYS if double else tensors)), strict=True):
        pipeline.load_textual_inversion(
            torch.from_numpy(array.copy()),
            token=token,
            tokenizer=getattr(pipeline, f"tokenizer{suffix}"),
            text_encoder=getattr(pipeline, f"text_encoder{suffix}"),
        )
    pool_at_eos(pipeline)
    return token


def pool_at_eos(pipeline: Any, /) -> None:
    """Make every text encoder of a pipeline pool at its tokenizer's EOS, whatever the configuration."""
    for suffix in ("", "_2"):
        encoder, tokenizer = (getattr(pipeline, f"{name}{suffix}", None) for name in ("text_encoder", "tokenizer"))
        if encoder is None or tokenizer is None:
            continue
        for module in encoder.modules():
            if hasattr(module, "eos_token_id"):
                module.eos_token_id = tokenizer.eos_token_id


def save_lora(
    folder: str | Path,
    unet: torch.nn.Module,
    text_encoders: Sequence[torch.nn.Module] = (),
    /,
    *,
    name: str = "lora",
    adapter: str | None = None,
    precision: Literal["float32", "float16"] = "float32",
    metadata: Mapping[str, object] | None = None,
) -> LoraFiles:
    """Write the LoRA of PEFT-adapted networks under diffusers' names and under kohya's.

    Parameters
    ----------
    folder : str or Path
        Created if missing.
    unet : Module
        With or without adapters.
    text_encoders : sequence of Module
        In the pipeline's order: both for SDXL. Those without adapters are ignored.
    name : str
        Name of kohya's file without its ending, which is the LoRA's name in ComfyUI and A1111.
    adapter : str, optional
        Name of the adapter if there are several.
    precision : {"float32", "float16"}
        Dtype of the files.
    metadata : mapping, optional
        Written to the headers; values that are not strings as JSON.

    Raises
    ------
    ConfigError
        There is no adapter, or several and none is named; it is of a kind without a format (DoRA, biases); diffusers
        would ignore the file name.
    DomainError
        A weight is NaN or infinite, or overflows in float16.
    """
    file_name = _file_name(name)
    if len(text_encoders) > len(_COMPONENTS):
        raise ConfigError(f"expected at most {len(_COMPONENTS)} text encoders, got {len(text_encoders)}")
    if precision not in ("float32", "float16"):
        raise ConfigError(f"unknown precision {precision!r}; use float32 or float16")
    modules: dict[Component, torch.nn.Module] = {"unet": unet, **dict(zip(_COMPONENTS, text_encoders, strict=False))}
    chosen = _adapter_name(modules.values(), adapter)
    collected = {component: _collect(module, chosen) for component, module in modules.items()}
    sdxl = len(text_encoders) > 1 or getattr(getattr(unet, "config", None), "addition_embed_type", None) == "text_time"

    plain: dict[str, NDArray[Any]] = {}
    kohya: dict[str, NDArray[Any]] = {}
    for component, adapters in collected.items():
        plain |= diffusers_tensors(component, adapters)
        if component != "unet" and (absent := absent_output(adapters)):
            adapters = {**adapters, absent: _zeros(modules[component], absent, adapters)}
        kohya |= kohya_tensors(component, adapters, sdxl=sdxl)
    first = next(adapters for adapters in collected.values() if adapters)
    header = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": max(set(ranks := [a.rank for a in first.values()]), key=ranks.count),
        "ss_network_alpha": common_alpha(first),
        **(metadata or {}),
    }
    files = LoraFiles(Path(folder) / DIFFUSERS_FILE, Path(folder) / file_name)
    _write(files.diffusers, _cast(plain, precision), metadata or {})
    _write(files.kohya, _cast(kohya, precision), header)
    return files


def _adapter_name(modules: Iterable[torch.nn.Module], adapter: str | None) -> str:
    with needs_extra("pti", "exporting a LoRA"):
        from peft.tuners.lora import LoraLayer

    there = sorted(
        {
            name
            for module in modules
            for layer in module.modules()
            if isinstance(layer, LoraLayer)
            for name in layer.lora_A
        }
    )
    if not there:
        raise ConfigError("there is no LoRA to export: none of the networks has an adapter of PEFT")
    if adapter is None and len(there) > 1:
        raise ConfigError(f"there are several adapters ({', '.join(there)}); name the one to export")
    if adapter is not None and adapter not in there:
        raise ConfigError(f"there is no adapter {adapter!r}; there are: {', '.join(there)}")
    return there[0] if adapter is None else adapter


def _collect(module: torch.nn.Module, adapter: str) -> dict[str, Adapter]:
    from peft.tuners.lora import LoraLayer

    found: dict[str, Adapter] = {}
    for full, layer in module.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        name = full.removeprefix("base_model.model.")
        if adapter in layer.lora_embedding_A:
            raise ConfigError(f"the LoRA of {name} is that of an embedding, which neither format supports")
        if adapter not in layer.lora_A:
            continue
        down, up = layer.lora_A[adapter], layer.lora_B[adapter]
        if adapter in layer.lora_variant or layer.lora_bias.get(adapter):
            raise ConfigError(
                f"the adapter of {name} is more than a LoRA (DoRA, a bias, …), which neither format supports"
            )
        arrays = [_numbers(part.weight, f"{name}.{side}") for part, side in ((down, "lora_A"), (up, "lora_B"))]
        found[name] = Adapter(arrays[0], arrays[1], float(layer.scaling[adapter]))
    return found


def _zeros(module: torch.nn.Module, name: str, others: Mapping[str, Adapter]) -> Adapter:
    """A zero adapter for one linear module, with the rank and scale of the others."""
    layer = next(m for full, m in module.named_modules() if full.removeprefix("base_model.model.") == name)
    like = next(iter(others.values()))
    columns, rows = int(layer.in_features), int(layer.out_features)
    return Adapter(np.zeros((like.rank, columns), np.float32), np.zeros((rows, like.rank), np.float32), like.scale)


def export_name(name: str | None, token: str, /) -> str:
    """File name stem of an export: the given name, or the token without its brackets.

    Raises
    ------
    ConfigError
        The name is not a valid file name, is that of the file for diffusers, or would be ignored by diffusers; the
        token is not valid.
    """
    _check_token(token)
    chosen = token.strip("<>[]{} ") if name is None else name
    try:
        for file in (chosen, f"{chosen}_lora"):
            _file_name(file if chosen else "")
    except ConfigError as error:
        raise ConfigError(f"{error}; see export.name") from error
    return chosen


def _check_token(token: str) -> None:
    if not token or any(character.isspace() for character in token) or printable(token) != token:
        raise ConfigError(f"{token!r} cannot be a token: it must be one word, without control characters")
    if token in SDXL_KEYS:
        raise ConfigError(f"{token!r} cannot be a token: embedding files of SDXL use it as a key")


def _file_name(name: str) -> str:
    if not name or Path(name).name != name or any(word in name for word in _MISREAD):
        raise ConfigError(
            f"{name!r} cannot name a LoRA file: expected a plain file name without {', '.join(_MISREAD)} in it, "
            "which diffusers ignores"
        )
    if printable(name) != name:
        raise ConfigError(f"{name!r} cannot name a file: it contains control characters")
    file = f"{name}.safetensors"
    if file.casefold().endswith(DIFFUSERS_FILE):
        raise ConfigError(f"{name!r} is the name of the file for diffusers; choose another")
    check_name(Path(file))
    return file


def _matrix(vectors: Any, name: str) -> NDArray[np.float32]:
    array = _numbers(vectors, f"the vectors of {name}")
    if array.ndim != 2 or not array.size:
        raise ShapeError(f"expected the vectors of {name} as (n, dim) with n ≥ 1, got {array.shape}")
    return array


def _numbers(values: Any, name: str) -> NDArray[np.float32]:
    """Convert a tensor or array to float32; every number must be finite."""
    if hasattr(values, "detach"):
        values = values.detach().to(device="cpu").float().numpy()
    with np.errstate(over="ignore"):
        array = np.array(values, dtype=np.float32)
    if not np.isfinite(array).all():
        raise DomainError(f"{name} contains NaN or infinite numbers (in float32); nothing was written")
    return array


def _cast(tensors: Mapping[str, NDArray[Any]], precision: str) -> dict[str, NDArray[Any]]:
    cast = {}
    with np.errstate(over="ignore"):
        for name, array in tensors.items():
            cast[name] = array if name.endswith(".alpha") else array.astype(precision)
            if not np.isfinite(cast[name]).all():
                raise DomainError(f"{name} does not fit into {precision}; export it as float32")
    return cast


def _write(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, object]) -> None:
    header = {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True) for key, value in metadata.items()
    }
    with replacing(path) as partial:
        save_tensors(partial, tensors, {**header, "format": "pt"})
