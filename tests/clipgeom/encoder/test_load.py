import json
import pickle
import shutil
import socket

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clipgeom import ClipGeomError, ConfigError, EncoderError, encode, load_text_encoder
from clipgeom.encoder import parse_representations
from tests.tiny.text_towers import make_model, save_pipeline, save_projection, save_tokenizer

CAPTIONS = ["the cat", "a dog and the cat on a mat", "x"]


def copy(folder, target):
    shutil.copytree(folder, target)
    return target


def shard(folder):
    """Split the weights of a folder into two shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in halves.items():
        save_file({name: tensors[name] for name in members}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, members in halves.items() for name in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    return folder


def test_representations_of_each_kind_of_checkpoint(tower_folder, tmp_path):
    everything = ("token", "penultimate", "prenorm", "hidden", "projected", "normalized")
    assert load_text_encoder(tower_folder).representations == everything
    save_pipeline(tmp_path / "sd", tower_folder)
    pipeline = load_text_encoder(tmp_path / "sd")
    assert pipeline.representations == everything[:4]
    with pytest.raises(EncoderError, match="no text projection; it can give token, penultimate, prenorm, hidden"):
        encode(pipeline, CAPTIONS, representations="projected")
    full = make_model("full")
    full.save_pretrained(tmp_path / "full")
    save_tokenizer(tmp_path / "full", layout="json")
    loaded = load_text_encoder(tmp_path / "full")
    assert loaded.representations == everything
    torch.testing.assert_close(loaded.projection, full.text_projection.weight)


def test_an_encoder_is_pickled_before_and_after_its_use(tower_folder):
    encoder = load_text_encoder(tower_folder, device="cpu")
    fresh = pickle.loads(pickle.dumps(encoder))
    expected = encode(encoder, CAPTIONS, representations="hidden,projected", positions="eos")
    assert encoder.tower is not None
    copy = pickle.loads(pickle.dumps(encoder))
    assert copy.fingerprint == fresh.fingerprint == encoder.fingerprint
    for other in (fresh, copy):
        found = encode(other, CAPTIONS, representations="hidden,projected", positions="eos")
        for key, (vectors, rows) in expected.items():
            np.testing.assert_array_equal(found[key][0], vectors)
            np.testing.assert_array_equal(found[key][1], rows)


def test_the_fingerprint_does_not_depend_on_the_layout(tower_folder, tmp_path):
    expected = load_text_encoder(tower_folder).fingerprint
    assert load_text_encoder(shard(copy(tower_folder, tmp_path / "sharded"))).fingerprint == expected
    one_file = copy(tower_folder, tmp_path / "json")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (one_file / name).unlink()
    save_tokenizer(one_file, layout="json")
    assert (one_file / "tokenizer.json").is_file()
    assert load_text_encoder(one_file).fingerprint == expected
    # a full model around the same tower, and the ids in config.json that only the pooled output uses
    full = make_model("full")
    tensors = load_file(tower_folder / "model.safetensors")
    full.load_state_dict({**full.state_dict(), **{k: v for k, v in tensors.items() if k in full.state_dict()}})
    full.save_pretrained(tmp_path / "full")
    save_tokenizer(tmp_path / "full")
    assert load_text_encoder(tmp_path / "full").fingerprint == expected


def test_the_fingerprint_sees_weights_tokenizer_and_config(tower_folder, tmp_path):
    expected = load_text_encoder(tower_folder).fingerprint
    weights = copy(tower_folder, tmp_path / "weights")
    tensors = load_file(weights / "model.safetensors")
    tensors["text_model.final_layer_norm.bias"][3] += 1e-6
    save_file(tensors, weights / "model.safetensors", metadata={"format": "pt"})
    padding = copy(tower_folder, tmp_path / "padding")
    save_tokenizer(padding, pad="!")
    activation = copy(tower_folder, tmp_path / "activation")
    config = json.loads((activation / "config.json").read_text())
    (activation / "config.json").write_text(json.dumps({**config, "hidden_act": "gelu"}))
    prints = {load_text_encoder(folder).fingerprint for folder in (weights, padding, activation)}
    assert len(prints) == 3
    assert expected not in prints


def test_the_fingerprint_sees_everything_that_changes_ids(tower_folder, tmp_path):
    """Each change gives other ids to some caption, which no probe needs to contain."""
    layouts = copy(tower_folder, tmp_path / "layouts")
    save_tokenizer(layouts, layout="json")
    content = json.loads((layouts / "tokenizer.json").read_text())
    settings = json.loads((layouts / "tokenizer_config.json").read_text())
    added = {"id": content["model"]["vocab"]["z"], "content": "z", "special": False, "normalized": True}
    added |= {"single_word": False, "lstrip": False, "rstrip": False}
    splitting = {"type": "Split", "pattern": {"String": "q"}, "behavior": "Isolated", "invert": False}
    plain = {**settings, "tokenizer_class": "PreTrainedTokenizerFast"}
    changed = {
        "as saved": (settings, {}),
        "unknown token": ({**settings, "unk_token": "x"}, {}),
        "added token": (plain, {"added_tokens": [*content["added_tokens"], added]}),
        "stripping": (plain, {"added_tokens": [{**t, "rstrip": True} for t in content["added_tokens"]]}),
        "plain": (plain, {}),
        "case": (plain, {"normalizer": {"type": "Lowercase"}}),
        "letter": (plain, {"normalizer": {"type": "Replace", "pattern": {"String": "q"}, "content": "k"}}),
        "splitting": (plain, {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [splitting]}}),
    }
    prints = {}
    for name, (config, change) in changed.items():
        folder = copy(layouts, tmp_path / name)
        for file in ("vocab.json", "merges.txt"):
            (folder / file).unlink(missing_ok=True)
        (folder / "tokenizer.json").write_text(json.dumps({**content, **change}))
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        encoder = load_text_encoder(folder)
        texts = ["a fox", "zebra", "QUEEN q", "<|startoftext|> a"]
        prints[name] = (encoder.fingerprint, tuple(map(tuple, encoder.tokens(texts).ids)))
    assert prints["plain"] == prints["as saved"]
    for one in prints.values():
        for other in prints.values():
            assert one[1] == other[1] or one[0] != other[0]
    assert len({ids for _, ids in prints.values()}) >= 4


def test_storage_in_half_precision_keeps_the_fingerprint_of_its_values(tmp_path):
    model = make_model("projection").half()
    model.save_pretrained(tmp_path / "half")
    model.float().save_pretrained(tmp_path / "single")
    for name in ("half", "single"):
        save_tokenizer(tmp_path / name)
    assert load_text_encoder(tmp_path / "half").fingerprint == load_text_encoder(tmp_path / "single").fingerprint


def test_where_the_tokenizer_of_a_pipeline_lies(tower_folder, tmp_path):
    root = tmp_path / "sd"
    save_pipeline(root, tower_folder)
    shutil.copytree(root / "text_encoder", root / "text_encoder_2")
    save_tokenizer(root / "tokenizer_2", pad="!")
    first, second = load_text_encoder(root), load_text_encoder(root, subfolder="text_encoder_2")
    assert load_text_encoder(root / "text_encoder").fingerprint == first.fingerprint
    assert first.tokens.pad_id == first.tokens.eos_id
    assert second.tokens.pad_id == 0  # "!" is the first byte of the vocabulary, as in SDXL
    assert second.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickled weights only .*save_pretrained"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "describes a 'bert' model"),
        (lambda f: (f / "vocab.json").unlink(), "no tokenizer"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x10" * 200), "cannot be read as safetensors"),
        (lambda f: (shard(f) / "model-00002-of-00002.safetensors").unlink(), "lacks the shard"),
    ],
)
def test_incomplete_folders(tower_folder, tmp_path, change, message):
    folder = copy(tower_folder, tmp_path / "broken")
    change(folder)
    with pytest.raises(EncoderError, match=message):
        load_text_encoder(folder)


def test_a_missing_tensor_is_never_invented(tower_folder, tmp_path):
    folder = copy(tower_folder, tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_model.encoder.layers.1.mlp.fc1.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(EncoderError, match=r"lacks 1 tensor\(s\).*encoder.layers.1.mlp.fc1.weight"):
        load_text_encoder(folder)


def test_weights_and_config_that_disagree(tmp_path):
    save_projection(tmp_path / "deep", num_hidden_layers=3)
    save_projection(tmp_path / "wide", intermediate_size=48)
    shutil.copy(tmp_path / "deep" / "config.json", tmp_path / "wide" / "config.json")
    with pytest.raises(EncoderError, match="has shape"):
        load_text_encoder(tmp_path / "wide")
    config = json.loads((tmp_path / "deep" / "config.json").read_text())
    (tmp_path / "deep" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(EncoderError, match="no place for"):
        load_text_encoder(tmp_path / "deep")


def test_names_and_options(tower_folder, tmp_path):
    with pytest.raises(EncoderError, match="there is no directory"):
        load_text_encoder(tmp_path / "absent")
    with pytest.raises(EncoderError, match="is a file"):
        load_text_encoder(tower_folder / "config.json")
    with pytest.raises(EncoderError, match="applies to a hub id"):
        load_text_encoder(tower_folder, revision="main")
    with pytest.raises(EncoderError, match="no subfolder 'text_encoder_3'"):
        load_text_encoder(tower_folder, subfolder="text_encoder_3")
    with pytest.raises(ConfigError, match="unknown dtype"):
        load_text_encoder(tower_folder, dtype="int8")
    with pytest.raises(ConfigError, match="unknown device"):
        load_text_encoder(tower_folder, device="tpu")
    with pytest.raises(ConfigError, match="unknown representation 'pooled'"):
        parse_representations("hidden,pooled")
    with pytest.raises(ConfigError, match="named twice"):
        parse_representations("hidden,hidden")
    with pytest.raises(ConfigError, match="at least one"):
        parse_representations(",")


def test_a_hub_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderError, match="fetching it from the hub failed"):
        load_text_encoder("nobody/clipgeom-no-such-model")


ODD = (None, "", -1, 0, 1e30, 2**62, [], {}, "nobody/kernel", True, {"a": [1]})


def test_loading_prints_nothing(tower_folder, capfd):
    load_text_encoder(tower_folder)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_odd_settings_give_the_same_states_or_are_named(tower_folder, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    folder = copy(tower_folder, tmp_path / "odd")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    expected = load_text_encoder(folder)
    ids = torch.arange(12)[None]
    states = expected.forward(ids, ("penultimate", "projected"))
    extra = (
        "attn_implementation",
        "_attn_implementation",
        "auto_map",
        "quantization_config",
        "use_kernels",
        "return_dict",
    )
    loaded, refused = 0, {}
    for key in (*config, *extra, "text_config", "kernel_config", "torch_dtype"):
        for value in ODD:
            path.write_text(json.dumps({**config, key: value}))
            try:
                found = load_text_encoder(folder)
            except ClipGeomError as error:
                refused[key, repr(value)] = str(error)
                continue
            loaded += 1
            for name, state in found.forward(ids, ("penultimate", "projected")).items():
                assert torch.equal(state, states[name]), (key, value)
    assert loaded > 100
    assert len(refused) > 80
    for (key, _), message in refused.items():
        assert "config.json" in message
        assert "\n" not in message
        assert key in message or key in (
            "model_type",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
        )
