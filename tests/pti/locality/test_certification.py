"""The gate: no centred mode without a certificate that validates it for this encoder, at this position."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from clipgeom import Certificate, load_text_encoder
from clipgeom.centering.certificate import Entry
from clipgeom.errors import CertificateError, ConfigError
from pti.config.schema import LocalitySection
from pti.errors import CheckpointError
from pti.locality.alignment import TokenPosition
from pti.locality.certification import plan_interpolation
from pti.models.pipeline import load_pipeline
from pti.models.placeholder import add_placeholder_token
from pti.runs.run import load_run
from pti.workflow import run_stages
from tests.tiny.runs import configuration, tuning_of

PLACES = (TokenPosition(0, "hidden", "2"), TokenPosition(0, "hidden", "eos"))


def entry(representation, position, *valid, dim=16):
    modes = ("vslerp", "vslerp_norm", "aslerp")
    rng = np.random.default_rng([*position.encode(), len(valid)])
    return Entry(
        representation=representation,
        position=position,
        n=1000,
        center=rng.normal(size=dim),
        validated={mode: mode in valid for mode in modes},
        recommended=valid[0] if valid else "slerp",
        figures={"dim": dim, "verdict": "the verdict"},
    )


def certificate(path, fingerprint, *entries):
    Certificate(fingerprint, "c0ffee", tuple(entries), "0.1.0", 0, "somewhere", "some captions").save(path)
    return str(path)


@pytest.fixture(scope="module")
def fingerprint(sd):
    return load_text_encoder(sd, device="cpu").fingerprint


@pytest.fixture
def model(sd):
    return add_placeholder_token(load_pipeline(str(sd)), "<tok>", "knight")


def test_without_a_certificate(model, sd):
    decision = plan_interpolation(LocalitySection(), model, PLACES)
    assert {r.mode for r in decision.rulings.values()} == {"slerp"}
    assert decision.record(model)["rulings"] == [
        {
            "encoder": "text_encoder",
            "representation": "hidden",
            "mode": "slerp",
            "reason": "no certificate was given, and only slerp needs none",
            "positions": ["2", "eos"],
        }
    ]
    command = rf"make one with: clipgeom check --model {sd} --subfolder text_encoder --captions coco2014:val "
    with pytest.raises(CertificateError, match=command + r"--representation hidden --positions eos,2 --out"):
        plan_interpolation(LocalitySection(interpolation="vslerp"), model, PLACES)


def test_auto_takes_what_is_recommended_position_by_position(model, fingerprint, tmp_path):
    path = certificate(tmp_path / "c", fingerprint, entry("hidden", "2", "vslerp_norm"), entry("hidden", "eos"))
    places = (*PLACES, TokenPosition(0, "hidden", "padded:9"))
    decision = plan_interpolation(LocalitySection(certificates=(path,)), model, places)
    assert [r.mode for r in decision.rulings.values()] == ["vslerp_norm", "slerp", "slerp"]
    first = decision.rulings[PLACES[0]]
    np.testing.assert_array_equal(first.center.numpy(), Certificate.load(path).center_for(fingerprint, "hidden", 2))
    reasons = [r.reason for r in decision.rulings.values()]
    assert reasons == [
        "recommended by the certificate",
        "the certificate validates no centred mode here",
        "the certificate has no entry for this position",
    ]
    assert not decision.overridden


def test_a_centred_mode_needs_its_own_verdict_everywhere(model, fingerprint, tmp_path):
    entries = [entry("hidden", p, "vslerp", "aslerp") for p in ("2", "eos")]
    path = certificate(tmp_path / "c", fingerprint, *entries)
    for mode in ("vslerp", "aslerp"):
        decision = plan_interpolation(LocalitySection(interpolation=mode, certificates=(path,)), model, PLACES)
        assert {r.mode for r in decision.rulings.values()} == {mode}
    with pytest.raises(CertificateError, match="does not validate vslerp_norm for hidden at 2: the verdict"):
        plan_interpolation(LocalitySection(interpolation="vslerp_norm", certificates=(path,)), model, PLACES)
    with pytest.raises(CertificateError, match=r"has no entry for hidden at 7.*--positions eos,2,7 "):
        plan_interpolation(
            LocalitySection(interpolation="vslerp", certificates=(path,)),
            model,
            (*PLACES, TokenPosition(0, "hidden", "7")),
        )
    with pytest.raises(CertificateError, match="has no entry for penultimate at 2"):
        plan_interpolation(
            LocalitySection(interpolation="vslerp", certificates=(path,)),
            model,
            (TokenPosition(0, "penultimate", "2"),),
        )


@pytest.mark.parametrize("mode", ["auto", "vslerp"])
def test_a_certificate_for_another_encoder(model, tmp_path, mode):
    path = certificate(tmp_path / "c", "f" * 64, entry("hidden", "2", "vslerp"), entry("hidden", "eos", "vslerp"))
    with pytest.raises(CertificateError, match=r"is for the encoder with fingerprint ffffffffffffffff… \(somewhere\)"):
        plan_interpolation(LocalitySection(interpolation=mode, certificates=(path,)), model, PLACES)
    nobody = certificate(tmp_path / "d", None, entry("hidden", "2", "vslerp"))
    with pytest.raises(CertificateError, match="certifies no encoder"):
        plan_interpolation(LocalitySection(interpolation=mode, certificates=(nobody,)), model, PLACES)
    with pytest.raises(CertificateError, match="there is no certificate"):
        plan_interpolation(LocalitySection(interpolation=mode, certificates=(str(tmp_path / "absent"),)), model, PLACES)


def test_an_override_is_loud(model, fingerprint, tmp_path):
    path = certificate(tmp_path / "c", fingerprint, entry("hidden", "2"), entry("hidden", "eos", "vslerp"))
    settings = LocalitySection(interpolation="vslerp", certificates=(path,), allow_uncertified=True)
    decision = plan_interpolation(settings, model, PLACES)
    assert decision.overridden
    assert decision.notes(model)[-1].startswith("CERTIFICATE OVERRIDDEN")
    other = certificate(tmp_path / "d", "f" * 64, entry("hidden", "2", "vslerp"), entry("hidden", "eos", "vslerp"))
    assert plan_interpolation(replace(settings, certificates=(other,)), model, PLACES).overridden
    fine = certificate(tmp_path / "e", fingerprint, *(entry("hidden", p, "vslerp") for p in ("2", "eos")))
    assert not plan_interpolation(replace(settings, certificates=(fine,)), model, PLACES).overridden
    small = certificate(tmp_path / "g", fingerprint, *(entry("hidden", p, "vslerp", dim=5) for p in ("2", "eos")))
    with pytest.raises(CertificateError, match="has dimension 5, the encoder's states have 16"):
        plan_interpolation(replace(settings, certificates=(small,)), model, PLACES)
    with pytest.raises(ConfigError, match=r"has no effect with locality\.interpolation = 'auto'"):
        plan_interpolation(LocalitySection(allow_uncertified=True), model, PLACES)


def test_each_encoder_of_two_has_its_own(sdxl, tmp_path):
    model = add_placeholder_token(load_pipeline(str(sdxl)), "<tok>", "knight")
    places = (
        TokenPosition(0, "penultimate", "2"),
        TokenPosition(1, "penultimate", "2"),
        TokenPosition(1, "projected", "eos"),
    )
    prints = [load_text_encoder(sdxl, subfolder=e.name, device="cpu").fingerprint for e in model.encoders]
    first = certificate(tmp_path / "a", prints[0], entry("penultimate", "2", "vslerp"))
    second = certificate(
        tmp_path / "b",
        prints[1],
        entry("penultimate", "2", "vslerp", dim=20),
        entry("projected", "eos", "vslerp", dim=12),
    )
    decision = plan_interpolation(LocalitySection(interpolation="vslerp", certificates=(second, first)), model, places)
    assert [len(r.center) for r in decision.rulings.values()] == [16, 20, 12]
    apart = [
        certificate(tmp_path / "c", prints[1], entry("projected", "eos", "vslerp", dim=12)),
        certificate(tmp_path / "d", prints[1], entry("penultimate", "2", "vslerp", dim=20)),
    ]
    again = plan_interpolation(LocalitySection(interpolation="vslerp", certificates=(first, *apart)), model, places)
    assert again.digest() == decision.digest()
    assert again.digest() != plan_interpolation(LocalitySection(certificates=(first,)), model, places).digest()
    with pytest.raises(CertificateError, match="no certificate for text_encoder_2 was given"):
        plan_interpolation(LocalitySection(interpolation="vslerp", certificates=(first,)), model, places)
    auto = plan_interpolation(LocalitySection(certificates=(first,)), model, places)
    assert [r.mode for r in auto.rulings.values()] == ["vslerp", "slerp", "slerp"]


def test_a_run_writes_down_what_was_decided_and_marks_what_was_overridden(sd, fingerprint, tmp_path):
    from PIL import Image

    positions = [*map(str, range(1, 40)), "eos", *(f"padded:{i}" for i in range(2, 77))]
    path = certificate(tmp_path / "c", fingerprint, *(entry("hidden", p) for p in positions))
    changes = ("locality.interpolation=aslerp", f'locality.certificates="{path}"')
    with pytest.raises(CertificateError, match="does not validate aslerp"):
        run_stages(configuration(sd, tmp_path / "run", *changes), ("invert", "tune"))
    config = configuration(sd, tmp_path / "run", *changes, "locality.allow_uncertified=true")
    folder = run_stages(config, ("invert", "tune"))
    run = load_run(folder)
    assert run.marks == ("certificate overridden",)
    assert run.record["locality"]["overridden"]
    assert {r["mode"] for r in run.record["locality"]["rulings"]} == {"aslerp"}
    certificate(tmp_path / "c", fingerprint, *(entry("hidden", p, "vslerp") for p in positions))
    with pytest.raises(CheckpointError, match=r"locality \(its rulings\) was"):  # the same name, other centres
        run_stages(config, ("tune",))
    with Image.open(folder / "previews" / "tune-0000004.png") as preview:
        assert preview.text == {"Software": "pti", "pti": "certificate overridden"}


@pytest.mark.parametrize("mode", ["vslerp", "vslerp_norm", "aslerp"])
def test_centres_reach_the_midpoints(sd, fingerprint, tmp_path, mode):
    positions = [*map(str, range(1, 40)), "eos", *(f"padded:{i}" for i in range(2, 77))]
    entries = [entry("hidden", p, mode) for p in positions]
    path = certificate(tmp_path / "c", fingerprint, *entries)
    changes = (f"locality.interpolation={mode}", f'locality.certificates="{path}"')
    about, plain = (
        tuning_of(configuration(sd, tmp_path / "run", *c)) for c in (changes, ("locality.interpolation=slerp",))
    )
    caption = [about.latents._samples[0].caption]
    assert not torch.equal(
        about.conditions.midpoints(caption).prompt_embeds, plain.conditions.midpoints(caption).prompt_embeds
    )
