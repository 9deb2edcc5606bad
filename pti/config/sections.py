"""Settings of everything around the training stages: model, data, sampling, evaluation, files."""

from __future__ import annotations

from dataclasses import dataclass

from pti.config.field import option

__all__ = [
    "ConceptSection",
    "DataSection",
    "EvaluationSection",
    "ExportSection",
    "ModelSection",
    "OutputSection",
    "RuntimeSection",
    "SamplerSection",
    "ValidationSection",
]


@dataclass(frozen=True, slots=True)
class ModelSection:
    """The base model."""

    pretrained_model: str = option(
        "miniworld",
        "A diffusers pipeline of Stable Diffusion 1.x, 2.x or XL: a directory, a hub id, or miniworld (bundled).",
    )
    revision: str | None = option(None, "Branch, tag or commit of a hub id.", example="main")
    variant: str | None = option(None, "Variant of the weight files, such as fp16.", example="fp16")


@dataclass(frozen=True, slots=True)
class ConceptSection:
    """The placeholder token and its class word."""

    placeholder_token: str = option(
        "<concept>", "Placeholder token of the concept. It must not be in the tokenizer's vocabulary."
    )
    class_word: str | None = option(
        None,
        "Class of the concept, such as dog. It must have as many tokens as concept.num_vectors. "
        "Optional for miniworld characters, whose class is known.",
        example="knight",
    )
    initializer_token: str | None = option(
        None,
        "Words whose embeddings initialize the placeholder token: one token for all vectors, or one token for each. "
        "Default: the class word.",
        example="knight",
    )
    num_vectors: int = option(
        1,
        "Number of embedding vectors of the placeholder token. More vectors fit more detail and make prompts less editable.",
        low=1,
        high=32,
    )


@dataclass(frozen=True, slots=True)
class DataSection:
    """Training images and captions."""

    source: str = option(
        "miniworld:bramble",
        "Training images: a folder, miniworld:NAME for a character of that world, or a data set id. "
        "Captions of a folder come from metadata.jsonl, from a .txt file beside each image, or from data.instance_prompt.",
    )
    instance_prompt: str | None = option(
        None,
        "Caption of every image. It replaces all other captions.",
        example="an ink illustration of {token}",
    )
    caption_tag_dropout_rate: float = option(
        0.0,
        "Probability of dropping each comma-separated tag of a caption; the tag with the placeholder token stays. "
        "Raise it if only long prompts give the concept.",
        low=0,
        high=1,
    )
    tag_dropout_max_timestep: int = option(
        1000,
        "Tag dropout applies only below this timestep, in stage 2; above, captions are complete. The image layout is decided "
        "at high timesteps. Lower the limit if position or background is learnt.",
        low=0,
    )
    max_images: int | None = option(
        None,
        "Maximum number of images. Default: all images, or 6 of a miniworld character.",
        low=1,
        example=6,
    )
    holdout: int = option(
        0, "Number of images, from the end, that are used for the evaluation and not for training.", low=0
    )
    split: str = option("train", "Split of a data set.")
    image_column: str = option("image", "Image column of a data set.")
    caption_column: str = option("text", "Caption column of a data set or of metadata.jsonl.")
    resolution: int | None = option(
        None, "Side of the training images in pixels. Default: the base model's resolution.", low=8, example=512
    )
    resize_mode: str = option(
        "center_crop",
        "Makes images square: `center_crop` crops the middle, `random_crop` crops at random, `stretch` ignores the aspect "
        "ratio.",
        choices=("center_crop", "random_crop", "stretch"),
    )
    num_random_crops: int = option(
        4,
        "Number of crops of each image with data.resize_mode = random_crop. They are chosen once, before training.",
        low=1,
        high=1000,
    )
    random_flip: bool = option(
        False, "Mirror images at random. Leave it off if left and right matter, as for text or asymmetric characters."
    )
    vae_encoding: str = option(
        "sample",
        "Latents of an image: a new `sample` of the VAE's distribution at every step, or its `mode`, which is also its mean.",
        choices=("sample", "mode"),
    )
    latent_refinement_steps: int = option(
        0,
        "Gradient steps that refine the latents of each image and crop through the VAE decoder; 0 keeps the encoder's latents. "
        "Each step costs one forward and one backward pass of the decoder, once before training.",
        low=0,
    )


@dataclass(frozen=True, slots=True)
class SamplerSection:
    """Sampling of previews and of generated training images; also the defaults of `pti sample`."""

    num_inference_steps: int = option(30, "Sampling steps.", low=1)
    guidance_scale: float = option(7.5, "Scale of classifier-free guidance; 1 turns it off.", low=1)


@dataclass(frozen=True, slots=True)
class ValidationSection:
    """Previews: images of some prompts during training and with the exported files."""

    prompts: tuple[str, ...] = option(("a photo of {token}",), "Prompts of the previews.")
    images_per_prompt: int = option(4, "Number of preview images for each prompt.", low=1)
    every_n_steps: int = option(
        250, "Training steps between previews; 0 generates previews at the end of a stage only.", low=0
    )
    seed: int = option(0, "Seed of the previews' noise.", low=0)


@dataclass(frozen=True, slots=True)
class EvaluationSection:
    """Evaluation after training: images of the placeholder token compared with images of the class word."""

    prompts: tuple[str, ...] = option(
        (
            "a photo of {token}",
            "a photo of {token} in the snow",
            "a photo of {token} at night",
            "a photo of {token} on the beach",
            "a pencil drawing of {token}",
            "a watercolor painting of {token}",
        ),
        "Evaluation prompts. Each is sampled with the placeholder token and with the class word.",
    )
    images_per_prompt: int = option(
        4, "Number of images for each prompt and word. More images give narrower intervals.", low=2
    )
    seed: int = option(1000, "Seed of the images and of the bootstrap intervals.", low=0)
    clip_model: str | None = option(
        None,
        "CLIP model for the similarity metrics: a hub id or a directory. Default: the bundled model for miniworld, "
        "openai/clip-vit-large-patch14 otherwise, if it is available.",
        example="openai/clip-vit-base-patch32",
    )
    dino_model: str | None = option(
        None, "DINOv2 model for a second image similarity. Default: none.", example="facebook/dinov2-base"
    )
    concept_attributes: tuple[str, ...] = option(
        (),
        "Attributes of the concept itself, whose change is not counted as leakage. "
        "Those of miniworld characters are known.",
        example=("pose",),
    )


@dataclass(frozen=True, slots=True)
class ExportSection:
    """Exported files."""

    name: str | None = option(
        None, "Base name of the exported files. Default: the placeholder token without brackets.", example="my_knight"
    )
    dtype: str = option("fp32", "Number format of the exported LoRA.", choices=("fp32", "fp16"))


@dataclass(frozen=True, slots=True)
class RuntimeSection:
    """Device, precision and random seed of both stages."""

    seed: int = option(0, "Seed of the image order, the noise and the initial adapter weights.", low=0)
    device: str = option(
        "auto", "`auto` uses the device that accelerate chooses, `cpu` the processor.", choices=("auto", "cpu")
    )
    mixed_precision: str = option(
        "no", "Precision of the frozen weights. Use fp16 or bf16 to save memory.", choices=("no", "fp16", "bf16")
    )
    gradient_accumulation_steps: int = option(
        1, "Micro-batches in one optimizer step. Raise it for a larger batch in the same memory.", low=1
    )
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass: less memory, more time.")
    max_grad_norm: float = option(1.0, "Gradients are clipped to this norm; 0 turns clipping off.", low=0)
    trackers: tuple[str, ...] = option(
        (), "Experiment trackers of accelerate that receive the metrics.", example=("tensorboard",)
    )


@dataclass(frozen=True, slots=True)
class OutputSection:
    """The run folder and its checkpoints."""

    dir: str = option("run", "Folder of all outputs of the run.")
    checkpointing_steps: int = option(100, "Steps between checkpoints.", low=1)
    checkpoints_total_limit: int = option(
        2, "Number of checkpoints to keep of each stage; older ones are deleted.", low=1
    )
