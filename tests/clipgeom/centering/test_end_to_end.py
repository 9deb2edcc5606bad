"""The commands that finish the study on real weights, on a stand-in with the same file layout."""

import json
import zipfile

import numpy as np

from clipgeom import Certificate, load_text_encoder
from tests.tiny.text_towers import save_pipeline, save_projection


def coco_zip(path, images=150):
    """An archive laid out as the official one: five captions an image, other files beside them."""
    rng = np.random.default_rng(0)
    words = ["the", "cat", "dog", "a", "on", "mat", "red", "blue", "man", "x"]
    annotations = [
        {"id": 5 * i + k, "image_id": i, "caption": " ".join(rng.choice(words, rng.integers(6, 15))) + " .\n"}
        for i in range(images)
        for k in range(5)
    ]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations/instances_val2014.json", "{}")
        archive.writestr("annotations/captions_val2014.json", json.dumps({"images": [], "annotations": annotations}))


def test_a_legacy_stable_diffusion_repository_from_captions_to_certificate(run, tmp_path):
    save_projection(tmp_path / "clip")
    save_pipeline(tmp_path / "sd", tmp_path / "clip")  # config.json says eos_token_id = 2, as the published one does
    coco_zip(tmp_path / "annotations.zip")
    shared_options = ["--captions", "annotations.zip", "--limit", "5000", "--per-image", "first"]
    positions = "eos,5,padded:20,padded:76"
    code, out, err = run(
        "check", "--model", "sd", "--subfolder", "text_encoder", *shared_options, "--representation", "hidden",
        "--positions", positions, "--out", "sd15.safetensors",
    )  # fmt: skip
    assert code == 0, err
    assert "hidden at padded:76 (n = 150)" in out
    certificate = Certificate.load(tmp_path / "sd15.safetensors")
    encoder = load_text_encoder(tmp_path / "sd", subfolder="text_encoder")
    for position in positions.split(","):
        certificate.mode_for(encoder.fingerprint, "hidden", position)
        assert certificate.center_for(encoder.fingerprint, "hidden", position).shape == (32,)

    code, _, err = run(
        "report", "--model", "clip", *shared_options, "--positions", "eos,5", "--padded",
        "--representation", "penultimate,prenorm,hidden,projected,normalized", "--out", "r",
    )  # fmt: skip
    assert code == 0, err
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["captions"]["n_used"] == 150
    assert report["captions"]["n_same_image"] == 600
    assert len(report["centering"]) == len(report["statistics"]) == 10
    for entry in report["centering"]:
        assert set(entry["on_shell"]) == {"real", "lerp", "slerp", "vslerp", "vslerp_norm", "aslerp"}
        assert set(entry["validated"]) == {"vslerp", "vslerp_norm", "aslerp"}
        assert entry["explanation"]
    # the same tower, the same captions: EOS is found where it is, whatever the legacy id says
    by_name = {(r["representation"], r["position"]): r for r in report["statistics"]}
    stored = certificate.entry("hidden", "eos")
    assert by_name["hidden", "eos"]["center_norm"] == float(np.float64(np.linalg.norm(stored.center)))
