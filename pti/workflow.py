"""A run: its folder, its stages, and how it goes on where it stopped.

::

    config.toml          every setting as it was resolved
    record.json          what happened: versions, data, the gate's decision, how each stage ended, marks
    metrics.jsonl        a line for each step; metrics.parquet is the same as a table, once a stage has ended
    checkpoints/         invert-0000100.safetensors, tune-0000100.safetensors, …
    previews/            invert-0000250.png, … a row for each prompt; focus.png: where errors weigh
    latents.safetensors  the training pictures' latents, fitted to them
    focus.safetensors    the weights of places in the training pictures
    own.safetensors      latents that the frozen model drew, where the settings ask for them; prior.safetensors too

What is exported and evaluated starts from `load_run`::

    run = load_run(folder)
    run.config           Config
    run.model            DiffusionModel with the trained embeddings and the LoRA in place, in float32, frozen
    run.lora             the LoRA's parameters
    run.held_out         the images kept from training
    run.marks            warnings that every output carries, such as an overridden certificate; usually empty
    run.record           record.json

`pti.models.sampling.sample_images(run.model, prompts, seed=…, lora_scale=…)` samples images. Within `run.lora.disabled()`
the model is the base model. `encode_prompts(run.model, [run.model.placeholder.in_class_prompt(prompt)])` puts the class word
in place of the token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipgeom._progress import Progress, Quiet
from clipgeom.errors import ConfigError
from pti._files import write_json
from pti._folder import check_run_folder
from pti._lock import alone
from pti.config.schema import Config
from pti.config.toml_io import read_config
from pti.errors import CheckpointError
from pti.export.files import export_name
from pti.models.token import PLACEHOLDER
from pti.runs import checkpoint
from pti.runs.layout import RECORD, TRAINED
from pti.runs.record import read_record
from pti.runs.threads import as_begun
from pti.training.trainer import Trainer

__all__ = ["STAGES", "run_stage", "run_stages"]

STAGES = (*TRAINED, "evaluate", "export")


def run_stages(
    config: Config, stages: Sequence[str] = STAGES, *, progress: Progress | None = None, root: Path | None = None
) -> Path:
    """Run stages, each from where it stopped; what is finished is not done again.

    Parameters
    ----------
    config : Config
    stages : sequence of str
        Of ``invert``, ``tune``, ``evaluate``, ``export``, in this order.
    progress : Progress, optional
        Told about steps, and what the user should know.
    root : Path, optional
        Another folder of miniworld's weights than the package's.

    Returns
    -------
    Path
        The run folder.

    Raises
    ------
    ClipGeomError
        Whatever is wrong with the settings, the model, the pictures, or a checkpoint; a loss that is no number; another
        process works in the run folder.
    """
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise ConfigError(f"there is no stage {unknown[0]!r}; there are: {', '.join(STAGES)}")
    progress = Quiet() if progress is None else progress
    folder = Path(config.output.dir)
    check_run_folder(folder)
    _refuse_early(config, stages)
    with ExitStack() as locked:
        locked.enter_context(alone(folder))
        if any(stage in stages for stage in TRAINED) and not _train(config, stages, progress, root, locked):
            return folder
        for stage in ("evaluate", "export"):
            if stage in stages:
                _finish_once(stage, folder, progress)
    return folder


def _train(config: Config, stages: Sequence[str], progress: Progress, root: Path | None, locked: ExitStack) -> bool:
    """Train, with the run folder made and locked once nothing is refused; whether this is the main process."""
    folder = Path(config.output.dir)
    if "invert" not in stages and checkpoint.latest(folder / "checkpoints", "invert") is None:
        raise CheckpointError(f"{folder} holds no finished inversion; run pti invert first, or pti run")
    locked.enter_context(as_begun(folder))
    session = Trainer(config, folder, progress, root)
    try:
        if "tune" in stages:
            session.prepare_tuning()
        if session.engine.is_main:
            locked.enter_context(alone(folder, make=True))
        session.open()
        model = session.invert("invert" in stages)
        if "tune" in stages:
            session.tune(model)
    finally:
        session.engine.close()
    return session.engine.is_main


def run_stage(stage: str, folder: Path, progress: Progress | None = None) -> Path:
    """Evaluate or export a trained run; what that takes is imported now, not with the trainer."""
    from pti.evaluation.run import evaluate_run
    from pti.export.run import export_run

    return evaluate_run(folder, progress=progress) if stage == "evaluate" else export_run(folder)


def _refuse_early(config: Config, stages: Sequence[str]) -> None:
    """What evaluation and export would refuse after hours of training."""
    if "evaluate" in stages:
        prompts = config.evaluation.prompts
        if not prompts:
            raise ConfigError("evaluation.prompts is empty; leave it out to have its default")
        for prompt in prompts:
            if PLACEHOLDER not in prompt:
                raise ConfigError(f"evaluation.prompts has {prompt!r}, which lacks {PLACEHOLDER}")
    export_name(config.export.name, config.concept.placeholder_token)  # `pti export` may follow any stage


def _finish_once(stage: str, folder: Path, progress: Progress) -> None:
    """Do it unless it has been done for the checkpoint and the settings that are there."""
    of = _made_of(stage, folder)
    done = read_record(folder).get("stages", {}).get(stage, {}) if (folder / RECORD).exists() else {}
    if of is not None and done.get("of") == of:
        return
    run_stage(stage, folder, progress)
    record = read_record(folder)  # what it did may have been written down
    record.setdefault("stages", {})[stage] = {"of": of}
    write_json(folder / RECORD, record)


def _made_of(stage: str, folder: Path) -> str | None:
    """What decides the outcome of a stage after training, in a few letters."""
    tuned = checkpoint.latest(folder / "checkpoints", "tune")
    if tuned is None:
        return None
    config, measured = read_config(folder), folder / "evaluation.json"
    sampling = config.sampling
    settings: list[Any] = [asdict(config.evaluation), sampling.num_inference_steps, sampling.guidance_scale]
    if stage == "export":
        settings = [asdict(config.export), asdict(sampling)]
    content = tuned.read_bytes() + json.dumps(settings, sort_keys=True).encode()
    if stage == "export" and measured.exists():
        content += measured.read_bytes()  # for the card
    return hashlib.sha256(content).hexdigest()[:16]
