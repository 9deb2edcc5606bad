"""Names of LoRA tensors in diffusers' and kohya's formats.

Reasons for the names, from the source code of diffusers 0.42, ComfyUI and A1111's web UI:

* diffusers decides how to read a U-Net's names by the *first* one: ``lora_A`` and ``lora.down`` must not be mixed. A file
  that has no alpha is read with a scale of 1.
* ``diffusers.utils.convert_state_dict_to_kohya`` writes alpha = rank whatever the adapter's alpha is, and ``lora_te1`` for
  SD 1.x too, where kohya's trainer writes ``lora_te``. Hence this module has its own conversion.
* kohya's U-Net names come in two spellings: those of diffusers' modules (``down_blocks_1_attentions_0``) and, for SDXL,
  those of the original network (``input_blocks_4_1``). diffusers, ComfyUI and A1111 read both; we write the first,
  which needs no table of blocks. Only SDXL's added embedding needs the second spelling: diffusers reads no other.
* From a kohya file diffusers takes one alpha for a whole network; where they differ between modules, loading fails. Hence
  one alpha a network, and what differs is multiplied into the upper matrix.
* diffusers recognises the text encoder of a kohya file by its ``out_proj`` alone. Where attention is adapted without it, a
  pair of zeros stands in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Adapter", "Component", "diffusers_tensors", "kohya_tensors"]

Component = Literal["unet", "text_encoder", "text_encoder_2"]
_Array = NDArray[np.float32]
_SPELLED = {"add_embedding_linear_1": "label_emb_0_0", "add_embedding_linear_2": "label_emb_0_2"}
_LAYERS = "text_model."
_ATTENTION = (".q_proj", ".k_proj", ".v_proj")


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A LoRA adapter of one module: scale · up @ down, added to its weight.

    Attributes
    ----------
    down : ndarray, shape (rank, in, ...)
    up : ndarray, shape (out, rank, ...)
    scale : float
        The module's factor; alpha / rank for plain LoRA.
    """

    down: _Array
    up: _Array
    scale: float

    @property
    def rank(self) -> int:
        """Rank of the adapter."""
        return int(self.down.shape[0])


def diffusers_tensors(component: Component, adapters: Mapping[str, Adapter], /) -> dict[str, _Array]:
    """Tensors of one network for `load_lora_weights`, with the scale multiplied into the up matrix.

    Parameters
    ----------
    component : {"unet", "text_encoder", "text_encoder_2"}
    adapters : mapping
        By the module's name within the network.
    """
    middle = "lora" if component == "unet" else "lora_linear_layer"
    tensors = {}
    for name, adapter in adapters.items():
        prefix = f"{component}.{name if component == 'unet' else _with_text_model(name)}.{middle}"
        tensors[f"{prefix}.down.weight"] = adapter.down
        tensors[f"{prefix}.up.weight"] = _scaled(adapter.up, adapter.scale)
    return tensors


def kohya_tensors(component: Component, adapters: Mapping[str, Adapter], /, *, sdxl: bool) -> dict[str, _Array]:
    """Tensors of one network in the format of kohya's trainer, with one alpha.

    Parameters
    ----------
    component : {"unet", "text_encoder", "text_encoder_2"}
    adapters : mapping
        By the module's name within the network.
    sdxl : bool
        Whether there are two text encoders (``lora_te1_`` and ``lora_te2_`` rather than ``lora_te_``).
    """
    prefix = {"unet": "lora_unet_", "text_encoder": "lora_te1_" if sdxl else "lora_te_", "text_encoder_2": "lora_te2_"}
    alpha = common_alpha(adapters)
    tensors = {}
    for name, adapter in adapters.items():
        plain = (name if component == "unet" else _with_text_model(name)).replace(".", "_")
        key = prefix[component] + _SPELLED.get(plain, plain)
        tensors[f"{key}.lora_down.weight"] = adapter.down
        tensors[f"{key}.lora_up.weight"] = _scaled(adapter.up, adapter.scale * adapter.rank / alpha)
        tensors[f"{key}.alpha"] = np.asarray(alpha, dtype=np.float32)
    return tensors


def common_alpha(adapters: Mapping[str, Adapter], /) -> float:
    """The most frequent scale × rank that is not zero."""
    alphas = Counter(adapter.scale * adapter.rank for adapter in adapters.values() if adapter.scale)
    return alphas.most_common(1)[0][0] if alphas else 1.0


def absent_output(adapters: Mapping[str, Adapter], /) -> str | None:
    """Name of the ``out_proj`` adapter that diffusers requires and a text encoder lacks; None if none is needed."""
    if any(name.endswith(".out_proj") for name in adapters):
        return None
    attention = sorted(name for name in adapters if name.endswith(_ATTENTION))
    return attention[0].rpartition(".")[0] + ".out_proj" if attention else None


def _with_text_model(name: str) -> str:
    """Add the prefix that every tool reads; transformers 5 has removed it from `CLIPTextModel`."""
    return name if name.startswith((_LAYERS, "text_projection")) else _LAYERS + name


def _scaled(up: _Array, factor: float) -> _Array:
    return up if factor == 1 else np.asarray(up.astype(np.float64) * factor, dtype=np.float32)
