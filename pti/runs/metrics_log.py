"""Metrics of every step: lines of JSON during training, a table at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipgeom._io.files import write_whole

__all__ = ["MetricsLog"]


class MetricsLog:
    """``metrics.jsonl`` and ``metrics.parquet`` of a run folder; each row contains its stage and step."""

    def __init__(self, folder: Path) -> None:
        self.lines, self.table = folder / "metrics.jsonl", folder / "metrics.parquet"

    def rows(self) -> list[dict[str, Any]]:
        """Return every row that was written completely."""
        return self._read()[0]

    def cut(self, stage: str, step: int) -> int:
        """Delete a stage's rows after a step, before these steps are repeated.

        Returns
        -------
        int
            Number of damaged lines that were deleted; an incomplete last line does not count.
        """
        rows, damaged = self._read()
        kept = [row for row in rows if row["stage"] != stage or row["step"] <= step]
        write_whole(self.lines, "".join(json.dumps(row) + "\n" for row in kept).encode())
        return damaged

    def _read(self) -> tuple[list[dict[str, Any]], int]:
        """Read the rows, and count damaged lines."""
        if not self.lines.exists():
            return [], 0
        *lines, _torn = self.lines.read_bytes().split(b"\n")  # a killed process leaves half a line
        rows = [_row(line) for line in lines]
        whole = [row for row in rows if row is not None]
        return whole, len(rows) - len(whole)

    def append(self, stage: str, values: Mapping[str, float]) -> None:
        """Add the row of a step."""
        with self.lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": stage, **values}) + "\n")

    def write_table(self) -> None:
        """Write all rows as a Parquet table; missing values are null."""
        import io

        import pandas as pd

        content = io.BytesIO()
        pd.DataFrame(self.rows()).to_parquet(content, index=False)
        write_whole(self.table, content.getvalue())


def _row(line: bytes) -> dict[str, Any] | None:
    """Parse a line; None if no step wrote it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("stage"), str):
        return None
    numbers = all(isinstance(value, (int, float, type(None))) for key, value in row.items() if key != "stage")
    return row if numbers and type(row.get("step")) is int else None
