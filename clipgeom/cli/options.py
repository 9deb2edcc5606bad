"""Options of several commands: captions, encoder, representations and positions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from clipgeom._progress import Progress
from clipgeom.captions import CaptionStream, open_captions
from clipgeom.errors import ConfigError

if TYPE_CHECKING:
    from clipgeom.encoder import Position, TextEncoder
    from clipgeom.encoder.storage.cache import EmbeddingCache
    from clipgeom.report.measure.build import ImageEmbedder

__all__ = [
    "OUTPUT_PANEL",
    "Embeddings",
    "EncodingOptions",
    "ImageEmbeddings",
    "Inputs",
    "labels",
    "refuse",
    "takes_encoding_options",
]

_INPUT, _CAPTIONS, _ENCODER = "Input", "Which captions", "Encoder"
OUTPUT_PANEL = "Measurement and output"

Model = Annotated[
    str,
    typer.Option(
        help="Text encoder: miniworld (bundled), a directory or a hub id; also a Stable Diffusion repository.",
        rich_help_panel=_INPUT,
    ),
]
Subfolder = Annotated[
    str | None,
    typer.Option(help="Subfolder of the text encoder in --model, such as text_encoder_2.", rich_help_panel=_INPUT),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.", rich_help_panel=_INPUT)]
Captions = Annotated[
    str,
    typer.Option(
        help="Captions: miniworld (bundled), coco2014:val, a COCO .json or .zip, a .txt, .csv, .tsv, .jsonl or .parquet file, "
        "or a hub data set.",
        rich_help_panel=_INPUT,
    ),
]
Embeddings = Annotated[
    str | None,
    typer.Option(
        help="File of vectors: .npy, .npz, .safetensors or .parquet. FILE::KEY chooses one of several arrays.",
        rich_help_panel=_INPUT,
    ),
]
ImageEmbeddings = Annotated[
    str | None,
    typer.Option(
        help="File of image vectors in the same space, for comparison with --embeddings.", rich_help_panel=_INPUT
    ),
]
Column = Annotated[str | None, typer.Option(help="Caption column of a table.", rich_help_panel=_CAPTIONS)]
ImageColumn = Annotated[str | None, typer.Option(help="Image id column of a table.", rich_help_panel=_CAPTIONS)]
GroupSize = Annotated[
    int | None,
    typer.Option(
        help="Captions or vectors of each image, if there are no image ids: N consecutive ones belong together.",
        metavar="N",
        rich_help_panel=_CAPTIONS,
    ),
]
Split = Annotated[str | None, typer.Option(help="Split of a hub data set.", rich_help_panel=_CAPTIONS)]
Limit = Annotated[int, typer.Option(help="Maximum number of captions.", rich_help_panel=_CAPTIONS)]
Sample = Annotated[
    str,
    typer.Option(help="Choice of captions under --limit: first, or random (see --seed).", rich_help_panel=_CAPTIONS),
]
PerImage = Annotated[str, typer.Option(help="Captions of each image to use: all, or first.", rich_help_panel=_CAPTIONS)]
Unique = Annotated[bool, typer.Option("--unique", help="Drop repeated captions.", rich_help_panel=_CAPTIONS)]
Dtype = Annotated[
    str,
    typer.Option(
        help="Precision of the encoder: float32, bfloat16, float16, or auto (bfloat16 if the device computes it natively). "
        "Statistics are float64.",
        rich_help_panel=_ENCODER,
    ),
]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda or mps.", rich_help_panel=_ENCODER)]
PackSize = Annotated[
    int | None,
    typer.Option(help="Number of tokens in one pass; changes speed and memory only.", rich_help_panel=_ENCODER),
]
Cache = Annotated[
    bool,
    typer.Option(
        "--cache/--no-cache",
        help="Cache the vectors on disk, so that a caption set is encoded once.",
        rich_help_panel=_ENCODER,
    ),
]
Positions = Annotated[
    str,
    typer.Option(
        "--positions",
        "--position",
        help="Token positions, separated by commas: eos, an index, or padded:INDEX.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
Representation = Annotated[
    str | None,
    typer.Option(
        "--representation",
        "--representations",
        help="Representations, separated by commas: token, penultimate, prenorm, hidden, projected, normalized. "
        "Default: hidden, and projected if the encoder has it.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
Seed = Annotated[
    int, typer.Option(help="Seed of the random sample and of the bootstrap intervals.", rich_help_panel=OUTPUT_PANEL)
]


@dataclass(frozen=True, slots=True)
class EncodingOptions:
    """Options of captions, encoder, representations and positions."""

    model: Model = "miniworld"
    subfolder: Subfolder = None
    revision: Revision = None
    captions: Captions = "miniworld"
    column: Column = None
    image_column: ImageColumn = None
    group_size: GroupSize = None
    split: Split = None
    limit: Limit = 5000
    sample: Sample = "first"
    per_image: PerImage = "all"
    unique: Unique = False
    dtype: Dtype = "float32"
    device: Device = "auto"
    pack_size: PackSize = None
    cache: Cache = True
    positions: Positions = "eos,5"
    representation: Representation = None
    seed: Seed = 0

    def load(self, context: typer.Context, progress: Progress) -> Inputs:
        """Check every option that can be checked cheaply, then load the encoder.

        Raises
        ------
        ClipGeomError
            An option is invalid.
        """
        from clipgeom.encoder import load_text_encoder, parse_positions, parse_representations
        from clipgeom.encoder.encode import check_pack_size
        from clipgeom.encoder.storage.cache import EmbeddingCache

        self._require_both(context)
        names = None if self.representation is None else parse_representations(self.representation)
        parse_positions(self.positions)
        stream = open_captions(
            self.captions,
            column=self.column,
            image_column=self.image_column,
            group_size=self.group_size,
            split=self.split,
            limit=self.limit,
            sample=self.sample,  # type: ignore[arg-type]  # checked there
            seed=self.seed,
            per_image=self.per_image,  # type: ignore[arg-type]
            unique=self.unique,
        )
        encoder = load_text_encoder(
            self.model, subfolder=self.subfolder, revision=self.revision, dtype=self.dtype, device=self.device
        )
        if encoder.dtype_reason:
            progress.note(f"computing in {encoder.dtype}: {encoder.dtype_reason}")
        if names is None:
            names = tuple(name for name in ("hidden", "projected") if name in encoder.representations)
        encoder.require(names)
        check_pack_size(self.pack_size, encoder.max_positions)
        positions = parse_positions(self.positions, max_positions=encoder.max_positions)
        cache = EmbeddingCache() if self.cache else None
        return Inputs(encoder, stream, names, positions, cache, self._images())

    def _require_both(self, context: typer.Context) -> None:
        """Refuse a model without captions, or captions without a model: the two defaults belong together."""
        for name, value, other, example in (
            (
                "model",
                self.model,
                "captions",
                "FILE, or --captions miniworld for the captions of the bundled toy world",
            ),
            ("captions", self.captions, "model", "DIRECTORY, or --model miniworld for the bundled toy encoder"),
        ):
            if value != "miniworld" and not _given(context, other):
                raise ConfigError(f"--{name} {value} needs --{other}: add --{other} {example}")

    def _images(self) -> ImageEmbedder | None:
        """Return the embedder of the captions' images, if model and captions are those of miniworld."""
        if (self.model, self.captions) != ("miniworld", "miniworld") or Path(self.model).exists():
            return None
        from clipgeom.miniworld.default import image_embeddings

        return image_embeddings


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Captions, their encoder, the representations and positions to read, and the cache."""

    encoder: TextEncoder
    captions: CaptionStream
    representations: tuple[str, ...]
    positions: tuple[Position, ...]
    cache: EmbeddingCache | None
    images: ImageEmbedder | None = None


def takes_encoding_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `EncodingOptions` to a command, which receives them as its argument `options`."""
    hints = get_type_hints(command, include_extras=True)
    shared_hints = get_type_hints(EncodingOptions, include_extras=True)
    own = [
        p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for p in inspect.signature(command).parameters.values()
        if p.name != "options"
    ]
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=shared_hints[f.name])
        for f in fields(EncodingOptions)
    ]

    @wraps(command)
    def gathering(**given: Any) -> None:
        options = EncodingOptions(**{parameter.name: given.pop(parameter.name) for parameter in shared})
        command(options=options, **given)

    gathering.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
    gathering.__annotations__ = {parameter.name: parameter.annotation for parameter in (*shared, *own)}
    return gathering


def labels(context: typer.Context, options: EncodingOptions, embeddings: str) -> tuple[str, Position]:
    """Read the representation and position of vectors in a file from their name, else from the options.

    Raises
    ------
    ConfigError
        Name and options give none, contradict each other or give several; or an option applies to captions only.
    """
    from clipgeom.encoder import parse_positions, parse_representations
    from clipgeom.geometry.embedding_files import embeddings_label

    about_vectors = ("positions", "representation", "seed", "group_size")
    about_captions = [f.name for f in fields(EncodingOptions) if f.name not in about_vectors]
    refuse(context, (*about_captions, "padded"), "applies to captions, not to --embeddings")
    if options.group_size is not None and options.group_size < 1:
        raise ConfigError(f"--group-size must be at least 1, not {options.group_size}")
    named = embeddings_label(embeddings)
    names = None if options.representation is None else parse_representations(options.representation)
    places = parse_positions(options.positions) if _given(context, "positions") else None
    if places is None and named is None and names in (("projected",), ("normalized",)):
        places = parse_positions("eos")  # a model projects one state of a text, that at EOS
    for option, noun, values, value in (
        ("--representation", "representation", names, named and named[0]),
        ("--positions", "position", places, named and named[1]),
    ):
        if values is None and value is None:
            example = (
                "hidden, projected or normalized" if noun == "representation" else "eos, or the index of the token"
            )
            raise ConfigError(
                f"the name of the vectors {embeddings} does not give their {noun}: add {option} {example}"
            )
        if values is not None and len(values) != 1:
            raise ConfigError(f"--embeddings has one {noun}, {option} names {len(values)}")
        if values is not None and value is not None and str(values[0]) != value:
            raise ConfigError(
                f"{embeddings} has the {noun} {value} by its name, {option} is {values[0]}; leave {option} out, or "
                "choose another array"
            )
    representation = names[0] if names else named[0] if named else ""
    place = places[0] if places else parse_positions(named[1] if named else "eos")[0]
    return representation, place


def refuse(context: typer.Context, options: tuple[str, ...], reason: str) -> None:
    """Refuse options that have no effect."""
    for name in options:
        if _given(context, name):
            raise ConfigError(f"--{name.replace('_', '-')} {reason}")


def _given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
