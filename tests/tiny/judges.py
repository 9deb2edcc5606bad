"""Tiny judges in folders, as their makers save them."""

import json

import torch
from transformers import Dinov2Config, Dinov2Model

from tests.tiny.text_towers import make_model, save_tokenizer


def save_clip(folder):
    """A CLIP with both towers."""
    make_model("full").save_pretrained(folder)
    save_tokenizer(folder)
    processor = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "crop_size": 32}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def save_dino(folder):
    """A DINOv2."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder)
    processor = {
        **{"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 32}},
        **{"crop_size": {"height": 28, "width": 28}, "do_center_crop": True},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
