"""Studies of the project: a folder each, run by ``python -m analysis NAME``; what they share is in `analysis.common`."""

from pathlib import Path

__all__ = ["ROOT"]

ROOT = Path(__file__).resolve().parent.parent  # of the repository: reports lie below it
