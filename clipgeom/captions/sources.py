"""Caption sources: parse a SOURCE string and its options."""

import operator
import os
import re
from contextlib import closing
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import SupportsIndex, get_args

from clipgeom.captions.coco import CocoCaptions, captions_member, coco_2014
from clipgeom.captions.hub import HubTable
from clipgeom.captions.lines import TextLines
from clipgeom.captions.miniworld import MiniworldCaptions
from clipgeom.captions.stream import CaptionStream, PerImage, Sample, Selection, Source
from clipgeom.captions.tables import CsvTable, JsonLines, ParquetTable, Table, TableCaptions
from clipgeom.errors import CaptionError, ConfigError

__all__ = ["open_captions"]

_COCO_SPLITS = ("val", "train")
_SUFFIXES = (".txt", ".json", ".zip", ".csv", ".tsv", ".jsonl", ".parquet")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_KINDS = f"a file ({', '.join(_SUFFIXES)}), miniworld, coco2014:val, or a hub data set, whose id looks like owner/name"
_NO_IMAGES = (
    '{} has no image ids, which per_image="first" needs. COCO captions (.json, .zip, coco2014:val), and tables and data '
    "sets with a column image_id, or another one given as --image-column, do; for consecutive captions of one image give "
    "--group-size."
)


# Many parameters: users name the options of a source here, by keyword; `Selection` and `_ColumnOptions` carry them on.
def open_captions(
    source: str | os.PathLike[str],
    /,
    *,
    column: str | None = None,
    image_column: str | None = None,
    group_size: int | None = None,
    split: str | None = None,
    limit: int | None = None,
    sample: Sample = "first",
    seed: int = 0,
    per_image: PerImage = "all",
    unique: bool = False,
) -> CaptionStream:
    """Open a caption source.

    The first caption is read at once, so that a wrong path, column or file format is an error before a model is
    loaded. For ``coco2014:…`` this is also when the archive is fetched.

    Parameters
    ----------
    source : str or path
        One of

        - ``miniworld``: captions of the embedded synthetic world, each with its own image;
        - ``coco2014:val`` or ``coco2014:train``: MS-COCO 2014, fetched once from the official archive (253 MB) into
          ``$CLIPGEOM_CACHE`` or the user's cache folder;
        - a COCO captions file, ``.json``, or a ``.zip`` that contains one; ``FILE.zip::member`` selects one of
          several;
        - ``.txt``, UTF-8, a caption a line;
        - ``.csv``, ``.tsv`` (with a header), ``.jsonl`` or ``.parquet``;
        - a data set of the Hugging Face hub, ``owner/name``, or a folder that ``datasets.load_dataset`` accepts.
          A file or folder has priority over a data set of the same name.
    column : str, optional
        The column with the captions, for tables and data sets: ``caption`` if there is one, else ``text``.
    image_column : str, optional
        The column with the ids of the images, for tables and data sets: ``image_id`` if there is one.
    group_size : int, optional
        For captions without image ids: each `group_size` consecutive ones of the source describe one image, counted
        before any is left out. The last image may have fewer.
    split : str, optional
        The split of a data set; needed if it has several.
    limit : int, optional
        Maximal number of captions.
    sample : {"first", "random"}
        Selection if there are more than `limit`: the first ones, and reading stops there; or a uniform sample,
        without replacement, of all of them in the order of the source, the same for one seed in every file format.
    seed : int
        Seed of the random sample. The first captions are the same for every seed.
    per_image : {"all", "first"}
        Whether to use only the first caption of every image.
    unique : bool
        Whether to leave out captions whose text was there before. Repetitions are counted in any case.

    Returns
    -------
    CaptionStream
        The captions, and once they have been read, their counts and hash.

    Raises
    ------
    ConfigError
        The source does not exist, or an option is wrong or does not apply to it.
    CaptionError
        The source contains no captions.
    DownloadError
        The archive cannot be fetched.
    MissingExtraError
        Reading this source needs a package that is not installed.
    """
    selection = _selection(
        limit=limit, sample=sample, seed=seed, per_image=per_image, unique=unique, group_size=group_size
    )
    options = _ColumnOptions(column, image_column)
    named = _named(source, options, split) if isinstance(source, str) else None
    opened = named or _on_disk_or_hub(source, options, split)
    groups_by = _groups_by(opened, selection)
    _require_captions(opened)
    return CaptionStream(opened, selection, groups_by)


def _require_captions(opened: Source) -> None:
    """Read the first caption."""
    with closing(opened.rows()) as rows:
        if next(rows, None) is None:
            raise CaptionError(f"{opened.description} holds no captions: it is empty.")


def _groups_by(opened: Source, selection: Selection) -> str | None:
    """Describe how captions of one image are recognised."""
    group_size = selection.group_size
    has_ids = not (isinstance(opened, TextLines) or (isinstance(opened, TableCaptions) and opened.image_column is None))
    if group_size is None:
        if selection.per_image == "first" and not has_ids:
            raise ConfigError(_NO_IMAGES.format(opened.description))
        return "image ids" if has_ids else None
    if has_ids:
        raise ConfigError(
            f"group_size={group_size} does not apply to {opened.description}: its captions have image ids. Leave it out."
        )
    return f"each {group_size} consecutive captions"


def _selection(
    *, limit: int | None, sample: Sample, seed: int, per_image: PerImage, unique: bool, group_size: int | None
) -> Selection:
    if group_size is not None:
        group_size = _whole("group_size", group_size, least=1)
    if limit is not None:
        limit = _whole("limit", limit, least=1)
    seed = _whole("seed", seed, least=0)
    for name, value, allowed in (("sample", sample, get_args(Sample)), ("per_image", per_image, get_args(PerImage))):
        if value not in allowed:
            raise ConfigError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}.")
    if sample == "random" and limit is None:
        raise ConfigError('sample="random" needs a limit: how many captions to take.')
    return Selection(limit=limit, sample=sample, seed=seed, per_image=per_image, unique=unique, group_size=group_size)


def _whole(name: str, value: SupportsIndex, *, least: int) -> int:
    try:
        number = operator.index(value)  # numpy's integers pass, floats do not
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, not {value!r}.")
    return number


@dataclass(frozen=True, slots=True)
class _ColumnOptions:
    column: str | None
    image_column: str | None

    def refuse(self, source: object, reason: str) -> None:
        _refuse("column", self.column, source, reason)
        _refuse("image_column", self.image_column, source, reason)

    def of(self, table: Table) -> TableCaptions:
        return TableCaptions.of(table, column=self.column, image_column=self.image_column)


def _named(source: str, options: _ColumnOptions, split: str | None) -> Source | None:
    """Open a source by its name, or return None for a path or a hub id."""
    if not source:
        raise ConfigError(f"The caption source is empty; expected {_KINDS}.")
    if source == "miniworld":
        _refuse("split", split, source, "it is one set")
        options.refuse(source, "it is drawn, not read from a table")
        return MiniworldCaptions()
    if "://" in source:
        raise ConfigError(f"{source}: addresses are not fetched; download the file and give its path, or {_KINDS}.")
    name, colon, coco_split = source.partition(":")
    if not re.fullmatch(r"coco\d*", name) or (not colon and Path(source).exists()):
        return None
    if name != "coco2014" or coco_split not in _COCO_SPLITS:
        raise ConfigError(
            f"{source!r} is not among the captions that clipgeom can fetch: "
            + ", ".join(f"coco2014:{known}" for known in _COCO_SPLITS)
            + ". Other COCO captions: download them and give the path of the .json or .zip file."
        )
    _refuse("split", split, source, "the split is part of the name")
    options.refuse(source, "COCO files have no columns")
    return coco_2014(coco_split)


def _on_disk_or_hub(source: str | os.PathLike[str], options: _ColumnOptions, split: str | None) -> Source:
    path, member = _path_and_member(source)
    try:
        if path.is_dir():
            if not any(path.iterdir()):
                raise ConfigError(f"The folder {path} is empty.")
            return options.of(HubTable(str(path), split))
        if not path.exists():
            if isinstance(source, str) and _HUB_ID.fullmatch(source) and path.suffix.lower() not in _SUFFIXES:
                return options.of(HubTable(source, split))
            raise ConfigError(_missing(path))
    except OSError as error:  # a name too long to be one, a folder one may not look into
        raise ConfigError(f"{path} cannot be opened: {error.strerror}.") from error
    _refuse("split", split, path, "only data sets have splits, and this is a file")
    suffix = path.suffix.lower()
    if suffix in (".txt", ".json", ".zip"):
        options.refuse(path, "only tables and data sets have columns")
    match suffix:
        case ".txt":
            return TextLines(path)
        case ".json":
            return CocoCaptions(path)
        case ".zip":
            return CocoCaptions(path, captions_member(path, member))
        case ".csv":
            return options.of(CsvTable(path, ","))
        case ".tsv":
            return options.of(CsvTable(path, "\t"))
        case ".jsonl":
            return options.of(JsonLines(path))
        case ".parquet":
            return options.of(ParquetTable(path))
        case _:
            raise ConfigError(
                f"{path}: the kind of a file is told by its name, which should end in one of {', '.join(_SUFFIXES)}."
            )


def _path_and_member(source: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """Split ``FILE.zip::member``; two colons in another file's name are its own."""
    file, colons, member = os.fspath(source).partition("::")
    if colons and file.lower().endswith(".zip"):
        return Path(file).expanduser(), member
    return Path(source).expanduser(), None


def _missing(path: Path) -> str:
    if not path.parent.is_dir():
        return f"There is no file {path}, nor a folder {path.parent}; expected {_KINDS}."
    close = get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    hint = f"did you mean {path.parent / close[0]}?" if close else f"expected {_KINDS}."
    return f"There is no file {path}; {hint}"


def _refuse(name: str, value: str | None, source: object, reason: str) -> None:
    if value is not None:
        raise ConfigError(f"{name}={value!r} does not apply to {source}: {reason}. Leave it out.")
