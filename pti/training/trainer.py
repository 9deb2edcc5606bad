"""The trainer: runs both stages in one process, and writes checkpoints, metrics, previews and the record.

A stage yields the metrics of each step; it writes no files itself.
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

_CACHED = "pti.kept/1"
_RULINGS = "locality (its rulings)"
_COLUMNS = 8  # images in a row of previews/focus.png


class Trainer:
    """Both training stages of one run, in one process of it."""

    def __init__(self, config: Config, folder: Path, progress: Progress, root: Path | None) -> None:
        self.folder, self.checkpoints = folder, folder / "checkpoints"
        self.record: dict[str, Any] = {}
        self.decision: InterpolationPlan | None = None
        self.prior: LatentCache | None = None
        self.steps_before = 0  # steps of earlier stages: trackers need one count that only increases
        self.engine = Runtime(config.runtime, folder)
        self.progress = progress if self.engine.is_main else Quiet()
        self.images = images = read_images(config.data)
        for note in images.notes:
            self.progress.note(note)
        model, self.config = load_concept_model(config, images, root)
        self.model = self.engine.prepare(model)
        self.weights = base_weights_sha256(self.model)
        self._refuse_other_settings()
        self._check_prompts()
        self._check_timesteps()
        self.latents = LatentCache(
            self.model,
            images.samples,
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
        """Make the run folder; the checks before write no files, so a refused run leaves nothing behind."""
        if self.engine.is_main:
            self._refuse_other_settings()  # another process may have trained in the folder since the first check
            self._open_folder()
        self.engine.wait_for_everyone()
        self.engine.start_trackers(self.config.flat())

    def invert(self, train: bool) -> DiffusionModel:
        """Run stage 1, or load its result."""
        self._load_refined_latents()
        self._load_concept_masks()
        inversion = TextualInversion(self.engine, self.model, self.latents, self.config)
        found = self._resume(inversion)
        if not train and (found is None or not found.finished):
            raise CheckpointError(f"{self.folder} has no finished inversion; run pti invert first, or pti run")
        if not inversion.stopped:
            self._run_stage(inversion)
        self._end("invert", inversion.stopped, inversion.step)
        self.steps_before = inversion.step
        return inversion.result()

    def tune(self, model: DiffusionModel) -> DiffusionModel:
        """Run stage 2."""
        tuning = LoraTuning(self.engine, model, self.latents, self.config, decision=self.decision, digest=self.weights)
        self._resume(tuning)
        if not tuning.stopped:
            self._load_generated_images(tuning)
            self._run_stage(tuning)
        self._end("tune", tuning.stopped, tuning.step)
        return tuning.result()

    def prepare_tuning(self) -> None:
        """Check the settings of stage 2 before stage 1 starts, and plan the interpolation of the locality loss."""
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
                images = read_images(data, needs_token=False)
            except DataError as error:
                raise DataError(f"prior_preservation.class_images: {error}") from error
            self.prior = LatentCache(self.model, images.samples, data, seed=self.config.runtime.seed)
        if settings.interpolation == "none":
            return
        captions = self.latents.captions(exchanged=settings.mix_captions)
        routes = align_prompts(self.model, captions, self.config.experimental.locality_positions)
        self.decision = decision = plan_interpolation(settings, self.model, interpolated_positions(self.model, routes))
        for note in decision.notes(self.model):
            self.progress.note(f"locality: {note}")
        self.record["locality"] = {"mode": settings.interpolation, **decision.record(self.model)}
        self.record["marks"] = ["certificate overridden"] if decision.overridden else []

    def _load_refined_latents(self) -> None:
        """Refine the latents of the training images, or load them; refining takes minutes."""
        if self.config.data.latent_refinement_steps:
            cached = self._cached_tensors("latents", "invert", b"", lambda: {"means": self.latents.means().cpu()})
            self.latents.take(cached["means"].to(self.engine.device))

    def _load_concept_masks(self) -> None:
        """Compute the concept masks with the base model, or load them."""
        if self.config.loss.unmasked_weight == 1:
            return
        cached = self._cached_tensors("focus", "invert", b"", self._concept_masks)
        for view, cells in zip(self.latents.unmirrored_views, cached["weights"].to(self.engine.device), strict=True):
            self.latents.set_loss_weights(view, cells)

    def _concept_masks(self) -> dict[str, torch.Tensor]:
        """Compute the loss weights of every crop, and write them as previews/focus.png."""
        masks, overlays = [], []
        for view in self.latents.unmirrored_views:
            saliency = class_word_saliency(self.engine, self.model, self.latents, view, seed=self.config.runtime.seed)
            if not saliency.max() > 0:
                name = self.images.samples[view.sample].name
                self.progress.note(
                    f"loss.unmasked_weight: no concept mask for {name}, where the class word changes no prediction"
                )
            masks.append(loss_weights(saliency, self.config.loss.unmasked_weight))
            overlays.append(overlay(self.latents.pixels(view)[0], masks[-1]))
        save_image_grid(self.folder / "previews" / "focus.png", np.stack(overlays), min(len(overlays), _COLUMNS))
        return {"weights": torch.stack(masks).cpu()}

    def _load_generated_images(self, tuning: LoraTuning) -> None:
        """Generate the images that stage 2 needs from the base model, or load them."""
        if tuning.decision is not None and self.config.experimental.locality_inputs == "generated":
            tuning.own = self._generated("own", tuning.generate_own, tuning)
        if self.config.prior_preservation.weight > 0:
            tuning.prior = self.prior or self._generated("prior", tuning.generate_prior, tuning)

    def _generated(self, name: str, make: Callable[[], GeneratedLatents], tuning: LoraTuning) -> GeneratedLatents:
        def tensors() -> dict[str, torch.Tensor]:
            generated = make()
            captions = np.frombuffer(json.dumps(generated.captions).encode(), dtype=np.uint8).copy()
            return {"latents": generated.latents, "captions": torch.from_numpy(captions)}

        rows = b"".join(row.cpu().numpy().tobytes() for row in tuning.pivot.embeddings)
        cached = self._cached_tensors(name, "tune", rows, tensors)
        return GeneratedLatents(cached["latents"], tuple(json.loads(cached["captions"].numpy().tobytes().decode())))

    def _cached_tensors(
        self, name: str, stage: str, more: bytes, make: Callable[[], dict[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """Load tensors from the run folder; the main process computes them if their identity or `more` has changed."""
        identity = json.dumps(self._checkpoint_identity(stage), sort_keys=True).encode()
        header = {"schema": _CACHED, "name": name, "of": hashlib.sha256(identity + more).hexdigest()}
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
                self.progress.note(f"{path} is damaged ({error}); computing it again")
            write_whole(path, packed(make(), header))
        self.engine.wait_for_everyone()
        return unpacked(path)[0]

    def _resume(self, stage: TextualInversion | LoraTuning) -> checkpoint.Checkpoint | None:
        path = checkpoint.latest(self.checkpoints, stage.stage)
        if path is None:
            self._truncate_log(stage.stage, 0)
            return None
        found = checkpoint.load(path)
        found.require(self._checkpoint_identity(stage.stage))
        stage.restore(found.tensors, found.state)
        self._truncate_log(stage.stage, stage.step)
        if not stage.stopped:
            self.progress.note(f"{stage.stage} continues after step {stage.step}")
        return found

    def _truncate_log(self, stage: str, step: int) -> None:
        if self.engine.is_main:
            damaged = self.log.cut(stage, step)
            if damaged:
                self.progress.note(f"{self.log.lines} has {damaged} damaged line(s); they are removed")

    def _run_stage(self, stage: TextualInversion | LoraTuning) -> None:
        """Train a stage to its end, and write metrics, checkpoints and previews."""
        every, previews = self.config.output.checkpointing_steps, self.config.validation.every_n_steps
        self.progress.expect(stage.settings.steps)
        self.progress.skip(stage.step)
        try:
            for record in stage.run():
                # Log the metrics of the step.
                if self.engine.is_main:
                    self.log.append(stage.stage, record.values())
                metrics = {f"{stage.stage}/{key}": value for key, value in record.values().items()}
                self.engine.log(metrics, self.steps_before + record.step)

                # Save a checkpoint, and generate previews.
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
            checkpoint.save(
                self.checkpoints, stage.stage, stage.tensors(), stage.state(), self._checkpoint_identity(stage.stage)
            )
            checkpoint.prune(self.checkpoints, stage.stage, self.config.output.checkpoints_total_limit)
        self.engine.wait_for_everyone()

    def _preview(self, stage: TextualInversion | LoraTuning) -> None:
        if self.engine.is_main:
            settings, sampler = self.config.validation, self.config.sampler
            prompts = [p for p in settings.prompts for _ in range(settings.images_per_prompt)]
            if prompts:
                with self.engine.autocast(), stage.evaluation_weights() as model:
                    samples = sample_images(
                        model,
                        prompts,
                        seed=settings.seed,
                        steps=sampler.num_inference_steps,
                        guidance=sampler.guidance_scale,
                        size=self.latents.size,
                    )
                path = self.folder / "previews" / f"{stage.stage}-{stage.step:07d}.png"
                save_image_grid(path, samples, settings.images_per_prompt, self.record.get("marks", []))
        self.engine.wait_for_everyone()

    def _checkpoint_identity(self, stage: str) -> dict[str, Any]:
        """Return what a checkpoint of a stage depends on: settings, content of the data, base weights."""
        identity = fingerprint(self.config, stage, processes=self.engine.processes)
        identity |= {"data (its content)": self.images.digest, "model (its weights)": self.weights}
        if stage == "tune" and self.decision is not None:
            identity[_RULINGS] = self.decision.digest()
        return identity

    def _refuse_other_settings(self) -> None:
        """Refuse a run folder with checkpoints of another configuration."""
        for stage in TRAINED:
            path = checkpoint.latest(self.checkpoints, stage)
            if path is not None:
                found = checkpoint.load(path)
                later = {_RULINGS: found.belongs[_RULINGS]} if _RULINGS in found.belongs else {}  # not decided yet
                found.require({**self._checkpoint_identity(stage), **later})

    def _check_prompts(self) -> None:
        """Refuse prompts that are too long before training, not at the first preview."""
        assert self.model.placeholder is not None
        prompts = [
            (f"the caption of {sample.name}", sample.caption)
            for sample in (*self.images.samples, *self.images.held_out)
        ]
        for name in ("validation", "evaluation"):
            prompts += [(f"one of {name}.prompts", prompt) for prompt in getattr(self.config, name).prompts]
        for name, prompt in prompts:
            for encoder in self.model.encoders:
                try:
                    tokenize(encoder, [self.model.placeholder.in_prompt(prompt)])
                except ConfigError as error:
                    raise ConfigError(f"{name} is too long: {error}") from error

    def _check_timesteps(self) -> None:
        n_timesteps = len(self.model.alphas_cumprod)
        timestep_range(self.config.loss, n_timesteps)
        if self.config.sampler.num_inference_steps > n_timesteps:
            raise ConfigError(
                f"sampler.num_inference_steps is at most {n_timesteps}, the timesteps of {self.model.source}; "
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
            **old,  # results of earlier commands
            **self.record,
            "marks": sorted({*old.get("marks", []), *self.record.get("marks", [])}),
            "schema": "pti.record/1",
            "model": {"source": self.model.source, "kind": self.model.kind, "prediction": self.model.prediction},
            "concept": {"token": self.config.concept.placeholder_token, "class_word": self.config.concept.class_word},
            "data": {
                "source": self.config.data.source,
                "sha256": self.images.digest,
                "n": len(self.images.samples),
                "n_held_out": len(self.images.held_out),
                "notes": list(self.images.notes),
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
