import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from analysis.centering import populations
from clipgeom import Certificate, ConfigError, check_centering
from clipgeom.errors import CertificateError
from tests.tiny.text_towers import save_projection

PRINT = "ab" * 32


@pytest.fixture(scope="module")
def certificate():
    checks = [
        ("hidden", "5", check_centering(populations.shell(200, 0, d=24, offset=1.0))),
        ("hidden", "eos", check_centering(populations.cloud(200, 1, d=24))),
        ("hidden", "padded:30", check_centering(populations.shell(60, 2, d=24))),
    ]
    return Certificate.of(checks, encoder_fingerprint=PRINT, captions_sha256="cd" * 32, seed=0, model="m", captions="c")


@pytest.fixture
def saved(certificate, tmp_path):
    certificate.save(tmp_path / "c.safetensors")
    return tmp_path / "c.safetensors"


def rewrite(path, change, *, centers=None):
    """Change the stored JSON without mending the hash, as a hand would."""
    with safe_open(path, framework="np") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        wrapped = json.loads(file.metadata()["certificate"])
    change(wrapped)
    save_file(centers or stored, path, metadata={"certificate": json.dumps(wrapped)})


def test_each_position_has_its_own_verdict_and_centre(certificate, saved):
    loaded = Certificate.load(saved)
    assert loaded.mode_for(PRINT, "hidden", 5) == loaded.mode_for(PRINT, "hidden", "5") != "slerp"
    assert loaded.mode_for(PRINT, "hidden", "eos") == "slerp"
    assert loaded.mode_for(PRINT, "hidden", "padded:30") == "slerp"
    for entry in certificate.entries:
        np.testing.assert_array_equal(loaded.center_for(PRINT, "hidden", entry.position), entry.center)
    assert loaded.entry("hidden", "5").figures["on_shell"]["slerp"]["rate"] < 0.9
    assert loaded.library_version


def test_only_hidden_states_of_a_known_encoder_are_said_to_come_out_of_a_layer_norm():
    check = check_centering(populations.layer_norm_output(300, 0))
    for representation, fingerprint, expected in (
        ("hidden", PRINT, True),
        ("hidden", None, False),
        ("token", PRINT, False),
    ):
        certificate = Certificate.of(
            [(representation, "eos", check)], encoder_fingerprint=fingerprint, captions_sha256=None, seed=0
        )
        explanation = certificate.entries[0].figures["explanation"]
        assert "shell about the origin" in explanation
        assert ("LayerNorm" in explanation) is expected


def test_how_captions_were_grouped_is_kept(certificate, tmp_path):
    assert certificate.groups is None
    grouped = replace(certificate, groups="image ids")
    grouped.save(tmp_path / "grouped.safetensors")
    assert Certificate.load(tmp_path / "grouped.safetensors").groups == "image ids"


def test_another_encoder_position_or_representation_is_refused(saved):
    loaded = Certificate.load(saved)
    with pytest.raises(CertificateError, match=r"is for the encoder with fingerprint abab.*not for eeee"):
        loaded.mode_for("ee" * 32, "hidden", 5)
    with pytest.raises(CertificateError, match="nothing of hidden at position 6; it covers hidden at 5, hidden at eos"):
        loaded.mode_for(PRINT, "hidden", 6)
    with pytest.raises(CertificateError, match="nothing of projected at position 5"):
        loaded.center_for(PRINT, "projected", 5)
    unbound = Certificate(None, None, loaded.entries, "0", 0)
    with pytest.raises(CertificateError, match="certifies no encoder"):
        unbound.mode_for(PRINT, "hidden", 5)


def test_the_same_certificate_gives_the_same_bytes(certificate, tmp_path):
    for name in "ab":
        certificate.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    Certificate.load(tmp_path / "a").save(tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == (tmp_path / "a").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "edit",
    [
        lambda w: w["content"]["entries"][1].update(recommended="vslerp", validated=dict.fromkeys(("vslerp",), True)),
        lambda w: w["content"].update(encoder_fingerprint="ee" * 32),
        lambda w: w["content"]["entries"][0]["figures"]["auc"]["slerp"].update(auc=0.1),
    ],
)
def test_an_edited_certificate_is_detected(saved, edit):
    rewrite(saved, edit)
    with pytest.raises(CertificateError, match="changed after it was made"):
        Certificate.load(saved)


def test_an_edited_centre_is_detected(saved, certificate):
    centers = {f"hidden.{e.position}": e.center + (e.position == "5") * 1e-9 for e in certificate.entries}
    rewrite(saved, lambda w: None, centers=centers)
    with pytest.raises(CertificateError, match="changed after it was made"):
        Certificate.load(saved)


def test_a_newer_schema_is_named(saved):
    rewrite(saved, lambda w: w["content"].update(schema="clipgeom.certificate/2"))
    with pytest.raises(CertificateError, match="newer clipgeom wrote it: upgrade"):
        Certificate.load(saved)


@pytest.mark.parametrize("keep", [0, 5, 200, -3])
def test_a_truncated_certificate_is_refused(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(CertificateError, match="cannot be read as a certificate"):
        Certificate.load(saved)


def test_other_files_are_refused(tmp_path):
    save_file({"x": np.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(CertificateError, match="no clipgeom certificate"):
        Certificate.load(tmp_path / "x.safetensors")
    with pytest.raises(CertificateError, match="there is no certificate"):
        Certificate.load(tmp_path / "absent.safetensors")


def test_a_certificate_of_nothing_or_of_one_thing_twice():
    check = check_centering(populations.shell(50, 0, d=8))
    with pytest.raises(ConfigError, match="at least one"):
        Certificate.of([], encoder_fingerprint=None, captions_sha256=None, seed=0)
    with pytest.raises(ConfigError, match="once"):
        Certificate.of([("a", "5", check)] * 2, encoder_fingerprint=None, captions_sha256=None, seed=0)


# --- the command


def test_the_command_prints_a_verdict_and_writes_the_same_bytes_again(run, tmp_path):
    save_projection(tmp_path / "clip")
    rng = np.random.default_rng(0)
    words = ["the", "cat", "dog", "a", "on", "mat", "red", "blue", "x"]
    (tmp_path / "c.txt").write_text(
        "".join(" ".join(rng.choice(words, rng.integers(3, 14))) + "\n" for _ in range(300))
    )
    arguments = [
        "check",
        "--model",
        "clip",
        "--captions",
        "c.txt",
        "--representation",
        "hidden",
        "--positions",
        "eos,5,padded:40",
    ]
    code, out, _ = run(*arguments)
    assert code == 0
    assert "hidden at eos (n = 300): " in out
    assert "certificate: certificate.safetensors" in out
    first = (tmp_path / "certificate.safetensors").read_bytes()
    assert run(*arguments)[0] == 0
    assert (tmp_path / "certificate.safetensors").read_bytes() == first
    loaded = Certificate.load("certificate.safetensors")
    assert [e.position for e in loaded.entries] == ["eos", "5", "padded:40"]
    from clipgeom import load_text_encoder

    encoder = load_text_encoder("clip")
    assert loaded.mode_for(encoder.fingerprint, "hidden", 5) in ("slerp", "vslerp", "vslerp_norm", "aslerp")


def test_too_few_is_a_verdict_and_not_a_failure(run, tmp_path):
    np.save(tmp_path / "x.npy", populations.shell(40, 0, d=8))
    code, out, _ = run("check", "--embeddings", "x.npy", "--representation", "projected", "--positions", "eos")
    assert code == 0
    assert "No verdict: 40 distinct vectors are too few" in out


def test_another_file_is_never_replaced(run, tmp_path):
    np.save(tmp_path / "x.npy", populations.shell(100, 0, d=8))
    code, _, err = run(
        "check", "--embeddings", "x.npy", "--representation", "projected", "--positions", "eos", "--out", "x.npy"
    )
    assert code == 2
    assert "was not made by `clipgeom check`" in err
    assert np.load(tmp_path / "x.npy").shape == (100, 8)
