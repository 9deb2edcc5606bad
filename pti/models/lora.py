"""LoRA adapters by PEFT: add, disable, scale and measure them.

The base model is the same networks with the adapters disabled. No weight is stored twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from clipgeom._extras import needs_extra
from clipgeom.errors import ConfigError
from pti.config.schema import LoraSection
from pti.models.pipeline import DiffusionModel

__all__ = ["Lora", "add_lora", "base_weights_sha256", "check_targets"]


class Lora:
    """The LoRA adapters in a model's networks.

    Attributes
    ----------
    parameters : dict of Parameter
        By network and name: ``unet.…``, ``text_encoder.…``.
    """

    def __init__(self, model: DiffusionModel) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        named = {"unet": model.unet, **{encoder.name: encoder.network for encoder in model.encoders}}
        self.layers: list[Any] = []
        self.parameters: dict[str, torch.nn.Parameter] = {}
        for name, network in named.items():
            self.layers += [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
            self.parameters |= {f"{name}.{key}": p for key, p in network.named_parameters() if "lora_" in key}

    @property
    def in_text(self) -> bool:
        """Whether a text encoder has adapters."""
        return any(name.startswith("text_encoder") for name in self.parameters)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Disable the adapters of the UNet and the text encoders within the context (docs/traps.md, 11)."""
        active = [layer for layer in self.layers if not layer.disable_adapters]  # none inside another disabled()
        for layer in active:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in active:
                layer.enable_adapters(True)

    @contextmanager
    def scaled(self, scale: float) -> Iterator[None]:
        """Multiply the adapters by `scale` within the context; 0 disables them."""
        if scale == 1.0 or not self.layers:
            yield
        elif scale == 0.0:
            with self.disabled():
                yield
        else:
            before = [dict(layer.scaling) for layer in self.layers]
            for layer in self.layers:
                for name in layer.scaling:
                    layer.scaling[name] *= scale
            try:
                yield
            finally:
                for layer, scaling in zip(self.layers, before, strict=True):
                    layer.scaling.update(scaling)

    @torch.no_grad()
    def weight_distance(self) -> float:
        """‖ΔW‖_F over all layers, in float64, computed without forming ΔW.

        With ΔW = s·BA, of rank r: ‖ΔW‖² = s²·tr((BᵀB)(AAᵀ)), two r × r matrices.
        """
        total = 0.0
        for layer in self.layers:
            for name, scale in layer.scaling.items():
                a = layer.lora_A[name].weight.double().flatten(1)
                b = layer.lora_B[name].weight.double().flatten(1)
                total += float(scale) ** 2 * float(((b.T @ b) * (a @ a.T).T).sum())
        return max(0.0, total) ** 0.5


def add_lora(model: DiffusionModel, tuning: LoraSection, *, seed: int) -> Lora:
    """Add LoRA adapters to a model's networks, in place: initially zero, float32, the only trainable weights.

    PEFT is called directly: `add_adapter` of transformers refuses a PEFT older than its own minimum. New releases of
    transformers have required a PEFT that was not yet released.

    Raises
    ------
    ConfigError
        No module has such a name, or the module is neither linear nor a convolution.
    """
    with needs_extra("pti", "training a LoRA"):
        from peft import LoraConfig, inject_adapter_in_model

    check_targets(model, tuning)
    for network, targets in _changed(model, tuning).values():
        lora_config = LoraConfig(
            r=tuning.rank,
            lora_alpha=tuning.rank if tuning.alpha is None else tuning.alpha,  # type: ignore[arg-type]  # only divided
            target_modules=list(targets),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(lora_config, network, adapter_name="default")
    lora = Lora(model)
    for parameter in lora.parameters.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return lora


def check_targets(model: DiffusionModel, tuning: LoraSection) -> None:
    """Refuse target modules that are absent, or that LoRA cannot change.

    Raises
    ------
    ConfigError
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, (network, targets) in _changed(model, tuning).items():
        modules = dict(network.named_modules())
        matched = {t: [m for n, m in modules.items() if n == t or n.endswith(f".{t}")] for t in targets}
        absent = [target for target, found in matched.items() if not found]
        if absent or not targets:
            named = ", ".join(map(repr, absent)) or "nothing"
            raise ConfigError(f"{_setting(name)} names {named}, but {name} has no such layer")
        for target, found in matched.items():
            for module in found:
                if not isinstance(module, (torch.nn.Linear, torch.nn.Conv2d, BaseTunerLayer)):
                    raise ConfigError(
                        f"{_setting(name)} names {target!r}, in {name} a {type(module).__name__}; "
                        "name linear maps or 2-d convolutions"
                    )


def _changed(model: DiffusionModel, tuning: LoraSection) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Networks that get adapters, each with the name suffixes of its target modules."""
    networks = {"unet": (model.unet, tuning.target_modules)}
    if tuning.train_text_encoder:
        networks |= {encoder.name: (encoder.network, tuning.text_encoder_target_modules) for encoder in model.encoders}
    return networks


def _setting(network: str) -> str:
    return "lora.target_modules" if network == "unet" else "lora.text_encoder_target_modules"


def base_weights_sha256(model: DiffusionModel) -> str:
    """SHA-256 over the base weights of all networks, in the order of their names."""
    total = hashlib.sha256()
    for network in model.networks():
        for name, parameter in sorted(network.state_dict().items()):
            if "lora_" not in name:
                values = parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
                total.update(name.replace(".base_layer", "").encode())
                total.update(values.data)
    return total.hexdigest()
