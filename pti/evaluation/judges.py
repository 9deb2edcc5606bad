"""Networks that embed images for evaluation: CLIP and DINOv2.

Measures use them only through two small protocols. Images are uint8 of shape (n, height, width, 3).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from clipgeom._extras import needs_extra
from clipgeom._networks import FLAG, build, integer, number, read_json, require_whole, settings_of, stored
from clipgeom.encoder.files import section, weight_files
from clipgeom.encoder.settings import ATTENTION, IDS, TEXT, VISION
from clipgeom.errors import ConfigError, EncoderError, ShapeError, first_line

if TYPE_CHECKING:
    import torch

__all__ = [
    "ClipJudge",
    "DinoJudge",
    "ImageJudge",
    "Images",
    "TextJudge",
]

Images = NDArray[np.uint8]
_Preprocess = Callable[[Images], Any]  # scale to a tensor in 0 … 1
_Items = TypeVar("_Items", Images, Sequence[str])
_BATCH = 32
_DINO = {
    "dinov2": ("Dinov2Config", "Dinov2Model"),
    "dinov2_with_registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel"),
}
_DINO_SETTINGS = {
    **{key: value for key, value in VISION.items() if key not in ("intermediate_size", "projection_dim")},
    "mlp_ratio": integer(1, 64),
    "qkv_bias": FLAG,
    "layerscale_value": number(-1e3, 1e3),  # initial value, replaced by the stored one
    "use_swiglu_ffn": FLAG,
    "use_mask_token": FLAG,
    "num_register_tokens": integer(0, 1024),
}


@runtime_checkable
class ImageJudge(Protocol):
    """Network that embeds images, shape (n, d); `name` is its name in tables."""

    name: str

    def embed_images(self, images: Images, /) -> NDArray[np.float64]: ...  # noqa: D102


@runtime_checkable
class TextJudge(ImageJudge, Protocol):
    """Network that also embeds texts, in the same space."""

    def embed_texts(self, texts: Sequence[str], /) -> NDArray[np.float64]: ...  # noqa: D102


class _Loadable(ABC):
    """A judge that is loaded from a hub id or a directory."""

    _NAME: ClassVar[str]  # default name in tables

    @classmethod
    def load(
        cls, model: str | Path, /, *, revision: str | None = None, device: str = "cpu", name: str | None = None
    ) -> Self:
        """Load from a hub id or a directory, in float32 and safetensors.

        Raises
        ------
        EncoderError
            The model cannot be loaded.
        MissingExtraError
            transformers is not installed.
        """
        with needs_extra("report", f"judging images by {cls._NAME}"):
            import transformers  # noqa: F401 - missed here

        return cls._from_folder(_fetched(model, revision), device, cls._NAME if name is None else name)

    @classmethod
    @abstractmethod
    def _from_folder(cls, folder: Path, device: str, name: str) -> Self: ...


class ClipJudge(_Loadable):
    """A CLIP model with both towers.

    Parameters
    ----------
    model : CLIPModel
    tokenizer : CLIPTokenizer
    preprocess : callable
        Converts images to the model's pixel values.
    name : str
    """

    _NAME = "CLIP"

    def __init__(self, model: Any, tokenizer: Any, preprocess: _Preprocess, *, name: str = "CLIP") -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.preprocess, self.name = tokenizer, preprocess, name

    @classmethod
    def _from_folder(cls, folder: Path, device: str, name: str) -> Self:
        from transformers import AutoTokenizer

        network, preprocess = _clip(folder).to(device), _preprocess(folder)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, config=network.config, trust_remote_code=False)
        except Exception as error:  # transformers and tokenizers raise many kinds for a damaged tokenizer
            raise _unloadable(folder, error) from error
        return cls(network, tokenizer, preprocess, name=name)

    def embed_images(self, images: Images, /) -> NDArray[np.float64]:
        """Embed images; projected, not normalised."""
        return _embed(
            images,
            self.preprocess,
            lambda pixels: self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output),
            self.model.device,
        )

    def embed_texts(self, texts: Sequence[str], /) -> NDArray[np.float64]:
        """Embed texts at EOS; projected, not normalised. Longer texts are truncated."""
        import torch

        # the configuration's id may be the legacy 2, for which transformers takes the highest id: EOS without added tokens
        if not texts:
            raise ConfigError("expected at least one text to embed, got none")
        length = self.model.config.text_config.max_position_embeddings
        parts = []
        with torch.inference_mode():
            for batch in _batches(texts):
                encoded = self.tokenizer(
                    list(batch), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
                )
                ids = encoded.input_ids.to(self.model.device)
                states = self.model.text_model(input_ids=ids).last_hidden_state
                ends = (ids == self.tokenizer.eos_token_id).int().argmax(dim=-1)
                pooled = states[torch.arange(len(ids), device=ids.device), ends]
                parts.append(self.model.text_projection(pooled).double().cpu().numpy())
        return np.concatenate(parts)


class DinoJudge(_Loadable):
    """A DINOv2 model; the embedding is the class token after the last norm.

    Parameters
    ----------
    model : Dinov2Model
    preprocess : callable
        Converts images to the model's pixel values.
    name : str
    """

    _NAME = "DINOv2"

    def __init__(self, model: Any, preprocess: _Preprocess, *, name: str = "DINOv2") -> None:
        self.model, self.preprocess, self.name = model.eval().requires_grad_(False), preprocess, name

    @classmethod
    def _from_folder(cls, folder: Path, device: str, name: str) -> Self:
        return cls(_dino(folder).to(device), _preprocess(folder), name=name)

    def embed_images(self, images: Images, /) -> NDArray[np.float64]:
        """Embed images; not normalised."""
        return _embed(
            images,
            self.preprocess,
            lambda pixels: self.model(pixel_values=pixels).last_hidden_state[:, 0],
            self.model.device,
        )


def _fetched(model: str | Path, revision: str | None) -> Path:
    """Return the folder of a model; given a hub id, transformers would retry an absent network for a minute."""
    local = Path(model).expanduser()
    if local.exists():
        return local
    if str(model).startswith((".", "/", "~")) or str(model).count("/") > 1:
        raise EncoderError(f"expected a folder or a hub id as a judge of images, got {model}, which is absent")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                str(model),
                revision=revision,
                allow_patterns=["*.json", "*.txt", "model*.safetensors"],
                ignore_patterns=["*/*"],
            )
        )
    except Exception as error:  # the hub's client raises a dozen unrelated kinds of errors
        raise _unloadable(model, error) from error


def _unloadable(model: str | Path, error: Exception) -> EncoderError:
    return EncoderError(f"{model} cannot be loaded as a judge of images: {first_line(error)}")


def _preprocess(folder: Path) -> _Preprocess:
    from transformers import AutoImageProcessor

    try:
        # Pillow's resampling everywhere, so that a machine with torchvision gives the same measures
        processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, backend="pil", trust_remote_code=False
        )
    except Exception as error:  # every error comes from the settings
        raise _unloadable(folder, error) from error

    def preprocess(images: Images) -> torch.Tensor:
        pixels: torch.Tensor = processor(images=list(images), return_tensors="pt")["pixel_values"]
        return pixels

    return preprocess


def _clip(folder: Path) -> Any:
    """Build a CLIP with both towers."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    path = folder / "config.json"
    content = _config_of(path, "clip")
    known = {**TEXT, "eos_token_id": integer(0, 2**24)}
    text = {**IDS} | settings_of(section(content, "text_config", path), known, path, inside="text_config.")
    vision = settings_of(section(content, "vision_config", path), VISION, path, inside="vision_config.")
    width = settings_of(content, {"projection_dim": TEXT["projection_dim"]}, path)

    def make() -> Any:
        config = CLIPConfig(text_config=text, vision_config=vision, **width)
        return CLIPModel._from_config(config, attn_implementation=ATTENTION, dtype=torch.float32)  # type: ignore[no-untyped-call]

    return build(make, weight_files(folder), path, rename=_without_positions, spare=("logit_scale",))


def _dino(folder: Path) -> Any:
    """Build a DINOv2, with registers or without."""
    import torch
    import transformers

    path = folder / "config.json"
    content = _config_of(path, *_DINO)
    settings = settings_of(content, _DINO_SETTINGS, path)
    config_name, model_name = _DINO[content["model_type"]]

    try:
        config = getattr(transformers, config_name)(**settings)
        kind = getattr(transformers, model_name)
        with torch.device("meta"):
            n_parameters = sum(parameter.numel() for parameter in kind(config).parameters())
        if n_parameters > 2 * (there := stored(weight_files(folder))):  # before anything of that size is allocated
            raise EncoderError(
                f"{path} describes {n_parameters:,} parameters, the weights have {there:,}; fetch or save the model again"
            )
        # former names of this architecture's settings in transformers
        network, found = kind.from_pretrained(
            folder,
            config=config,
            attn_implementation=ATTENTION,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except EncoderError:
        raise
    except Exception as error:  # every error comes from the folder's files
        raise _unloadable(folder, error) from error
    require_whole(folder, set(found["missing_keys"]) - {"embeddings.mask_token"}, found["unexpected_keys"])
    return network


def _config_of(path: Path, *kinds: str) -> dict[str, Any]:
    content = read_json(path)
    if content.get("model_type") not in kinds:
        given = str(content.get("model_type"))[:60]
        raise EncoderError(f"{path} describes a {given!r} model; expected {' or '.join(kinds)}")
    return content


def _without_positions(key: str) -> str | None:
    return None if key.endswith("position_ids") else key  # buffers that old versions stored


def _embed(
    images: Images, preprocess: _Preprocess, embed: Callable[[torch.Tensor], torch.Tensor], device: Any
) -> NDArray[np.float64]:
    import torch

    check_images(images)
    with torch.inference_mode():
        parts = [embed(preprocess(batch).to(device)).double().cpu().numpy() for batch in _batches(images)]
    return np.concatenate(parts)


def check_images(images: Images, /) -> None:
    """Refuse arrays that are not a stack of images.

    Raises
    ------
    ShapeError
        The array is not uint8 of shape (n, height, width, 3), or is empty.
    """
    array = np.asarray(images)
    if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8 or not len(array):
        raise ShapeError(f"expected images as uint8 of shape (n, height, width, 3), got {array.dtype} of {array.shape}")


def _batches(items: _Items) -> Iterator[_Items]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
