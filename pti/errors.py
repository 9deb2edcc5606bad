"""Errors of the trainer beside those of clipgeom; all are the user's to mend, and become one line and exit code 2."""

from clipgeom.errors import ClipGeomError

__all__ = ["CheckpointError", "DataError", "TrainingError"]


class DataError(ClipGeomError, ValueError):
    """The training pictures or their captions cannot be used; the message names the file."""


class CheckpointError(ClipGeomError):
    """A checkpoint cannot be written or read, or belongs to another configuration."""


class TrainingError(ClipGeomError):
    """Training cannot go on: the loss is no number, or what must not move has moved."""
