"""Compute golden values in a process of their own, in an empty folder, with one thread.

`python -m tests.golden.compute PART OUT` writes one part as JSON; `fresh` starts that.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from .circumstances import circumstances, environment

ROOT = Path(__file__).parents[2]
VALUES = Path(__file__).parent / "values"
PARTS = ("runs", "reports", "names", "help")
# In other circumstances than the stored ones, for text towers in float32 and for statistics in float64. What names no
# number is the same everywhere.
TOLERANCES = {"sd": 1e-4, "sdxl": 1e-4, "captions": 1e-5, "vectors": 1e-9, "vectors-grouped": 1e-9}


def values_of(part):
    """One part of the golden values, with the circumstances that numbers were found in."""
    if part == "names":
        from .surface import name_values as values
    elif part == "help":
        from .surface import help_values as values
    elif part == "runs":
        from .runs import run_values as values
    else:
        from .reports import report_values as values
    found = values()
    return found if part in ("names", "help") else {"circumstances": circumstances(), **found}


def fresh(part):
    """The values of a part as a new process finds them."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "values.json"
        (work := Path(folder) / "work").mkdir()
        settings = environment() | {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "CLIPGEOM_CACHE": str(Path(folder) / "cache"),
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.golden.compute", part, str(out)],
            **{"cwd": work, "env": settings, "capture_output": True, "text": True, "check": False},
        )
        if done.returncode:
            raise RuntimeError(f"golden values of {part} cannot be computed:\n{done.stderr[-3000:]}")
        return json.loads(out.read_text(encoding="utf-8"))


def stored(part):
    """The values in `values/`; empty where there are none."""
    path = VALUES / f"{part}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def written(values):
    """Values as the text of their file."""
    text = json.dumps(values, indent=1, ensure_ascii=False)
    # lists of numbers or words on one line
    return re.sub(r"\[\n\s*((?:[^\[\]{}\n\\]{1,16},?\n\s*)+)\]", lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(written(values_of(sys.argv[1])), encoding="utf-8")
