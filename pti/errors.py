"""Errors of the trainer that the user can fix; the commands print one line and exit with code 2."""

from clipgeom.errors import ClipGeomError

__all__ = ["CheckpointError", "DataError", "TrainingError"]


class DataError(ClipGeomError, ValueError):
    """The training images or their captions cannot be used; the message names the file."""


class CheckpointError(ClipGeomError):
    """A checkpoint cannot be written or read, or belongs to another configuration."""


class TrainingError(ClipGeomError):
    """Training cannot continue: the loss is not finite, or frozen weights have changed."""
