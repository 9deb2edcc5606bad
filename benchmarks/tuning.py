"""What a step of stage 2 costs, against a minimal loop of diffusers and PEFT on the same batch.

    python benchmarks/tuning.py [--model DIRECTORY] [--steps 20] [--rounds 5] [--batch 4] [--frozen-text]

Both change the same layers, at the same rank: those of the text encoder as well, unless it is to be frozen. Rounds of the
variants alternate; medians of processor time are told.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model

from clipgeom._progress import Quiet
from pti.config.schema import LoraSection
from pti.config.toml_io import read_config
from pti.models.pipeline import load_pipeline
from pti.training.lora_tuning import LoraTuning
from pti.training.trainer import Trainer


def minimal(model, batch, rank, text):
    """The loop of diffusers' examples, with latents computed beforehand, and text states where their encoder is frozen."""
    loaded, settings = load_pipeline(model), LoraSection()
    unet, (encoder,) = loaded.unet, loaded.encoders
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(settings.target_modules)), unet)
    networks = [unet]
    if text:
        wanted = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(settings.text_encoder_target_modules))
        inject_adapter_in_model(wanted, encoder.network)
        networks.append(encoder.network)
    trained = [p for network in networks for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    latents, states = torch.randn(batch, unet.config.in_channels, side, side), torch.randn(batch, 77, width)
    ids = encoder.tokenizer(
        ["a picture of a knight, at night"] * batch, padding="max_length", max_length=77, return_tensors="pt"
    ).input_ids

    def step():
        noise, times = torch.randn_like(latents), torch.randint(1000, (batch,))
        said = encoder.network(ids).last_hidden_state if text else states
        told = unet(latents + noise, times, encoder_hidden_states=said).sample
        torch.nn.functional.mse_loss(told, noise).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def ours(model, batch, rank, folder, *changes):
    config = read_config(
        None,
        (
            f'model.pretrained_model="{model}"',
            f'output.dir="{folder}"',
            f"lora.batch_size={batch}",
            f"lora.rank={rank}",
            "lora.distance_every=100000",
            "lora.steps=100000",
            *changes,
        ),
    )
    session = Trainer(config, folder, Quiet(), None)
    session.prepare_tuning()
    session.open()
    session._load_concept_masks()  # a run computes them before its first step
    tuning = LoraTuning(session.engine, session.model, session.latents, session.config, decision=session.decision)
    return tuning._train_step


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="miniworld")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--frozen-text", action="store_true", help="tune the UNet alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model
        text = not options.frozen_text

        def trainer(kept, *changes):
            changes = (*changes, f"lora.train_text_encoder={str(text).lower()}")
            return ours(model, options.batch, options.rank, folder / kept, *changes)

        variants = {
            "diffusers, minimal": minimal(model, options.batch, options.rank, text),
            "pti, no regulariser": trainer("none", "locality.interpolation=none"),
            "pti, half the batch": trainer("half"),
            "pti, the whole batch": trainer("all", "locality.batch_fraction=1"),
        }
        times = {variant: [] for variant in variants}
        for step in variants.values():
            for _ in range(5):
                step()
        for _ in range(options.rounds):
            for variant, step in variants.items():
                start = time.process_time()
                for _ in range(options.steps):
                    step()
                times[variant].append((time.process_time() - start) / options.steps)
    medians = {variant: statistics.median(seconds) for variant, seconds in times.items()}
    for variant, seconds in medians.items():
        over_minimal = seconds / medians["diffusers, minimal"]
        over_none = seconds / medians["pti, no regulariser"]
        print(
            f"{variant:<22} {1000 * seconds:8.1f} ms a step   {over_minimal:5.2f} × minimal   {over_none:5.2f} × without"
        )


if __name__ == "__main__":
    main()
