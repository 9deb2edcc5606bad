"""Parts of a pipeline, each built from checked settings and filled with all of its tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from clipgeom._networks import (
    FLAG,
    WIDTH,
    Setting,
    build,
    choice,
    each,
    integer,
    number,
    optional,
    read_json,
    settings_of,
)
from clipgeom.encoder.settings import ATTENTION, IDS, TEXT
from clipgeom.errors import EncoderError, first_line

__all__ = ["load_autoencoder", "load_scheduler", "load_text_network", "load_unet", "weights_of"]

_FEW = integer(1, 64)
_NOTHING = Setting("null", lambda x: x is None)
_DOWN = choice("CrossAttnDownBlock2D", "DownBlock2D")
_UP = choice("CrossAttnUpBlock2D", "UpBlock2D")
_ACTIVATION = choice("silu", "swish", "mish", "gelu", "relu")
_NUMBERS = optional(each(number(-1e6, 1e6), alone=False))
_WITHOUT_EFFECT = {"dropout", "addition_embed_type_num_heads"}
_SIDES = each(integer(1, 2**14))

_UNET: Mapping[str, Setting] = MappingProxyType(
    {
        "sample_size": integer(1, 2**14),
        "in_channels": integer(1, 64),
        "out_channels": integer(1, 64),
        "center_input_sample": FLAG,
        "flip_sin_to_cos": FLAG,
        "freq_shift": number(0, 1),
        "down_block_types": each(_DOWN, alone=False),
        "mid_block_type": optional(choice("UNetMidBlock2DCrossAttn", "UNetMidBlock2D")),
        "up_block_types": each(_UP, alone=False),
        "only_cross_attention": each(FLAG),
        "block_out_channels": each(WIDTH, alone=False),
        "layers_per_block": each(_FEW),
        "downsample_padding": integer(0, 1),
        "mid_block_scale_factor": number(1e-3, 1e3),
        "act_fn": _ACTIVATION,
        "norm_num_groups": optional(integer(1, 1024)),
        "norm_eps": number(1e-12, 1e-2),
        "cross_attention_dim": each(WIDTH),
        "transformer_layers_per_block": each(each(_FEW)),
        "reverse_transformer_layers_per_block": optional(each(each(_FEW), alone=False)),
        "encoder_hid_dim": _NOTHING,
        "encoder_hid_dim_type": _NOTHING,
        "attention_head_dim": each(integer(1, 2**14)),
        "num_attention_heads": optional(each(integer(1, 1024))),
        "dual_cross_attention": FLAG,
        "use_linear_projection": FLAG,
        "class_embed_type": _NOTHING,
        "addition_embed_type": optional(choice("text_time")),
        "addition_time_embed_dim": optional(WIDTH),
        "num_class_embeds": _NOTHING,
        "upcast_attention": FLAG,
        "resnet_time_scale_shift": choice("default", "scale_shift"),
        "resnet_skip_time_act": FLAG,
        "resnet_out_scale_factor": number(1e-3, 1e3),
        "time_embedding_type": choice("positional"),
        "time_embedding_dim": optional(WIDTH),
        "time_embedding_act_fn": optional(_ACTIVATION),
        "timestep_post_act": optional(_ACTIVATION),
        "time_cond_proj_dim": optional(WIDTH),
        "conv_in_kernel": integer(1, 7),
        "conv_out_kernel": integer(1, 7),
        "projection_class_embeddings_input_dim": optional(WIDTH),
        "attention_type": choice("default"),
        "class_embeddings_concat": FLAG,
        "mid_block_only_cross_attention": optional(FLAG),
        "cross_attention_norm": _NOTHING,
    }
)
_AUTOENCODER: Mapping[str, Setting] = MappingProxyType(
    {
        "in_channels": integer(3, 3),
        "out_channels": integer(3, 3),
        "down_block_types": each(choice("DownEncoderBlock2D"), alone=False),
        "up_block_types": each(choice("UpDecoderBlock2D"), alone=False),
        "block_out_channels": each(WIDTH, alone=False),
        "layers_per_block": _FEW,
        "act_fn": _ACTIVATION,
        "latent_channels": integer(1, 64),
        "norm_num_groups": integer(1, 1024),
        "sample_size": _SIDES,
        "scaling_factor": number(1e-6, 1e6),
        "shift_factor": optional(number(-1e6, 1e6)),
        "latents_mean": _NUMBERS,
        "latents_std": optional(each(number(1e-6, 1e6), alone=False)),
        "force_upcast": FLAG,
        "use_quant_conv": FLAG,
        "use_post_quant_conv": FLAG,
        "mid_block_add_attention": FLAG,
    }
)
_SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
_SCHEDULE: Mapping[str, Setting] = MappingProxyType(
    {
        "trained_betas": Setting("null", lambda x: x is None),
        "num_train_timesteps": integer(1, 100_000),
        "beta_start": number(1e-8, 0.999),
        "beta_end": number(1e-8, 0.9999),
        "beta_schedule": choice("linear", "scaled_linear", "squaredcos_cap_v2"),
        "steps_offset": integer(0, 1000),
        "prediction_type": choice("epsilon", "v_prediction", "sample"),
        "timestep_spacing": choice("linspace", "leading", "trailing"),
        "rescale_betas_zero_snr": FLAG,
        "set_alpha_to_one": FLAG,
        "skip_prk_steps": FLAG,
        "clip_sample": FLAG,
        "clip_sample_range": number(1e-6, 1e6),
        "thresholding": FLAG,
        "dynamic_thresholding_ratio": number(0, 1),
        "sample_max_value": number(1e-6, 1e6),
        "variance_type": optional(
            choice("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")
        ),
        "interpolation_type": choice("linear", "log_linear"),
        "use_karras_sigmas": optional(FLAG),
        "use_exponential_sigmas": optional(FLAG),
        "use_beta_sigmas": optional(FLAG),
        "use_lu_lambdas": optional(FLAG),
        "sigma_min": optional(number(0, 1e6)),
        "sigma_max": optional(number(0, 1e6)),
        "timestep_type": choice("discrete", "continuous"),
        "final_sigmas_type": optional(choice("zero", "sigma_min")),
        "solver_order": integer(1, 3),
        "solver_type": choice("midpoint", "heun", "logrho", "bh1", "bh2"),
        "algorithm_type": choice("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "deis"),
        "lower_order_final": FLAG,
        "euler_at_final": FLAG,
        "predict_x0": FLAG,
        "original_inference_steps": integer(1, 100_000),
        "timestep_scaling": number(1e-6, 1e6),
    }
)


def load_unet(folder: Path, files: list[Path]) -> Any:
    """Load the UNet of a pipeline.

    Raises
    ------
    EncoderError
        Its settings or tensors do not describe a UNet that can be trained.
    """
    from diffusers import UNet2DConditionModel

    path = folder / "config.json"
    settings = _settings(UNet2DConditionModel, _content(path, "UNet2DConditionModel"), _UNET, path)
    return build(lambda: UNet2DConditionModel(**settings), files, path)


def load_autoencoder(folder: Path, files: list[Path]) -> Any:
    """Load the autoencoder of a pipeline.

    Raises
    ------
    EncoderError
        Its settings or tensors do not describe an `AutoencoderKL`.
    """
    from diffusers import AutoencoderKL

    path = folder / "config.json"
    settings = _settings(AutoencoderKL, _content(path, "AutoencoderKL"), _AUTOENCODER, path)
    channels = settings.get("latent_channels", 4)
    for key in ("latents_mean", "latents_std"):
        if settings.get(key) is not None and len(settings[key]) != channels:
            raise EncoderError(
                f"{path}: expected {key} to have {channels} numbers, one a channel, got {len(settings[key])}; "
                "fetch or save the model again"
            )
    return build(lambda: AutoencoderKL(**settings), files, path, rename=_present)


def load_text_network(folder: Path, files: list[Path], *, projected: bool) -> Any:
    """Load a text encoder of a pipeline, with its projection if `projected`.

    Raises
    ------
    EncoderError
        Its settings or tensors do not describe a CLIP text tower.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    path = folder / "config.json"
    settings = {**IDS} | settings_of(read_json(path), {**TEXT, "eos_token_id": integer(0, 2**24)}, path)
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel

    def make() -> torch.nn.Module:
        made: torch.nn.Module = kind._from_config(  # type: ignore[no-untyped-call]
            CLIPTextConfig(**settings), attn_implementation=ATTENTION, dtype=torch.float32
        )
        return made

    return build(make, files, path, rename=_named_as(_prefix(kind), projected))


def _prefix(kind: Any) -> str:
    """Return the prefix of a text network's tensors: transformers 5 has none for a network without projection."""
    with torch.device("meta"):
        from transformers import CLIPTextConfig

        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        sizes: dict[str, Any] = dict.fromkeys(names, 1)
        small = kind(CLIPTextConfig(**sizes))
    return "text_model." if any(name.startswith("text_model.") for name in small.state_dict()) else ""


def _named_as(prefix: str, projected: bool) -> Callable[[str], str | None]:
    def rename(key: str) -> str | None:
        name = key.removeprefix("text_model.")
        if name.endswith("position_ids"):
            return None  # a buffer that old versions stored
        if name == "text_projection.weight":
            return name if projected else None
        return prefix + name

    return rename


def _present(key: str) -> str:
    """Return the current name of an autoencoder's tensor; old files name the attention differently."""
    for old, new in ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")):
        key = key.replace(old, new)
    return key


def load_scheduler(folder: Path) -> Any:
    """Load the scheduler of a pipeline.

    Raises
    ------
    EncoderError
        It has no discrete noise schedule that can be trained with, or its settings are out of range.
    """
    import diffusers

    path = folder / "scheduler_config.json"
    content = read_json(path)
    name = content.get("_class_name")
    if not isinstance(name, str) or name not in _SCHEDULERS:
        raise EncoderError(
            f"{path}: expected _class_name to be one of {', '.join(_SCHEDULERS)}, got {str(name)[:60]!r}"
        )
    kind = getattr(diffusers, name)
    settings = _settings(kind, content, _SCHEDULE, path)
    try:
        scheduler = kind(**settings)
        alphas = scheduler.alphas_cumprod
    except Exception as error:  # every error of the constructor comes from the settings
        raise EncoderError(f"{path} describes no {name} that can be built: {first_line(error)}") from error
    if not bool(torch.isfinite(alphas).all()) or bool((alphas < 0).any()) or bool((alphas > 1).any()):
        raise EncoderError(f"{path}: expected a noise schedule between 0 and 1, got other numbers from its betas")
    return scheduler


def _settings(kind: Any, content: Mapping[str, Any], known: Mapping[str, Setting], path: Path) -> dict[str, Any]:
    """Return the known settings of a diffusers class; its other settings must have their defaults."""
    parameters = inspect.signature(kind.__init__).parameters
    for key in sorted(set(content) & set(parameters) - set(known) - _WITHOUT_EFFECT):
        if content[key] != parameters[key].default:
            raise EncoderError(
                f"{path}: expected {key} to be {parameters[key].default!r}, got {str(content[key])[:60]!r}; "
                "other values cannot be trained"
            )
    return settings_of({key: value for key, value in content.items() if key in parameters}, known, path)


def _content(path: Path, name: str) -> dict[str, Any]:
    content = read_json(path)
    given = content.get("_class_name", name)
    if given != name:
        raise EncoderError(
            f"{path}: expected _class_name to be {name}, got {str(given)[:60]!r}; other classes cannot be trained"
        )
    return content


def weights_of(folder: Path, stem: str, variant: str | None) -> list[Path]:
    """List the safetensors of a part: one file or shards, of `variant` where they exist.

    Raises
    ------
    EncoderError
        No file has such a name, or a shard is missing.
    """
    suffixes = ([f".{variant}"] if variant else []) + [""]
    for suffix in suffixes:
        whole = folder / f"{stem}{suffix}.safetensors"
        if whole.is_file():
            return [whole]
        index = folder / f"{stem}.safetensors.index{suffix}.json"
        if index.is_file():
            names = read_json(index).get("weight_map")
            if not isinstance(names, dict) or not all(isinstance(n, str) and Path(n).name == n for n in names.values()):
                raise EncoderError(f"{index}: expected weight_map to name files in its folder; fetch or save it again")
            files = [folder / name for name in sorted(set(names.values()))]
            absent = [path.name for path in files if not path.is_file()]
            if absent:
                raise EncoderError(f"{folder} lacks the shard(s) {', '.join(absent[:3])} that {index.name} names")
            return files
    there = sorted(path.name for path in folder.glob("*.safetensors"))
    raise EncoderError(
        f"{folder} has no {stem}{suffixes[0]}.safetensors; there are: {', '.join(there[:3])}"
        + ("; set model.variant" if there and not variant else "")
    )
