"""Small CLIP text towers made on the spot, in the file layouts that are found in the wild."""

import json

import torch
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
POSITIONS = 77


def vocabulary():
    """Bytes, bytes at the end of a word, a few merges, BOS, EOS: CLIP's own scheme in small."""
    letters = sorted(ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e</w>"), ("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges), BOS, EOS]
    return {token: i for i, token in enumerate(tokens)}, merges


def text_config(**changes):
    vocab, _ = vocabulary()
    settings = {
        "vocab_size": len(vocab),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "projection_dim": 24,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": vocab[BOS],
        "eos_token_id": vocab[EOS],
        "pad_token_id": vocab[EOS],
    }
    return CLIPTextConfig(**{**settings, **changes})


def save_tokenizer(folder, *, layout="files", pad=EOS):
    """Write the tokenizer as vocab.json and merges.txt (as old repositories have it) or as one tokenizer.json."""
    vocab, merges = vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": pad}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": POSITIONS, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    if layout == "json":
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        (folder / "vocab.json").unlink()
        (folder / "merges.txt").unlink()
        tokenizer.save_pretrained(folder)


def make_model(kind="projection", **changes):
    torch.manual_seed(0)
    if kind == "text":
        return _lively(CLIPTextModel(text_config(**changes)))
    if kind == "projection":
        return _lively(CLIPTextModelWithProjection(text_config(**changes)))
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    text = text_config(**changes).to_dict()
    return _lively(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)))


def _lively(model):
    """Weights far enough from their tiny initial values that every layer matters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def save_projection(folder, **changes):
    """A `CLIPTextModelWithProjection` with its tokenizer in one folder."""
    model = make_model("projection", **changes)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


def save_pipeline(root, source):
    """The tower of `source` as a Stable Diffusion 1.x repository has it: prefix, legacy ids, no projection."""
    encoder = root / "text_encoder"
    encoder.mkdir(parents=True)
    tensors = {k: v for k, v in load_file(source / "model.safetensors").items() if k != "text_projection.weight"}
    tensors = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in tensors.items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(POSITIONS)[None]
    save_file(tensors, encoder / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    config |= {"architectures": ["CLIPTextModel"], "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config["torch_dtype"] = config.pop("dtype", "float32")
    (encoder / "config.json").write_text(json.dumps(config))
    (root / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    save_tokenizer(root / "tokenizer")
