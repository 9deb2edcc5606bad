"""Settings of the two training stages: loss, inversion, LoRA, locality, prior preservation, experiments."""

from __future__ import annotations

from dataclasses import dataclass

from pti.config.field import option

__all__ = [
    "ExperimentalSection",
    "InversionSection",
    "LocalitySection",
    "LoraSection",
    "LossSection",
    "PriorPreservationSection",
]


@dataclass(frozen=True, slots=True)
class LossSection:
    """The denoising loss of both stages."""

    timestep_sampling: str = option(
        "uniform",
        "`uniform` samples each timestep independently. `stratified` samples one from each equal part of the range, "
        "which reduces the variance of the loss.",
        choices=("uniform", "stratified"),
    )
    min_timestep: int = option(0, "Lowest timestep of training, from 0 (almost no noise).", low=0)
    max_timestep: int = option(
        1000,
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
        1.0,
        "Loss weight outside the concept, relative to 1 inside; 1 turns the mask off. The mask is where the base "
        "model's prediction depends on the class word (DiffEdit, arXiv 2210.11427). The run saves it as previews/focus.png.",
        low=0,
        high=1,
    )


@dataclass(frozen=True, slots=True)
class InversionSection:
    """Stage 1, textual inversion: train the embeddings of the placeholder token."""

    steps: int = option(1000, "Maximum number of optimizer steps.", low=1)
    batch_size: int = option(4, "Images of one batch, for each process and accumulation step.", low=1)
    learning_rate: float = option(5e-4, "Learning rate. Typical for Stable Diffusion 1.5: 5e-4 to 1e-3.", above=0)
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
        1e-4,
        "Learning rate of the UNet adapters. Typical for Stable Diffusion 1.5: 1e-4. "
        "Lower it if prompts are ignored or the class word changes.",
        above=0,
    )
    lr_scheduler: str = option(
        "constant", "Learning-rate schedule after the warm-up.", choices=("constant", "cosine", "linear")
    )
    lr_warmup_steps: int = option(0, "Steps of linear warm-up.", low=0)
    weight_decay: float = option(0.01, "Decoupled weight decay of AdamW.", low=0)
    ema_gamma: float | None = option(
        None,
        "Power-function EMA of the adapter weights (arXiv 2312.02696): weights of step s count as s^gamma. 0 averages all "
        "steps equally; larger values favour late steps. Default: no EMA, the weights of the last step.",
        low=0,
        example=1.0,
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
        ("to_q", "to_k", "to_v", "to_out.0"),
        "UNet modules with adapters, by the ends of their names. The default is attention. Feed-forward (ff.net.0.proj, "
        "ff.net.2) and convolutions (conv1, conv2) fit more detail with more weights.",
    )
    train_text_encoder: bool = option(
        False,
        "Also train adapters of the text encoder (both text encoders of SDXL). Turn it on if prompts change the concept too "
        "little; it takes memory.",
    )
    text_encoder_learning_rate: float | None = option(
        None,
        "Learning rate of the text encoder adapters. Default: half of lora.learning_rate.",
        above=0,
        example=5e-5,
    )
    text_encoder_target_modules: tuple[str, ...] = option(
        ("q_proj", "k_proj", "v_proj", "out_proj"),
        "Text encoder modules with adapters, by the ends of their names.",
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


@dataclass(frozen=True, slots=True)
class LocalitySection:
    """Locality loss of stage 2: keep the base model's predictions between the placeholder token and the class word."""

    interpolation: str = option(
        "auto",
        "Interpolation between the text states of the placeholder token and the class word. `auto`: the mode that the "
        "certificate recommends at each position, or slerp. `slerp`: everywhere. `none` turns the loss off. The other "
        "modes are for experiments; vslerp, vslerp_norm and aslerp need a certificate.",
        choices=("auto", "slerp", "none", "vslerp", "vslerp_norm", "aslerp", "lerp"),
    )
    weight: float = option(
        1.0,
        "Weight of the locality loss; 0 turns it off. Raise it if the class word changes, lower it if the concept is "
        "learnt too weakly.",
        low=0,
    )
    outside_timesteps: str = option(
        "class_word",
        "Locality target at timesteps that training leaves out, where adapters still act. `class_word`: match the base model's "
        "prediction for the class word. `placeholder`: its prediction for the placeholder token. `none`: no locality loss "
        "there.",
        choices=("class_word", "placeholder", "none"),
    )
    mix_captions: bool = option(
        False,
        "Exchange comma-separated tags between the captions of the images, which regularizes on more prompts.",
    )
    empty_prompt_fraction: float = option(
        0.5,
        "Fraction of the regularized images with the empty prompt instead of an interpolated one. It protects the "
        "unconditional prediction, which classifier-free guidance subtracts.",
        low=0,
        high=1,
    )
    batch_fraction: float = option(
        0.5,
        "Fraction of the batch that is regularized, evenly spaced. Lower it to save time and memory.",
        above=0,
        high=1,
    )
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
    class_prompt: str = option("a photo of {class}", "Prompt of generated class images, and caption of given ones.")
    num_class_images: int = option(100, "Number of generated class images.", low=1)


@dataclass(frozen=True, slots=True)
class ExperimentalSection:
    """Settings for experiments; the project's own studies found no use for them. They may change or go."""

    embedding_norm: str = option(
        "off",
        "Control of the embeddings' norm. `fixed` trains directions only (arXiv 2512.13672). "
        "`decay` moves the norm towards experimental.embedding_norm_target after every step. Use it if norms grow too much.",
        choices=("off", "fixed", "decay"),
    )
    embedding_norm_target: str = option(
        "initial",
        "Target norm: that of the `initial` embedding, or the mean norm of the embedding `table`.",
        choices=("initial", "table"),
    )
    embedding_norm_decay: float = option(
        0.01,
        "With experimental.embedding_norm = decay: fraction of the gap to the target norm that each step closes.",
        above=0,
        high=1,
    )
    prompt_templates: tuple[str, ...] = option(
        (),
        "Templates that replace the tag with the placeholder token, with the probability data.caption_tag_dropout_rate. "
        "Use them when that tag also describes a style.",
        example=("a picture of {token}",),
    )
    locality_t: float | str = option(
        0.5,
        "Interpolation parameter of the locality loss: 0 is the placeholder token, 1 the class word. `uniform` samples it for "
        "every image.",
        low=0,
        high=1,
        choices=("uniform",),
    )
    locality_positions: str = option(
        "suffix",
        "Interpolated token positions: those of the `placeholder` only, or the `suffix` from there to the end. "
        "In a causal text encoder all later positions depend on the placeholder.",
        choices=("suffix", "placeholder"),
    )
    locality_inputs: str = option(
        "latents",
        "Images of the locality loss: the noisy training `latents`, or `generated` images that the base model generates "
        "for interpolated prompts. Generation takes time before stage 2.",
        choices=("latents", "generated"),
    )
    locality_num_generated: int = option(
        16, "Number of generated images with experimental.locality_inputs = generated.", low=1
    )
    locality_every: int = option(1, "Apply the loss at every n-th step. Raise it to save time.", low=1)
