"""What is run of the tower, and what happens where it takes no packs."""

import numpy as np
import pytest
import torch

from clipgeom import encode, load_text_encoder
from clipgeom.encoder.prefix_tree import PrefixTree
from tests.clipgeom.encoder.test_encode import assert_close, reference
from tests.tiny.text_towers import make_model, save_projection

TEXTS = ["the cat", "a dog and the cat sat on the mat", "x", "the cat " * 30, "the dog", "the cat"]
ALL = "token,penultimate,prenorm,hidden,projected,normalized"


@pytest.fixture
def counted(tower, monkeypatch):
    """Nodes that the tower was run on, ancestors and fill included."""
    sizes = []
    run = type(tower.tower).run

    def counting(self, pack, *arguments):
        sizes.append(pack.n)
        return run(self, pack, *arguments)

    monkeypatch.setattr(type(tower.tower), "run", counting)
    return sizes


def test_each_distinct_prefix_is_run_once(tower, counted):
    encode(tower, TEXTS * 20, positions="eos,5")
    assert sum(counted) == len(PrefixTree(tower.tokens(TEXTS).ids))


def test_a_position_needs_nothing_behind_it(tower, counted):
    encode(tower, TEXTS, positions="3,5")
    # a caption that ends at or before position 5 is asked for position 3 only, or for nothing
    ids = [row[: (6 if len(row) > 6 else 4 if len(row) > 4 else 0)] for row in tower.tokens(TEXTS).ids]
    assert sum(counted) == len(PrefixTree(ids))


def test_no_layer_is_run_for_nothing(tower_folder):
    tower = load_text_encoder(tower_folder)
    last = tower.tower._layers[-1]
    last.project = last.finish = None
    encode(tower, TEXTS, representations="token,penultimate", positions="eos,padded:60")
    with pytest.raises(TypeError):
        encode(tower, TEXTS, representations="prenorm")
    tower.tower._layers[0].project = None
    encode(tower, TEXTS, representations="token")


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_any_activation_and_any_attention_implementation(tmp_path, activation, attention):
    model = save_projection(tmp_path / "clip", hidden_act=activation)
    tower = load_text_encoder(tmp_path / "clip")
    tower.core.config._attn_implementation = attention
    assert tower.unpacked == ""
    for text in TEXTS:
        states, eos = reference(model, tower, text)
        assert_close(encode(tower, [text])["hidden", "eos"][0][0], states["hidden"][eos])


class Looking(torch.nn.Module):
    """A tower that looks ahead: the mean over the sequence is added to every state."""

    def __init__(self, core):
        super().__init__()
        self.embeddings, self.encoder, self.final_layer_norm = core.embeddings, core.encoder, core.final_layer_norm
        self.causal = [core]  # in a list, so that it is no submodule

    def forward(self, input_ids):
        out = self.causal[0](input_ids=input_ids)
        mean = out.last_hidden_state.mean(dim=1, keepdim=True)
        return type(out)(last_hidden_state=self.final_layer_norm(out.last_hidden_state + mean))


@pytest.fixture
def ahead(tower_folder):
    tower = load_text_encoder(tower_folder)
    object.__setattr__(tower, "core", Looking(tower.core))
    return tower


def test_a_tower_that_looks_ahead_is_run_on_whole_captions_and_says_so(ahead):
    assert ahead.tower is None
    assert ahead.unpacked == "its states depend on more than the tokens before each"
    told = []
    encoded = encode(ahead, TEXTS, positions="eos,5,padded:40", progress=told.append)
    assert sum(told) == len(TEXTS)
    for (_name, place), (vectors, rows) in encoded.items():
        for vector, row in zip(vectors, rows.tolist(), strict=True):
            ids = ahead.tokens([TEXTS[row]]).ids[0]
            if place.startswith("padded"):
                ids = np.append(ids, np.full(77 - len(ids), ahead.tokens.pad_id))
            index = {"eos": len(ids) - 1, "5": 5, "padded:40": 40}[place]
            with torch.inference_mode():
                expected = ahead.core(torch.from_numpy(ids)[None]).last_hidden_state[0, index]
            assert_close(vector, expected.numpy())


def test_a_tower_of_other_modules_is_run_on_whole_captions_and_says_so(tower_folder, tower):
    other = load_text_encoder(tower_folder)
    del other.core.encoder.layers[0].mlp.fc1
    other.core.encoder.layers[0].mlp.fc1 = torch.nn.Sequential(tower.core.encoder.layers[0].mlp.fc1)
    assert "modules are not those of CLIP's text tower" in other.unpacked
    ours, theirs = (encode(e, TEXTS, representations=ALL, positions="eos,5,padded:40") for e in (other, tower))
    for key, (vectors, rows) in theirs.items():
        np.testing.assert_array_equal(ours[key][1], rows)
        assert_close(ours[key][0], vectors)


def test_the_models_weights_are_not_touched(tower_folder):
    model, tower = make_model("projection"), load_text_encoder(tower_folder)
    encode(tower, TEXTS, representations=ALL)
    ours = tower.core.state_dict()
    for name, value in model.text_model.state_dict().items():
        assert torch.equal(ours[name], value), name


def cases():
    many = [f"{a}{b}{c}" for a in "abcdefghij" for b in "abcdefghij" for c in "abcdefghij"]
    return {
        "all the same": ["the cat"] * 3000,
        "a single caption": ["the cat"],
        "every caption full": [f"{'the cat dog ' * 40}{word}" for word in many[:40]],
        "distinct words": many,
        "mixed": ["the cat"] * 50 + many[:50] + ["dog " * 200] * 3 + ["", " "],
    }


@pytest.mark.parametrize("name", cases())
def test_unusual_sets_equal_one_by_one(tower, name):
    texts = cases()[name]
    together = encode(tower, texts, positions="eos,2", pack_size=128)
    for place in ("eos", "2"):
        vectors, rows = together["hidden", place]
        for k in np.linspace(0, len(rows) - 1, min(25, len(rows)), dtype=int):
            alone = encode(tower, [texts[rows[k]]], positions=place)["hidden", place][0]
            assert_close(vectors[k], alone[0])


def test_a_hundred_thousand_distinct_words(tower):
    texts = [np.base_repr(k, 36).lower() for k in range(100_000)]
    vectors, rows = encode(tower, texts)["hidden", "eos"]
    assert rows.tolist() == list(range(100_000))
    for k in (0, 32_767, 32_768, 77_777, 99_999):  # across the chunks
        assert_close(vectors[k], encode(tower, [texts[k]])["hidden", "eos"][0][0])
