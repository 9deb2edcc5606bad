"""Load a CLIP text tower, and compute all of its representations from token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipgeom._extras import needs_extra
from clipgeom._networks import build, settings_of
from clipgeom._repr import short_repr
from clipgeom.encoder.files import find_files, read_config, read_projection, tower_name, weight_files
from clipgeom.encoder.settings import ATTENTION, IDS, TEXT
from clipgeom.encoder.tokens import Tokens
from clipgeom.errors import ConfigError, EncoderError, first_line

if TYPE_CHECKING:
    import torch

    from clipgeom.encoder.tower import Tower

__all__ = ["REPRESENTATIONS", "TextEncoder", "load_text_encoder", "parse_representations"]

# in the order of the forward pass
REPRESENTATIONS = ("token", "penultimate", "prenorm", "hidden", "projected", "normalized")

_DTYPES = ("auto", "float32", "float16", "bfloat16")
_DEVICES = ("auto", "cpu", "cuda", "mps")

# settings that determine the function of the weights; the tokenizer determines ids of special tokens
_CONFIG_KEYS = (
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
)


@short_repr
@dataclass(frozen=True, eq=False)
class TextEncoder:
    """A loaded text tower.

    Attributes
    ----------
    name : str
        The name it was loaded by.
    revision : str or None
        Commit of the hub repository, None for a local directory.
    tokens : Tokens
        Its tokenizer.
    fingerprint : str
        SHA-256 over weights, configuration and tokenizer. Weights enter by value (float32), so that sharding, file
        names, prefixes and the dtype of storage do not change it.
    max_positions : int
        Length of a full sequence, 77 for every published CLIP.
    dtype, device : str
        Dtype and device of the computation.
    dtype_reason : str
        Reason for the dtype if ``auto`` chose it.
    core : Module
        The tower of transformers' `CLIPTextModel`, in float32 whatever the dtype of the computation.
    projection : Tensor or None
        The text projection, shape (projected, width), in float32.
    """

    name: str
    revision: str | None
    tokens: Tokens
    fingerprint: str
    max_positions: int
    dtype: str
    device: str
    core: torch.nn.Module
    projection: torch.Tensor | None
    dtype_reason: str = ""

    @property
    def tower(self) -> Tower | None:
        """The tower for packs of a prefix tree; None without one, for the reason in `unpacked`."""
        return self._packing[0]

    @property
    def unpacked(self) -> str:
        """Reason why captions run whole, grouped by length; empty if they run as a prefix tree."""
        return self._packing[1]

    @cached_property
    def _packing(self) -> tuple[Tower | None, str]:
        from clipgeom.encoder.tower import Tower

        try:
            return Tower(self.core, self.projection, dtype=self.dtype), ""
        except EncoderError as error:
            return None, str(error)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the tower, whose packed weights cannot be pickled; unpickling builds it again."""
        return {name: value for name, value in self.__dict__.items() if name != "_packing"}

    @property
    def representations(self) -> tuple[str, ...]:
        """The representations of this checkpoint, in the order of the forward pass."""
        return tuple(r for r in REPRESENTATIONS if self.projection is not None or r not in ("projected", "normalized"))

    def dim(self, representation: str) -> int:
        """Dimension of a representation."""
        self.require((representation,))
        if representation in ("projected", "normalized") and self.projection is not None:
            return int(self.projection.shape[0])
        return int(self.core.get_submodule("embeddings.token_embedding").weight.shape[1])  # type: ignore[index]

    def require(self, representations: Iterable[str]) -> None:
        """Refuse representations that this checkpoint lacks.

        Raises
        ------
        EncoderError
            The message names the available representations.
        """
        for representation in representations:
            if representation not in self.representations:
                raise EncoderError(
                    f"{self.name} cannot give {representation!r}"
                    + (": it has no text projection" if representation in REPRESENTATIONS else "")
                    + f"; it can give {', '.join(self.representations)}"
                )

    def forward(self, ids: torch.Tensor, representations: Sequence[str]) -> dict[str, torch.Tensor]:
        """Compute representations of a batch of sequences.

        Parameters
        ----------
        ids : Tensor, shape (b, l), integer
            Token ids, padded on the right with anything: the tower is causal, no position sees what follows it.
        representations : sequence of str

        Returns
        -------
        dict of Tensor, shape (b, l, dim), on the encoder's device
        """
        import torch

        self.require(representations)
        core = self.core
        ids = ids.to(self.device)
        layers = core.get_submodule("encoder.layers")
        states: dict[str, torch.Tensor] = {}

        def keep(name: str) -> Any:
            def hook(_module: Any, _inputs: Any, output: Any) -> None:
                states[name] = output[0] if isinstance(output, tuple) else output

            return hook

        with torch.inference_mode():
            if set(representations) <= {"token"}:
                return {"token": core.get_submodule("embeddings.token_embedding")(ids)}
            handles = [
                core.get_submodule("embeddings.token_embedding").register_forward_hook(keep("token")),
                layers[-1].register_forward_hook(keep("prenorm")),  # type: ignore[index]
                core.get_submodule("final_layer_norm").register_forward_hook(keep("hidden")),
            ]
            # with a single layer, "one block earlier" is what enters it
            before = layers[-2] if len(layers) > 1 else core.get_submodule("embeddings")  # type: ignore[index, arg-type]
            handles.append(before.register_forward_hook(keep("penultimate")))
            half = torch.autocast(
                torch.device(self.device).type, getattr(torch, self.dtype), enabled=self.dtype != "float32"
            )
            try:
                with half:
                    core(input_ids=ids)
            finally:
                for handle in handles:
                    handle.remove()
            if self.projection is not None and {"projected", "normalized"} & set(representations):
                projected = states["projected"] = states["hidden"].float() @ self.projection.T
                if "normalized" in representations:
                    states["normalized"] = projected / projected.norm(dim=-1, keepdim=True)
        return {name: states[name] for name in representations}


def load_text_encoder(
    model: str | Path,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
) -> TextEncoder:
    """Load a CLIP text tower from a directory or a hub id.

    Parameters
    ----------
    model : str or Path
        Directory or hub id of a `CLIPTextModel`, `CLIPTextModelWithProjection`, `CLIPModel`, or of a diffusers
        pipeline (its ``text_encoder`` unless `subfolder` is given).
    subfolder : str, optional
        The same as in transformers, for example ``text_encoder_2`` of an SDXL repository.
    revision : str, optional
        Branch, tag or commit of a hub repository.
    dtype : {"float32", "auto", "bfloat16", "float16"}
        Dtype of the linear maps and of attention; ``auto`` is bfloat16 if the device computes it natively, else
        float32. LayerNorms, the residual stream and the projection are float32 and statistics float64 in any case.
    device : {"auto", "cpu", "cuda", "mps"}

    Raises
    ------
    EncoderError
        The files are not a CLIP text tower in safetensors with a tokenizer, or lack tensors.
    ConfigError
        Unknown dtype or device, or a device that is not there.
    MissingExtraError
        torch or transformers is not installed.
    """
    with needs_extra("report", "loading an encoder"):
        import torch
        from transformers import AutoTokenizer, CLIPTextModel  # noqa: F401 - both missed here, in one place

    if dtype not in _DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}; use one of {', '.join(_DTYPES)}")
    device = _device(device)
    computed, reason = _native_dtype(device) if dtype == "auto" else (dtype, "")
    files = find_files(model, subfolder=subfolder, revision=revision)
    core, projection = _tower(files.weights)
    config = core.config
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            files.tokenizer, config=config, use_fast=True, trust_remote_code=False
        )
    except Exception as error:  # transformers and tokenizers raise many kinds for a damaged tokenizer
        raise EncoderError(f"the tokenizer in {files.tokenizer} cannot be loaded: {first_line(error)}") from error

    max_positions = int(config.max_position_embeddings)
    tokens = Tokens(tokenizer, max_positions=int(min(tokenizer.model_max_length, max_positions)))
    _check_vocabulary(core, tokens, files.tokenizer)
    return TextEncoder(
        name=str(model) if subfolder is None else f"{model}/{subfolder}",
        revision=files.revision,
        tokens=tokens,
        fingerprint=_fingerprint(core, projection, config, tokens),
        max_positions=tokens.max_positions,
        dtype=computed,
        device=device,
        core=core.to(device).eval().requires_grad_(False),
        projection=None if projection is None else projection.to(device, torch.float32),
        dtype_reason=reason,
    )


def parse_representations(names: str | Iterable[str]) -> tuple[str, ...]:
    """Parse several representations from ``"hidden,projected"`` or a list, in the order given.

    Raises
    ------
    ConfigError
        None at all, an unknown one, or the same one twice.
    """
    parts = [p.strip() for p in names.split(",") if p.strip()] if isinstance(names, str) else list(names)
    if not parts:
        raise ConfigError(f"expected at least one representation of {', '.join(REPRESENTATIONS)}")
    for part in parts:
        if part not in REPRESENTATIONS:
            raise ConfigError(f"unknown representation {part!r}; use one of {', '.join(REPRESENTATIONS)}")
    if len(set(parts)) != len(parts):
        raise ConfigError(f"a representation is named twice in {', '.join(parts)}")
    return tuple(parts)


def _device(device: str) -> str:
    import torch

    kind = device.split(":", maxsplit=1)[0]
    if kind not in _DEVICES:
        raise ConfigError(f"unknown device {device!r}; use one of {', '.join(_DEVICES)}, or cuda:1 and the like")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[kind]:
        raise ConfigError(f"device {device} is not available here; use --device auto")
    return device


def _native_dtype(device: str) -> tuple[str, str]:
    """Return bfloat16 if the device has instructions for it, else float32, with the reason."""
    import torch

    kind = device.split(":", maxsplit=1)[0]
    if kind == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16", f"{torch.cuda.get_device_name(device)} computes it natively"
        return "float32", f"{torch.cuda.get_device_name(device)} has no bfloat16 of its own"
    if kind == "cpu":
        # without such instructions bfloat16 is emulated, and slower than float32
        if not hasattr(torch.cpu, "get_capabilities"):
            return "float32", f"torch {torch.__version__} does not tell what this processor has"
        capabilities = torch.cpu.get_capabilities()
        for name in ("amx_bf16", "avx512_bf16", "bf16"):  # the last is ARM's
            if capabilities.get(name):
                return "bfloat16", f"this processor has {name}"
        return "float32", "this processor has no instructions for bfloat16"
    return "float32", f"bfloat16 has not been tried on {kind}"


def _tower(folder: Path) -> tuple[Any, torch.Tensor | None]:
    """Build the text tower in a folder, and read its projection if it has one."""
    from transformers import CLIPTextConfig, CLIPTextModel

    path = folder / "config.json"
    settings = {**IDS} | settings_of(read_config(folder), TEXT, path)

    def make() -> torch.nn.Module:
        model = CLIPTextModel._from_config(  # type: ignore[no-untyped-call]
            CLIPTextConfig(**settings), attn_implementation=ATTENTION, dtype=torch.float32
        )
        # transformers 5 made the tower the model itself; before, it was an attribute
        core: torch.nn.Module = getattr(model, "text_model", model)
        return core

    import torch

    core = build(make, weight_files(folder), path, rename=tower_name)
    projection = read_projection(folder)
    if projection is not None and (projection.ndim != 2 or projection.shape[1] != core.config.hidden_size):
        raise EncoderError(
            f"{folder}: text_projection.weight has shape {tuple(projection.shape)}, config.json asks for "
            f"(any, {core.config.hidden_size}); fetch or save the model again"
        )
    return core, projection


def _check_vocabulary(core: torch.nn.Module, tokens: Tokens, folder: Path) -> None:
    rows = int(core.get_submodule("embeddings.token_embedding").weight.shape[0])  # type: ignore[index]
    if tokens.size > rows:
        raise EncoderError(
            f"the tokenizer in {folder} has {tokens.size} tokens, the encoder embeds {rows}: they do not match"
        )


def _fingerprint(core: torch.nn.Module, projection: torch.Tensor | None, config: Any, tokens: Tokens) -> str:
    import torch

    total = hashlib.sha256(b"clipgeom.encoder/2\n")
    described = {key: getattr(config, key) for key in _CONFIG_KEYS}
    total.update(json.dumps({"config": described, "tokenizer": tokens.digest()}, sort_keys=True).encode())
    tensors = dict(core.state_dict())
    if projection is not None:
        tensors["text_projection.weight"] = projection
    for name in sorted(tensors):
        values = tensors[name].detach().to(device="cpu", dtype=torch.float32).contiguous().numpy()
        total.update(f"\n{name} {list(values.shape)}\n".encode())
        total.update(values.astype("<f4", copy=False).data)
    return total.hexdigest()
