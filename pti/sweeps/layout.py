"""Names of the files in the folder of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

__all__ = []

TABLE = "sweep.parquet"


PLAN = "sweep.json"


RESULT = "result.json"
