"""Stable Diffusion pipelines for training: networks, text encoders in order, one noise schedule.

A pipeline must have the classes of Stable Diffusion 1.x, 2.x or XL, and its weights in safetensors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from clipgeom._extras import needs_extra
from clipgeom._networks import FLAG, read_json, settings_of
from clipgeom._networks import optional as nullable
from clipgeom._repr import short_repr
from clipgeom.errors import ConfigError, EncoderError, first_line
from pti._miniworld import is_miniworld, pipeline_folder
from pti.models.parts import load_autoencoder, load_scheduler, load_text_network, load_unet, weights_of

if TYPE_CHECKING:
    from pti.models.token import PlaceholderToken

__all__ = ["DiffusionModel", "PipelineTextEncoder", "load_pipeline"]

_KINDS: dict[str, Literal["sd", "sdxl"]] = {
    "StableDiffusionPipeline": "sd",
    "StableDiffusionImg2ImgPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusionXLImg2ImgPipeline": "sdxl",
}
_WEIGHTS = {"sd": ("unet", "vae", "text_encoder"), "sdxl": ("unet", "vae", "text_encoder", "text_encoder_2")}


@dataclass(frozen=True, slots=True, eq=False)
class PipelineTextEncoder:
    """A text encoder with its tokenizer, and which of its outputs condition the UNet.

    Attributes
    ----------
    name : str
        Its folder in the pipeline: ``text_encoder`` or ``text_encoder_2``.
    representation : {"hidden", "penultimate"}
        In clipgeom's words: after the final LayerNorm (SD), or one block earlier (SDXL).
    pools : bool
        Whether its projected state at EOS conditions the UNet as well (SDXL's second).
    """

    name: str
    tokenizer: Any
    network: Any
    representation: Literal["hidden", "penultimate"]
    pools: bool = False

    @property
    def table(self) -> torch.nn.Embedding:
        """The embedding table, which is never written to."""
        embedding: torch.nn.Embedding = self.network.get_input_embeddings()
        return embedding

    @property
    def width(self) -> int:
        """Dimension of a token's embedding and of the encoder's output."""
        return int(self.table.embedding_dim)

    @property
    def length(self) -> int:
        """Length of a padded prompt in tokens; 77 for every published CLIP."""
        return int(min(self.tokenizer.model_max_length, self.network.config.max_position_embeddings))


@short_repr
@dataclass(frozen=True, slots=True, eq=False)
class DiffusionModel:
    """A loaded pipeline.

    Attributes
    ----------
    source : str
        The name it was loaded by.
    folder : Path
        Its folder on this machine.
    kind : {"sd", "sdxl"}
    pipeline : diffusers pipeline
        Contains the same networks; generates the images.
    prediction : {"epsilon", "v_prediction"}
    alphas_cumprod : Tensor, shape (n_times,), float32
        Cumulative products of the noise schedule, ᾱ_t.
    placeholder : PlaceholderToken or None
        The placeholder token, once it is added.
    """

    source: str
    folder: Path
    kind: Literal["sd", "sdxl"]
    pipeline: Any
    encoders: tuple[PipelineTextEncoder, ...]
    prediction: Literal["epsilon", "v_prediction"]
    alphas_cumprod: torch.Tensor
    placeholder: PlaceholderToken | None = None

    @property
    def unet(self) -> Any:
        """The UNet."""
        return self.pipeline.unet

    @property
    def vae(self) -> Any:
        """The autoencoder."""
        return self.pipeline.vae

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        device: torch.device = self.unet.device
        return device

    @property
    def factor(self) -> int:
        """Downsampling factor of the autoencoder: pixels for each latent position, along a side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def size(self) -> int:
        """Default side of the model's images, in pixels."""
        return int(self.unet.config.sample_size) * self.factor

    def networks(self) -> tuple[Any, ...]:
        """Every network with weights."""
        return (self.unet, self.vae, *(encoder.network for encoder in self.encoders))


def load_pipeline(
    name: str, *, revision: str | None = None, variant: str | None = None, root: Path | None = None
) -> DiffusionModel:
    """Load a pipeline with every network frozen, in float32 and evaluation mode.

    Parameters
    ----------
    name : str
        A directory, a hub id, or ``miniworld``.
    revision, variant : str, optional
        The same as in diffusers.
    root : Path, optional
        Folder of miniworld's weights; by default the package's.

    Raises
    ------
    ConfigError
        There is no pipeline of that name, or it is of another kind.
    EncoderError
        Its weights are not in safetensors, or damaged.
    WeightsError
        miniworld's weights are missing or damaged.
    """
    with needs_extra("pti", "loading a pipeline"):
        import peft  # noqa: F401 - missed here rather than an hour later

    folder = _folder(name, revision, variant, root)
    kind = _kind(folder)
    _require_safetensors(folder, kind)
    if variant:
        _require_variant(folder, kind, variant)
    with needs_extra("pti", "loading a pipeline"):  # its classes are imported lazily
        pipeline = _assemble(folder, kind, variant)
    pipeline.set_progress_bar_config(disable=True)
    prediction = str(pipeline.scheduler.config.get("prediction_type", "epsilon"))
    if prediction not in ("epsilon", "v_prediction"):
        raise ConfigError(f"{name} predicts {prediction!r}; epsilon and v_prediction can be trained")
    if pipeline.unet.config.in_channels != pipeline.vae.config.latent_channels:
        raise ConfigError(
            f"the UNet of {name} takes {pipeline.unet.config.in_channels} channels, its autoencoder gives "
            f"{pipeline.vae.config.latent_channels}: inpainting pipelines cannot be trained"
        )
    model = DiffusionModel(
        source=name,
        folder=folder,
        kind=kind,
        pipeline=pipeline,
        encoders=_encoders(pipeline, kind),
        prediction=prediction,  # type: ignore[arg-type]  # checked above
        alphas_cumprod=pipeline.scheduler.alphas_cumprod.detach().clone().float(),
    )
    for network in model.networks():
        # diffusers' own `to` warns about half precision on the CPU
        torch.nn.Module.to(network, dtype=torch.float32).requires_grad_(False).eval()
    return model


def _assemble(folder: Path, kind: Literal["sd", "sdxl"], variant: str | None) -> Any:
    """Build the pipeline from its parts, each of them checked."""
    import diffusers
    from transformers import CLIPTokenizer

    def tokenizer(name: str) -> Any:
        try:
            return CLIPTokenizer.from_pretrained(folder / name, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # transformers and tokenizers raise many kinds of errors for a damaged tokenizer
            raise EncoderError(f"the tokenizer in {folder / name} cannot be loaded: {first_line(error)}") from error

    def weights(name: str) -> tuple[Path, list[Path]]:
        stem = "model" if name.startswith("text_encoder") else "diffusion_pytorch_model"
        return folder / name, weights_of(folder / name, stem, variant)

    parts: dict[str, Any] = {
        "scheduler": load_scheduler(folder / "scheduler"),
        "tokenizer": tokenizer("tokenizer"),
        "text_encoder": load_text_network(*weights("text_encoder"), projected=False),
        "vae": load_autoencoder(*weights("vae")),
        "unet": load_unet(*weights("unet")),
    }
    if kind == "sd":
        optional: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return diffusers.StableDiffusionPipeline(**parts, **optional)
    index = folder / "model_index.json"
    flags = {"force_zeros_for_empty_prompt": FLAG, "add_watermarker": nullable(FLAG)}
    return diffusers.StableDiffusionXLPipeline(
        **parts,
        text_encoder_2=load_text_network(*weights("text_encoder_2"), projected=True),
        tokenizer_2=tokenizer("tokenizer_2"),
        **settings_of(read_json(index), flags, index),
    )


def _folder(name: str, revision: str | None, variant: str | None, root: Path | None) -> Path:
    if is_miniworld(name):
        return pipeline_folder(revision, variant, root)
    local = Path(name).expanduser()
    if local.is_dir():
        if revision is not None:
            raise ConfigError(f"model.revision applies to a hub id; {local} is a directory")
        return local
    if local.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigError(f"there is no pipeline directory {name}; give one with model_index.json, or a hub id")
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(name, revision=revision, variant=variant, use_safetensors=True))
    except Exception as error:  # the hub's client raises a dozen unrelated kinds
        raise ConfigError(
            f"{name!r} is no directory here, and fetching it from the hub failed ({first_line(error)}); "
            "check the name and the network, or pass a local directory"
        ) from error


def _kind(folder: Path) -> Literal["sd", "sdxl"]:
    index = folder / "model_index.json"
    try:
        name = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} has no model_index.json; it is not a diffusers pipeline. One file of a checkpoint becomes one "
            "by StableDiffusionPipeline.from_single_file(file).save_pretrained(folder)"
        ) from None
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{index} cannot be read: {error}") from error
    if not isinstance(name, str) or name not in _KINDS:
        raise ConfigError(
            f"expected {folder} to be a pipeline of Stable Diffusion 1.x, 2.x or XL, got {str(name)[:60]}"
        )
    return _KINDS[name]


def _require_safetensors(folder: Path, kind: str) -> None:
    """Refuse pickled weights; the message names them and the remedy."""
    for part in _WEIGHTS[kind]:
        if any((folder / part).glob("*.safetensors")):
            continue
        pickled = sorted(p.name for pattern in ("*.bin", "*.ckpt", "*.pt") for p in (folder / part).glob(pattern))
        found = f"pickled weights only ({', '.join(pickled)}), which can run code" if pickled else "no weights"
        raise EncoderError(
            f"{folder / part} has {found}; a pipeline in safetensors is needed. Convert it where you trust its source: "
            "DiffusionPipeline.from_pretrained(folder).save_pretrained(new_folder, safe_serialization=True)"
        )


def _require_variant(folder: Path, kind: str, variant: str) -> None:
    """Refuse a variant that no part has; of the parts that lack it, the plain weights are read, as diffusers does."""
    ends = (f".{variant}.safetensors", f".safetensors.index.{variant}.json")
    if not any(path.name.endswith(ends) for part in _WEIGHTS[kind] for path in (folder / part).iterdir()):
        raise ConfigError(
            f"{folder} has no weights of the variant {variant!r}; leave model.variant out or name another one"
        )


def _encoders(pipeline: Any, kind: str) -> tuple[PipelineTextEncoder, ...]:
    if kind == "sd":
        return (PipelineTextEncoder("text_encoder", pipeline.tokenizer, pipeline.text_encoder, "hidden"),)
    return (
        PipelineTextEncoder("text_encoder", pipeline.tokenizer, pipeline.text_encoder, "penultimate"),
        PipelineTextEncoder("text_encoder_2", pipeline.tokenizer_2, pipeline.text_encoder_2, "penultimate", pools=True),
    )
