"""Export of a trained run: embedding, LoRA, previews and model card."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipgeom import Certificate
from clipgeom._text import PLACEHOLDER
from clipgeom.errors import ConfigError
from pti._lock import locked
from pti.config.schema import Config
from pti.evaluation.evaluate import Evaluation
from pti.export.files import export_name, save_embedding, save_lora
from pti.export.model_card import Concept, Preview, metric_rows, write_model_card
from pti.models.sampling import sample_images
from pti.runs.image_grid import save_image_grid
from pti.runs.layout import EVALUATION, EXPORT
from pti.runs.run import Run, finished_run

__all__ = ["export_run"]


@locked
def export_run(folder: str | Path, *, root: Path | None = None) -> Path:
    """Write ``export/``: embedding, LoRA in diffusers' and kohya's formats, previews, and model card.

    Raises
    ------
    CheckpointError
        The run's training has not finished.
    ConfigError
        Diffusers would ignore a file of that name.
    """
    run = finished_run(folder, root)
    settings, concept = run.config.export, run.config.concept
    target = run.folder / EXPORT
    name = export_name(settings.name, concept.placeholder_token)
    metadata: dict[str, Any] = {"class_word": concept.class_word or "", "base_model": _public_name(run)}
    if run.marks:
        metadata["marks"] = "; ".join(run.marks)
    rows = (
        [row.detach().cpu().numpy() for row in run.model.placeholder.embeddings]
        if run.model.placeholder is not None
        else []
    )
    vectors = rows[0] if len(rows) == 1 else {"clip_l": rows[0], "clip_g": rows[1]}
    embedding = save_embedding(target / f"{name}.safetensors", concept.placeholder_token, vectors, metadata=metadata)
    files = save_lora(
        target,
        run.model.unet,
        [encoder.network for encoder in run.model.encoders],
        name=f"{name}_lora",
        precision="float16" if settings.dtype == "fp16" else "float32",
        metadata=metadata,
    )
    sampler, validation = run.config.sampler, run.config.validation
    previews = []
    for number, prompt in enumerate(validation.prompts):
        images = sample_images(
            run.model,
            [prompt] * validation.images_per_prompt,
            seed=validation.seed,
            steps=sampler.num_inference_steps,
            guidance=sampler.guidance_scale,
            size=run.config.data.resolution,
        )
        file = f"preview-{number}.png"
        save_image_grid(target / file, images, validation.images_per_prompt, run.marks)
        previews.append(Preview(file, prompt.replace(PLACEHOLDER, concept.placeholder_token)))
    certificates = run.config.locality.certificates
    write_model_card(
        target,
        Concept(
            base_model=_public_name(run),
            layout=run.model.kind,
            placeholder_token=concept.placeholder_token,
            n_vectors=concept.num_vectors,
            class_word=concept.class_word or "",
            instance_prompt=(run.samples[0].caption if run.samples else PLACEHOLDER).replace(
                PLACEHOLDER, concept.placeholder_token
            ),
            embedding_file=embedding.name,
            kohya_file=files.kohya.name,
        ),
        settings=_public_settings(run),
        certificate=Certificate.load(certificates[0]) if certificates else None,
        interpolation=_interpolation(run),
        metrics=metric_rows(_evaluation(run.folder)) if (run.folder / EVALUATION).exists() else (),
        previews=previews,
        marks=run.marks,
    )
    return target


def _public_name(run: Run) -> str:
    """Public name of the base model: its hub id, or the last part of a directory."""
    name = run.config.model.pretrained_model
    return Path(name).name if Path(name).expanduser().is_dir() else name


def _public_settings(run: Run) -> dict[str, dict[str, Any]]:
    """Settings for the card, without local paths."""
    sections = {s.name: asdict(getattr(run.config, s.name)) for s in Config.sections()}
    sections.pop("output")
    sections["model"]["pretrained_model"] = _public_name(run)

    def last(value: Any) -> Any:
        if isinstance(value, str) and Path(value).expanduser().exists():
            return Path(value).name
        return tuple(last(part) for part in value) if isinstance(value, tuple) else value

    return {name: {key: last(value) for key, value in section.items()} for name, section in sections.items()}


def _interpolation(run: Run) -> str:
    rulings = run.record.get("locality", {}).get("rulings", [])
    if not rulings:
        return "The locality loss was off."
    parts = [f"{ruling['mode']} at {len(ruling['positions'])} position(s): {ruling['reason']}" for ruling in rulings]
    return f"The locality loss interpolated by {'; '.join(parts)}."


def _evaluation(folder: Path) -> Evaluation:
    try:
        return Evaluation.from_json(json.loads((folder / EVALUATION).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder / EVALUATION} cannot be read ({error}); write it again with: pti evaluate {folder}"
        ) from error
