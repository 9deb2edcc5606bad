"""The commands of clipgeom and their options. A command checks its options and calls the library."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from numpy.typing import NDArray

from clipgeom._io.files import check_output_file, resolved, workspace
from clipgeom._progress import Progress
from clipgeom._text import printable
from clipgeom._version import __version__
from clipgeom.cli.options import (
    OUTPUT_PANEL,
    Embeddings,
    EncodingOptions,
    ImageEmbeddings,
    labels,
    refuse,
    takes_encoding_options,
)
from clipgeom.errors import ConfigError
from clipgeom.geometry.embedding_files import (
    check_embeddings_path,
    embeddings_label,
    embeddings_metadata,
    groups_of_embeddings,
    load_embeddings,
    save_embeddings,
)
from clipgeom.geometry.groups import grouping_note

__all__ = ["app"]

app = typer.Typer(
    name="clipgeom",
    help="Measure the geometry of CLIP text embeddings: norms, centring and interpolation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_cache = typer.Typer(help="List or delete cached embeddings.", no_args_is_help=True)
app.add_typer(_cache, name="cache")

Padded = Annotated[
    bool,
    typer.Option(
        "--padded",
        help="Also measure the padding positions after EOS, which Stable Diffusion uses as well.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
Check = Annotated[
    bool,
    typer.Option(
        "--check/--no-check",
        help="Run the centring check on each representation and position.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"clipgeom {__version__}")
        raise typer.Exit


@app.command("report")
@takes_encoding_options
def _report(
    context: typer.Context,
    options: EncodingOptions,
    embeddings: Embeddings = None,
    image_embeddings: ImageEmbeddings = None,
    padded: Padded = False,
    check: Check = True,
    out: Annotated[Path, typer.Option(help="Report folder to write.", rich_help_panel=OUTPUT_PANEL)] = Path("report"),
) -> None:
    """Measure the embeddings of a caption set, or a file of vectors, and write a report.

    The report folder contains report.html, the figures,
    and all numbers in report.json and statistics.csv.
    """
    from clipgeom.report.folder import check_output_folder
    from clipgeom.report.measure.build import measure_captions, measure_embeddings
    from clipgeom.report.render.page import report_grouping
    from clipgeom.report.write import write_report

    target = check_output_folder(out)
    if embeddings is not None:
        name, place = labels(context, options, embeddings)
        if image_embeddings is not None and embeddings_label(image_embeddings) is not None:
            raise ConfigError(f"--image-embeddings {image_embeddings} names vectors of captions, not of images")
        measured = measure_embeddings(
            load_embeddings(embeddings, unit=name == "normalized"),
            source=embeddings,
            representation=name,
            position=place,
            images=None if image_embeddings is None else load_embeddings(image_embeddings, unit=name == "normalized"),
            image_source=image_embeddings,
            group_size=options.group_size,
            check=check,
            seed=options.seed,
            command=_command(),
        )
    else:
        refuse(context, ("image_embeddings",), "needs --embeddings, the texts to compare with")
        with Progress("encoded", "captions") as progress:
            inputs = options.load(context, progress)
            with workspace(target) as folder:
                measured = measure_captions(
                    inputs.encoder,
                    inputs.captions,
                    representations=inputs.representations,
                    positions=inputs.positions,
                    padded=padded,
                    check=check,
                    seed=options.seed,
                    cache=inputs.cache,
                    pack_size=options.pack_size,
                    workspace=folder,
                    command=_command(),
                    progress=progress,
                    images=inputs.images,
                )
    write_report(measured, target)
    provenance = measured.report["provenance"]
    _print_inputs(provenance["model"], provenance["captions"], provenance.get("embeddings"))
    _summarize(measured.report)
    _note(report_grouping(measured.report))
    print(f"report: {out / 'report.html'}")


@app.command("check")
@takes_encoding_options
def _check(
    context: typer.Context,
    options: EncodingOptions,
    embeddings: Embeddings = None,
    out: Annotated[Path, typer.Option(help="Certificate file to write.", rich_help_panel=OUTPUT_PANEL)] = Path(
        "certificate.safetensors"
    ),
) -> None:
    """Check whether centred interpolation is valid for these embeddings.

    Prints the verdict, and writes a certificate for the locality loss of pti.
    The exit code is 0 for every verdict.
    """
    from clipgeom.centering import Certificate, check_centering

    target = check_output_file(out, _is_certificate, maker="clipgeom check")
    if embeddings is not None:
        name, place = labels(context, options, embeddings)
        vectors = load_embeddings(embeddings, unit=name == "normalized")
        source = None
        groups, groups_by = groups_of_embeddings(embeddings, vectors.n, options.group_size)
        checks = [(name, str(place), check_centering(vectors, groups=groups, seed=options.seed))]
        about = embeddings_metadata(embeddings)
        certificate = Certificate.of(
            checks,
            encoder_fingerprint=about.get("fingerprint"),
            captions_sha256=about.get("captions_sha256"),
            seed=options.seed,
            model=about.get("model"),
            captions=about.get("captions"),
            groups=groups_by,
        )
    else:
        from clipgeom.centering.from_captions import check_captions

        with Progress("encoded", "captions") as progress:
            inputs = options.load(context, progress)
            with workspace(target) as folder:
                checks = check_captions(
                    inputs.encoder,
                    inputs.captions,
                    representations=inputs.representations,
                    positions=inputs.positions,
                    seed=options.seed,
                    cache=inputs.cache,
                    pack_size=options.pack_size,
                    workspace=folder,
                    progress=progress,
                )
        certificate = Certificate.of(
            checks,
            encoder_fingerprint=inputs.encoder.fingerprint,
            captions_sha256=inputs.captions.counts.sha256,
            seed=options.seed,
            model=inputs.encoder.name,
            captions=inputs.captions.source,
            groups=inputs.captions.groups_by,
        )
        source = inputs.captions.source
    certificate.save(target)
    _print_inputs(certificate.model, certificate.captions, embeddings)
    for entry in certificate.entries:
        print(f"{entry.representation} at {entry.position} (n = {entry.n}): {entry.figures['verdict']}")
        for mode, on in entry.figures["on_shell"].items():
            auc = entry.figures["auc"][mode]
            print(
                f"  {mode:<12} on-shell {_interval(on['rate'], on['ci95'])}  AUC {_interval(auc['auc'], auc['ci95'])}"
            )
    first = certificate.entries[0]
    _note(grouping_note(first.n, first.figures["n_groups"], certificate.groups, source=source))
    print(f"certificate: {out}")


@app.command("encode")
@takes_encoding_options
def _encode(
    context: typer.Context,
    options: EncodingOptions,
    out: Annotated[
        Path, typer.Option(help="File to write: .npz, .safetensors, .parquet or .npy.", rich_help_panel=OUTPUT_PANEL)
    ],
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace a file that clipgeom encode did not write, or any .npy file.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = False,
) -> None:
    """Encode a caption set, and write the vectors to one file.

    Arrays are named REPRESENTATION.POSITION, such as hidden.eos.
    POSITION.captions contains the indices of the captions with that position.
    POSITION.images contains their image numbers, if known.
    """
    from clipgeom.encoder.encode_captions import EncodingRequest, collect

    check_embeddings_path(out, overwrite=overwrite)
    with Progress("encoded", "captions") as progress:
        inputs = options.load(context, progress)
        matrices = len(inputs.representations) * len(inputs.positions)
        check_embeddings_path(out, matrices=matrices, overwrite=overwrite)
        with (
            workspace(resolved(out)) as parent,
            tempfile.TemporaryDirectory(prefix=".clipgeom-", dir=parent) as folder,
            collect(
                inputs.encoder,
                inputs.captions,
                EncodingRequest(
                    inputs.representations, inputs.positions, cache=inputs.cache, pack_size=options.pack_size
                ),
                folder=Path(folder),
                progress=progress,
            ) as collected,
        ):
            arrays: dict[str, NDArray[Any]] = {
                f"{name}.{place}": vectors.load() for (name, place), vectors in collected.vectors.items()
            }
            arrays |= {f"{place}.captions": rows for place, rows in collected.rows.items()}
            arrays |= {f"{p}.images": ids for p in collected.rows if (ids := collected.images(p)) is not None}
    metadata = {
        "model": inputs.encoder.name,
        "fingerprint": inputs.encoder.fingerprint,
        "captions": inputs.captions.source,
        "captions_sha256": inputs.captions.counts.sha256,
    }
    save_embeddings(out, arrays, metadata=metadata)
    _print_inputs(inputs.encoder.name, inputs.captions.source)
    for name, array in arrays.items():
        if array.ndim == 2:
            print(f"{name}: {array.shape[0]} vectors of dimension {array.shape[1]}")
    print(f"embeddings: {out}")


@app.command("compare")
def _compare(
    first: Annotated[Path, typer.Argument(help="First report folder.")],
    second: Annotated[Path, typer.Argument(help="Second report folder.")],
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("comparison.html"),
) -> None:
    """Compare two reports side by side on one HTML page."""
    from clipgeom.report.compare import write_comparison

    provenances = write_comparison(first, second, out)
    print("; ".join(f"{letter}: {_inputs(**about)}" for letter, about in zip("AB", provenances, strict=True)))
    print(f"comparison: {out}")


@_cache.command("list")
def _list() -> None:
    """List the cached caption sets and their sizes."""
    from clipgeom.encoder.storage.cache import EmbeddingCache

    cache = EmbeddingCache()
    sets = cache.sets()
    for entry in sets:
        state = "" if entry.complete else "  incomplete; continues at the next use"
        n = "?" if entry.n is None else f"{entry.n:,}"
        line = (
            f"{entry.used:%Y-%m-%d %H:%M}  {entry.size / 1e6:>8,.1f} MB  {n:>9} captions  {entry.dtype:<8}  "
            f"{entry.model}  {entry.captions}{state}"
        )
        print(printable(line))  # the names come from a file in the cache
    print(f"{len(sets)} caption set(s), {sum(entry.size for entry in sets) / 1e6:,.1f} MB in {cache.root}")


@_cache.command("clear")
def _clear() -> None:
    """Delete all cached caption sets that no process uses. Downloaded captions are not deleted."""
    from clipgeom.encoder.storage.cache import EmbeddingCache

    cache = EmbeddingCache()
    deleted, used, foreign = cache.clear()
    print(f"deleted {len(deleted)} caption set(s) from {cache.root}" + (f"; {len(used)} in use" if used else ""))
    for name in foreign:
        print(f"left {cache.root / name}: it contains files that clipgeom did not write")


def _is_certificate(path: Path) -> bool:
    from clipgeom.centering import Certificate
    from clipgeom.errors import CertificateError

    try:
        Certificate.load(path)
    except CertificateError:
        return False
    return True


def _interval(value: float, ci95: list[float]) -> str:
    return f"{value:.3f} [{ci95[0]:.3f}, {ci95[1]:.3f}]"


def _command() -> str:
    return shlex.join(["clipgeom", *sys.argv[1:]])


def _note(sentence: str) -> None:
    if sentence:
        print(sentence)


def _inputs(model: str | None, captions: str | None, embeddings: str | None = None) -> str:
    """Name what was measured: model and captions, or the file with vectors."""
    parts = [f"vectors {embeddings}"] if embeddings is not None else []
    parts += [f"model {model or 'unknown'}", f"captions {captions or 'unknown'}"]
    return printable(", ".join(parts))


def _print_inputs(model: str | None, captions: str | None, embeddings: str | None = None) -> None:
    print(_inputs(model, captions, embeddings))


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
