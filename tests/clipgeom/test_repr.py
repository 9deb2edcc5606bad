"""Results are short on a console: a few lines, with their numbers, without their arrays."""

import numpy as np
import pytest

from clipgeom import (
    Certificate,
    Moments,
    check_centering,
    compare_modalities,
    conformity,
    measure_shells,
    measure_spectrum,
)
from clipgeom.miniworld import scenes

ROWS = np.random.default_rng(0).normal(size=(200, 64)) + 3.0


@pytest.fixture(scope="module")
def check():
    return check_centering(ROWS)


def short(value):
    text = repr(value)
    assert len(text.splitlines()) <= 6, text
    assert max(map(len, text.splitlines())) <= 100, text
    assert text.startswith(f"{type(value).__name__}(")
    assert text.endswith(")")
    return " ".join(text.split())


def test_shells_and_their_parts():
    shells = measure_shells(ROWS)
    text = short(shells)
    assert f"raw=NormSummary(mean_norm={shells.raw.mean_norm:.6g}, var_norm={shells.raw.var_norm:.6g}, …)" in text
    assert "raw_norms=<200 float64>" in text
    for part in (shells.raw, shells.radial, shells.sphere):
        short(part)
    assert "scatter=<64×64 float64>" in short(shells.moments)


def test_the_centering_check(check):
    text = short(check)
    assert f"recommended={check.recommended!r}" in text
    assert f"'vslerp': {check.validated['vslerp']}" in text


def test_a_certificate_and_its_entry(check):
    certificate = Certificate.of(
        [("hidden", "5", check)], encoder_fingerprint="f" * 64, captions_sha256=None, seed=0, captions="x" * 300
    )
    assert "entries=<1 entries>" in short(certificate)
    assert "representation='hidden', position='5', n=200, center=<64 float64>" in short(certificate.entries[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: conformity(ROWS),
        lambda: measure_spectrum(Moments.of(ROWS)),
        lambda: compare_modalities(ROWS, ROWS + 0.5),
        lambda: scenes(2, 0),
    ],
)
def test_other_results(make):
    short(make())


def test_an_encoder():
    from clipgeom import load_text_encoder

    assert "name='miniworld'" in short(load_text_encoder("miniworld"))
