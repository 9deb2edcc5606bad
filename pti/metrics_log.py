"""The numbers of every step: a line each while training, a table afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipgeom._files import write_whole

__all__ = ["MetricsLog"]


class MetricsLog:
    """``metrics.jsonl`` and ``metrics.parquet`` of a run folder; a row names its stage and step."""

    def __init__(self, folder: Path) -> None:
        self.lines, self.table = folder / "metrics.jsonl", folder / "metrics.parquet"

    def rows(self) -> list[dict[str, Any]]:
        """Every row that was written whole."""
        if not self.lines.exists():
            return []
        found = []
        for line in self.lines.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:  # the process was killed while it wrote
                break
        return found

    def cut(self, stage: str, step: int) -> None:
        """Forget what a stage did after a step: it is going to be done again."""
        kept = [row for row in self.rows() if row["stage"] != stage or row["step"] <= step]
        write_whole(self.lines, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def append(self, stage: str, values: Mapping[str, float]) -> None:
        """Add the row of a step."""
        with self.lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": stage, **values}) + "\n")

    def write_table(self) -> None:
        """Write all rows as a Parquet table, in which what a row lacks is null."""
        import io

        import pandas as pd

        content = io.BytesIO()
        pd.DataFrame(self.rows()).to_parquet(content, index=False)
        write_whole(self.table, content.getvalue())
