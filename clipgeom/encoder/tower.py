"""Text tower for the packs of a prefix tree, with its weights arranged for flat batches of nodes.

Everything but attention works on single nodes, in matrix products as large as the pack. Attention is computed block
by block, each against the keys it can see. In the last layer, the operations after attention are run only for the
wanted nodes.

The residual stream, embeddings and LayerNorms are float32; the linear maps and attention have the dtype of the
computation. On a CPU the linear maps are oneDNN's with their weights packed beforehand, which is what
`torch.compile` would choose, without its warm-up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipgeom.encoder.prefix_tree import BLOCK, Pack, PrefixTree
from clipgeom.errors import EncoderError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Tower"]

_QUICK_GELU = 1.702
# relative to the largest state: allowed difference from summation order or rounding to the dtype in many layers
_PROBE_TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


class Tower:
    """The layers of a CLIP text tower, ready to run packs.

    Parameters
    ----------
    core : Module
        The tower of a `CLIPTextModel`, in float32. Its LayerNorms and embeddings are used as they are, its linear maps
        are copied.
    projection : Tensor, shape (projected, width), optional
        The text projection, in float32.
    dtype : {"float32", "float16", "bfloat16"}
        Of the linear maps and of attention.

    Raises
    ------
    EncoderError
        Its modules are not those of CLIP's text tower, or its states for packs and whole sequences differ because it
        is not causal.
    """

    def __init__(self, core: torch.nn.Module, projection: Tensor | None, *, dtype: str) -> None:
        import torch

        self._dtype: torch.dtype = getattr(torch, dtype)
        try:
            embeddings: Any = core.get_submodule("embeddings")
            self._tokens, self._positions = embeddings.token_embedding, embeddings.position_embedding
            layers: Any = core.get_submodule("encoder.layers")
            self._layers = [_Layer(layer, self._dtype) for layer in layers]
            self._final: Any = core.get_submodule("final_layer_norm")
        except (AttributeError, TypeError) as error:
            raise EncoderError(f"its modules are not those of CLIP's text tower ({error})") from error
        self._project = None if projection is None else _linear(projection, None, torch.float32)
        self._device = self._tokens.weight.device
        self._probe(core, _PROBE_TOLERANCE[dtype])

    def run(self, pack: Pack, asked: NDArray[np.int64], representations: Collection[str]) -> dict[str, Tensor]:
        """Compute states of some nodes of a pack.

        Parameters
        ----------
        pack : Pack
        asked : int array, shape (m,)
            Rows of the pack whose states are wanted.
        representations : collection of str
            Of "token", "penultimate", "prenorm", "hidden", "projected", "normalized"; no layer is run whose output
            none of them needs.

        Returns
        -------
        dict of Tensor, shape (m, dim), float32
        """
        import torch

        # oneDNN caches a kernel for every number of rows: use few different numbers
        rounded = np.resize(asked, -(-len(asked) // BLOCK) * BLOCK)
        with torch.inference_mode():
            states = self._states(pack, torch.from_numpy(rounded).to(self._device), set(representations))
        return {name: states[name][: len(asked)] for name in representations}

    def _states(self, pack: Pack, rows: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        """Return the wanted states of the rows, and possibly others."""
        import torch

        states: dict[str, Tensor] = {}
        tokens = torch.from_numpy(pack.tokens).to(self._device)
        if "token" in wanted:
            states["token"] = self._tokens(tokens[rows])
        if wanted <= {"token"}:
            return states
        x = self._tokens(tokens) + self._positions(torch.from_numpy(pack.depths).to(self._device))
        attend = _Attention(pack, self._dtype, self._device)
        for layer in self._layers[:-1]:
            x = layer.finish(x, attend(layer, x))
        if "penultimate" in wanted:
            states["penultimate"] = x[rows]
        if wanted <= {"token", "penultimate"}:
            return states
        layer = self._layers[-1]
        seen = attend(layer, x)
        states["prenorm"] = x = layer.finish(x[rows], seen[rows])
        if wanted & {"hidden", "projected", "normalized"}:
            states["hidden"] = x = self._final(x)
        if wanted & {"projected", "normalized"} and self._project is not None:
            states["projected"] = x = self._project(x)
            states["normalized"] = x / x.norm(dim=-1, keepdim=True)
        return states

    def _probe(self, core: torch.nn.Module, tolerance: float) -> None:
        """Run three short sequences both ways and compare the results; the tower's class name is not relied upon."""
        import torch

        vocabulary = int(self._tokens.weight.shape[0])
        sequences = [np.array(s, dtype=np.int64) % vocabulary for s in ([1, 2, 3, 4, 5], [1, 2, 3, 9], [1, 2, 7, 8])]
        tree = PrefixTree(sequences)
        (pack,) = tree.packs(8, block=8)
        for number, sequence in enumerate(sequences):
            asked = tree.nodes(np.full(len(sequence), number), np.arange(len(sequence)))
            packed = self.run(pack, asked, ("hidden",))["hidden"]
            with torch.inference_mode():
                whole = core(input_ids=torch.from_numpy(sequence)[None].to(self._device)).last_hidden_state[0]
            # NaN passes here: an overflow is reported during encoding, where it can be named
            if bool(((packed - whole).abs() > tolerance * whole.abs().max()).any()):
                raise EncoderError("its states depend on more than the tokens before each")


class _Attention:
    """Attention within one pack, block by block; data shared by all layers is prepared once."""

    def __init__(self, pack: Pack, dtype: torch.dtype, device: torch.device) -> None:
        import torch

        self._blocks, self._block, self._width = pack.mask.shape
        self._keys = torch.from_numpy(pack.keys.ravel()).to(device)
        # additive, in the dtype of the scores: each layer would convert a mask of booleans to this
        mask = torch.zeros(pack.mask.shape, dtype=dtype).masked_fill_(torch.from_numpy(~pack.mask), -torch.inf)
        self._mask = mask[:, None].to(device)

    def __call__(self, layer: _Layer, x: Tensor) -> Tensor:
        """Return the attention output of each node, shape (m, width), before the output projection."""
        from torch.nn.functional import scaled_dot_product_attention

        query, key_value = layer.project(x)
        q = query.view(self._blocks, self._block, layer.heads, -1).transpose(1, 2)
        visible = key_value.index_select(0, self._keys).view(self._blocks, self._width, 2, layer.heads, -1)
        k, v = visible.permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(q, k, v, attn_mask=self._mask, scale=layer.scale)
        return seen.transpose(1, 2).reshape(len(x), -1)


class _Layer:
    """One block: its LayerNorms, and its linear maps as functions."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        import torch

        attention, mlp = layer.self_attn, layer.mlp
        self.heads, self.scale = int(attention.num_heads), float(attention.scale)
        self._dtype = dtype
        self._norm1, self._norm2 = layer.layer_norm1, layer.layer_norm2
        self._query = _linear(attention.q_proj.weight, attention.q_proj.bias, dtype)
        self._key_value = _linear(
            torch.cat([attention.k_proj.weight, attention.v_proj.weight]),
            torch.cat([attention.k_proj.bias, attention.v_proj.bias]),
            dtype,
        )
        self._out = _linear(attention.out_proj.weight, attention.out_proj.bias, dtype)
        up, down, activation = mlp.fc1, mlp.fc2, mlp.activation_fn
        if type(activation).__name__ == "QuickGELUActivation":
            # x·σ(1.702 x) = silu(1.702 x) / 1.702, and silu is computed in place
            self._up = _linear(up.weight * _QUICK_GELU, up.bias * _QUICK_GELU, dtype)
            self._down = _linear(down.weight / _QUICK_GELU, down.bias, dtype)
            self._activation: Callable[[Tensor], Tensor] = torch.nn.SiLU(inplace=True)
        else:
            self._up, self._down = _linear(up.weight, up.bias, dtype), _linear(down.weight, down.bias, dtype)
            self._activation = activation

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries, shape (m, width), and keys with values, shape (m, 2 width)."""
        h = self._norm1(x).to(self._dtype)
        return self._query(h), self._key_value(h)

    def finish(self, x: Tensor, seen: Tensor) -> Tensor:
        """Add attention's output and the MLP to the residual stream `x`, in place."""
        x = x.add_(self._out(seen))
        h = self._norm2(x).to(self._dtype)
        return x.add_(self._down(self._activation(self._up(h))))


def _linear(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Linear map x ↦ x Wᵀ + b with the weight in `dtype`; on a CPU oneDNN's packed one if torch has it."""
    import torch

    weight = weight.detach().to(dtype).contiguous()
    bias = None if bias is None else bias.detach().to(dtype)
    if weight.device.type == "cpu" and _has_packed(dtype):
        operators: Any = torch.ops.mkldnn
        packed = operators._reorder_linear_weight(weight, None)
        return lambda x: operators._linear_pointwise(x, packed, bias, "none", [], "")
    return lambda x: torch.nn.functional.linear(x, weight, bias)


@lru_cache
def _has_packed(dtype: torch.dtype) -> bool:
    """Whether this build of torch has oneDNN's packed linear map for the dtype; the operators are Inductor's."""
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    operators: Any = torch.ops.mkldnn
    try:
        weight = torch.ones(8, 8, dtype=dtype)
        packed = operators._reorder_linear_weight(weight, None)
        operators._linear_pointwise(weight, packed, weight[0], "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True
