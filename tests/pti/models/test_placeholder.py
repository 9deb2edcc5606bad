"""The new word enters the encoders as an argument; their tables keep their bytes."""

import pytest
import torch

from clipgeom.errors import ConfigError
from pti.models.pipeline import load_pipeline
from pti.models.placeholder import add_placeholder_token, placeholder_embeddings
from pti.models.prompt_embeds import encode_prompts, tokenize


@pytest.fixture
def model(sd):
    return add_placeholder_token(load_pipeline(str(sd)), "<tok>", "red knight", vectors=2)


def test_tokens_are_named_as_diffusers_names_them(model):
    pivot = model.placeholder
    assert pivot.tokens == ("<tok>", "<tok>_1")
    assert pivot.in_prompt("a {token} at night") == "a <tok> <tok>_1 at night" == pivot.in_prompt("a <tok> at night")
    assert pivot.in_prompt("a <tok> <tok>_1 at night") == "a <tok> <tok>_1 at night"
    assert (
        pivot.in_class_prompt("a {token} at night")
        == "a red knight at night"
        == pivot.in_class_prompt("a <tok> <tok>_1 at night")
    )
    ids = tokenize(model.encoders[0], [pivot.in_prompt("a {token}")]).ids[0]
    assert ids[2:4].tolist() == list(pivot.ids[0])
    words = model.encoders[0].tokenizer("red knight", add_special_tokens=False).input_ids
    assert torch.equal(pivot.embeddings[0], model.encoders[0].table.weight[words])


def test_rows_in_place_of_a_table_row_give_what_the_row_would(sd):
    """With the class word's own embedding the prompt says the same as with the class word."""
    model = add_placeholder_token(load_pipeline(str(sd)), "<tok>", "knight")
    with torch.no_grad():
        new, plain = (encode_prompts(model, [text]).prompt_embeds for text in ("a <tok> at night", "a knight at night"))
    assert torch.equal(new, plain)
    other = [row.flip(-1) for row in model.placeholder.embeddings]  # a constant would be lost in the LayerNorms
    with torch.no_grad():
        moved = encode_prompts(model, ["a <tok> at night"], rows=other).prompt_embeds
    assert torch.equal(moved[:, :2], plain[:, :2])  # causal: nothing before it
    assert ((moved[:, 2:] - plain[:, 2:]).abs().amax(dim=-1) > 1e-4).all()


def test_the_gradient_reaches_the_parameter_itself_and_nothing_else(model):
    """Trap 3: no detached copy. Trap 4: no table that an optimiser could move."""
    row = torch.nn.Parameter(model.placeholder.embeddings[0].clone())
    before = model.encoders[0].table.weight.clone()
    encode_prompts(model, [f"a {model.placeholder.written}"], rows=[row]).prompt_embeds.square().sum().backward()
    assert row.grad is not None
    assert (row.grad.abs().sum(dim=-1) > 0).all()
    assert model.encoders[0].table.weight.grad is None
    assert torch.equal(model.encoders[0].table.weight, before)
    assert model.encoders[0].table.num_embeddings == before.shape[0]


def test_only_the_new_ids_are_replaced(model):
    encoder = model.encoders[0]
    rows, ids = (
        torch.full((2, 16), 7.0),
        torch.tensor([[1, model.placeholder.ids[0][1], 2, model.placeholder.ids[0][0]]]),
    )
    with placeholder_embeddings(encoder, model.placeholder.ids[0], rows * torch.tensor([[1.0], [2.0]])):
        embedded = encoder.table(ids)
    assert torch.equal(embedded[0, [0, 2]], encoder.table.weight[[1, 2]])
    assert (embedded[0, 1] == 14).all()
    assert (embedded[0, 3] == 7).all()
    assert not encoder.table._forward_hooks
    assert not encoder.table._forward_pre_hooks


@pytest.mark.parametrize("token", ["knight", "Knight", "crown"])
def test_a_token_that_exists_is_refused(sd, token):
    with pytest.raises(ConfigError, match=rf"'{token}' is a token of text_encoder's tokenizer already"):
        add_placeholder_token(load_pipeline(str(sd)), token, "knight")


@pytest.mark.parametrize("token", ["", " ", "two words", "<a> "])
def test_a_token_is_one_word(sd, token):
    with pytest.raises(ConfigError, match="to be one word without spaces"):
        add_placeholder_token(load_pipeline(str(sd)), token, "knight")


def test_the_class_word_needs_as_many_tokens(sd):
    with pytest.raises(ConfigError, match=r"'red knight' is 2 token\(s\) of text_encoder \('red</w>', 'knight</w>'\)"):
        add_placeholder_token(load_pipeline(str(sd)), "<tok>", "red knight")
    with pytest.raises(ConfigError, match=r"0 token\(s\) of text_encoder \(none\)"):
        add_placeholder_token(load_pipeline(str(sd)), "<tok>", "")


def test_initialisers_of_one_word_or_a_word_each(sd):
    one = add_placeholder_token(load_pipeline(str(sd)), "<tok>", "red knight", initializer="ghost", vectors=2)
    assert torch.equal(one.placeholder.embeddings[0][0], one.placeholder.embeddings[0][1])
    each = add_placeholder_token(load_pipeline(str(sd)), "<tok>", "red knight", initializer="ghost crown", vectors=2)
    assert not torch.equal(each.placeholder.embeddings[0][0], each.placeholder.embeddings[0][1])
    with pytest.raises(ConfigError, match=r"needs one, or as many as concept\.num_vectors = 2"):
        add_placeholder_token(load_pipeline(str(sd)), "<tok>", "red knight", initializer="ghost crown sea", vectors=2)


def test_a_prompt_that_would_be_cut_off_is_refused(model):
    with pytest.raises(ConfigError, match="at most 77 tokens"):
        encode_prompts(model, ["red " * 80])
