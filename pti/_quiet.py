"""What libraries say of themselves, and users need not hear."""

__all__ = ["silence"]


def silence() -> None:
    """No bars for every file that is loaded, and no advice to programmers."""
    import diffusers
    import huggingface_hub
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    # it tells of every attempt to reach an absent network
    huggingface_hub.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
