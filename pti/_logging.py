"""Suppression of progress bars and log messages of third-party libraries."""

from clipgeom._extras import needs_extra

__all__ = ["silence"]


def silence() -> None:
    """Switch off the progress bars for loading files, and advice to programmers."""
    with needs_extra("pti", "the trainer"):
        import diffusers
        import huggingface_hub
        import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    # it logs every attempt to reach an absent network
    huggingface_hub.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
