"""Conditions are what the pipeline's own encoder would give, with the word loaded the usual way."""

from dataclasses import replace

import pytest
import torch
from diffusers import DiffusionPipeline

from pti.models.pipeline import load_pipeline
from pti.models.placeholder import add_placeholder_token
from pti.models.prompt_embeds import concatenate, encode_prompts, tokenize


def with_word(folder, model, *, honest):
    """The pipeline with the word in its tables, as diffusers' loader puts it there."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    parts = [(pipeline.tokenizer, pipeline.text_encoder)]
    if hasattr(pipeline, "text_encoder_2"):
        parts.append((pipeline.tokenizer_2, pipeline.text_encoder_2))
    for (tokenizer, encoder), row in zip(parts, model.placeholder.embeddings, strict=True):
        pipeline.load_textual_inversion({"<tok>": row}, token="<tok>", tokenizer=tokenizer, text_encoder=encoder)
        if honest:  # say where a prompt ends; the published configurations say 2
            getattr(encoder, "text_model", encoder).eos_token_id = tokenizer.eos_token_id
    return pipeline


@pytest.mark.filterwarnings("ignore:.*mean_resizing.*")
def test_equal_to_the_pipelines_own(any_pipeline):
    model = add_placeholder_token(load_pipeline(str(any_pipeline)), "<tok>", "knight")
    moved = [row + 0.3 for row in model.placeholder.embeddings]
    model = add_placeholder_token(load_pipeline(str(any_pipeline)), "<tok>", "knight")
    model = replace(model, placeholder=model.placeholder.with_embeddings(moved))
    prompts = ["a <tok> at night", "a red crown, <tok>, in the snow"]
    with torch.no_grad():
        ours = encode_prompts(model, prompts)
        theirs = with_word(any_pipeline, model, honest=True).encode_prompt(
            prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    torch.testing.assert_close(ours.prompt_embeds, theirs[0])
    if model.kind == "sdxl":
        torch.testing.assert_close(ours.pooled_prompt_embeds, theirs[2])
    else:
        assert ours.pooled_prompt_embeds is None


@pytest.mark.filterwarnings("ignore:.*mean_resizing.*")
def test_pooled_at_the_end_even_where_the_configuration_names_another_id(sdxl):
    """Trap 5: eos_token_id = 2 makes transformers pool at the highest id, the new token's."""
    model = add_placeholder_token(load_pipeline(str(sdxl)), "<tok>", "knight")
    assert model.encoders[1].network.config.eos_token_id == 2
    prompt = ["a <tok> at night"]
    with torch.no_grad():
        ours = encode_prompts(model, prompt).pooled_prompt_embeds
        legacy = with_word(sdxl, model, honest=False).encode_prompt(
            prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )[2]
    assert (ours - legacy).abs().max() > 1e-3
    encoder = model.encoders[1]
    tokens = tokenize(encoder, prompt)
    assert tokens.eos.tolist() == [encoder.tokenizer(prompt[0]).input_ids.index(encoder.tokenizer.eos_token_id)]


def test_batches_take_rows_and_join(sdxl):
    model = load_pipeline(str(sdxl))
    with torch.no_grad():
        both = encode_prompts(model, ["a knight", "ghost"]).with_time_ids(torch.arange(12.0).view(2, 6))
    again = concatenate([both[:1], both[1:]])
    for a, b in zip(again._parts(), both._parts(), strict=True):
        assert torch.equal(a, b)
    assert len(both[torch.tensor([True, False])]) == 1
