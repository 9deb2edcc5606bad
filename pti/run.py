"""A run: its folder, its stages, and how it goes on where it stopped.

::

    config.toml          every setting as it was resolved
    record.json          what happened: versions, data, the gate's decision, how each stage ended, marks
    metrics.jsonl        a line for each step; metrics.parquet is the same as a table, once a stage has ended
    checkpoints/         invert-0000100.safetensors, tune-0000100.safetensors, …
    previews/            invert-0000250.png, … a row for each prompt
    own.safetensors      latents that the frozen model drew, where the settings ask for them; prior.safetensors too

What is exported and evaluated starts from `load_run`::

    run = load_run(folder)
    run.config           Config
    run.model            Model: pivot and low-rank changes in place, float32, frozen (`run.model.pivot`, `run.lora`)
    run.pivots           {token: [Tensor (vectors, width) for each text encoder]}
    run.starts           the same for e₀, the class word's embeddings
    run.held_out         the pictures kept from training
    run.marks            what every output has to say, such as an overridden certificate; usually empty
    run.record           record.json

`pti.sampling.draw(run.model, prompts, seed=…, lora_scale=…)` draws; `run.lora.frozen()` is the base model;
`encode(run.model, [run.model.pivot.in_class(p)])` conditions on the class word.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import clipgeom
from clipgeom._progress import Progress, Quiet
from clipgeom.errors import ConfigError
from pti import checkpoint
from pti.config import fingerprint, read_config, toml_of
from pti.dataset import Pictures, Sample, read_pictures
from pti.engine import Engine
from pti.errors import CheckpointError, TrainingError
from pti.finetune import Drawn, Finetuning
from pti.gate import Decision, decide
from pti.inversion import Inversion
from pti.latents import Latents
from pti.locality import places_of, routes_of
from pti.lora import Lora, add_lora
from pti.metrics_log import MetricsLog
from pti.models import Model, load_model
from pti.pivot import add_pivot
from pti.sampling import draw
from pti.sections import Config

__all__ = ["STAGES", "Run", "execute", "load_run"]

STAGES = ("invert", "tune", "evaluate", "export")
_TRAINED = ("invert", "tune")
_RECORD = "record.json"


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A run as its folder has it; see the description of this module."""

    folder: Path
    config: Config
    model: Model
    lora: Lora
    pivots: dict[str, list[torch.Tensor]]
    starts: dict[str, list[torch.Tensor]]
    held_out: tuple[Sample, ...]
    samples: tuple[Sample, ...]
    marks: tuple[str, ...]
    record: dict[str, Any]


def execute(
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
        Whatever is wrong with the settings, the model, the pictures, or a checkpoint; a loss that is no number.
    """
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise ConfigError(f"there is no stage {unknown[0]!r}; there are: {', '.join(STAGES)}")
    progress = Quiet() if progress is None else progress
    folder = Path(config.run.folder)
    if any(stage in stages for stage in _TRAINED):
        session = _Session(config, folder, progress, root)
        try:
            model = session.invert("invert" in stages)
            if "tune" in stages:
                session.tune(model)
        finally:
            session.engine.close()
        if not session.engine.is_main:
            return folder
    if "evaluate" in stages:
        from pti.evaluate import evaluate_run

        evaluate_run(folder)
    if "export" in stages:
        from pti.export import export_run

        export_run(folder)
    return folder


class _Session:
    """Both training stages of one run, in one process of it."""

    def __init__(self, config: Config, folder: Path, progress: Progress, root: Path | None) -> None:
        self.folder, self.checkpoints = folder, folder / "checkpoints"
        self.engine = Engine(config.engine, folder)
        self.progress = progress if self.engine.is_main else Quiet()
        self.pictures = pictures = read_pictures(config.data)
        for note in pictures.notes:
            self.progress.note(note)
        model, self.config = _prepared(config, pictures, root)
        self._refuse_other_settings()
        self.model = self.engine.place(model)
        self.latents = Latents(self.model, pictures.samples, config.data, seed=config.engine.seed)
        self.log = MetricsLog(folder)
        self.record: dict[str, Any] = {}
        if self.engine.is_main:
            self._open_folder()
        self.engine.wait()
        self.engine.start_trackers(self.config.flat())

    def invert(self, train: bool) -> Model:
        """Stage 1, or what it has left behind."""
        inversion = Inversion(self.engine, self.model, self.latents, self.config)
        found = self._resume(inversion)
        if not train and (found is None or not found.finished):
            raise CheckpointError(f"{self.folder} holds no finished inversion; run pti invert first, or pti run")
        if not inversion.stopped:
            self._drive(inversion)
        self._end("invert", inversion.stopped, inversion.step)
        return inversion.result()

    def tune(self, model: Model) -> Model:
        """Stage 2."""
        decision = self._gate(model)
        tuning = Finetuning(self.engine, model, self.latents, self.config, decision=decision)
        self._resume(tuning)
        if not tuning.stopped:
            self._own_pictures(tuning)
            self._drive(tuning)
        self._end("tune", tuning.stopped, tuning.step)
        return tuning.result()

    def _gate(self, model: Model) -> Decision | None:
        """Ask for the right to interpolate, before anything is computed for it; the answer is written down."""
        settings = self.config.locality
        if settings.mode == "none":
            return None
        captions = sorted({sample.caption for sample in self.pictures.samples})
        routes = routes_of(model, captions, settings.positions)
        decision = decide(settings, model, places_of(model, routes))
        if self.engine.is_main:
            for note in decision.notes(model):
                self.progress.note(f"locality: {note}")
            self.record["locality"] = {"mode": settings.mode, **decision.record(model)}
            marks = ["certificate overridden"] if decision.overridden else []
            self.record["marks"] = sorted({*self.record.get("marks", []), *marks})
            self._write_record()
        return decision

    def _own_pictures(self, tuning: Finetuning) -> None:
        """What the frozen model has to draw beforehand, drawn once; and the pictures of the class."""
        settings, prior = self.config.locality, self.config.prior
        if tuning.decision is not None and settings.inputs == "own":
            tuning.own = self._kept("own", tuning.draw_own, tuning)
        if prior.weight > 0 and prior.source is not None:
            data = replace(self.config.data, source=prior.source, limit=None, held_out=0, caption=prior.prompt)
            pictures = read_pictures(data, needs_token=False)
            tuning.prior = Latents(self.model, pictures.samples, data, seed=self.config.engine.seed)
        elif prior.weight > 0:
            tuning.prior = self._kept("prior", tuning.draw_prior, tuning)

    def _kept(self, name: str, make: Callable[[], Drawn], tuning: Finetuning) -> Drawn:
        from safetensors.torch import load_file, save

        belongs = json.dumps(self._belongs("tune"), sort_keys=True).encode()
        rows = b"".join(row.cpu().numpy().tobytes() for row in tuning.pivot.rows)
        key = hashlib.sha256(belongs + rows).hexdigest()
        path = self.folder / f"{name}.safetensors"
        if self.engine.is_main and not (path.exists() and key in load_file(path)):
            drawn = make()
            captions = np.frombuffer(json.dumps(drawn.captions).encode(), dtype=np.uint8).copy()
            content = {"latents": drawn.latents, "captions": torch.from_numpy(captions), key: torch.zeros(1)}
            checkpoint.write_whole(path, save(content))
        self.engine.wait()
        kept = load_file(path)
        return Drawn(kept["latents"], tuple(json.loads(kept["captions"].numpy().tobytes().decode())))

    def _resume(self, stage: Inversion | Finetuning) -> checkpoint.Checkpoint | None:
        path = checkpoint.latest(self.checkpoints, stage.stage)
        if path is None:
            self._cut(stage.stage, 0)
            return None
        found = checkpoint.load(path)
        found.require(self._belongs(stage.stage))
        stage.restore(found.tensors, found.state)
        self._cut(stage.stage, stage.step)
        if not stage.stopped:
            self.progress.note(f"{stage.stage} goes on after step {stage.step}")
        return found

    def _cut(self, stage: str, step: int) -> None:
        if self.engine.is_main:
            self.log.cut(stage, step)

    def _drive(self, stage: Inversion | Finetuning) -> None:
        """Take the steps of a stage, and keep what has to be kept."""
        every, previews = self.config.run.checkpoint_every, self.config.sampling.every
        self.progress.expect(stage.settings.steps)
        self.progress.skip(stage.step)
        try:
            for record in stage.run():
                if self.engine.is_main:
                    self.log.append(stage.stage, record.values())
                self.engine.log({f"{stage.stage}/{k}": v for k, v in record.values().items()}, record.step)
                if record.stopped or record.step % every == 0:
                    self._save(stage)
                if record.stopped or (previews and record.step % previews == 0):
                    self._preview(stage)
                self.progress(1)
        except TrainingError as error:
            kept = checkpoint.latest(self.checkpoints, stage.stage)
            where = "there is no checkpoint yet" if kept is None else f"the last good checkpoint is {kept}"
            raise TrainingError(f"{stage.stage}: {error}; {where}. Try a lower learning rate") from error
        if self.engine.is_main:
            self.log.write_table()
        self.engine.wait()

    def _save(self, stage: Inversion | Finetuning) -> None:
        if self.engine.is_main:
            checkpoint.save(self.checkpoints, stage.stage, stage.tensors(), stage.state(), self._belongs(stage.stage))
            checkpoint.prune(self.checkpoints, stage.stage, self.config.run.keep)
        self.engine.wait()

    def _preview(self, stage: Inversion | Finetuning) -> None:
        if self.engine.is_main:
            settings = self.config.sampling
            prompts = [p for p in settings.prompts for _ in range(settings.count)]
            if prompts:
                with self.engine.autocast():
                    drawn = draw(
                        stage.result(),
                        prompts,
                        seed=settings.seed,
                        steps=settings.steps,
                        guidance=settings.guidance,
                        size=self.latents.size,
                    )
                path = self.folder / "previews" / f"{stage.stage}-{stage.step:07d}.png"
                save_grid(path, drawn, settings.count, self.record.get("marks", []))
        self.engine.wait()

    def _belongs(self, stage: str) -> dict[str, Any]:
        """What a checkpoint of a stage belongs to: settings, and the content of the data."""
        settings = fingerprint(self.config, stage, processes=self.engine.processes)
        return {**settings, "data (its content)": self.pictures.digest}

    def _refuse_other_settings(self) -> None:
        """Before anything is written: a folder of another configuration is left alone."""
        for stage in _TRAINED:
            path = checkpoint.latest(self.checkpoints, stage)
            if path is not None:
                checkpoint.load(path).require(self._belongs(stage))

    def _open_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_whole(self.folder / "config.toml", toml_of(self.config).encode())
        path = self.folder / _RECORD
        old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.record = {
            "schema": "pti.record/1",
            "model": {"source": self.model.source, "kind": self.model.kind, "prediction": self.model.prediction},
            "concept": {"token": self.config.concept.token, "class_word": self.config.concept.class_word},
            "data": {
                "source": self.config.data.source,
                "sha256": self.pictures.digest,
                "n": len(self.pictures.samples),
                "n_held_out": len(self.pictures.held_out),
                "notes": list(self.pictures.notes),
            },
            "seed": self.config.engine.seed,
            "processes": self.engine.processes,
            "versions": _versions(),
            "marks": [],
            **{key: old[key] for key in ("locality", "stages", "marks") if key in old},
        }
        self._write_record()

    def _end(self, stage: str, why: str, step: int) -> None:
        if self.engine.is_main:
            self.record.setdefault("stages", {})[stage] = {"steps": step, "stopped": why}
            self._write_record()

    def _write_record(self) -> None:
        text = json.dumps(self.record, indent=1, ensure_ascii=False) + "\n"
        checkpoint.write_whole(self.folder / _RECORD, text.encode())


def load_run(folder: str | Path, *, root: Path | None = None, device: str = "cpu") -> Run:
    """A run as far as it has come: its model with pivot and low-rank changes in place.

    Raises
    ------
    CheckpointError
        No run, or one whose inversion has not written a checkpoint.
    """
    folder = Path(folder)
    if not (folder / "config.toml").is_file():
        raise CheckpointError(f"{folder} is no run folder: it holds no config.toml")
    config = read_config(folder)
    pictures = read_pictures(config.data)
    model, config = _prepared(config, pictures, root)
    assert model.pivot is not None
    inverted = checkpoint.latest(folder / "checkpoints", "invert")
    if inverted is None:
        raise CheckpointError(f"{folder} has no checkpoint yet; run pti run {folder} first")
    tensors = checkpoint.load(inverted).tensors
    rows = [tensors[f"parameter.rows.{i}"] for i in range(len(model.encoders))]
    model = replace(model, pivot=model.pivot.with_rows(rows))
    tuned = checkpoint.latest(folder / "checkpoints", "tune")
    if tuned is not None:
        lora = add_lora(model, config.tuning, seed=config.engine.seed)
        stored = checkpoint.load(tuned).tensors
        with torch.no_grad():
            for name, parameter in lora.parameters.items():
                parameter.copy_(stored[f"parameter.{name}"])
    for network in model.networks():
        network.to(device).requires_grad_(False)
    assert model.pivot is not None
    token = model.pivot.token
    record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    return Run(
        folder=folder,
        config=config,
        model=model,
        lora=Lora(model),
        pivots={token: list(model.pivot.rows)},
        starts={token: list(model.pivot.start)},
        held_out=pictures.held_out,
        samples=pictures.samples,
        marks=tuple(record.get("marks", [])),
        record=record,
    )


def save_grid(path: Path, pictures: np.ndarray[Any, Any], columns: int, marks: Sequence[str] = ()) -> None:
    """Write pictures, shape (n, h, w, 3), as one PNG with so many in a row; marks become part of the file's text."""
    import io

    from PIL import Image, PngImagePlugin

    n, height, width, _ = pictures.shape
    rows = -(-n // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * height, i % columns * width
        sheet[top : top + height, left : left + width] = picture
    text = PngImagePlugin.PngInfo()
    for mark in marks:
        text.add_text("pti", mark)
    content = io.BytesIO()
    Image.fromarray(sheet).save(content, "png", pnginfo=text)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_whole(path, content.getvalue())


def _prepared(config: Config, pictures: Pictures, root: Path | None) -> tuple[Model, Config]:
    """The model with the new word, and the settings with what the data knows filled in."""
    word = config.concept.class_word or pictures.class_word
    if not word:
        raise ConfigError("concept.class_word is needed: what the concept is one of, such as knight or dog")
    config = replace(config, concept=replace(config.concept, class_word=word))
    model = load_model(config.model.name, revision=config.model.revision, variant=config.model.variant, root=root)
    concept = config.concept
    model = add_pivot(model, concept.token, word, initializer=concept.initializer, vectors=concept.vectors)
    return model, config


def _versions() -> dict[str, str]:
    names = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy")
    return {"clipgeom": clipgeom.__version__, "python": sys.version.split()[0], **{n: version(n) for n in names}}
