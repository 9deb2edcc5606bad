"""The geometry of CLIP embeddings, and its safe use in a text-to-image trainer.

Names are imported on first use. ``from clipgeom import slerp`` imports only array code; torch and transformers are
imported with the first encoder.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clipgeom._version import __version__

if TYPE_CHECKING:
    from clipgeom.captions import open_captions
    from clipgeom.centering import Certificate, check_centering
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
    from clipgeom.geometry._conformity import conformity
    from clipgeom.geometry.modality import compare_modalities
    from clipgeom.geometry.moments import Moments
    from clipgeom.geometry.norms import measure_shells, radial_terms
    from clipgeom.geometry.spectrum import measure_spectrum
    from clipgeom.interpolation._centered import aslerp, vslerp
    from clipgeom.interpolation._layer_norm import vslerp_ln
    from clipgeom.interpolation._modes import interpolate
    from clipgeom.interpolation._slerp import lerp, slerp

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
    "__version__",
    "aslerp",
    "check_centering",
    "compare_modalities",
    "conformity",
    "encode",
    "interpolate",
    "lerp",
    "load_text_encoder",
    "measure_shells",
    "measure_spectrum",
    "open_captions",
    "radial_terms",
    "slerp",
    "vslerp",
    "vslerp_ln",
]

# The module of each public name.
_MODULES = {
    "captions": ("open_captions",),
    "centering": ("Certificate", "check_centering"),
    "geometry._conformity": ("conformity",),
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
    "interpolation._centered": ("aslerp", "vslerp"),
    "interpolation._layer_norm": ("vslerp_ln",),
    "interpolation._modes": ("interpolate",),
    "interpolation._slerp": ("lerp", "slerp"),
    "geometry.modality": ("compare_modalities",),
    "geometry.moments": ("Moments",),
    "geometry.norms": ("measure_shells", "radial_terms"),
    "geometry.spectrum": ("measure_spectrum",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
