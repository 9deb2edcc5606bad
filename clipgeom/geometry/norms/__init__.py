"""Norms of vectors: about the origin, about their mean, about the best-fitting sphere."""

from clipgeom.geometry.norms.shells import (
    CONSTANT,
    FEW_DISTINCT,
    MIN_SAMPLES,
    UNIT,
    NormSummary,
    RadialTerms,
    Shells,
    SphereFit,
    measure_shells,
    radial_terms,
    require_samples,
)

__all__ = [
    "CONSTANT",
    "FEW_DISTINCT",
    "MIN_SAMPLES",
    "UNIT",
    "NormSummary",
    "RadialTerms",
    "Shells",
    "SphereFit",
    "measure_shells",
    "radial_terms",
    "require_samples",
]
