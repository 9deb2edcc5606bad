"""The model card as its readers take it: the Hub's front matter, code that compiles, tables, warnings."""

import ast
from dataclasses import replace

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import HealthCheck, given, settings
from markdown_it import MarkdownIt

from clipgeom import Certificate
from clipgeom._text import printable
from clipgeom.centering.certificate import Entry
from clipgeom.errors import ConfigError
from clipgeom.geometry.estimate import Estimate
from pti.export.files import DIFFUSERS_FILE
from pti.export.model_card import Concept, MetricRow, Preview, loading_code, metric_rows, write_model_card
from tests.nasty import NASTY
from tests.pti.evaluation.test_evaluate import TOKEN, evaluate

PROMPT = "an illustration of <zork>"
CONCEPT = Concept("somebody/a-model", "sd", "<zork>", 2, "knight", PROMPT, "zork.safetensors", "zork_lora.safetensors")
SETTINGS = {
    "model": "somebody/a-model",
    "lora": {"rank": 4, "targets": ["to_q", "to_v"]},
    "caption": "a | pipe\nand a line",
}


@pytest.fixture
def folder(tmp_path):
    for name in ("zork.safetensors", "zork_lora.safetensors", DIFFUSERS_FILE, "previews/a b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def certificate():
    entry = Entry(
        representation="hidden",
        position="5",
        n=1000,
        center=np.zeros(4),
        validated={"vslerp": False, "vslerp_norm": True, "aslerp": False},
        recommended="vslerp_norm",
        figures={"verdict": "vslerp_norm is validated", "dim": 4},
    )
    return Certificate("f" * 64, None, (entry,), "0", 0, captions="coco2014:val")


def write(folder, concept=CONCEPT, **changes):
    path = write_model_card(folder, concept, **{"settings": SETTINGS, "interpolation": "No regulariser.", **changes})
    return path.read_text(encoding="utf-8")


def python(text):
    return text.split("```python\n")[1].split("```")[0]


def test_the_front_matter_is_what_the_hub_reads(folder):
    write(folder, previews=[Preview("previews/a b.png", PROMPT)])
    data = ModelCard.load(folder / "README.md").data
    assert data.base_model == "somebody/a-model"
    assert data.library_name == "diffusers"
    assert data.pipeline_tag == "text-to-image"
    assert {"lora", "textual-inversion", "diffusers", "text-to-image", "stable-diffusion"} <= set(data.tags)
    assert data.get("instance_prompt") == PROMPT
    assert data.get("base_model_relation") == "adapter"
    assert data.get("widget") == [{"text": PROMPT, "output": {"url": "previews/a b.png"}}]


def test_a_folder_of_somebodys_is_no_base_model_of_the_hub(folder, tmp_path):
    text = write(folder, Concept(str(tmp_path), "sdxl", "<zork>", 1, "knight", PROMPT, "zork.safetensors"))
    data = ModelCard.load(folder / "README.md").data
    assert data.base_model is None
    assert data.get("base_model_relation") is None
    assert "lora" not in data.tags
    assert "stable-diffusion-xl" in data.tags
    assert f"path/to/{tmp_path.name}'" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("layout", ["sd", "sdxl"])
@pytest.mark.parametrize("kohya", [None, "zork_lora.safetensors"])
def test_the_code_is_code_and_names_the_files(folder, layout, kohya):
    concept = Concept("somebody/a-model", layout, "<zork>", 2, "knight", PROMPT, "zork.safetensors", kohya)
    text = write(folder, concept)
    code = python(text)
    ast.parse(code)
    assert code.startswith(loading_code(concept))
    assert ("load_lora_weights" in code) == (kohya is not None)
    assert ("clip_g" in code) == ("eos_token_id" in code) == (layout == "sdxl")
    assert "`embedding:zork`" in text
    assert ("`<lora:zork_lora:1>`" in text) == (kohya is not None)
    assert "Write `<zork>` alone" in text


def test_quotes_in_a_prompt_do_not_break_the_code(folder):
    concept = Concept("somebody/a-model", "sd", "it's", 1, "knight", 'an "illustration" of it\'s', "zork.safetensors")
    ast.parse(python(write(folder, concept)))


def test_an_overridden_certificate_is_the_first_thing_that_is_said(folder):
    mark = "override_certificate: vslerp was used although the certificate does not validate it"
    text = write(folder, certificate=certificate(), interpolation="vslerp, as asked.", marks=[mark])
    body = text.split("---\n", 2)[2]
    assert body.index("[!WARNING]") < body.index("Made by pivotal tuning") < body.index("## Settings")
    assert mark in body
    assert "See the warning" in body
    assert "[!WARNING]" not in write(folder, certificate=certificate())


def test_the_certificates_verdict_is_told(folder):
    text = write(folder, certificate=certificate(), interpolation="vslerp_norm, as the certificate recommends.")
    assert "| hidden | 5 | 1000 | vslerp_norm | vslerp_norm |" in text
    assert "vslerp_norm is validated" in text
    assert "coco2014:val" in text
    assert "had no certificate" in write(folder)


def test_measures_have_intervals_and_numbers(folder):
    evaluation = evaluate(tuned=TOKEN)
    rows = (
        *metric_rows(evaluation),
        MetricRow("a | b", Estimate(0.12345, 0.1, 0.2, 7), Estimate(1.0, n=1), "a note"),
    )
    text = write(folder, metrics=rows)
    assert "| a &#124; b | 0.123 [0.100, 0.200] | 7 | 1.000 [unknown] | 1 | a note |" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    for name in (
        "likeness to the training images, colors",
        "recognised, color",
        "leakage of light",
        "entropy of light",
        "drift of the class word's color",
    ):
        assert any(line.startswith(f"| {name} | ") for line in lines), name
    assert " by chance, p = " in text


def test_settings_are_told_whole_and_break_no_table(folder):
    text = write(folder)
    assert "| `lora.rank` | `4` |" in text
    assert "| `lora.targets` | `['to_q', 'to_v']` |" in text
    assert "| `caption` | a &#124; pipe and a line |" in text


def card(folder, text):
    """A card in which every text that comes from elsewhere is `text`."""
    concept = Concept("somebody/a-model", "sd", text, 2, text, text, "zork.safetensors", "zork_lora.safetensors")
    entry = replace(certificate().entries[0], representation=text, position=text, figures={"verdict": text})
    return write(
        folder,
        concept,
        certificate=replace(certificate(), entries=(entry,), encoder_fingerprint=text, captions=text),
        settings={"a": text, "b": {"c": [text]}},
        interpolation=text,
        metrics=[MetricRow(text, Estimate(0.5, 0.4, 0.6, 7), None, text)],
        previews=[Preview("previews/a b.png", text)],
        marks=[text],
    )


def parsed(text):
    """The body of a card, as CommonMark with tables."""
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text.split("\n---\n", 1)[1])


def structure(tokens):
    """Blocks, and what is neither text nor code in a line."""
    for token in tokens:
        yield token.type
        yield from (child.type for child in token.children or () if child.type not in ("text", "code_inline"))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=NASTY)
def test_no_text_has_markup_in_the_card(folder, text):
    written = card(folder, text)
    front = yaml.safe_load(written.removeprefix("---\n").split("\n---\n", 1)[0])
    for loaded in (ModelCard.load(folder / "README.md").data.to_dict(), front):
        assert loaded["instance_prompt"] == printable(text)
        assert loaded["widget"] == [{"text": printable(text), "output": {"url": "previews/a b.png"}}]
    tokens = parsed(written)
    found = list(structure(tokens))
    assert [kind for kind in found if "html" in kind or "link" in kind] == []
    assert found.count("image") == 1  # the preview, which is ours
    (fence,) = [token.content for token in tokens if token.type == "fence"]
    ast.parse(fence)
    assert found == list(structure(parsed(card(folder, "plain"))))


def test_what_is_not_there_is_not_spoken_of(folder):
    with pytest.raises(ConfigError, match=r"expected the file previews/none\.png"):
        write(folder, previews=[Preview("previews/none.png", PROMPT)])
    (folder / DIFFUSERS_FILE).unlink()
    with pytest.raises(ConfigError, match=DIFFUSERS_FILE):
        write(folder)
    assert not (folder / "README.md").exists()


def test_the_same_run_gives_the_same_card(folder):
    assert write(folder) == write(folder)
