"""Tiny pipelines in the layouts of published repositories: SD 1.x, SD 2.x and SDXL, in safetensors, made on the spot.

What trips trainers is kept: the text encoders' legacy ids (`eos_token_id = 2`), SDXL's second tokenizer that pads with
another token, the schedulers that the repositories ship. Pictures are 64 × 64, latents 8 × 8.
"""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from clipgeom.miniworld.tokenizer import build_tokenizer

LEGACY_EOS = 2  # what the published configurations of SD 1.x and SDXL say, whatever the tokenizer
SIDE = 64
_WIDTH, _WIDTH_2, _PROJECTED = 16, 24, 12
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def save_sd1(folder: Path, *, seed: int = 0, eos_token_id: int = LEGACY_EOS) -> Path:
    """A `StableDiffusionPipeline` that predicts the noise."""
    torch.manual_seed(seed)
    scheduler = PNDMScheduler(**_BETAS, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False)
    return _save_sd(folder, scheduler, seed, hidden_act="quick_gelu", eos_token_id=eos_token_id)


def save_sd2(folder: Path, *, seed: int = 0, eos_token_id: int = LEGACY_EOS) -> Path:
    """A `StableDiffusionPipeline` that predicts the velocity, with linear projections as SD 2.x has them."""
    torch.manual_seed(seed)
    scheduler = DDIMScheduler(
        **_BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction"
    )
    return _save_sd(folder, scheduler, seed, hidden_act="gelu", eos_token_id=eos_token_id, use_linear_projection=True)


def save_sdxl(folder: Path, *, seed: int = 0, eos_token_id: int = LEGACY_EOS) -> Path:
    """A `StableDiffusionXLPipeline`: two text encoders, the second with a projection, and the six time ids."""
    torch.manual_seed(seed)
    first, second = build_tokenizer(), build_tokenizer()
    second.pad_token = "!"
    time_width = 8
    unet = _unet(
        _WIDTH + _WIDTH_2,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_width,
        projection_class_embeddings_input_dim=6 * time_width + _PROJECTED,
        transformer_layers_per_block=(1, 2),
    )
    pipeline = StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(first, _WIDTH, "quick_gelu", eos_token_id)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(second, _WIDTH_2, "gelu", eos_token_id)),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**_BETAS, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )
    return _save(pipeline, folder, seed)


def _save_sd(folder, scheduler, seed, *, hidden_act, eos_token_id, **unet):
    tokenizer = build_tokenizer()
    pipeline = StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(tokenizer, _WIDTH, hidden_act, eos_token_id)),
        tokenizer=tokenizer,
        unet=_unet(_WIDTH, **unet),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _save(pipeline, folder, seed)


def _text_config(tokenizer, width, hidden_act, eos_token_id):
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=_PROJECTED,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act=hidden_act,
        bos_token_id=0,
        eos_token_id=eos_token_id,
        pad_token_id=1,
    )


def _unet(cross_attention_dim, **changes):
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=cross_attention_dim,
        **changes,
    )


def _vae():
    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        norm_num_groups=2,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=SIDE,
    )


def _save(pipeline, folder, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # away from the tiny initial values, so that every layer shows in the picture
        for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
            module = getattr(pipeline, name, None)
            for parameter in [] if module is None else module.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    pipeline.save_pretrained(folder, safe_serialization=True)
    _prefix(Path(folder) / "text_encoder" / "model.safetensors")
    return Path(folder)


def _prefix(path):
    """Published text encoders have the names that transformers 5 has shortened."""
    tensors = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})
