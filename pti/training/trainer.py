"""One process of a run in training: both stages, their checkpoints, records and previews.

Stages yield what they did; everything that is kept of it is kept here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipgeom._io.files import write_whole
from clipgeom._progress import Progress, Quiet
from clipgeom.errors import ConfigError
from pti._files import write_json
from pti._folder import HEADER
from pti._tensors import packed, unpacked
from pti.config.identity import fingerprint
from pti.config.schema import Config
from pti.config.toml_io import toml_of
from pti.data.dataset import read_images
from pti.data.latent_cache import LatentCache
from pti.errors import CheckpointError, DataError, TrainingError
from pti.locality.alignment import align_prompts, interpolated_positions
from pti.locality.certification import InterpolationPlan, plan_interpolation
from pti.losses import timestep_range
from pti.models.lora import base_weights_sha256, check_targets
from pti.models.pipeline import DiffusionModel
from pti.models.prompt_embeds import tokenize
from pti.models.sampling import sample_images
from pti.runs import checkpoint
from pti.runs.image_grid import save_image_grid
from pti.runs.layout import RECORD, TRAINED
from pti.runs.metrics_log import MetricsLog
from pti.runs.record import read_record, versions
from pti.runs.run import load_concept_model
from pti.training.accelerator import Runtime
from pti.training.concept_mask import class_word_saliency, loss_weights, overlay
from pti.training.generated_images import GeneratedLatents
from pti.training.lora_tuning import LoraTuning
from pti.training.textual_inversion import TextualInversion

__all__ = ["Trainer"]

_KEPT = "pti.kept/1"
_RULINGS = "locality (its rulings)"
_COLUMNS = 8  # of pictures in previews/focus.png


class Trainer:
    """Both training stages of one run, in one process of it."""

    def __init__(self, config: Config, folder: Path, progress: Progress, root: Path | None) -> None:
        self.folder, self.checkpoints = folder, folder / "checkpoints"
        self.record: dict[str, Any] = {}
        self.decision: InterpolationPlan | None = None
        self.prior: LatentCache | None = None
        self.steps_before = 0  # of earlier stages: trackers want one count that only rises
        self.engine = Runtime(config.runtime, folder)
        self.progress = progress if self.engine.is_main else Quiet()
        self.pictures = pictures = read_images(config.data)
        for note in pictures.notes:
            self.progress.note(note)
        model, self.config = load_concept_model(config, pictures, root)
        self.model = self.engine.prepare(model)
        self.weights = base_weights_sha256(self.model)
        self._refuse_other_settings()
        self._check_prompts()
        self._check_levels()
        self.latents = LatentCache(
            self.model,
            pictures.samples,
            config.data,
            seed=config.runtime.seed,
            templates=config.experimental.prompt_templates,
        )
        if config.data.resolution not in (None, self.latents.size):
            self.progress.note(
                f"data.resolution = {config.data.resolution} becomes {self.latents.size}, a multiple of {self.model.factor}"
            )
        self.log = MetricsLog(folder)

    def open(self) -> None:
        """Make the run folder. Until here nothing is written, so that nothing is left of a run that is refused."""
        if self.engine.is_main:
            self._refuse_other_settings()  # another process may have trained here since
            self._open_folder()
        self.engine.wait_for_everyone()
        self.engine.start_trackers(self.config.flat())

    def invert(self, train: bool) -> DiffusionModel:
        """Stage 1, or what it has left behind."""
        self._fit()
        self._focus()
        inversion = TextualInversion(self.engine, self.model, self.latents, self.config)
        found = self._resume(inversion)
        if not train and (found is None or not found.finished):
            raise CheckpointError(f"{self.folder} holds no finished inversion; run pti invert first, or pti run")
        if not inversion.stopped:
            self._drive(inversion)
        self._end("invert", inversion.stopped, inversion.step)
        self.steps_before = inversion.step
        return inversion.result()

    def tune(self, model: DiffusionModel) -> DiffusionModel:
        """Stage 2."""
        tuning = LoraTuning(self.engine, model, self.latents, self.config, decision=self.decision, digest=self.weights)
        self._resume(tuning)
        if not tuning.stopped:
            self._own_pictures(tuning)
            self._drive(tuning)
        self._end("tune", tuning.stopped, tuning.step)
        return tuning.result()

    def prepare_tuning(self) -> None:
        """What can be refused about stage 2 is refused before stage 1; the gate's answer is kept for the record."""
        check_targets(self.model, self.config.lora)
        settings, prior = self.config.locality, self.config.prior_preservation
        if prior.weight > 0 and prior.class_images is not None:
            data = replace(
                self.config.data,
                source=prior.class_images,
                max_images=None,
                holdout=0,
                instance_prompt=prior.class_prompt,
                caption_tag_dropout_rate=0.0,
                latent_refinement_steps=0,
            )
            try:
                pictures = read_images(data, needs_token=False)
            except DataError as error:
                raise DataError(f"prior_preservation.class_images: {error}") from error
            self.prior = LatentCache(self.model, pictures.samples, data, seed=self.config.runtime.seed)
        if settings.interpolation == "none":
            return
        captions = self.latents.captions(exchanged=settings.mix_captions)
        routes = align_prompts(self.model, captions, self.config.experimental.locality_positions)
        self.decision = decision = plan_interpolation(settings, self.model, interpolated_positions(self.model, routes))
        for note in decision.notes(self.model):
            self.progress.note(f"locality: {note}")
        self.record["locality"] = {"mode": settings.interpolation, **decision.record(self.model)}
        self.record["marks"] = ["certificate overridden"] if decision.overridden else []

    def _fit(self) -> None:
        """Latents that are fitted to their pictures, which takes a while; computed once."""
        if self.config.data.latent_refinement_steps:
            kept = self._made_once("latents", "invert", b"", lambda: {"means": self.latents.means().cpu()})
            self.latents.take(kept["means"].to(self.engine.device))

    def _focus(self) -> None:
        """Weights of places in the training pictures, by the frozen model before any change of it; computed once."""
        if self.config.loss.unmasked_weight == 1:
            return
        kept = self._made_once("focus", "invert", b"", self._look)
        for view, cells in zip(self.latents.unmirrored_views, kept["weights"].to(self.engine.device), strict=True):
            self.latents.set_loss_weights(view, cells)

    def _look(self) -> dict[str, torch.Tensor]:
        """Where the concept is in every cut-out, and a picture of it for who wants to see."""
        made = []
        shown = []
        for view in self.latents.unmirrored_views:
            found = class_word_saliency(self.engine, self.model, self.latents, view, seed=self.config.runtime.seed)
            if not found.max() > 0:
                name = self.pictures.samples[view.sample].name
                self.progress.note(f"focus: the class word changes nothing in {name}, which is trained on as a whole")
            made.append(loss_weights(found, self.config.loss.unmasked_weight))
            shown.append(overlay(self.latents.pixels(view)[0], made[-1]))
        save_image_grid(self.folder / "previews" / "focus.png", np.stack(shown), min(len(shown), _COLUMNS))
        return {"weights": torch.stack(made).cpu()}

    def _own_pictures(self, tuning: LoraTuning) -> None:
        """What the frozen model has to draw beforehand, drawn once."""
        if tuning.decision is not None and self.config.experimental.locality_inputs == "generated":
            tuning.own = self._kept("own", tuning.generate_own, tuning)
        if self.config.prior_preservation.weight > 0:
            tuning.prior = self.prior or self._kept("prior", tuning.generate_prior, tuning)

    def _kept(self, name: str, make: Callable[[], GeneratedLatents], tuning: LoraTuning) -> GeneratedLatents:
        def tensors() -> dict[str, torch.Tensor]:
            drawn = make()
            captions = np.frombuffer(json.dumps(drawn.captions).encode(), dtype=np.uint8).copy()
            return {"latents": drawn.latents, "captions": torch.from_numpy(captions)}

        rows = b"".join(row.cpu().numpy().tobytes() for row in tuning.pivot.embeddings)
        kept = self._made_once(name, "tune", rows, tensors)
        return GeneratedLatents(kept["latents"], tuple(json.loads(kept["captions"].numpy().tobytes().decode())))

    def _made_once(
        self, name: str, stage: str, more: bytes, make: Callable[[], dict[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """Tensors that the main process makes and keeps, for what a stage belongs to and the bytes `more`."""
        belongs = json.dumps(self._belongs(stage), sort_keys=True).encode()
        header = {"schema": _KEPT, "name": name, "of": hashlib.sha256(belongs + more).hexdigest()}
        path = self.folder / f"{name}.safetensors"
        if self.engine.is_main:
            try:
                tensors, found = unpacked(path)
                if found == header:
                    self.engine.wait_for_everyone()
                    return tensors
            except FileNotFoundError:
                pass
            except ValueError as error:
                self.progress.note(f"{path} is damaged ({error}); made anew")
            write_whole(path, packed(make(), header))
        self.engine.wait_for_everyone()
        return unpacked(path)[0]

    def _resume(self, stage: TextualInversion | LoraTuning) -> checkpoint.Checkpoint | None:
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
            damaged = self.log.cut(stage, step)
            if damaged:
                self.progress.note(f"{self.log.lines} has {damaged} damaged line(s), which are left out")

    def _drive(self, stage: TextualInversion | LoraTuning) -> None:
        """Take the steps of a stage, and keep what has to be kept."""
        every, previews = self.config.output.checkpointing_steps, self.config.validation.every_n_steps
        self.progress.expect(stage.settings.steps)
        self.progress.skip(stage.step)
        try:
            for record in stage.run():
                if self.engine.is_main:
                    self.log.append(stage.stage, record.values())
                told = {f"{stage.stage}/{key}": value for key, value in record.values().items()}
                self.engine.log(told, self.steps_before + record.step)
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
        self.engine.wait_for_everyone()

    def _save(self, stage: TextualInversion | LoraTuning) -> None:
        if self.engine.is_main:
            checkpoint.save(self.checkpoints, stage.stage, stage.tensors(), stage.state(), self._belongs(stage.stage))
            checkpoint.prune(self.checkpoints, stage.stage, self.config.output.checkpoints_total_limit)
        self.engine.wait_for_everyone()

    def _preview(self, stage: TextualInversion | LoraTuning) -> None:
        if self.engine.is_main:
            settings, sampler = self.config.validation, self.config.sampler
            prompts = [p for p in settings.prompts for _ in range(settings.images_per_prompt)]
            if prompts:
                with self.engine.autocast(), stage.evaluation_weights() as model:
                    drawn = sample_images(
                        model,
                        prompts,
                        seed=settings.seed,
                        steps=sampler.num_inference_steps,
                        guidance=sampler.guidance_scale,
                        size=self.latents.size,
                    )
                path = self.folder / "previews" / f"{stage.stage}-{stage.step:07d}.png"
                save_image_grid(path, drawn, settings.images_per_prompt, self.record.get("marks", []))
        self.engine.wait_for_everyone()

    def _belongs(self, stage: str) -> dict[str, Any]:
        """What a checkpoint of a stage belongs to: settings, the content of the data, the weights it started from."""
        belongs = fingerprint(self.config, stage, processes=self.engine.processes)
        belongs |= {"data (its content)": self.pictures.digest, "model (its weights)": self.weights}
        if stage == "tune" and self.decision is not None:
            belongs[_RULINGS] = self.decision.digest()
        return belongs

    def _refuse_other_settings(self) -> None:
        """Before anything is written: a folder of another configuration is left alone."""
        for stage in TRAINED:
            path = checkpoint.latest(self.checkpoints, stage)
            if path is not None:
                found = checkpoint.load(path)
                later = {_RULINGS: found.belongs[_RULINGS]} if _RULINGS in found.belongs else {}  # not decided yet
                found.require({**self._belongs(stage), **later})

    def _check_prompts(self) -> None:
        """A prompt that is too long is refused now, and by name, rather than at the first preview."""
        assert self.model.placeholder is not None
        prompts = [
            (f"the caption of {sample.name}", sample.caption)
            for sample in (*self.pictures.samples, *self.pictures.held_out)
        ]
        for name in ("validation", "evaluation"):
            prompts += [(f"one of {name}.prompts", prompt) for prompt in getattr(self.config, name).prompts]
        for name, prompt in prompts:
            for encoder in self.model.encoders:
                try:
                    tokenize(encoder, [self.model.placeholder.in_prompt(prompt)])
                except ConfigError as error:
                    raise ConfigError(f"{name} is too long: {error}") from error

    def _check_levels(self) -> None:
        levels = len(self.model.alphas_cumprod)
        timestep_range(self.config.loss, levels)
        if self.config.sampler.num_inference_steps > levels:
            raise ConfigError(
                f"sampler.num_inference_steps is at most {levels}, the noise levels of {self.model.source}; "
                f"got {self.config.sampler.num_inference_steps}"
            )

    def _open_folder(self) -> None:
        path = self.folder / RECORD
        old = read_record(self.folder) if path.exists() else {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the folder {self.folder} ({error.strerror}); give another --out") from error
        write_whole(self.folder / "config.toml", (HEADER + toml_of(self.config)).encode())
        self.record = {
            **old,  # how its stages ended, what was decided and measured
            **self.record,
            "marks": sorted({*old.get("marks", []), *self.record.get("marks", [])}),
            "schema": "pti.record/1",
            "model": {"source": self.model.source, "kind": self.model.kind, "prediction": self.model.prediction},
            "concept": {"token": self.config.concept.placeholder_token, "class_word": self.config.concept.class_word},
            "data": {
                "source": self.config.data.source,
                "sha256": self.pictures.digest,
                "n": len(self.pictures.samples),
                "n_held_out": len(self.pictures.held_out),
                "notes": list(self.pictures.notes),
            },
            "seed": self.config.runtime.seed,
            "processes": self.engine.processes,
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }
        self._write_record()

    def _end(self, stage: str, why: str, step: int) -> None:
        self.record.setdefault("stages", {})[stage] = {"steps": step, "stopped": why}
        self._write_record()

    def _write_record(self) -> None:
        if self.engine.is_main:
            write_json(self.folder / RECORD, self.record)
