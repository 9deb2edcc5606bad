"""The commands and their options. Each checks what it was given, then calls the library; nothing is computed here."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from numpy.typing import NDArray

import clipgeom
from clipgeom._progress import Progress
from clipgeom.captions import CaptionStream, open_captions
from clipgeom.embeddings import check_embeddings_path, load_embeddings, save_embeddings
from clipgeom.errors import ConfigError

if TYPE_CHECKING:
    from clipgeom.encoder.load import TextEncoder
    from clipgeom.encoder.positions import Position

__all__ = ["app"]

app = typer.Typer(
    name="clipgeom",
    help="The geometry of CLIP embeddings: reports on caption sets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_INPUT, _CAPTIONS, _ENCODER, _OUTPUT = "Input", "Which captions", "Encoder", "Measurement and output"

Model = Annotated[
    str | None,
    typer.Option(help="Encoder: a directory or hub id, a Stable Diffusion repository too.", rich_help_panel=_INPUT),
]
Subfolder = Annotated[
    str | None,
    typer.Option(help="Folder of the text encoder inside it, such as text_encoder_2.", rich_help_panel=_INPUT),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.", rich_help_panel=_INPUT)]
Captions = Annotated[
    str | None,
    typer.Option(
        help="coco2014:val, a COCO captions .json or its .zip, .txt, .csv, .tsv, .jsonl, .parquet, or a hub data set.",
        rich_help_panel=_INPUT,
    ),
]
Embeddings = Annotated[
    str | None,
    typer.Option(
        help="Vectors computed elsewhere: .npy, .npz, .safetensors, .parquet; FILE::KEY where a file holds several.",
        rich_help_panel=_INPUT,
    ),
]
ImageEmbeddings = Annotated[
    str | None,
    typer.Option(help="Image vectors of the same space, to compare --embeddings with.", rich_help_panel=_INPUT),
]
Column = Annotated[str | None, typer.Option(help="Column of the captions in a table.", rich_help_panel=_CAPTIONS)]
ImageColumn = Annotated[str | None, typer.Option(help="Column of the image ids.", rich_help_panel=_CAPTIONS)]
Split = Annotated[str | None, typer.Option(help="Split of a hub data set.", rich_help_panel=_CAPTIONS)]
Limit = Annotated[int, typer.Option(help="Use at most this many captions.", rich_help_panel=_CAPTIONS)]
Sample = Annotated[str, typer.Option(help="Which of them: first, or random (see --seed).", rich_help_panel=_CAPTIONS)]
PerImage = Annotated[str, typer.Option(help="Captions of each image: all, or first.", rich_help_panel=_CAPTIONS)]
Unique = Annotated[bool, typer.Option("--unique", help="Leave out repeated texts.", rich_help_panel=_CAPTIONS)]
Dtype = Annotated[
    str,
    typer.Option(help="auto (float32), float32, float16, bfloat16; statistics are float64.", rich_help_panel=_ENCODER),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel=_ENCODER)]
BatchSize = Annotated[int, typer.Option(help="Sequences a forward pass; changes speed only.", rich_help_panel=_ENCODER)]
Positions = Annotated[
    str,
    typer.Option(help="Token positions: eos, an index, padded:INDEX; with commas.", rich_help_panel=_OUTPUT),
]
Representation = Annotated[
    str | None,
    typer.Option(
        "--representation",
        "--representations",
        help="Of token, penultimate, prenorm, hidden, projected, normalized; with commas. "
        "Default: hidden and, where the encoder has it, projected.",
        rich_help_panel=_OUTPUT,
    ),
]
Padded = Annotated[
    bool,
    typer.Option(
        "--padded", help="Also profile the padding after EOS, as Stable Diffusion sees it.", rich_help_panel=_OUTPUT
    ),
]
Check = Annotated[
    bool,
    typer.Option("--check/--no-check", help="Whether to run the centering check on each row.", rich_help_panel=_OUTPUT),
]
Seed = Annotated[int, typer.Option(help="Of the sample and of every interval.", rich_help_panel=_OUTPUT)]

# what says how captions are read and encoded; vectors from a file have that behind them
_CAPTION_OPTIONS = (
    *("model", "subfolder", "revision", "captions", "column", "image_column", "split", "limit", "sample", "per_image"),
    *("unique", "dtype", "device", "batch_size", "padded"),
)


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """Captions and the encoder for them, and what is to be read off it."""

    encoder: TextEncoder
    captions: CaptionStream
    representations: tuple[str, ...]
    positions: tuple[Position, ...]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"clipgeom {clipgeom.__version__}")
        raise typer.Exit


@app.command("report")
def _report(
    context: typer.Context,
    model: Model = None,
    subfolder: Subfolder = None,
    revision: Revision = None,
    captions: Captions = None,
    embeddings: Embeddings = None,
    image_embeddings: ImageEmbeddings = None,
    column: Column = None,
    image_column: ImageColumn = None,
    split: Split = None,
    limit: Limit = 5000,
    sample: Sample = "first",
    per_image: PerImage = "all",
    unique: Unique = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    batch_size: BatchSize = 64,
    positions: Positions = "eos,5",
    representation: Representation = None,
    padded: Padded = False,
    check: Check = True,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder to write.", rich_help_panel=_OUTPUT)] = Path("report"),
) -> None:
    """Measure a caption set, or vectors computed elsewhere, and write a report folder."""
    from clipgeom.report.build import measure_captions, measure_embeddings
    from clipgeom.report.folder import check_output_folder
    from clipgeom.report.write import write_report

    check_output_folder(out)
    if embeddings is not None:
        _refuse(context, _CAPTION_OPTIONS, "applies to captions, not to --embeddings")
        name, place = _labels(context, representation, positions)
        measured = measure_embeddings(
            load_embeddings(embeddings, unit=name == "normalized"),
            source=embeddings,
            representation=name,
            position=place,
            images=None if image_embeddings is None else load_embeddings(image_embeddings, unit=name == "normalized"),
            image_source=image_embeddings,
            check=check,
            seed=seed,
            command=_command(),
        )
    else:
        _refuse(context, ("image_embeddings",), "needs --embeddings, the texts to compare with")
        inputs = _inputs(
            model, subfolder, revision, captions, column, image_column, split, limit, sample, per_image, unique, dtype,
            device, positions, representation, seed,
        )  # fmt: skip
        with _workspace(out) as folder, Progress("encoded", "captions") as progress:
            measured = measure_captions(
                inputs.encoder,
                inputs.captions,
                representations=inputs.representations,
                positions=inputs.positions,
                padded=padded,
                check=check,
                seed=seed,
                batch_size=batch_size,
                workspace=folder,
                command=_command(),
                progress=progress,
            )
    write_report(measured, out)
    _summarize(measured.report)
    print(f"report: {out / 'report.html'}")


@app.command("check")
def _check(
    context: typer.Context,
    model: Model = None,
    subfolder: Subfolder = None,
    revision: Revision = None,
    captions: Captions = None,
    embeddings: Embeddings = None,
    column: Column = None,
    image_column: ImageColumn = None,
    split: Split = None,
    limit: Limit = 5000,
    sample: Sample = "first",
    per_image: PerImage = "all",
    unique: Unique = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    batch_size: BatchSize = 64,
    positions: Positions = "eos,5",
    representation: Representation = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Certificate to write.", rich_help_panel=_OUTPUT)] = Path(
        "certificate.safetensors"
    ),
) -> None:
    """Check whether these embeddings may be interpolated about their centre.

    Prints the verdict and writes the certificate that a trainer asks; exits with 0 whatever the verdict is.
    """
    from clipgeom.centering import Certificate, check_centering

    _check_out(out)
    if embeddings is not None:
        _refuse(context, _CAPTION_OPTIONS, "applies to captions, not to --embeddings")
        name, place = _labels(context, representation, positions)
        vectors = load_embeddings(embeddings, unit=name == "normalized")
        checks = [(name, str(place), check_centering(vectors, seed=seed))]
        certificate = Certificate.of(checks, encoder_fingerprint=None, captions_sha256=None, seed=seed)
    else:
        from clipgeom.report.build import check_captions

        inputs = _inputs(
            model, subfolder, revision, captions, column, image_column, split, limit, sample, per_image, unique, dtype,
            device, positions, representation, seed,
        )  # fmt: skip
        with _workspace(out) as folder, Progress("encoded", "captions") as progress:
            checks = check_captions(
                inputs.encoder,
                inputs.captions,
                representations=inputs.representations,
                positions=inputs.positions,
                seed=seed,
                batch_size=batch_size,
                workspace=folder,
                progress=progress,
            )
        certificate = Certificate.of(
            checks,
            encoder_fingerprint=inputs.encoder.fingerprint,
            captions_sha256=inputs.captions.counts.sha256,
            seed=seed,
            model=inputs.encoder.name,
            captions=inputs.captions.source,
        )
    certificate.save(out)
    for entry in certificate.entries:
        print(f"{entry.representation} at {entry.position} (n = {entry.n}): {entry.figures['verdict']}")
        for mode, on in entry.figures["on_shell"].items():
            auc = entry.figures["auc"][mode]
            print(
                f"  {mode:<12} on-shell {_interval(on['rate'], on['ci95'])}  AUC {_interval(auc['auc'], auc['ci95'])}"
            )
    print(f"certificate: {out}")


@app.command("encode")
def _encode(
    out: Annotated[Path, typer.Option(help="File: .npz, .safetensors, .parquet or .npy.", rich_help_panel=_OUTPUT)],
    model: Model = None,
    subfolder: Subfolder = None,
    revision: Revision = None,
    captions: Captions = None,
    column: Column = None,
    image_column: ImageColumn = None,
    split: Split = None,
    limit: Limit = 5000,
    sample: Sample = "first",
    per_image: PerImage = "all",
    unique: Unique = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    batch_size: BatchSize = 64,
    positions: Positions = "eos,5",
    representation: Representation = None,
    seed: Seed = 0,
) -> None:
    """Encode a caption set and write the vectors to one file.

    Arrays are named REPRESENTATION.POSITION, such as hidden.eos; POSITION.captions holds the indices of the captions
    that have the position.
    """
    from clipgeom.encoder import encode

    check_embeddings_path(out)
    inputs = _inputs(
        model, subfolder, revision, captions, column, image_column, split, limit, sample, per_image, unique, dtype,
        device, positions, representation, seed,
    )  # fmt: skip
    with Progress("encoded", "captions") as progress:
        encoded = encode(
            inputs.encoder,
            (caption.text for caption in inputs.captions),
            representations=inputs.representations,
            positions=[str(place) for place in inputs.positions],
            batch_size=batch_size,
            progress=progress,
        )
    arrays: dict[str, NDArray[Any]] = {
        f"{name}.{place}": vectors for (name, place), (vectors, _rows) in encoded.items()
    }
    arrays |= {f"{place}.captions": rows for (_name, place), (_vectors, rows) in encoded.items()}
    counts = inputs.captions.counts
    metadata = {
        "schema": "clipgeom.embeddings/1",
        "model": inputs.encoder.name,
        "fingerprint": inputs.encoder.fingerprint,
        "captions": inputs.captions.source,
        "captions_sha256": counts.sha256,
    }
    save_embeddings(out, arrays, metadata=metadata)
    for name, array in arrays.items():
        if array.ndim == 2:
            print(f"{name}: {array.shape[0]} vectors of dimension {array.shape[1]}")
    print(f"embeddings: {out}")


@app.command("compare")
def _compare(
    first: Annotated[Path, typer.Argument(help="A report folder.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("comparison.html"),
) -> None:
    """Put two reports side by side on one page."""
    from clipgeom.report.compare import write_comparison

    write_comparison(first, second, out)
    print(f"comparison: {out}")


def _inputs(
    model: str | None,
    subfolder: str | None,
    revision: str | None,
    captions: str | None,
    column: str | None,
    image_column: str | None,
    split: str | None,
    limit: int,
    sample: str,
    per_image: str,
    unique: bool,
    dtype: str,
    device: str,
    positions: str,
    representation: str | None,
    seed: int,
) -> _Inputs:
    """Check every option that can be checked cheaply, then load the encoder."""
    from clipgeom.encoder import load_text_encoder, parse_positions, parse_representations

    if model is None or captions is None:
        lacking = " and ".join(n for n, v in (("--model", model), ("--captions", captions)) if v is None)
        raise ConfigError(
            f"{lacking} is needed: the embedded default world is not part of this version yet. For example: "
            "clipgeom report --model openai/clip-vit-large-patch14 --captions coco2014:val"
        )
    names = None if representation is None else parse_representations(representation)
    parse_positions(positions)
    stream = open_captions(
        captions,
        column=column,
        image_column=image_column,
        split=split,
        limit=limit,
        sample=sample,  # type: ignore[arg-type]  # checked there
        seed=seed,
        per_image=per_image,  # type: ignore[arg-type]
        unique=unique,
    )
    encoder = load_text_encoder(model, subfolder=subfolder, revision=revision, dtype=dtype, device=device)
    if names is None:
        names = tuple(name for name in ("hidden", "projected") if name in encoder.representations)
    encoder.require(names)
    return _Inputs(encoder, stream, names, parse_positions(positions, max_positions=encoder.max_positions))


def _labels(context: typer.Context, representation: str | None, positions: str) -> tuple[str, Position]:
    """What vectors from a file are said to be: one representation, one position (EOS unless said otherwise)."""
    from clipgeom.encoder import parse_positions, parse_representations

    if representation is None:
        raise ConfigError("say what the vectors are with --representation, such as projected, normalized or hidden")
    names = parse_representations(representation)
    if len(names) != 1:
        raise ConfigError(f"--embeddings holds one representation, --representation names {len(names)}")
    given = context.get_parameter_source("positions")
    places = parse_positions("eos" if given is None or given.name == "DEFAULT" else positions)
    if len(places) != 1:
        raise ConfigError(f"--embeddings holds one position, --positions names {len(places)}")
    return names[0], places[0]


def _refuse(context: typer.Context, options: tuple[str, ...], reason: str) -> None:
    """Options that were given but have nothing to act on are an error, not ignored."""
    for name in options:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise ConfigError(f"--{name.replace('_', '-')} {reason}")


@contextmanager
def _workspace(out: Path) -> Iterator[Path]:
    """The folder that will hold the output; created for the time being where it does not exist, and then removed."""
    parent = out.absolute().parent
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    try:
        yield parent
    except BaseException:
        for folder in made:
            folder.rmdir()
        raise


def _check_out(out: Path) -> None:
    """Refuse to replace anything but an earlier certificate, before any work is done."""
    from clipgeom.centering import Certificate
    from clipgeom.errors import CertificateError

    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ConfigError(f"cannot write {out}: {'it is a folder' if out.is_dir() else 'its folder does not exist'}")
    if out.exists():
        try:
            Certificate.load(out)
        except CertificateError as error:
            raise ConfigError(f"{out} is there and is no certificate; choose another --out ({error})") from error


def _interval(value: float, ci95: list[float]) -> str:
    return f"{value:.3f} [{ci95[0]:.3f}, {ci95[1]:.3f}]"


def _command() -> str:
    return shlex.join(["clipgeom", *sys.argv[1:]])


def _summarize(report: dict[str, object]) -> None:
    statistics = report["statistics"]
    assert isinstance(statistics, list)
    print(f"{'representation':<15} {'position':<10} {'n':>7}  {'raw norm':>18}  {'centred norm':>18}  {'offset':>6}")
    for row in statistics:
        raw, centered = row["raw"], row["centered"]
        offset = "∞" if row["offset_ratio"] is None else f"{row['offset_ratio']:.3f}"
        print(
            f"{row['representation']:<15} {row['position']:<10} {row['n']:>7}  "
            f"{raw['mean_norm']:>9.4g} ± {raw['std_norm']:<6.2g}  "
            f"{centered['mean_norm']:>9.4g} ± {centered['std_norm']:<6.2g}  {offset:>6}"
        )
