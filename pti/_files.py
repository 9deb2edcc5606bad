"""JSON files of a run, written atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipgeom._io.files import write_whole

__all__ = ["write_json"]


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
