"""A run loaded from its folder: settings, and the model with placeholder token and LoRA."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from clipgeom._repr import short_repr
from clipgeom.errors import ConfigError
from pti.config.schema import Config
from pti.config.toml_io import read_config
from pti.data.dataset import ImageSet, Sample, read_images
from pti.errors import CheckpointError
from pti.models.lora import Lora, add_lora
from pti.models.pipeline import DiffusionModel, load_pipeline
from pti.models.placeholder import add_placeholder_token
from pti.runs import checkpoint
from pti.runs.ema_weights import averages_in
from pti.runs.record import read_record

__all__ = ["Run", "load_concept_model", "load_run"]


@short_repr
@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A run loaded from its folder; `pti.workflow` describes the fields."""

    folder: Path
    config: Config
    model: DiffusionModel
    lora: Lora
    held_out: tuple[Sample, ...]
    samples: tuple[Sample, ...]
    marks: tuple[str, ...]
    record: dict[str, Any]


def load_run(folder: str | Path, *, root: Path | None = None, device: str = "cpu", images: bool = True) -> Run:
    """Load a run at its latest checkpoint, with the trained embeddings and the LoRA in the model.

    Without `images`, the training images are not read and may be missing.

    Raises
    ------
    CheckpointError
        There is no run, or its inversion has not written a checkpoint.
    """
    folder = Path(folder)
    if not (folder / "config.toml").is_file():
        raise CheckpointError(f"{folder} is no run folder: it has no config.toml")
    config = read_config(folder)
    data = read_images(config.data) if images else ImageSet((), (), "")
    model, config = load_concept_model(config, data, root)
    assert model.placeholder is not None
    inverted = checkpoint.latest(folder / "checkpoints", "invert")
    if inverted is None:
        raise CheckpointError(f"{folder} has no checkpoint yet; run pti run {folder} first")
    tensors = checkpoint.load(inverted).tensors
    rows = [tensors[f"parameter.rows.{i}"] for i in range(len(model.encoders))]
    model = replace(model, placeholder=model.placeholder.with_embeddings(rows))
    tuned = checkpoint.latest(folder / "checkpoints", "tune")
    if tuned is not None:
        lora = add_lora(model, config.lora, seed=config.runtime.seed)
        stored = checkpoint.load(tuned).tensors
        averaged = averages_in(stored)
        with torch.no_grad():
            for name, parameter in lora.parameters.items():
                parameter.copy_(averaged[name] if averaged else stored[f"parameter.{name}"])
    for network in model.networks():
        network.to(device).requires_grad_(False)
    record = read_record(folder)
    return Run(
        folder=folder,
        config=config,
        model=model,
        lora=Lora(model),
        held_out=data.held_out,
        samples=data.samples,
        marks=tuple(record.get("marks", [])),
        record=record,
    )


def load_concept_model(config: Config, images: ImageSet, root: Path | None) -> tuple[DiffusionModel, Config]:
    """Load the model with its placeholder token, and fill in the class word that the data defines."""
    word = config.concept.class_word or images.class_word
    if not word:
        raise ConfigError("concept.class_word is not set; set it to the class of the concept, such as knight or dog")
    config = replace(config, concept=replace(config.concept, class_word=word))
    model = load_pipeline(
        config.model.pretrained_model, revision=config.model.revision, variant=config.model.variant, root=root
    )
    concept = config.concept
    model = add_placeholder_token(
        model, concept.placeholder_token, word, initializer=concept.initializer_token, vectors=concept.num_vectors
    )
    return model, config


def finished_run(folder: str | Path, root: Path | None) -> Run:
    """Load a run whose training has finished, on the GPU if there is one."""
    run = load_run(folder, root=root, device="cuda" if torch.cuda.is_available() else "cpu")
    tuned = checkpoint.latest(run.folder / "checkpoints", "tune")
    if tuned is None or not checkpoint.load(tuned).finished:
        raise CheckpointError(f"{folder} is not trained to its end; continue with: pti run {folder} --until tune")
    return run
