"""Threads of torch on the CPU: rounding depends on their number, so a run always uses the same number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from clipgeom._threads import threads_of_user
from pti.errors import CheckpointError
from pti.runs.layout import RECORD
from pti.runs.record import read_record

__all__ = ["as_begun"]


@contextmanager
def as_begun(folder: Path) -> Iterator[None]:
    """Use as many threads as at the start of the run in a folder; the former number is restored afterwards.

    A number that the user sets in ``OMP_NUM_THREADS`` has priority. A new run uses torch's present number.
    """
    before = torch.get_num_threads()
    begun = read_record(folder).get("threads") if (folder / RECORD).exists() else None
    if begun is None or threads_of_user() is not None:
        yield
        return
    if type(begun) is not int or begun < 1:
        path = folder / RECORD
        raise CheckpointError(f"{path} has threads = {begun!r}, expected a whole number above 0; delete it: rm {path}")
    torch.set_num_threads(begun)
    try:
        yield
    finally:
        torch.set_num_threads(before)
