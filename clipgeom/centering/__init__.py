"""The centering check and its certificate: whether embeddings may be interpolated about their centre."""

from clipgeom.centering.certificate import Certificate, Entry, summarize
from clipgeom.centering.check import CenteringCheck, Estimate, Preference, check_centering
from clipgeom.centering.explain import LABELS, breaks, explain, verdict
from clipgeom.centering.judging import CENTERED_MODES, MODES

__all__ = [
    "CENTERED_MODES",
    "LABELS",
    "MODES",
    "CenteringCheck",
    "Certificate",
    "Entry",
    "Estimate",
    "Preference",
    "breaks",
    "check_centering",
    "explain",
    "summarize",
    "verdict",
]
