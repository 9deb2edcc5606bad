"""The geometry of CLIP embeddings, and what a text-to-image trainer can safely do with it.

Names are imported on first use, so that ``from clipgeom import slerp`` costs no more than the array code it needs:
neither torch nor transformers is loaded before something asks for an encoder.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from clipgeom.captions import open_captions
    from clipgeom.centering import Certificate, check_centering
    from clipgeom.conforming import conformity
    from clipgeom.encoder import encode, load_text_encoder
    from clipgeom.errors import (
        CaptionError,
        CertificateError,
        ClipGeomError,
        ConfigError,
        DomainError,
        EncoderError,
        MissingExtraError,
        ShapeError,
    )
    from clipgeom.interpolate import aslerp, lerp, slerp, vslerp
    from clipgeom.modality import compare_modalities
    from clipgeom.moments import Moments
    from clipgeom.shells import measure_shells, radial_terms
    from clipgeom.spectrum import measure_spectrum

__all__ = [
    "CaptionError",
    "Certificate",
    "CertificateError",
    "ClipGeomError",
    "ConfigError",
    "DomainError",
    "EncoderError",
    "MissingExtraError",
    "Moments",
    "ShapeError",
    "aslerp",
    "check_centering",
    "compare_modalities",
    "conformity",
    "encode",
    "lerp",
    "load_text_encoder",
    "measure_shells",
    "measure_spectrum",
    "open_captions",
    "radial_terms",
    "slerp",
    "vslerp",
]

# The room of each name. No room may bear the name of a public function: importing the room would hide the function.
_ROOMS = {
    "captions": ("open_captions",),
    "centering": ("Certificate", "check_centering"),
    "conforming": ("conformity",),
    "encoder": ("encode", "load_text_encoder"),
    "errors": (
        "CaptionError",
        "CertificateError",
        "ClipGeomError",
        "ConfigError",
        "DomainError",
        "EncoderError",
        "MissingExtraError",
        "ShapeError",
    ),
    "interpolate": ("aslerp", "lerp", "slerp", "vslerp"),
    "modality": ("compare_modalities",),
    "moments": ("Moments",),
    "shells": ("measure_shells", "radial_terms"),
    "spectrum": ("measure_spectrum",),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
