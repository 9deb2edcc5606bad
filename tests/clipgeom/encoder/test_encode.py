"""Encoding against transformers' own forward pass, padded to full length, one caption at a time."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipgeom import DomainError, EncoderError, encode, load_text_encoder
from clipgeom.encoder import Position, Wanted, encode_chunks
from tests.tiny.text_towers import make_model, save_pipeline

RELATIVE = 1e-5
ALL = "token,penultimate,prenorm,hidden,projected,normalized"


def reference(model, tower, text):
    """Every state of one caption padded to 77, from transformers' public outputs."""
    ids = tower.tokens([text]).ids[0]
    padded = np.full(77, tower.tokens.pad_id)
    padded[: len(ids)] = ids
    with torch.inference_mode():
        out = model(input_ids=torch.from_numpy(padded)[None], output_hidden_states=True)
        table = model.get_input_embeddings()
        hidden = out.last_hidden_state[0]
        projected = model.text_projection(hidden)
        states = {
            "token": table(torch.from_numpy(padded)),
            "penultimate": out.hidden_states[-2][0],
            "prenorm": out.hidden_states[-1][0],
            "hidden": hidden,
            "projected": projected,
            "normalized": projected / projected.norm(dim=-1, keepdim=True),
        }
    return {name: state.numpy() for name, state in states.items()}, int(np.argmax(padded == tower.tokens.eos_id))


def assert_close(actual, expected):
    assert np.abs(actual - expected).max() <= RELATIVE * np.abs(expected).max()


@pytest.fixture(scope="module")
def model():
    return make_model("projection")


def test_every_representation_equals_the_padded_forward_pass(model, tower):
    texts = ["the cat", "a dog and the cat sat on the mat", "x", "the cat " * 30, "ö 日本 😀"]
    encoded = encode(tower, texts, representations=ALL, positions="eos,5,0,padded:20,padded:76")
    for i, text in enumerate(texts):
        states, eos = reference(model, tower, text)
        for (name, place), (vectors, rows) in encoded.items():
            position = Position.parse(place)
            expected_there = bool(position.present(np.array([eos]))[0])
            assert (i in rows) == expected_there
            if expected_there:
                index = eos if position.kind == "eos" else position.index
                assert_close(vectors[list(rows).index(i)], states[name][index])


words = st.sampled_from(["the", "cat", "dog", "a", "on", "mat", "x", "é", "<|endoftext|>"])


@settings(max_examples=25)
@given(
    texts=st.lists(st.lists(words, min_size=1, max_size=60).map(" ".join), min_size=1, max_size=12),
    blocks=st.integers(3, 9),
)
def test_results_depend_on_neither_batch_nor_neighbours(tower, texts, blocks):
    together = encode(
        tower, texts, representations="hidden,projected", positions="eos,5,padded:30", pack_size=32 * blocks
    )
    for key, (vectors, rows) in together.items():
        for vector, row in zip(vectors, rows, strict=True):
            alone = encode(tower, [texts[row]], representations=key[0], positions=key[1])[key][0]
            assert_close(vector, alone[0])


def test_real_captions_through_the_real_tower(shared):
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    folder = shared("models/coco-text-tiny")
    lines = shared("data/coco2014_karpathy_test_captions.txt").read_text(encoding="utf-8").splitlines()[:200]
    encoder = load_text_encoder(folder)
    encoded = encode(encoder, lines, representations="hidden,projected", positions="eos,5", pack_size=96)
    model = CLIPTextModelWithProjection.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(lines, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    with torch.inference_mode():
        out = model(input_ids=batch.input_ids)
    eos = (batch.input_ids == tokenizer.eos_token_id).int().argmax(dim=1)
    assert_close(encoded["projected", "eos"][0], out.text_embeds.numpy())
    assert_close(encoded["hidden", "eos"][0], out.last_hidden_state[torch.arange(200), eos].numpy())
    assert_close(encoded["hidden", "5"][0], out.last_hidden_state[:, 5].numpy())


def test_a_long_caption_is_cut_with_eos_kept_last_and_counted(tower):
    wanted = [Wanted(Position("eos"), ("hidden",)), Wanted(Position("content", 75), ("hidden",))]
    [chunk] = encode_chunks(tower, ["the cat", "dog " * 10_000], wanted)
    assert chunk.tokens.truncated.tolist() == [False, True]
    assert chunk.tokens.eos.tolist()[1] == 76
    assert chunk.tokens.ids[1][-1] == tower.tokens.eos_id
    assert chunk.present[Position("content", 75)].tolist() == [False, True]


def test_eos_is_the_tokenizers_in_a_legacy_pipeline_with_added_tokens(tower, tower_folder, tmp_path):
    save_pipeline(tmp_path / "sd", tower_folder)  # its config.json says eos_token_id = 2
    assert json.loads((tmp_path / "sd" / "text_encoder" / "config.json").read_text())["eos_token_id"] == 2
    legacy = load_text_encoder(tmp_path / "sd")
    texts = ["a cat", "the dog on the mat"]
    ours, theirs = (encode(e, texts)["hidden", "eos"][0] for e in (legacy, tower))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_close(tower, tower_folder, dtype):
    half = load_text_encoder(tower_folder, dtype=dtype)
    texts = ["the cat", "a dog on the mat"]
    for name in ("hidden", "normalized"):
        ours = encode(half, texts, representations=name)[name, "eos"][0]
        full = encode(tower, texts, representations=name)[name, "eos"][0]
        assert ours.dtype == np.float32
        assert np.abs(ours - full).max() < 0.06 * np.abs(full).max()
    assert half.fingerprint == tower.fingerprint


def test_overflow_in_half_precision_is_an_error(tower_folder):
    half = load_text_encoder(tower_folder, dtype="float16")
    with torch.no_grad():
        half.core.get_submodule("encoder.layers.0.mlp.fc2").weight.mul_(1e6)
    with pytest.raises(DomainError, match="NaN or infinity in hidden at eos with float16"):
        encode(half, ["the cat"])


def test_a_single_layer_has_a_penultimate_state(tmp_path):
    from tests.tiny.text_towers import save_projection

    model = save_projection(tmp_path / "one", num_hidden_layers=1)
    tower = load_text_encoder(tmp_path / "one")
    states, eos = reference(model, tower, "the cat")
    assert_close(
        encode(tower, ["the cat"], representations="penultimate")["penultimate", "eos"][0][0],
        states["penultimate"][eos],
    )


def test_no_captions_give_empty_arrays(tower):
    vectors, rows = encode(tower, [], representations="projected")["projected", "eos"]
    assert vectors.shape == (0, 24)
    assert rows.shape == (0,)


def test_a_tokenizer_without_eos_is_refused(tower):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    from clipgeom.encoder.tokens import Tokens

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "?": 1}, unk_token="?")))
    with pytest.raises(EncoderError, match="no end-of-text token"):
        Tokens(bare, max_positions=77)
    named = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"a": 0, "?": 1}, unk_token="?")), eos_token="?"
    )
    with pytest.raises(EncoderError, match="is it CLIP's"):
        Tokens(named, max_positions=77)(["a"])
