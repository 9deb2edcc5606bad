"""Names of the stages that train and of the files in a run folder."""

from __future__ import annotations

__all__ = ["EVALUATION", "EXPORT", "RECORD", "TRAINED"]

TRAINED = ("invert", "tune")


RECORD = "record.json"


EVALUATION = "evaluation.json"


EXPORT = "export"
