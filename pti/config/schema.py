"""All settings of the trainer: defaults, limits and help texts.

`pti.config.toml_io` reads and checks settings by the metadata of these fields, and writes the commented file of ``pti init``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from pti.config.field import NEVER, option

__all__ = [
    "EARLIER",
    "ConceptSection",
    "Config",
    "DataSection",
    "EvaluationSection",
    "ExportSection",
    "InversionSection",
    "LocalitySection",
    "LoraSection",
    "LossSection",
    "ModelSection",
    "OutputSection",
    "PriorPreservationSection",
    "RuntimeSection",
    "SamplingSection",
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
        0.75,
        "Probability of dropping each comma-separated tag of a caption; the tag with the placeholder token stays. "
        "Lower it if long prompts matter more than short ones.",
        low=0,
        high=1,
    )
    wordings: int = option(
        8,
        "Number of caption variants of each image under tag dropout. They are generated once, before training.",
        low=2,
        high=1000,
    )
    prompt_templates: tuple[str, ...] = option(
        (),
        "Templates that replace the tag with the placeholder token, with the probability data.caption_tag_dropout_rate. "
        "Use them when that tag also describes a style.",
        example=("a picture of {token}",),
        before=(),
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
        "center",
        "Makes images square: `center` crops the middle, `random` crops at random, `squeeze` ignores the aspect ratio.",
        choices=("center", "random", "squeeze"),
    )
    num_random_crops: int = option(
        4,
        "Number of crops of each image with data.resize_mode = random. They are chosen once, before training.",
        low=1,
        high=1000,
    )
    random_flip: bool = option(
        False, "Mirror images at random. Leave it off if left and right matter, as for text or asymmetric characters."
    )
    vae_encoding: str = option(
        "sample",
        "Latents of an image: a new `sample` of the VAE's distribution at every step, or its `mean`.",
        choices=("sample", "mean"),
    )
    latent_refinement_steps: int = option(
        150,
        "Gradient steps that refine the latents of each image and crop through the VAE decoder; 0 keeps the encoder's latents. "
        "Each step costs one forward and one backward pass of the decoder, once before training.",
        low=0,
        before=0,
    )


@dataclass(frozen=True, slots=True)
class LossSection:
    """The denoising loss of both stages."""

    timestep_sampling: str = option(
        "stratified",
        "`uniform` samples each timestep independently. `stratified` samples one from each equal part of the range, "
        "which reduces the variance of the loss.",
        choices=("stratified", "uniform"),
    )
    min_timestep: int = option(0, "Lowest timestep of training, from 0 (almost no noise).", low=0)
    max_timestep: int = option(
        650,
        "Timesteps of training are below this number; most schedules have 1000. "
        "High timesteps decide the image layout. Lower the limit if position or background is learnt, "
        "raise it if shapes are not learnt.",
        low=1,
    )
    min_snr_gamma: float | None = option(
        None,
        "Weight timesteps by min(SNR, gamma), arXiv 2303.09556. Default: no weights.",
        above=0,
        example=5.0,
    )
    noise_offset: float = option(
        0.0,
        "Standard deviation of a constant that is added to the noise of each channel; 0 adds none. "
        "Values near 0.1 help with very dark or bright images.",
        low=0,
    )
    unmasked_weight: float = option(
        0.1,
        "Loss weight outside the concept, relative to 1 inside; 1 turns the mask off. The mask is where the base "
        "model's prediction depends on the class word (DiffEdit, arXiv 2210.11427). The run saves it as previews/focus.png.",
        low=0,
        high=1,
        before=1.0,
    )


@dataclass(frozen=True, slots=True)
class InversionSection:
    """Stage 1, textual inversion: train the embeddings of the placeholder token."""

    steps: int = option(1000, "Maximum number of optimizer steps.", low=1)
    batch_size: int = option(4, "Images of one batch, for each process and accumulation step.", low=1)
    learning_rate: float = option(2e-3, "Learning rate. Typical for Stable Diffusion 1.5: 5e-4 to 1e-3.", above=0)
    lr_scheduler: str = option(
        "constant", "Learning-rate schedule after the warm-up.", choices=("constant", "cosine", "linear")
    )
    lr_warmup_steps: int = option(0, "Steps of linear warm-up.", low=0)
    optimizer: str = option(
        "adamw",
        "Optimizer. `sgd` is without momentum and needs another learning rate than `adamw`.",
        choices=("adamw", "sgd"),
    )
    weight_decay: float = option(0.0, "Decoupled weight decay of adamw; sgd does not use it.", low=0)
    embedding_norm: str = option(
        "off",
        "Control of the embeddings' norm. `fixed` trains directions only (arXiv 2512.13672). "
        "`decay` moves the norm towards inversion.embedding_norm_target after every step. Use it if norms grow too much.",
        choices=("off", "fixed", "decay"),
    )
    embedding_norm_target: str = option(
        "initial",
        "Target norm: that of the `initial` embedding, or the mean norm of the embedding `table`.",
        choices=("initial", "table"),
    )
    embedding_norm_decay: float = option(
        0.01,
        "With inversion.embedding_norm = decay: fraction of the gap to the target norm that each step closes.",
        above=0,
        high=1,
    )
    max_distance: float | None = option(
        None,
        "Stop at this L2 distance of the embeddings from their initial values; the last step is shortened to it. "
        "Default: no limit.",
        above=0,
        example=0.5,
    )
    early_stopping_patience: int = option(
        0,
        "Window of early stopping in steps: stop when the mean loss of a window improves too little on the window before. "
        "0 turns it off.",
        low=0,
    )
    early_stopping_min_delta: float = option(
        0.01, "Smallest relative improvement of the mean loss that continues training.", low=0, high=1
    )


@dataclass(frozen=True, slots=True)
class LoraSection:
    """Stage 2, LoRA: train adapters of the UNet and the text encoder; the placeholder embeddings are frozen."""

    steps: int = option(1000, "Maximum number of optimizer steps.", low=1)
    batch_size: int = option(4, "Images of one batch, for each process and accumulation step.", low=1)
    learning_rate: float = option(
        4e-3,
        "Learning rate of the UNet adapters. Typical for Stable Diffusion 1.5: 1e-4. "
        "Lower it if prompts are ignored or the class word changes.",
        above=0,
    )
    lr_scheduler: str = option(
        "constant", "Learning-rate schedule after the warm-up.", choices=("constant", "cosine", "linear")
    )
    lr_warmup_steps: int = option(0, "Steps of linear warm-up.", low=0)
    weight_decay: float = option(0.01, "Decoupled weight decay of AdamW.", low=0)
    averaging: float = option(
        0.5,
        "Averaging of the adapter weights over the steps (power-function EMA). 1 averages all steps equally, "
        "smaller values favour late steps, 0 keeps the weights of the last step.",
        low=0,
        high=1,
        before=0.0,
    )
    rank: int = option(
        8,
        "Rank of the adapters. Higher ranks fit more detail, with more weights and more change of the base model.",
        low=1,
    )
    alpha: float | None = option(
        None, "Adapters are scaled by alpha / rank. Default: alpha = rank.", above=0, example=8.0
    )
    target_modules: tuple[str, ...] = option(
        ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"),
        "UNet modules with adapters, by the ends of their names. The default is attention, feed-forward and convolutions.",
    )
    train_text_encoder: bool = option(
        True,
        "Also train adapters of the text encoder (both text encoders of SDXL). Turn it off to save memory, "
        "or if prompts are ignored.",
    )
    text_encoder_learning_rate: float | None = option(
        None,
        "Learning rate of the text encoder adapters. Default: lora.learning_rate times lora.text_rate_share.",
        above=0,
        example=5e-5,
    )
    text_rate_share: float = option(
        0.5,
        "Without lora.text_encoder_learning_rate: the text encoder's learning rate as a multiple of lora.learning_rate.",
        above=0,
        before=1.0,
    )
    text_encoder_target_modules: tuple[str, ...] = option(
        ("q_proj", "k_proj", "v_proj", "out_proj"),
        "Text encoder modules with adapters, by the ends of their names.",
    )
    tag_dropout_max_timestep: int = option(
        400,
        "Tag dropout (data.caption_tag_dropout_rate) applies only below this timestep. At higher noise levels the image layout "
        "is decided. Training there without the layout in the caption teaches it to the UNet.",
        low=0,
    )
    max_weight_distance: float | None = option(
        None,
        "Stop when the Frobenius norm of the weight change over all adapters reaches this value. Default: no limit.",
        above=0,
        example=5.0,
    )
    max_prediction_distance: float | None = option(
        None,
        "Stop when predictions on fixed noisy images reach this mean L2 distance from the base model's. Default: no limit.",
        above=0,
        example=10.0,
    )
    distance_every: int = option(50, "Steps between measurements of the two distances.", low=1)
    probes: int = option(8, "Number of noisy images for the prediction distance.", low=1)


@dataclass(frozen=True, slots=True)
class LocalitySection:
    """Locality loss of stage 2: keep the base model's predictions between the placeholder token and the class word."""

    interpolation: str = option(
        "auto",
        "Interpolation between the text states of the placeholder token and the class word. `none` turns the loss off. "
        "The centred modes vslerp, vslerp_norm and aslerp need a certificate. `auto` uses the mode that the certificate "
        "recommends at each position, or slerp.",
        choices=("auto", "slerp", "vslerp", "vslerp_norm", "aslerp", "lerp", "none"),
    )
    weight: float = option(
        1.0,
        "Weight of the locality loss; 0 turns it off. Raise it if the class word changes, lower it if the concept is "
        "learnt too weakly.",
        low=0,
    )
    interpolation_t: float = option(
        0.5, "Interpolation parameter: 0 is the placeholder token, 1 the class word.", low=0, high=1
    )
    time_drawn: bool = option(
        False, "Sample the interpolation parameter uniformly for every image, instead of locality.interpolation_t."
    )
    positions: str = option(
        "suffix",
        "Interpolated token positions: those of the `placeholder` only, or the `suffix` from there to the end. "
        "In a causal text encoder all later positions depend on the placeholder.",
        choices=("suffix", "placeholder"),
    )
    outside_timesteps: str = option(
        "class",
        "Locality target at timesteps that training leaves out, where adapters still act. `class`: match the base model's "
        "prediction for the class word. `token`: its prediction for the placeholder token. `nothing`: no locality loss there.",
        choices=("class", "token", "nothing"),
        before="nothing",
    )
    mix_captions: bool = option(
        True,
        "Exchange comma-separated tags between the captions of the images, which regularizes on more prompts.",
        before=False,
    )
    keep_captions_whole: bool = option(
        False,
        "Apply lora.tag_dropout_max_timestep to the locality loss as well. Off: tag dropout at every timestep.",
        before=True,
    )
    inputs: str = option(
        "latents",
        "Images of the locality loss: the noisy training `latents`, or `own` images that the base model generates "
        "for interpolated prompts. Generation takes time before stage 2.",
        choices=("latents", "own"),
    )
    num_generated: int = option(16, "Number of generated images with locality.inputs = own.", low=1)
    empty_prompt_fraction: float = option(
        0.5,
        "Fraction of the regularized images with the empty prompt instead of an interpolated one. It protects the "
        "unconditional prediction, which classifier-free guidance subtracts.",
        low=0,
        high=1,
    )
    every_nth_image: int = option(2, "Regularize every n-th image of the batch; 1 is every image.", low=1)
    every_n_steps: int = option(1, "Apply the loss at every n-th step. Raise it to save time.", low=1)
    certificates: tuple[str, ...] = option(
        (),
        "Certificate files of `clipgeom check`, at least one for each text encoder.",
        example=("certificate.safetensors",),
    )
    allow_uncertified: bool = option(
        False, "Allow a centred mode that no certificate validates. All outputs of the run are then marked."
    )


@dataclass(frozen=True, slots=True)
class PriorPreservationSection:
    """Prior preservation of stage 2 (DreamBooth): a denoising loss on class images."""

    weight: float = option(
        0.0,
        "Weight of the prior-preservation loss; 0 turns it off. Try 1 if the class word changes despite the locality loss.",
        low=0,
    )
    class_images: str | None = option(
        None,
        "Folder of class images. Default: the base model generates them.",
        example="class",
    )
    class_prompt: str = option("a picture of {class}", "Prompt of generated class images, and caption of given ones.")
    num_class_images: int = option(32, "Number of generated class images.", low=1)


@dataclass(frozen=True, slots=True)
class SamplingSection:
    """Sampling of previews and of generated training images; also the defaults of `pti sample`."""

    num_inference_steps: int = option(30, "Sampling steps.", low=1)
    guidance_scale: float = option(3.0, "Scale of classifier-free guidance; 1 turns it off.", low=1)
    prompts: tuple[str, ...] = option(("a picture of {token}",), "Prompts of the previews.")
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
            "a picture of {token}",
            "a picture of {token}, in the snow",
            "a picture of {token}, at night",
            "a picture of {token}, by the sea",
            "an ink illustration of {token}",
            "a watercolor painting of {token}",
        ),
        "Evaluation prompts. Each is sampled with the placeholder token and with the class word.",
    )
    images_per_prompt: int = option(
        16, "Number of images for each prompt and word. More images give narrower intervals.", low=2
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


@dataclass(frozen=True, slots=True)
class Config:
    """All settings."""

    model: ModelSection = ModelSection()
    concept: ConceptSection = ConceptSection()
    data: DataSection = DataSection()
    loss: LossSection = LossSection()
    inversion: InversionSection = InversionSection()
    lora: LoraSection = LoraSection()
    locality: LocalitySection = LocalitySection()
    prior_preservation: PriorPreservationSection = PriorPreservationSection()
    sampling: SamplingSection = SamplingSection()
    evaluation: EvaluationSection = EvaluationSection()
    export: ExportSection = ExportSection()
    runtime: RuntimeSection = RuntimeSection()
    output: OutputSection = OutputSection()

    def flat(self) -> dict[str, Any]:
        """Return every value by its full name, such as ``lora.rank``."""
        return {
            f"{section.name}.{key.name}": getattr(getattr(self, section.name), key.name)
            for section in fields(self)
            for key in fields(getattr(self, section.name))
        }

    def identity(self) -> dict[str, Any]:
        """Settings that identify a run: every value by its full name, without the values in `EARLIER`."""
        return {name: value for name, value in self.flat().items() if name not in EARLIER or value != EARLIER[name]}


EARLIER: Mapping[str, Any] = MappingProxyType(
    {
        f"{section.name}.{key.name}": key.metadata["before"]
        for section in fields(Config)
        for key in fields(getattr(Config(), section.name))
        if key.metadata["before"] is not NEVER
    }
)
