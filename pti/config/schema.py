"""Every setting of the trainer, its default, its limits and what it does: the one place where they are written down.

Reading and checking them, and writing the commented file of ``pti init``, is `pti.config.toml_io`'s; both go by the metadata
of these fields.
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
    """The pipeline that is tuned."""

    pretrained_model: str = option(
        "miniworld", "A diffusers Stable Diffusion 1.x, 2.x or XL pipeline: a directory, a hub id, or miniworld."
    )
    revision: str | None = option(None, "Branch, tag or commit of a hub id.", example="main")
    variant: str | None = option(None, "Variant of the weight files.", example="fp16")


@dataclass(frozen=True, slots=True)
class ConceptSection:
    """What is learnt, and the word for the class that it belongs to."""

    placeholder_token: str = option("<concept>", "The new word. It must not be a word of the tokenizer.")
    class_word: str | None = option(
        None,
        "What the concept is one of. It needs as many tokens as there are vectors. Left out with data from miniworld, "
        "which knows the class of its characters.",
        example="knight",
    )
    initializer_token: str | None = option(
        None,
        "Words whose embeddings the vectors start from: a token each, or one for all. Left out: the class word.",
        example="knight",
    )
    num_vectors: int = option(1, "How many tokens the new word is made of.", low=1, high=32)


@dataclass(frozen=True, slots=True)
class DataSection:
    """The pictures of the concept, and what is said about them."""

    source: str = option(
        "miniworld:bramble",
        "A folder of pictures (captions in metadata.jsonl, in a .txt file beside each, or by `instance_prompt`), "
        "miniworld:NAME for a new character of that world, or the id of a data set.",
    )
    instance_prompt: str | None = option(
        None, "One caption for every picture, in place of any others.", example="an ink illustration of {token}"
    )
    caption_tag_dropout_rate: float = option(
        0.75,
        "Leave out each part of a caption between commas, but the one with the new word, with this probability, so that "
        "the word is learnt for short prompts as well as for long ones.",
        low=0,
        high=1,
    )
    wordings: int = option(
        8, "With caption_tag_dropout_rate: how many wordings of each caption are drawn, once.", low=2, high=1000
    )
    prompt_templates: tuple[str, ...] = option(
        (),
        "With caption_tag_dropout_rate: one of these, with the same probability, in place of the part with the new word, so "
        "that a style said there is left out, too. In miniworld the body's colour was learnt better, and the headgear's less: "
        "reports/pivotal-tuning.",
        example=("a picture of {token}",),
        before=(),
    )
    max_images: int | None = option(
        None, "Use at most this many pictures; 6 of a miniworld character.", low=1, example=6
    )
    holdout: int = option(0, "The last so many pictures are kept from training, for the evaluation.", low=0)
    split: str = option("train", "Split of a data set.")
    image_column: str = option("image", "Column of the pictures in a data set.")
    caption_column: str = option("text", "Column of the captions, in a data set or in metadata.jsonl.")
    resolution: int | None = option(
        None, "Side of the pictures in pixels. Left out: the pipeline's own.", low=8, example=512
    )
    resize_mode: str = option(
        "center",
        "How a picture becomes a square: its middle, random cut-outs, or squeezed as a whole.",
        choices=("center", "random", "squeeze"),
    )
    num_random_crops: int = option(
        4, "With random cut-outs: how many of each picture are drawn, once.", low=1, high=1000
    )
    random_flip: bool = option(False, "Also mirror the pictures. Wrong for whoever carries a sword in the right hand.")
    vae_encoding: str = option(
        "sample",
        "Draw latents from the autoencoder's distribution at every step, or take its mean.",
        choices=("sample", "mean"),
    )
    latent_refinement_steps: int = option(
        150,
        "Steps of gradient descent through the decoder that refine each image's latents, starting at the encoder's. 0 keeps "
        "the encoder's latents. Each step is a forward and a backward pass of the decoder, once for each image and crop.",
        low=0,
        before=0,
    )


@dataclass(frozen=True, slots=True)
class LossSection:
    """The denoising loss, in both stages."""

    timestep_sampling: str = option(
        "stratified",
        "Noise levels of a batch: one from each stretch of the schedule (the loss wanders less), or each on its own.",
        choices=("stratified", "uniform"),
    )
    min_timestep: int = option(0, "Noise levels are drawn from here on; 0 is hardly any noise.", low=0)
    max_timestep: int = option(
        650,
        "Up to here, not included; most schedules have 1000 levels. What is decided above, such as places, is not trained on. "
        "Lower in miniworld frees places more and can cost shapes: reports/pivotal-tuning.",
        low=1,
    )
    min_snr_gamma: float | None = option(
        None, "Weigh noise levels by min(SNR, gamma) (arXiv 2303.09556).", above=0, example=5.0
    )
    noise_offset: float = option(0.0, "Add a constant of this deviation to the noise of each channel.", low=0)
    unmasked_weight: float = option(
        0.1,
        "Least weight of errors, far from the concept, beside 1 upon it; in both stages. 1 tells no places apart. Where the "
        "concept is, the frozen model tells by its class word (the mask of DiffEdit, arXiv 2210.11427); see "
        "previews/focus.png.",
        low=0,
        high=1,
        before=1.0,
    )


@dataclass(frozen=True, slots=True)
class InversionSection:
    """Stage 1: the vectors of the new word, with everything else frozen."""

    steps: int = option(1000, "Steps of the optimiser, at most.", low=1)
    batch_size: int = option(4, "Pictures in a step, of each process and each accumulated part.", low=1)
    learning_rate: float = option(
        2e-3,
        "Learning rate. What others reach in miniworld, and may cost: reports/inversion-distance/figures/distance.png; that "
        "the one chosen there is no surely better start of tuning: reports/pivotal-tuning. For Stable Diffusion 1.5, 5e-4 to "
        "1e-3 is usual.",
        above=0,
    )
    lr_scheduler: str = option("constant", "Its course after the warm-up.", choices=("constant", "cosine", "linear"))
    lr_warmup_steps: int = option(0, "Steps over which it rises from zero.", low=0)
    optimizer: str = option(
        "adamw",
        "adamw, or plain gradient descent, which wants a rate of its own: reports/inversion-distance/figures/distance.png.",
        choices=("adamw", "sgd"),
    )
    weight_decay: float = option(0.0, "Decoupled weight decay, towards zero; of adamw.", low=0)
    embedding_norm: str = option(
        "off",
        "Control of the vectors' norms: none; fixed, where only their directions are optimised (arXiv 2512.13672); "
        "or decay, which pulls them to a target after every step. In miniworld both cost likeness: "
        "reports/inversion-distance/figures/distance.png.",
        choices=("off", "fixed", "decay"),
    )
    embedding_norm_target: str = option(
        "initial",
        "That norm: of the vector at the start, or the mean of the whole embedding table.",
        choices=("initial", "table"),
    )
    embedding_norm_decay: float = option(
        0.01, "With decay: share of the way to the target, each step.", above=0, high=1
    )
    max_distance: float | None = option(
        None, "Stop where the vectors have moved so far from their start, in L2. The last step is cut to it.",
        above=0, example=0.5,
    )  # fmt: skip
    early_stopping_patience: int = option(
        0, "Stop when the mean loss of so many steps is hardly below that of as many before; 0 never stops.", low=0
    )
    early_stopping_min_delta: float = option(
        0.01, "What counts as hardly: a smaller relative improvement than this.", low=0, high=1
    )


@dataclass(frozen=True, slots=True)
class LoraSection:
    """Stage 2: low-rank changes (LoRA) of the UNet and the text encoder, with the vectors frozen."""

    steps: int = option(1000, "Steps of the optimiser, at most.", low=1)
    batch_size: int = option(4, "Pictures in a step, of each process and each accumulated part.", low=1)
    learning_rate: float = option(
        4e-3,
        "Learning rate, with averaging: reports/pivotal-tuning. Without, 1e-3 is the largest decade that leaves prompts obeyed "
        "in miniworld, by the last table of reports/finetuning-distance (in its figures/distance.png, what is learnt how far). "
        "For Stable Diffusion 1.5, 1e-4 is usual.",
        above=0,
    )
    lr_scheduler: str = option("constant", "Its course after the warm-up.", choices=("constant", "cosine", "linear"))
    lr_warmup_steps: int = option(0, "Steps over which it rises from zero.", low=0)
    weight_decay: float = option(0.01, "Decoupled weight decay of AdamW on the factors.", low=0)
    averaging: float = option(
        0.5,
        "What is kept is an average over the steps: 1 of all of them alike, less of the later ones mostly, 0 of the very last, "
        "which is left to chance: reports/pivotal-tuning.",
        low=0,
        high=1,
        before=0.0,
    )
    rank: int = option(
        8,
        "Rank of each change. In miniworld a rank of 2 obeyed prompts more, was not surely worse at the looks, and "
        "held the class word no better: reports/locality/figures/front.png.",
        low=1,
    )
    alpha: float | None = option(
        None, "The change is scaled by alpha / rank. Left out: the rank.", above=0, example=8.0
    )
    target_modules: tuple[str, ...] = option(
        ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"),
        "Layers of the UNet that change, by the ends of their names: attention, what follows it, and convolutions.",
    )
    train_text_encoder: bool = option(
        True,
        "Also tune the text encoder (both of SDXL's). In miniworld colours are learnt better, and places held a little less: "
        "reports/pivotal-tuning.",
    )
    text_encoder_learning_rate: float | None = option(
        None, "Its learning rate. Left out: that of the UNet times `text_rate_share`.", above=0, example=5e-5
    )
    text_rate_share: float = option(
        0.5,
        "Without `text_encoder_learning_rate`: the text encoder's learning rate, of the UNet's.",
        above=0,
        before=1.0,
    )
    text_encoder_target_modules: tuple[str, ...] = option(
        ("q_proj", "k_proj", "v_proj", "out_proj"),
        "Layers of the text encoder that change, by the ends of their names.",
    )
    tag_dropout_max_timestep: int = option(
        400,
        "Tag dropout (data.caption_tag_dropout_rate) applies only below this timestep. At higher noise levels the image layout "
        "is decided, and training there without the layout in the caption teaches it to the UNet.",
        low=0,
    )
    max_weight_distance: float | None = option(
        None, "Stop where the weights have moved so far, as a Frobenius norm over all layers.", above=0, example=5.0
    )
    max_prediction_distance: float | None = option(
        None,
        "Stop where predictions on fixed noisy pictures differ so far from the frozen model's, as a mean L2 distance.",
        above=0,
        example=10.0,
    )
    distance_every: int = option(50, "Steps between measurements of both distances.", low=1)
    probes: int = option(8, "Noisy pictures on which the second is measured.", low=1)


@dataclass(frozen=True, slots=True)
class LocalitySection:
    """The regulariser of stage 2: midway between the concept and its class word, stay what the frozen model is."""

    interpolation: str = option(
        "auto",
        "How to interpolate. Those about a centre need a certificate; auto takes what the certificate recommends, "
        "position by position, and slerp where there is none. In miniworld all of them hold the class word nearer to what it "
        "was, hardly differ, and do not stop what leaks into the new word: reports/locality/figures/front.png.",
        choices=("auto", "slerp", "vslerp", "vslerp_norm", "aslerp", "lerp", "none"),
    )
    weight: float = option(
        1.0,
        "Weight of the regulariser; 0 is the same as interpolation none. In miniworld prompts are obeyed less with a tenth, "
        "and ten times as much was not surely better: reports/locality/figures/front.png.",
        low=0,
    )
    interpolation_t: float = option(0.5, "Where between the token (0) and the class word (1).", low=0, high=1)
    time_drawn: bool = option(
        False, "Draw that place anew for every picture, uniformly, in place of `interpolation_t`."
    )
    positions: str = option(
        "suffix",
        "Which token positions are interpolated: those of the placeholder, or all from there on, which carry the "
        "concept as well in a causal encoder. No difference was found: reports/locality/figures/front.png.",
        choices=("suffix", "placeholder"),
    )
    outside_timesteps: str = option(
        "class",
        "What is held at noise levels that training leaves out (loss.max_timestep), where low-rank changes tell as well: "
        "the token, to what the frozen model says of the class word or of the token itself; or nothing. In miniworld places "
        "that prompts say were missed without: reports/pivotal-tuning.",
        choices=("class", "token", "nothing"),
        before="nothing",
    )
    mix_captions: bool = option(
        True,
        "Exchange parts of captions, between commas, among the pictures, so that prompts are held which no picture shows.",
        before=False,
    )
    keep_captions_whole: bool = option(
        False,
        "Apply lora.tag_dropout_max_timestep to the regulariser as well. Off: its captions have tag dropout at every timestep.",
        before=True,
    )
    inputs: str = option(
        "latents",
        "What is denoised: the noised training pictures, or the frozen model's own pictures of the midpoint, which cost their "
        "drawing and were not surely better: reports/locality/figures/front.png.",
        choices=("latents", "own"),
    )
    num_generated: int = option(16, "How many of its own pictures are drawn.", low=1)
    empty_prompt_fraction: float = option(
        0.5,
        "Share of the regularised pictures on which the empty prompt is held in place of the midpoint. Guidance subtracts "
        "what the model says to it; where that drifts towards the concept as well, guidance takes away what was learnt.",
        low=0,
        high=1,
    )
    every_nth_image: int = option(2, "Regularise on every so many-th picture of the batch: 1 on all.", low=1)
    every_n_steps: int = option(1, "Regularise at every so many-th step.", low=1)
    certificates: tuple[str, ...] = option(
        (),
        "Certificate files of `clipgeom check`, at least one for each text encoder.",
        example=("certificate.safetensors",),
    )
    allow_uncertified: bool = option(
        False, "Use a centred mode that no certificate validates. Whatever comes out is marked."
    )


@dataclass(frozen=True, slots=True)
class PriorPreservationSection:
    """Prior preservation in stage 2 (DreamBooth): go on denoising pictures of the class."""

    weight: float = option(
        0.0,
        "Weight of its loss; 0 leaves it out. In miniworld it holds the class word about as well as the locality regulariser, "
        "which is on by default, and prompts are obeyed more than without: reports/locality/figures/front.png.",
        low=0,
    )
    class_images: str | None = option(
        None,
        "Folder of class pictures, captioned by `class_prompt`. Left out: the frozen model draws them.",
        example="class",
    )
    class_prompt: str = option("a picture of {class}", "What class pictures show: drawn from it, or captioned by it.")
    num_class_images: int = option(32, "How many are drawn.", low=1)


@dataclass(frozen=True, slots=True)
class SamplingSection:
    """Pictures: previews while training, the frozen model's own, and what `pti sample` draws by default."""

    num_inference_steps: int = option(30, "Steps of the sampler.", low=1)
    guidance_scale: float = option(3.0, "Scale of classifier-free guidance; 1 is none.", low=1)
    prompts: tuple[str, ...] = option(("a picture of {token}",), "What previews show.")
    images_per_prompt: int = option(4, "Previews of each prompt.", low=1)
    every_n_steps: int = option(250, "Steps between previews; 0 draws them at the end of a stage only.", low=0)
    seed: int = option(0, "Of their noise.", low=0)


@dataclass(frozen=True, slots=True)
class EvaluationSection:
    """What is measured once training has ended: pictures of the token against those of its class word."""

    prompts: tuple[str, ...] = option(
        (
            "a picture of {token}",
            "a picture of {token}, in the snow",
            "a picture of {token}, at night",
            "a picture of {token}, by the sea",
            "an ink illustration of {token}",
            "a watercolor painting of {token}",
        ),
        "What is drawn, with the token and with the class word in its place.",
    )
    images_per_prompt: int = option(16, "Pictures of each prompt, on either side.", low=2)
    seed: int = option(1000, "Of their noise, and of every interval.", low=0)
    clip_model: str | None = option(
        None,
        "CLIP model that judges pictures, a hub id or a directory. Left out: miniworld's own for miniworld, and "
        "openai/clip-vit-large-patch14 for the others, if it can be had.",
        example="openai/clip-vit-base-patch32",
    )
    dino_model: str | None = option(None, "DINOv2 model that judges likeness as well.", example="facebook/dinov2-base")
    concept_attributes: tuple[str, ...] = option(
        (),
        "Attributes that are part of the concept, so that a change of them is no leakage (see pti.evaluation.attributes). "
        "Those of miniworld's characters are known.",
        example=("pose",),
    )


@dataclass(frozen=True, slots=True)
class ExportSection:
    """The files for other tools."""

    name: str | None = option(None, "Of the files. Left out: the token, without brackets.", example="my_knight")
    dtype: str = option("fp32", "Of the LoRA's numbers.", choices=("fp32", "fp16"))


@dataclass(frozen=True, slots=True)
class RuntimeSection:
    """The machine, and what both stages share."""

    seed: int = option(0, "Of pictures' order, noise, and the low-rank factors.", low=0)
    device: str = option("auto", "auto, cpu, or what accelerate finds.", choices=("auto", "cpu"))
    mixed_precision: str = option("no", "Precision of the frozen networks.", choices=("no", "fp16", "bf16"))
    gradient_accumulation_steps: int = option(1, "Parts whose gradients are added up before a step.", low=1)
    gradient_checkpointing: bool = option(False, "Compute activations twice rather than keep them: less memory.")
    max_grad_norm: float = option(1.0, "Longest gradient; 0 does not clip.", low=0)
    trackers: tuple[str, ...] = option((), "Also report to these of accelerate's trackers.", example=("tensorboard",))


@dataclass(frozen=True, slots=True)
class OutputSection:
    """The folder of the run, and what is kept in it."""

    dir: str = option("run", "Where everything is written.")
    checkpointing_steps: int = option(100, "Steps between checkpoints.", low=1)
    checkpoints_total_limit: int = option(2, "Checkpoints of a stage that are kept; the older ones are deleted.", low=1)


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
        """Every value by its full name, such as ``lora.rank``."""
        return {
            f"{section.name}.{key.name}": getattr(getattr(self, section.name), key.name)
            for section in fields(self)
            for key in fields(getattr(self, section.name))
        }

    def identity(self) -> dict[str, Any]:
        """What tells runs apart: every value by its full name, but those that say what runs did before they could be set."""
        return {name: value for name, value in self.flat().items() if name not in EARLIER or value != EARLIER[name]}


EARLIER: Mapping[str, Any] = MappingProxyType(
    {
        f"{section.name}.{key.name}": key.metadata["before"]
        for section in fields(Config)
        for key in fields(getattr(Config(), section.name))
        if key.metadata["before"] is not NEVER
    }
)
