"""Groups of rows that are not independent, such as the captions of one image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgeom.errors import DomainError, ShapeError

__all__ = ["consecutive", "group_codes", "grouping_note", "merge_groups"]


def group_codes(groups: Sequence[Any] | NDArray[Any] | None, n: int) -> NDArray[np.int64] | None:
    """Number the groups 0, 1, … in the order in which they appear.

    Parameters
    ----------
    groups : sequence of length n, optional
        An id for each row: text or whole numbers, or None for a row whose group is unknown.
    n : int
        Number of rows.

    Returns
    -------
    ndarray of shape (n,), or None
        The number of each row's group; None if every row is a group of its own.

    Raises
    ------
    ShapeError
        `groups` is not one id a row.
    DomainError
        An id is neither text nor a whole number, or all rows are of one group.
    """
    if groups is None:
        return None
    if np.ndim(groups) != 1 or len(groups) != n:
        raise ShapeError(f"expected groups of shape ({n},), one id a vector, got shape {np.shape(groups)}")
    ids = groups.tolist() if isinstance(groups, np.ndarray) else list(groups)
    numbers: dict[object, int] = {}
    codes = np.empty(n, dtype=np.int64)
    for row, value in enumerate(ids):
        if not (value is None or isinstance(value, (str, int, np.integer))):
            raise DomainError(f"expected group ids that are text or whole numbers, got {value!r} for vector {row}")
        codes[row] = numbers.setdefault(("unknown", row) if value is None else value, len(numbers))
    if len(numbers) == 1 and n > 1:
        raise DomainError(f"all {n} vectors are of one group (one image): intervals need at least 2 groups; take more")
    return None if len(numbers) == n else codes


def consecutive(n: int, size: int) -> NDArray[np.int64]:
    """Group ids for n rows in consecutive groups of `size`; the last group may be smaller."""
    return np.arange(n, dtype=np.int64) // size


def merge_groups(codes: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Merge neighbouring groups into at most `most` groups of about equal size."""
    sizes = np.bincount(codes)
    if len(sizes) <= most:
        return codes
    middles = np.cumsum(sizes) - sizes / 2
    merged = np.unique((middles * (most / len(codes))).astype(np.int64), return_inverse=True)[1]
    joined: NDArray[np.int64] = merged[codes]
    return joined


def grouping_note(n: int, n_groups: int | None, groups_by: str | None, *, source: str | None = None) -> str:
    """Sentence about the assumptions of the intervals; empty if every caption has its own image.

    Parameters
    ----------
    n, n_groups : int
        Captions or vectors, and the groups that they are in, as far as known.
    groups_by : str or None
        How the groups are known.
    source : str, optional
        Source of the captions; without one the rows are vectors computed elsewhere.
    """
    rows = "vectors" if source is None else "captions"
    if groups_by is None:
        option = "--group-size N" if source is None or source.endswith(".txt") else "--image-column or --group-size N"
        return f"Intervals assume independent {rows}: where several {rows} belong to one image, give {option}."
    if n_groups is None or n_groups == n:
        return ""
    how = "" if groups_by == "image ids" else f" ({groups_by})"
    return f"Intervals are by image: {n:,} {rows} of {n_groups:,} images{how}."
