"""Settings that determine what a CLIP tower computes, and their allowed values."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from clipgeom._networks import WIDTH, Setting, choice, each, integer, number

__all__ = ["ATTENTION", "IDS", "TEXT", "VISION"]

ATTENTION = "sdpa"  # fixed: a model could name code on the hub
# used only by transformers' pooling, which is not used here; the defaults lie outside a small vocabulary
IDS: Mapping[str, Any] = MappingProxyType({"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2})

_TOWER: Mapping[str, Setting] = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "projection_dim": WIDTH,
    "num_hidden_layers": integer(1, 256),
    "num_attention_heads": integer(1, 1024),
    "hidden_act": choice(
        "quick_gelu", "gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh", "relu", "silu", "swish"
    ),
    "layer_norm_eps": number(1e-12, 1e-2),
}
TEXT: Mapping[str, Setting] = MappingProxyType(
    {**_TOWER, "vocab_size": integer(3, 2**24), "max_position_embeddings": integer(2, 2**16)}
)
VISION: Mapping[str, Setting] = MappingProxyType(
    {
        **_TOWER,
        "num_channels": integer(1, 16),
        "image_size": each(integer(1, 2**14)),
        "patch_size": each(integer(1, 2**12)),
    }
)
