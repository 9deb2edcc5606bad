"""Certificates: files that list the validated interpolation modes for one encoder."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgeom._io.files import replacing, resolved
from clipgeom._io.safetensors import save_tensors
from clipgeom._repr import short_repr
from clipgeom.centering.check import CenteringCheck
from clipgeom.centering.explain import explain, verdict
from clipgeom.centering.judging import CENTERED_MODES, MODES
from clipgeom.errors import CertificateError, ConfigError

__all__ = ["Certificate", "Entry", "summarize"]

SCHEMA = "clipgeom.certificate/1"
_KEY = "certificate"
_DIGITS = 6  # figures are rounded to six significant digits, which does not depend on the order of a sum


@short_repr
@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """Content of the certificate for one (representation, position).

    `center` has shape (dim,), float64: the mean of all n vectors. `figures` are the check's numbers, as `summarize`
    gives them.
    """

    representation: str
    position: str
    n: int
    center: NDArray[np.float64]
    validated: dict[str, bool]
    recommended: str
    figures: dict[str, Any]


@short_repr
@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """Verdicts of the centering check for one encoder, at any number of positions.

    Attributes
    ----------
    encoder_fingerprint : str or None
        Fingerprint of encoder and tokenizer; None for vectors computed elsewhere, which certify no encoder.
    captions_sha256 : str or None
    entries : tuple of Entry
    library_version : str
    seed : int
    model, captions : str or None
        Where encoder and captions came from, for the reader.
    groups : str or None
        How captions of one image were recognised, such as ``image ids``; None if captions were treated as
        independent.
    """

    encoder_fingerprint: str | None
    captions_sha256: str | None
    entries: tuple[Entry, ...]
    library_version: str
    seed: int
    model: str | None = None
    captions: str | None = None
    groups: str | None = None

    @classmethod
    def of(
        cls,
        checks: Iterable[tuple[str, str, CenteringCheck]],
        *,
        encoder_fingerprint: str | None,
        captions_sha256: str | None,
        seed: int,
        model: str | None = None,
        captions: str | None = None,
        groups: str | None = None,
    ) -> Certificate:
        """Create a certificate from checks, each with its representation and position.

        Without the fingerprint of an encoder a representation is only the name that its user gave.

        Raises
        ------
        ConfigError
            There is no check, or a pair of representation and position occurs twice.
        """
        from clipgeom._version import __version__

        entries = tuple(
            Entry(
                representation=representation,
                position=position,
                n=check.n,
                center=check.shells.moments.mean,
                validated=dict(check.validated),
                recommended=check.recommended,
                figures=summarize(check, None if encoder_fingerprint is None else representation),
            )
            for representation, position, check in checks
        )
        if not entries:
            raise ConfigError("a certificate needs at least one check")
        keys = [(e.representation, e.position) for e in entries]
        if len(set(keys)) != len(keys):
            raise ConfigError("a certificate contains each representation and position once")
        return cls(encoder_fingerprint, captions_sha256, entries, __version__, seed, model, captions, groups)

    def entry(self, representation: str, position: str | int) -> Entry:
        """Return the entry of one representation and position.

        Raises
        ------
        CertificateError
            There is no entry; the message lists the existing ones.
        """
        for entry in self.entries:
            if (entry.representation, entry.position) == (representation, str(position)):
                return entry
        there = ", ".join(f"{e.representation} at {e.position}" for e in self.entries)
        raise CertificateError(
            f"this certificate says nothing of {representation} at position {position}; it covers {there}. "
            "Make one that does with: clipgeom check --representation … --positions …"
        )

    def mode_for(self, encoder_fingerprint: str, representation: str, position: str | int) -> str:
        """Return the mode to interpolate with: a validated centred one, or ``slerp``.

        Raises
        ------
        CertificateError
            The certificate is for another encoder, representation or position; the message names the difference.
        """
        self.require_encoder(encoder_fingerprint)
        return self.entry(representation, position).recommended

    def center_for(self, encoder_fingerprint: str, representation: str, position: str | int) -> NDArray[np.float64]:
        """Return the centre for the centred modes, shape (dim,); raises the same errors as `mode_for`."""
        self.require_encoder(encoder_fingerprint)
        return self.entry(representation, position).center

    def require_encoder(self, encoder_fingerprint: str) -> None:
        """Refuse any encoder but the certified one.

        Raises
        ------
        CertificateError
        """
        if self.encoder_fingerprint is None:
            raise CertificateError(
                "this certificate was made from vectors computed elsewhere and certifies no encoder; "
                "make one with: clipgeom check --model … --captions …"
            )
        if self.encoder_fingerprint != encoder_fingerprint:
            raise CertificateError(
                f"this certificate is for the encoder with fingerprint {self.encoder_fingerprint[:16]}… ({self.model}), "
                f"not for {encoder_fingerprint[:16]}…; make one for yours with: clipgeom check --model … --captions …"
            )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file atomically; the same certificate gives the same bytes.

        An existing file is replaced; of a link, the file that it points to.

        Raises
        ------
        OutputError
            The disk is full or cannot be written.
        """
        centers = {f"{e.representation}.{e.position}": np.ascontiguousarray(e.center) for e in self.entries}
        content = {
            "schema": SCHEMA,
            "encoder_fingerprint": self.encoder_fingerprint,
            "captions_sha256": self.captions_sha256,
            "library_version": self.library_version,
            "seed": self.seed,
            "model": self.model,
            "captions": self.captions,
            **({} if self.groups is None else {"groups": self.groups}),
            "entries": [
                {
                    "representation": e.representation,
                    "position": e.position,
                    "n": e.n,
                    "validated": e.validated,
                    "recommended": e.recommended,
                    "figures": e.figures,
                }
                for e in self.entries
            ],
        }
        wrapped = {"content": content, "sha256": _digest(content, centers)}
        with replacing(resolved(Path(path))) as partial:
            save_tensors(partial, centers, {_KEY: _canonical(wrapped)})

    @classmethod
    def load(cls, path: str | Path) -> Certificate:
        """Read a certificate and verify its hash, schema and shapes.

        Raises
        ------
        CertificateError
            The file is missing, no certificate, truncated, edited after it was made, or of a newer schema.
        """
        centers, wrapped = _read(Path(path))
        content = wrapped.get("content") if isinstance(wrapped, dict) else None
        if not isinstance(content, dict):
            raise CertificateError(f"{path} is a safetensors file, but no clipgeom certificate")
        schema = str(content.get("schema"))
        if schema != SCHEMA:
            newer = schema.startswith("clipgeom.certificate/")
            advice = "; a newer clipgeom wrote it: upgrade" if newer else ""
            raise CertificateError(f"{path} has the schema {schema!r}, this version reads {SCHEMA!r}{advice}")
        if wrapped.get("sha256") != _digest(content, centers):
            raise CertificateError(
                f"{path} was changed after it was made: its hash does not fit its content. Make it again"
            )
        try:
            entries = tuple(_entry(e, centers) for e in content["entries"])
            return cls(
                encoder_fingerprint=content["encoder_fingerprint"],
                captions_sha256=content["captions_sha256"],
                entries=entries,
                library_version=content["library_version"],
                seed=content["seed"],
                model=content["model"],
                captions=content["captions"],
                groups=content.get("groups"),
            )
        except (KeyError, TypeError) as error:
            raise CertificateError(f"{path} lacks entries of a certificate: {error}") from error


def summarize(check: CenteringCheck, representation: str | None = None) -> dict[str, Any]:
    """Convert a check to plain JSON: an entry of report.json's ``centering``, less representation and position.

    Parameters
    ----------
    check : CenteringCheck
    representation : str, optional
        As for `explain`.
    """
    radial = check.shells.radial

    def estimates(of: dict[str, Any], value: str) -> dict[str, Any]:
        return {mode: {value: e.value, "ci95": list(e.ci95)} for mode, e in of.items()}

    figures = {
        "n": check.n,
        "n_distinct": check.n_distinct,
        "n_judged": check.n_judged,
        "n_groups": check.n_groups,
        "dim": check.dim,
        "seed": check.seed,
        "tolerance": check.tolerance,
        "decided": check.decided,
        "offset_ratio": check.shells.offset_ratio,
        "offset_ratio_ci95": list(check.shells.offset_ratio_ci95),
        "radial_terms": {
            "A": radial.A,
            "B": radial.B,
            "C": radial.C,
            "correlation": radial.correlation,
            "ci95": {name: list(ci) for name, ci in radial.ci95.items()},
        },
        "on_shell": estimates(check.on_shell, "rate"),
        "on_shell_by_time": check.by_time,
        "on_shell_neighbors": estimates(check.neighbors, "rate"),
        "on_each_shell": check.by_shell,
        "auc": estimates(check.auc, "auc"),
        "minus_slerp": {
            mode: {
                "estimate": over.on_shell.value,
                "ci95": list(over.on_shell.ci95),
                "auc_estimate": over.auc.value,
                "auc_ci95": list(over.auc.ci95),
            }
            for mode, over in check.minus_slerp.items()
        },
        "mean_displaced_along_axis": check.displaced,
        "variance_along_axis": check.variance_along,
        "median_radius": check.radius,
        "validated": check.validated,
        "recommended": check.recommended,
        "verdict": verdict(check),
        "explanation": explain(check, representation),
    }
    rounded: dict[str, Any] = _rounded(figures)
    return rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _digest(content: dict[str, Any], centers: dict[str, NDArray[Any]]) -> str:
    total = hashlib.sha256(_canonical(content).encode())
    for name in sorted(centers):
        array = np.ascontiguousarray(centers[name])
        total.update(f"\n{name} {array.dtype.str} {list(array.shape)}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CertificateError(f"there is no certificate {path}; make one with: clipgeom check --out {path}")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            centers = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
        wrapped = json.loads(metadata.get(_KEY, "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CertificateError(f"{path} cannot be read as a certificate ({error}); it may be truncated") from error
    return centers, wrapped


def _entry(stored: dict[str, Any], centers: dict[str, NDArray[Any]]) -> Entry:
    name = f"{stored['representation']}.{stored['position']}"
    center = centers[name]
    validated, recommended = stored["validated"], stored["recommended"]
    if center.ndim != 1 or center.dtype != np.float64 or center.shape[0] != stored["figures"]["dim"]:
        raise CertificateError(f"the centre {name} is {center.dtype} {center.shape}; expected a float64 vector")
    if set(validated) != set(CENTERED_MODES) or recommended not in MODES:
        raise CertificateError(f"the verdict of {name} names unknown modes")
    if recommended != "slerp" and not validated[recommended]:
        raise CertificateError(f"the verdict of {name} recommends {recommended}, which it does not validate")
    return Entry(
        representation=stored["representation"],
        position=stored["position"],
        n=stored["n"],
        center=center,
        validated=validated,
        recommended=recommended,
        figures=stored["figures"],
    )
