"""Model card of a run: metadata for the Hub, code to load the files, measures, and warnings."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import quote

from clipgeom._extras import needs_extra
from clipgeom._io.files import write_whole
from clipgeom._text import code as _code
from clipgeom._text import markdown as _text
from clipgeom._text import printable
from clipgeom.centering.certificate import Certificate
from clipgeom.errors import ConfigError
from clipgeom.geometry.estimate import Estimate
from pti.evaluation.evaluate import Evaluation
from pti.export.files import DIFFUSERS_FILE

__all__ = ["Concept", "MetricRow", "Preview", "loading_code", "metric_rows", "write_model_card"]

CARD = "README.md"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Concept:
    """Names of a concept and of its files, for the model card.

    Attributes
    ----------
    base_model : str
        Hub id or directory of the pipeline.
    layout : {"sd", "sdxl"}
    placeholder_token : str
    n_vectors : int
    class_word : str
    instance_prompt : str
        An example prompt with the token.
    embedding_file : str
        File name of the embedding.
    kohya_file : str or None
        File name of the LoRA in kohya's format; None without a LoRA. The file in diffusers' format is in the same
        folder.
    """

    base_model: str
    layout: Literal["sd", "sdxl"]
    placeholder_token: str
    n_vectors: int
    class_word: str
    instance_prompt: str
    embedding_file: str
    kohya_file: str | None = None


@dataclass(frozen=True, slots=True)
class MetricRow:
    """A row of the table of measures; `reference` is the measure of the class word's images."""

    name: str
    estimate: Estimate
    reference: Estimate | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Preview:
    """An image in the folder, and its prompt."""

    file: str
    prompt: str


def loading_code(concept: Concept, /, *, folder: str = "path/to/this/folder") -> str:
    """Python code that loads the base pipeline and the files with diffusers only; it defines `pipeline`."""
    sdxl = concept.layout == "sdxl"
    kind = "StableDiffusionXLPipeline" if sdxl else "StableDiffusionPipeline"
    lines = [f"from diffusers import {kind}"]
    embedding = str(PurePosixPath(folder) / concept.embedding_file)
    if sdxl:
        lines += ["from safetensors.torch import load_file"]
    lines += ["", f"pipeline = {kind}.from_pretrained({concept.base_model!r})"]
    if sdxl:
        lines += [f"vectors = load_file({embedding!r})"]
        for key, suffix in (("clip_l", ""), ("clip_g", "_2")):
            lines += [
                "pipeline.load_textual_inversion(",
                f"    vectors[{key!r}], token={concept.placeholder_token!r},",
                f"    text_encoder=pipeline.text_encoder{suffix}, tokenizer=pipeline.tokenizer{suffix},",
                ")",
            ]
        lines += [
            "# transformers pools at the highest id, which is now the placeholder token's: pool at the end of text",
            "pipeline.text_encoder_2.text_model.eos_token_id = pipeline.tokenizer_2.eos_token_id",
        ]
    else:
        lines += [f"pipeline.load_textual_inversion({embedding!r}, token={concept.placeholder_token!r})"]
    if concept.kohya_file is not None:
        lines += [f"pipeline.load_lora_weights({folder!r}, weight_name={DIFFUSERS_FILE!r})"]
    return "\n".join(lines) + "\n"


def metric_rows(evaluation: Evaluation, /) -> tuple[MetricRow, ...]:
    """Rows of the table of measures for an evaluation."""
    compared = (
        ("likeness to the training images", evaluation.reconstruction),
        ("similarity to the prompt", evaluation.editability),
        ("diversity within a prompt", evaluation.diversity),
        ("recognised", evaluation.recognition),
    )
    rows = [
        MetricRow(f"likeness of the training images to each other, {name}", estimate)
        for name, estimate in evaluation.ceiling.items()
    ]
    rows += [
        MetricRow(f"{title}, {name}", comparison.token, comparison.class_word)
        for title, comparisons in compared
        for name, comparison in comparisons.items()
    ]
    leakages = ((f"leakage of {name}", leak) for name, leak in evaluation.leakage.items())
    class_word = ((f"drift of the class word's {name}", leak) for name, leak in evaluation.class_word_moved.items())
    rows += [
        MetricRow(title, leak.distance, note=f"{leak.chance:.3f} by chance, p = {leak.p_value:.2g}")
        for title, leak in (*leakages, *class_word)
    ]
    rows += [
        MetricRow(f"entropy of {name}", ratio, note="relative to the class word's")
        for name, ratio in evaluation.entropy.items()
    ]
    return tuple(rows)


def write_model_card(
    folder: str | Path,
    concept: Concept,
    /,
    *,
    settings: Mapping[str, object],
    certificate: Certificate | None = None,
    interpolation: str,
    metrics: Sequence[MetricRow] = (),
    previews: Sequence[Preview] = (),
    marks: Sequence[str] = (),
) -> Path:
    """Write ``README.md`` into the folder of the exported files.

    Parameters
    ----------
    folder : str or Path
    concept : Concept
    settings : mapping
        The run's configuration; sections as mappings within it.
    certificate : Certificate, optional
        The run's certificate; the card lists its verdicts.
    interpolation : str
        The mode of the locality loss and its reason, in a sentence.
    metrics : sequence of MetricRow
    previews : sequence of Preview
        Images below `folder`.
    marks : sequence of str
        Warnings for users of the files, such as an overridden certificate; shown first.

    Raises
    ------
    ConfigError
        A preview or an exported file is not in the folder.
    MissingExtraError
        huggingface_hub is not installed.
    """
    root = Path(folder)
    files = [concept.embedding_file, *([concept.kohya_file, DIFFUSERS_FILE] if concept.kohya_file else [])]
    for name in (*files, *(preview.file for preview in previews)):
        if not (root / name).is_file():
            raise ConfigError(f"expected the file {name} of the model card in {root}; export it first")
    shown = concept if _on_hub(concept) else replace(concept, base_model=f"path/to/{Path(concept.base_model).name}")
    parts = [
        f"# {_code(concept.placeholder_token)} ({_text(concept.class_word)})",
        *(f"> [!WARNING]\n> **{_text(mark)}**" for mark in marks),
        _summary(shown),
        *([_previews(previews)] if previews else []),
        _usage(shown),
        *([_metrics(metrics)] if metrics else []),
        _interpolation(certificate, interpolation, marks),
        _settings(settings),
    ]
    target = root / CARD
    write_whole(target, (_front_matter(concept, previews) + "\n" + "\n\n".join(parts) + "\n").encode())
    return target


def _on_hub(concept: Concept) -> bool:
    """Whether the base model is a hub id; the card must not contain local paths."""
    return bool(_HUB_ID.fullmatch(concept.base_model)) and not Path(concept.base_model).exists()


def _front_matter(concept: Concept, previews: Sequence[Preview]) -> str:
    with needs_extra("pti", "writing a model card"):
        from huggingface_hub import ModelCardData

    family = "stable-diffusion-xl" if concept.layout == "sdxl" else "stable-diffusion"
    lora = ["lora", "template:sd-lora"] if concept.kohya_file else []
    more: dict[str, Any] = {}
    hub = _on_hub(concept)
    if hub:
        more["base_model_relation"] = "adapter"
    if previews:
        more["widget"] = [{"text": printable(preview.prompt), "output": {"url": preview.file}} for preview in previews]
    data = ModelCardData(
        base_model=concept.base_model if hub else None,  # the Hub refuses a card whose base model is a local directory
        library_name="diffusers",
        pipeline_tag="text-to-image",
        instance_prompt=printable(concept.instance_prompt),
        tags=["text-to-image", "diffusers", family, "textual-inversion", *lora],
        **more,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _summary(concept: Concept) -> str:
    vectors = "one vector" if concept.n_vectors == 1 else f"{concept.n_vectors} vectors"
    learnt = f"{vectors} for {_code(concept.placeholder_token)}" + (
        " and a LoRA around it" if concept.kohya_file else ""
    )
    return (
        f"Made by pivotal tuning of {_code(concept.base_model)}: {learnt}. Prompts contain "
        f"{_code(concept.placeholder_token)} in place of {_code(concept.class_word)}, "
        f"for example {_code(concept.instance_prompt)}."
    )


def _previews(previews: Sequence[Preview]) -> str:
    lines = ["| | |", "|---|---|"]
    lines += [f"| ![{_text(p.prompt)}]({quote(p.file)}) | {_code(p.prompt)} |" for p in previews]
    return "\n".join(lines)


def _usage(concept: Concept) -> str:
    embedding, stem = _code(concept.embedding_file), PurePosixPath(concept.embedding_file).stem
    code = loading_code(concept) + f"image = pipeline({concept.instance_prompt!r}).images[0]"
    comfy = (
        f"With ComfyUI: put {embedding} into `models/embeddings`, and write {_code('embedding:' + stem)} in prompts."
    )
    webui = f"With A1111's web UI: put {embedding} into `embeddings`, and write {_code(stem)} in prompts."
    if concept.kohya_file:
        lora, called = _code(concept.kohya_file), _code(f"<lora:{PurePosixPath(concept.kohya_file).stem}:1>")
        comfy += f" Put {lora} into `models/loras` and add a *Load LoRA* node with strength 1 for model and clip."
        webui += f" Put {lora} into `models/Lora`, and add {called} to prompts."
    text = ["## Use", "", "With diffusers:", "", f"```python\n{code}\n```", "", comfy, "", webui]
    if concept.n_vectors > 1:
        called = _code(concept.placeholder_token)
        text += ["", f"Write {called} alone for the {concept.n_vectors} vectors: diffusers adds the others."]
    return "\n".join(text)


def _metrics(rows: Sequence[MetricRow]) -> str:
    lines = [
        "## Measured",
        "",
        "Brackets are 95 % intervals, n is the number of images. The class word's images have the same prompts.",
        "",
        "| | token | n | class word | n | |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        reference = (_estimate(row.reference), str(row.reference.n)) if row.reference else ("", "")
        cells = (_text(row.name), _estimate(row.estimate), str(row.estimate.n), *reference, _text(row.note))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _interpolation(certificate: Certificate | None, sentence: str, marks: Sequence[str]) -> str:
    lines = ["## Interpolation", "", _text(sentence)]
    if certificate is None:
        lines += ["", "The run had no certificate of the centering check."]
        return "\n".join(lines)
    lines += [
        "",
        f"The certificate (encoder {_code(str(certificate.encoder_fingerprint)[:16])}, captions "
        f"{_code(certificate.captions or 'unknown')}) has these entries:",
        "",
        "| representation | position | n | validated | recommended |",
        "|---|---|---|---|---|",
    ]
    for entry in certificate.entries:
        validated = ", ".join(mode for mode, good in entry.validated.items() if good) or "none"
        cells = (entry.representation, entry.position, str(entry.n), validated, entry.recommended)
        lines.append(f"| {' | '.join(map(_text, cells))} |")
    verdicts = [
        _text(f"{e.representation} at {e.position}: {e.figures['verdict']}")
        for e in certificate.entries
        if "verdict" in e.figures
    ]
    lines += ["", *(f"- {verdict}" for verdict in verdicts)]
    if marks:
        lines += ["", "See the warning at the top of this page."]
    return "\n".join(lines)


def _settings(settings: Mapping[str, object]) -> str:
    lines = ["## Settings", "", "| | |", "|---|---|"]
    lines += [f"| {_code(name)} | {_code(str(value))} |" for name, value in _flat(settings)]
    return "\n".join(lines)


def _flat(settings: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for name, value in settings.items():
        pairs += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
    return pairs


def _estimate(estimate: Estimate) -> str:
    low, high = estimate.ci95
    known = math.isfinite(low) and math.isfinite(high)
    return f"{estimate.value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if known else " [unknown]")
