"""Choice of the interpolation mode at each token position, from certificates.

A centred mode is used only if a certificate for this encoder validates it for the representation and position.
`clipgeom.Certificate` raises an error if it is for another encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from clipgeom import Certificate, load_text_encoder
from clipgeom.centering import CENTERED_MODES
from clipgeom.centering.certificate import Entry
from clipgeom.errors import CertificateError, ClipGeomError, ConfigError
from pti._miniworld import captions_to_check, is_miniworld
from pti.config.schema import LocalitySection
from pti.locality.alignment import TokenPosition
from pti.models.pipeline import DiffusionModel

__all__ = ["InterpolationPlan", "PositionMode", "plan_interpolation"]


@dataclass(frozen=True, slots=True, eq=False)
class PositionMode:
    """Interpolation mode at a position, its centre (shape (width,), None for modes without one), and the reason."""

    mode: str
    center: torch.Tensor | None
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class InterpolationPlan:
    """The interpolation mode at every position, and whether certificates were overridden."""

    rulings: dict[TokenPosition, PositionMode]
    overridden: bool = False

    def record(self, model: DiffusionModel) -> dict[str, Any]:
        """Return the plan for the run's record: each reason with its positions."""
        grouped: dict[tuple[str, str, str, str], list[str]] = {}
        for place, ruling in self.rulings.items():
            key = (model.encoders[place.encoder].name, place.representation, ruling.mode, ruling.reason)
            grouped.setdefault(key, []).append(place.position)
        return {
            "overridden": self.overridden,
            "rulings": [
                {"encoder": e, "representation": r, "mode": m, "reason": why, "positions": positions}
                for (e, r, m, why), positions in grouped.items()
            ],
        }

    def digest(self) -> str:
        """SHA-256 over all modes and centres: a certificate may change while its name does not."""
        total = hashlib.sha256()
        for place, ruling in sorted(self.rulings.items()):
            total.update(f"{place} {ruling.mode}\n".encode())
            if ruling.center is not None:
                total.update(ruling.center.double().numpy().tobytes())
        return total.hexdigest()

    def notes(self, model: DiffusionModel) -> list[str]:
        """Return the plan as notes for the user, a line for each reason."""
        lines = []
        for group in self.record(model)["rulings"]:
            n = len(group["positions"])
            lines.append(
                f"{group['mode']} at {n} position(s) of {group['encoder']}, {group['representation']}: {group['reason']}"
            )
        if self.overridden:
            lines.append(
                "CERTIFICATE OVERRIDDEN: a centred mode is used that no certificate validates for this encoder; "
                "every output of this run is marked"
            )
        return lines


def plan_interpolation(
    settings: LocalitySection, model: DiffusionModel, places: Iterable[TokenPosition]
) -> InterpolationPlan:
    """Choose the interpolation mode at every position.

    Parameters
    ----------
    settings : LocalitySection
    model : DiffusionModel
    places : iterable of TokenPosition
        The positions to interpolate.

    Raises
    ------
    CertificateError
        A certificate is damaged or for another encoder, or a centred mode is set that is not validated. The message
        names the command that makes a certificate.
    ConfigError
        An override is set that overrides nothing.
    """
    places = sorted(set(places))
    centered = settings.interpolation in CENTERED_MODES
    if settings.allow_uncertified and not centered:
        raise ConfigError(
            f"locality.allow_uncertified has no effect with locality.interpolation = {settings.interpolation!r}; "
            f"set that to one of {', '.join(CENTERED_MODES)}"
        )
    if settings.interpolation in ("slerp", "lerp", "none"):
        return InterpolationPlan({p: PositionMode(settings.interpolation, None, "as configured") for p in places})
    certificates = [Certificate.load(path) for path in settings.certificates]
    if not certificates:
        if centered:
            raise CertificateError(
                f"locality.interpolation = {settings.interpolation!r} needs a certificate in "
                f"locality.certificates that validates it; make one with: {_commands(model, places)}"
            )
        reason = "no certificate was given, and only slerp needs none"
        return InterpolationPlan({p: PositionMode("slerp", None, reason) for p in places})
    given = _certificates_by_encoder(certificates, settings, model, places)
    if not centered:
        return InterpolationPlan({p: _recommended(given[p.encoder], p, model) for p in places})
    return _require_mode(settings, given, model, places)


@dataclass(frozen=True, slots=True, eq=False)
class _EncoderCertificates:
    """The certificates for one encoder, and its fingerprint."""

    certificates: tuple[Certificate, ...]
    fingerprint: str

    def covering(self, place: TokenPosition) -> tuple[Certificate, Entry] | None:
        """Return the first certificate with an entry for a position, and the entry."""
        for certificate in self.certificates:
            with suppress(CertificateError):
                return certificate, certificate.entry(place.representation, place.position)
        return None


def _certificates_by_encoder(
    certificates: Sequence[Certificate],
    settings: LocalitySection,
    model: DiffusionModel,
    places: Sequence[TokenPosition],
) -> dict[int, _EncoderCertificates]:
    """Return each encoder's certificates; a certificate for none of the encoders is an error."""
    given = {}
    for index in sorted({place.encoder for place in places}):
        fingerprint = _fingerprint(model, index)
        own = tuple(c for c in certificates if c.encoder_fingerprint == fingerprint)
        given[index] = _EncoderCertificates(own, fingerprint)
    strangers = tuple(c for c in certificates if not any(c in g.certificates for g in given.values()))
    if strangers and not settings.allow_uncertified:
        lacking = next((g for g in given.values() if not g.certificates), given[min(given)])
        try:
            strangers[0].require_encoder(lacking.fingerprint)
        except CertificateError as error:
            raise CertificateError(f"{error}. For this run: {_commands(model, places)}") from error
    return {index: _EncoderCertificates((*g.certificates, *strangers), g.fingerprint) for index, g in given.items()}


def _recommended(given: _EncoderCertificates, place: TokenPosition, model: DiffusionModel) -> PositionMode:
    if not given.certificates:
        return PositionMode("slerp", None, f"no certificate for {model.encoders[place.encoder].name} was given")
    found = given.covering(place)
    if found is None:
        return PositionMode("slerp", None, "the certificate has no entry for this position")
    mode = found[0].mode_for(given.fingerprint, place.representation, place.position)
    if mode == "slerp":
        return PositionMode("slerp", None, "the certificate validates no centred mode here")
    center = found[0].center_for(given.fingerprint, place.representation, place.position)
    return PositionMode(mode, torch.from_numpy(center.copy()), "recommended by the certificate")


def _require_mode(
    settings: LocalitySection,
    given: dict[int, _EncoderCertificates],
    model: DiffusionModel,
    places: Sequence[TokenPosition],
) -> InterpolationPlan:
    """Plan a centred mode at every position, or raise an error that names the positions without validation."""
    mode, overridden = settings.interpolation, False
    rulings: dict[TokenPosition, PositionMode] = {}
    uncovered: list[TokenPosition] = []
    for place in places:
        if not given[place.encoder].certificates:
            raise CertificateError(
                f"no certificate for {model.encoders[place.encoder].name} was given; make one with: "
                f"{_commands(model, [p for p in places if p.encoder == place.encoder])}"
            )
        found = given[place.encoder].covering(place)
        if found is None:
            uncovered.append(place)
            continue
        certificate, entry = found
        width = _width(model, place)
        if entry.center.shape != (width,):
            raise CertificateError(
                f"the certificate's centre of {place.representation} at {place.position} has dimension "
                f"{entry.center.shape[0]}, the encoder's states have {width}"
            )
        reason = "validated by the certificate"
        if certificate.encoder_fingerprint != given[place.encoder].fingerprint or not entry.validated[mode]:
            if not settings.allow_uncertified:
                raise CertificateError(
                    f"the certificate does not validate {mode} for {place.representation} at {place.position}: "
                    f'{entry.figures.get("verdict", "see clipgeom check")}. Use locality.interpolation = "auto", which takes '
                    f"{entry.recommended} there, or locality.allow_uncertified = true, which marks every output"
                )
            reason, overridden = "OVERRIDDEN: not validated by a certificate for this encoder", True
        rulings[place] = PositionMode(mode, torch.from_numpy(entry.center.copy()), reason)
    if uncovered:
        named = ", ".join(f"{p.representation} at {p.position}" for p in uncovered[:5])
        more = f" and {len(uncovered) - 5} more" if len(uncovered) > 5 else ""
        raise CertificateError(
            f"the certificate has no entry for {named}{more}. Make one with: {_commands(model, places)}; or use "
            'locality.interpolation = "auto", which takes slerp there, or locality.positions = "placeholder"'
        )
    return InterpolationPlan(rulings, overridden)


def _width(model: DiffusionModel, place: TokenPosition) -> int:
    encoder = model.encoders[place.encoder]
    if place.representation == "projected":
        return int(encoder.network.text_projection.weight.shape[0])
    return encoder.width


def _fingerprint(model: DiffusionModel, index: int) -> str:
    """Fingerprint of the encoder's files on disk; the tokenizer in memory contains the placeholder token."""
    name = model.encoders[index].name
    try:
        return load_text_encoder(model.folder, subfolder=name, device="cpu").fingerprint
    except ClipGeomError as error:
        raise CertificateError(f"the fingerprint of {name} cannot be computed: {error}") from error


def _commands(model: DiffusionModel, places: Sequence[TokenPosition]) -> str:
    captions = captions_to_check(model.source)
    source = model.folder if is_miniworld(model.source) else model.source
    commands = []
    for index, representation in sorted({(p.encoder, p.representation) for p in places}):
        positions = [p.position for p in places if (p.encoder, p.representation) == (index, representation)]
        numbered = sorted(positions, key=_rank)
        commands.append(
            f"clipgeom check --model {source} --subfolder {model.encoders[index].name} --captions {captions} "
            f"--representation {representation} --positions {','.join(numbered)} "
            f"--out certificate-{index}-{representation}.safetensors"
        )
    return " && ".join(commands)


def _rank(position: str) -> tuple[int, int]:
    """Sort key of a position: EOS first, then content, then padding, each by index."""
    kind, _, index = position.rpartition(":")
    return (0, 0) if position == "eos" else (2 if kind else 1, int(index))
