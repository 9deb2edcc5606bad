"""The errors that clipgeom raises on purpose.

Every message says what was expected, what was found, and what to do about it. The command line turns a
`ClipGeomError` into one line on standard error and exit code 2; any other exception is a defect of clipgeom.
"""

__all__ = [
    "CaptionError",
    "CertificateError",
    "ClipGeomError",
    "ConfigError",
    "DomainError",
    "EncoderError",
    "MissingExtraError",
    "OutputError",
    "ShapeError",
    "WeightsError",
    "first_line",
]


def first_line(error: Exception, /) -> str:
    """First line of a library's error, or its class if the error has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class ClipGeomError(Exception):
    """Base class of every error that clipgeom raises on purpose."""


class ShapeError(ClipGeomError, ValueError):
    """An array has the wrong rank, or shapes that do not fit together."""


class DomainError(ClipGeomError, ValueError):
    """A value lies outside the domain of the function: NaN, a zero vector as a direction, too few samples."""


class ConfigError(ClipGeomError, ValueError):
    """An option is unknown, contradicts another one, or names something that is not there."""


class CaptionError(ClipGeomError, ValueError):
    """A caption source cannot be read as captions."""


class EncoderError(ClipGeomError):
    """An encoder cannot be loaded, or lacks a representation."""


class CertificateError(ClipGeomError):
    """A certificate is missing, damaged or edited, or is for another encoder, representation or position."""


class MissingExtraError(ClipGeomError, ImportError):
    """An optional dependency is missing; the message names the extra that installs it."""


class OutputError(ClipGeomError, OSError):
    """A file or folder cannot be written: a full or read-only disk, or a folder that was deleted during the work.

    It has the `errno` and `strerror` of the OSError that caused it.
    """

    def __init__(self, message: str, cause: OSError | None = None) -> None:
        super().__init__(message)
        if cause is not None:
            self.errno, self.strerror = cause.errno, cause.strerror

    def __str__(self) -> str:
        return str(self.args[0])


class WeightsError(ClipGeomError):
    """The package's weights are missing or damaged; the message names the command that restores them."""
