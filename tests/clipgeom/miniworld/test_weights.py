"""The weights in the package: whole, loadable without a network, small enough; and what happens when they are not."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from clipgeom import _extras, load_text_encoder
from clipgeom.errors import EncoderError, ShapeError, WeightsError
from clipgeom.miniworld import FACTORS, checked_folder, load_clip, load_pipeline, load_readers, scenes
from clipgeom.miniworld import weights as weights_module
from clipgeom.miniworld.readers import READ
from clipgeom.miniworld.weights import CHECKSUMS, digests, weights_folder

LARGEST = 20_000_000


def test_every_file_is_as_it_was_made_and_listed():
    root = weights_folder()
    assert digests(root) == json.loads((root / CHECKSUMS).read_text())
    files = [path for path in root.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".txt"}
    assert {path.name for path in root.iterdir()} == {"pipeline", "clip", "readers", "README.md", CHECKSUMS}


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(weights_folder(), tmp_path / "weights")


def test_a_changed_file_is_refused(copy):
    path = copy / "clip" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"damaged: .*model\.safetensors.*git -C .* checkout -- clipgeom"):
        load_clip(root=copy)
    assert checked_folder("readers", root=copy) == copy / "readers"


def test_a_missing_file_or_list_is_refused(copy, monkeypatch):
    (copy / "readers" / "readers.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"not whole: .*readers\.safetensors.*Get them back: git"):
        checked_folder("readers", root=copy)
    monkeypatch.setattr(_extras, "clone", lambda: None)
    monkeypatch.setattr(weights_module, "clone", lambda: None)
    with pytest.raises(WeightsError, match=r"Get them back: .* --force-reinstall --no-deps \S+$"):
        checked_folder("readers", root=copy)
    (copy / CHECKSUMS).write_text("{")
    with pytest.raises(WeightsError, match=r"checksums\.json cannot be read"):
        checked_folder("clip", root=copy)


def test_loading_writes_nothing(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    load_clip(root=copy)
    load_pipeline(root=copy)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_the_encoder_by_its_name():
    encoder = load_text_encoder("miniworld")
    assert encoder.name == "miniworld"
    assert encoder.representations[-2:] == ("projected", "normalized")
    assert encoder.tower is not None
    for option in ({"revision": "main"}, {"subfolder": "text_encoder"}):
        with pytest.raises(EncoderError, match="does not apply to miniworld"):
            load_text_encoder("miniworld", **option)


def test_the_pipeline_conditions_on_the_same_text_tower():
    clip, tokenizer = load_clip()
    pipeline = load_pipeline()
    own = pipeline.text_encoder.state_dict()
    for name, value in clip.text_model.state_dict().items():
        assert torch.equal(own[name], value), name
    assert pipeline.tokenizer("a knight").input_ids == tokenizer("a knight").input_ids
    assert pipeline.text_encoder.config.eos_token_id == tokenizer.eos_token_id
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


def test_the_pipeline_draws_what_it_is_told():
    pipeline, readers = load_pipeline(), load_readers()
    pipeline.set_progress_bar_config(disable=True)
    told = scenes(8, 77, said=tuple(FACTORS))
    drawn = pipeline(
        list(told.captions),
        num_inference_steps=20,
        guidance_scale=3.0,
        height=64,
        width=64,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images
    accuracy = readers.accuracy((drawn * 255).round().astype(np.uint8), told.factors)
    assert np.mean(list(accuracy.values())) > 0.7, accuracy


def test_readers_read_renders():
    drawn = scenes(200, 78)
    accuracy = load_readers().accuracy(drawn.pictures, drawn.factors)
    assert set(accuracy) == set(FACTORS)
    assert min(accuracy.values()) >= 0.97, accuracy


def test_readers_give_probabilities_and_refuse_other_pictures():
    readers = load_readers()
    rows = readers.probabilities(scenes(5, 1).pictures)
    assert {name: row.shape for name, row in rows.items()} == {name: (5, len(values)) for name, values in READ.items()}
    for row in rows.values():
        np.testing.assert_allclose(row.sum(1), 1, atol=1e-5)
    with pytest.raises(ShapeError, match=r"uint8 of shape \(n, 64, 64, 3\), got float64"):
        readers.probabilities(np.zeros((1, 64, 64, 3)))
    with pytest.raises(ShapeError, match="got uint8"):
        readers.probabilities(np.zeros((1, 32, 32, 3), dtype=np.uint8))


def test_the_default_report_with_the_network_cut_off(tmp_path):
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise OSError('the network is cut off')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from clipgeom.cli.main import main\n"
        "sys.argv = ['clipgeom', 'report', '--limit', '120', '--no-cache']\n"
        "sys.exit(main())\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["provenance"]["model"] == report["provenance"]["captions"] == "miniworld"
    rows = [(row["representation"], row["position"]) for row in report["statistics"]]
    assert rows == [
        ("hidden", "eos"),
        ("hidden", "5"),
        ("projected", "eos"),
        ("projected", "5"),
        ("projected", "image"),
    ]
    assert report["modality"]["pairing"]["n"] == 120
    assert report["modality"]["separability"]["accuracy"] > 0.9
