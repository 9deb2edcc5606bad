"""Measures of a set of vectors: moments, norms, spectrum, conformity, modalities, with intervals."""
