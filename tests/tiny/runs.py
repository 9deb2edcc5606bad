"""Pipelines of a few thousand weights, in the layouts of Stable Diffusion 1.x, 2.x and XL, and small configurations."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from clipgeom._progress import Quiet
from clipgeom.miniworld.tokenizer import build_tokenizer
from pti.config.toml_io import read_config
from pti.training.lora_tuning import LoraTuning
from pti.training.trainer import Trainer

SIDE = 8  # of a picture, whose latents are 4 × 4


def text_config(tokenizer, width=16, **changes):
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 12,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": 2,  # as the published configurations have it
        "pad_token_id": 1,
    }
    return CLIPTextConfig(**{**settings, **changes})


def lively(network, scale=0.15):
    """Weights far enough from their tiny initial values that every layer matters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def unet(width, **changes):
    return UNet2DConditionModel(
        sample_size=SIDE // 2,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=width,
        attention_head_dim=2,
        norm_num_groups=4,
        **changes,
    )


def vae():
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
    )


SCHEDULE = {
    "num_train_timesteps": 100,
    "beta_start": 0.00085,
    "beta_end": 0.12,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def save_sd(folder, prediction="epsilon"):
    """A Stable Diffusion pipeline: 1.x with epsilon, 2.x with v_prediction."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    pipeline = StableDiffusionPipeline(
        vae=lively(vae(), 0.02),
        text_encoder=lively(CLIPTextModel(text_config(tokenizer))),
        tokenizer=tokenizer,
        unet=lively(unet(16), 0.05),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, prediction_type=prediction, **SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def save_sdxl(folder):
    """A Stable Diffusion XL pipeline: two text encoders of different widths, pooled states and sizes."""
    torch.manual_seed(0)
    first, second = build_tokenizer(), build_tokenizer()
    second.pad_token = "!"
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    pipeline = StableDiffusionXLPipeline(
        vae=lively(vae(), 0.02),
        text_encoder=lively(CLIPTextModel(text_config(first))),
        text_encoder_2=lively(CLIPTextModelWithProjection(text_config(second, width=20))),
        tokenizer=first,
        tokenizer_2=second,
        unet=lively(unet(36, projection_class_embeddings_input_dim=12 + 6 * 4, **added), 0.05),
        scheduler=EulerDiscreteScheduler(**SCHEDULE),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def configuration(model, folder, *changes):
    """Few and small steps on a character of miniworld."""
    return read_config(
        None,
        (
            "preset=miniworld",
            f'model.pretrained_model="{model}"',
            f'output.dir="{folder}"',
            "concept.placeholder_token=<tok>",
            "data.max_images=3",
            "inversion.steps=4",
            "inversion.batch_size=2",
            "inversion.learning_rate=0.01",
            "lora.steps=4",
            "lora.batch_size=2",
            "lora.learning_rate=0.01",
            "lora.rank=2",
            "data.latent_refinement_steps=2",
            "lora.train_text_encoder=false",  # which costs most of the time; tests of it turn it on
            "lora.distance_every=2",
            "output.checkpointing_steps=2",
            "sampler.num_inference_steps=2",
            "validation.images_per_prompt=2",
            "validation.every_n_steps=0",
            "runtime.device=cpu",
            *changes,
        ),
    )


def session(config):
    """A run before its first step: engine, model with its pivot, latents."""
    return Trainer(config, Path(config.output.dir), Quiet(), None)


def write_pictures(folder, captions, *, suffix=".png"):
    """An image folder with metadata.jsonl."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = []
    for i, caption in enumerate(captions):
        name = f"{i}{suffix}"
        Image.fromarray(rng.integers(0, 256, (12 + 2 * i, 10, 3), dtype=np.uint8)).save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def tuning_of(config):
    """Stage 2 of a run whose pivot has never been inverted, before its first step."""
    made = session(config)
    made.prepare_tuning()
    rows = [row + 0.2 * torch.sin(torch.arange(row.numel()).view_as(row)) for row in made.model.placeholder.embeddings]
    model = replace(made.model, placeholder=made.model.placeholder.with_embeddings(rows))
    tuning = LoraTuning(made.engine, model, made.latents, made.config, decision=made.decision)
    made._load_generated_images(tuning)
    return tuning
