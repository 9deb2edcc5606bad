"""Data sets of the Hugging Face Hub, and local folders readable by `datasets`, as streams."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clipgeom._extras import needs_extra
from clipgeom.errors import CaptionError, ConfigError

__all__ = ["HubTable"]

_BATCH = 100  # rows read at a time, ten times faster than one by one; more would only delay the first


@dataclass(frozen=True)
class HubTable:
    """A streamed data set: nothing is stored, and no code of the data set runs.

    `datasets` ran the scripts of data sets up to version 3; from version 4 on, which clipgeom requires, it cannot.
    """

    path: str
    split: str | None

    @property
    def description(self) -> str:
        """The id or the folder, and the split."""
        return f"{self.path}[{self._split}]" if self._split else self.path

    def names(self) -> Sequence[str]:
        """Read the names of the columns, from the first row where the data set does not declare them."""
        data = self._data
        with self._explained():
            return list(next(iter(data), {}) if data.column_names is None else data.column_names)

    def values(self, columns: Sequence[str], /) -> Iterator[tuple[object, ...]]:
        """Read the rows. Other columns are dropped before they are decoded: images stay as they are."""
        data = self._data
        with self._explained():
            for batch in data.select_columns(list(columns)).iter(batch_size=_BATCH):
                yield from zip(*(batch[name] for name in columns), strict=True)

    @property
    def _split(self) -> str | None:
        return self.split or (str(self._data.split) if "_data" in self.__dict__ else None)

    @cached_property
    def _data(self) -> Any:
        with needs_extra("report", "reading a data set"):
            import datasets
        with self._explained():
            found = datasets.load_dataset(self.path, split=self.split, streaming=True)
        if not isinstance(found, dict):
            return found
        if len(found) > 1:
            raise ConfigError(f"{self.path} has several splits; choose one with --split: {', '.join(map(str, found))}.")
        return next(iter(found.values()))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # `datasets` lets through the errors of every layer below it (the hub's client, fsspec, arrow, pandas …),
            # which have no base class in common; this block contains no other code.
            text = str(error).strip()
            first = f": {text.splitlines()[0].rstrip('.')}" if text else ""
            cause = f"{type(error).__name__}{first}."
            if Path(self.path).exists():
                raise CaptionError(f"The folder {self.path} cannot be read as a data set: {cause}") from error
            raise CaptionError(
                f"There is no file or folder {self.path}, and as a data set of the hub it cannot be read: {cause}"
            ) from error
