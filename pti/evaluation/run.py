"""What is made of a trained run: measures in ``evaluation.json``, and a folder of files for other tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipgeom import Certificate
from clipgeom._progress import Progress, Quiet
from clipgeom.errors import ClipGeomError, ConfigError
from pti._lock import locked
from pti.data.dataset import MINIWORLD
from pti.data.latent_cache import Latents, View, pixels
from pti.errors import CheckpointError
from pti.evaluation.evaluate import Evaluation, Judges, evaluate_pictures
from pti.evaluation.judges import (
    ClipJudge,
    DinoJudge,
    FactorReader,
    Pictures,
    TextJudge,
    ZeroShotReader,
    character_values,
)
from pti.evaluation.metrics import Estimate, mean_estimate
from pti.export.files import export_name, save_embedding, save_lora
from pti.export.model_card import Concept, Preview, metric_rows, write_model_card
from pti.losses import denoising_loss, noised, predict, target_of
from pti.models.prompt_embeds import encode
from pti.models.sampling import draw
from pti.runs import checkpoint
from pti.runs.image_grid import save_grid
from pti.training.batches import rng_of
from pti.training.trainer import write_json
from pti.workflow import Run, load_run

__all__ = ["EVALUATION", "EXPORT", "evaluate_run", "export_run", "held_out_loss"]

EVALUATION = "evaluation.json"
EXPORT = "export"
_CLIP = "openai/clip-vit-large-patch14"
_LEVELS = 16  # noise levels at which held-out pictures are denoised, spread over the schedule


@locked
def evaluate_run(folder: str | Path, *, root: Path | None = None, progress: Progress | None = None) -> Path:
    """Draw the prompts of ``[evaluation]`` with the token and with the class word, and measure; to ``evaluation.json``.

    The class word's pictures come from the frozen model, both sides from the same noise; and once more from the tuned model,
    from other noise, to tell what has become of the class word.

    Parameters
    ----------
    folder : str or Path
        A run folder.
    root : Path, optional
        Another folder of miniworld's weights than the package's.
    progress : Progress, optional

    Raises
    ------
    CheckpointError
        The run is not trained to its end.
    ConfigError
        An attribute named as learnt is not one that is read.
    EncoderError
        A judge that the settings name cannot be loaded.
    """
    progress = Quiet() if progress is None else progress
    run = _finished(folder, root)
    settings, sampling = run.config.evaluation, run.config.sampling
    judges, absent = _judges(run, root)
    if not judges.text:
        progress.note(f"evaluation without CLIP: {absent['CLIP']}")
    n = len(settings.prompts)
    progress.expect(3 * settings.count * n, "drawn", "pictures")
    drawn: list[dict[str, Pictures]] = []
    for scale, word, first in ((1.0, "{token}", 0), (0.0, "{class}", 0), (1.0, "{class}", n)):
        drawn.append({})
        for number, prompt in enumerate(settings.prompts, start=first):
            drawn[-1][prompt] = draw(
                run.model,
                [prompt.replace("{token}", word)] * settings.count,
                seed=int(rng_of(settings.seed, "evaluation", number).integers(2**31)),
                steps=sampling.steps,
                guidance=sampling.guidance,
                lora_scale=scale,
                size=run.config.data.size,
            )
            progress(settings.count)
    assert run.config.concept.class_word is not None  # a trained run knows it
    of_token, of_class, of_class_tuned = drawn
    evaluation = evaluate_pictures(
        of_token,
        of_class,
        _training_pictures(run),
        class_word=run.config.concept.class_word,
        judges=judges,
        tuned_class_pictures=of_class_tuned,
        learnt=_learnt(run, judges),
        said={p: judges.reader.said(p) for p in settings.prompts} if isinstance(judges.reader, FactorReader) else None,
        seed=settings.seed,
    )
    content = {"schema": "pti.evaluation/1", **evaluation.to_json()}
    content["left_out"] |= absent
    content["marks"] = list(run.marks)
    losses = held_out_loss(run)
    content["held_out_loss"] = {name: asdict(estimate) for name, estimate in losses.items()}
    if not losses:
        content["left_out"]["held_out_loss"] = "no picture was kept from training; see data.held_out"
    path = run.folder / EVALUATION
    write_json(path, content)
    save_grid(
        run.folder / "previews" / "evaluation.png",
        np.concatenate([of_token[prompt] for prompt in settings.prompts]),
        settings.count,
        run.marks,
    )
    return path


@locked
def export_run(folder: str | Path, *, root: Path | None = None) -> Path:
    """Write ``export/``: the embedding, the LoRA in diffusers' and kohya's keys, previews, and the model card.

    Raises
    ------
    CheckpointError
        The run is not trained to its end.
    ConfigError
        A name that diffusers would pass over.
    """
    run = _finished(folder, root)
    settings, concept = run.config.export, run.config.concept
    target = run.folder / EXPORT
    name = export_name(settings.name, concept.token)
    metadata: dict[str, Any] = {"class_word": concept.class_word or "", "base_model": _public_name(run)}
    if run.marks:
        metadata["marks"] = "; ".join(run.marks)
    rows = [row.detach().cpu().numpy() for row in run.model.pivot.rows] if run.model.pivot is not None else []
    vectors = rows[0] if len(rows) == 1 else {"clip_l": rows[0], "clip_g": rows[1]}
    embedding = save_embedding(target / f"{name}.safetensors", concept.token, vectors, metadata=metadata)
    files = save_lora(
        target,
        run.model.unet,
        [encoder.network for encoder in run.model.encoders],
        name=f"{name}_lora",
        precision="float16" if settings.precision == "fp16" else "float32",
        metadata=metadata,
    )
    sampling = run.config.sampling
    previews = []
    for number, prompt in enumerate(sampling.prompts):
        pictures = draw(
            run.model,
            [prompt] * sampling.count,
            seed=sampling.seed,
            steps=sampling.steps,
            guidance=sampling.guidance,
            size=run.config.data.size,
        )
        file = f"preview-{number}.png"
        save_grid(target / file, pictures, sampling.count, run.marks)
        previews.append(Preview(file, prompt.replace("{token}", concept.token)))
    certificates = run.config.locality.certificates
    write_model_card(
        target,
        Concept(
            base_model=_public_name(run),
            layout=run.model.kind,
            token=concept.token,
            n_vectors=concept.vectors,
            class_word=concept.class_word or "",
            instance_prompt=(run.samples[0].caption if run.samples else "{token}").replace("{token}", concept.token),
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


@torch.no_grad()
def held_out_loss(run: Run) -> dict[str, Estimate]:
    """Mean squared denoising error on the pictures kept from training, with the token and with the class word.

    Every picture at the same noise levels, with the same noise on both sides; the mean over levels is a picture's score.
    Empty where no picture was kept.
    """
    if not run.held_out:
        return {}
    model, seed = run.model, run.config.evaluation.seed
    assert model.pivot is not None
    latents = Latents(model, run.held_out, run.config.data, seed=seed)
    n_times = len(model.alphas)
    times = torch.tensor([int((i + 0.5) * n_times / _LEVELS) for i in range(_LEVELS)], device=model.device)
    scores: dict[str, list[float]] = {"token": [], "class_word": []}
    for number in range(len(latents)):
        view = View(number)
        rng = rng_of(seed, "held-out", number)
        clean, sizes = latents.of([view], torch.zeros(1, *latents.shape))
        clean = clean.expand(_LEVELS, -1, -1, -1)
        noise = torch.from_numpy(rng.standard_normal(tuple(clean.shape), dtype=np.float32)).to(model.device)
        noisy = noised(model.alphas, clean, noise, times)
        target = target_of(model.prediction, model.alphas, clean, noise, times)
        caption = latents.caption(view)
        for side, text, scale in (
            ("token", model.pivot.in_prompt(caption), 1.0),
            ("class_word", model.pivot.in_class(caption), 0.0),
        ):
            with run.lora.scaled(scale):
                conditions = encode(model, [text] * _LEVELS)
                if conditions.pooled is not None:
                    conditions = conditions.with_sizes(sizes.expand(_LEVELS, -1))
                scores[side].append(float(denoising_loss(predict(model, noisy, times, conditions), target)))
    return {side: mean_estimate(np.array(values), seed=seed) for side, values in scores.items()}


def _finished(folder: str | Path, root: Path | None) -> Run:
    run = load_run(folder, root=root, device="cuda" if torch.cuda.is_available() else "cpu")
    tuned = checkpoint.latest(run.folder / "checkpoints", "tune")
    if tuned is None or not checkpoint.load(tuned).finished:
        raise CheckpointError(f"{folder} is not trained to its end; go on with: pti run {folder} --until tune")
    return run


def _judges(run: Run, root: Path | None) -> tuple[Judges, dict[str, str]]:
    """Who can look at this run's pictures, and why others cannot."""
    settings, own = run.config.evaluation, run.config.model.name == "miniworld"
    absent: dict[str, str] = {}
    texts: list[TextJudge] = []
    if own and settings.clip is None:
        texts.append(ClipJudge.miniworld(root=root))
    else:
        try:
            texts.append(ClipJudge.load(settings.clip or _CLIP, device=str(run.model.device)))
        except ClipGeomError as error:
            if settings.clip is not None:
                raise
            absent["CLIP"] = f"{error}; name another one in evaluation.clip"
    dino = [DinoJudge.load(settings.dino, device=str(run.model.device))] if settings.dino is not None else []
    if not dino:
        absent["DINOv2"] = "none was named in evaluation.dino"
    if own:
        reader: FactorReader | ZeroShotReader | None = FactorReader.load(None if root is None else root / "readers")
    elif texts:
        reader = ZeroShotReader(texts[0], subject=run.config.concept.class_word or "")
    else:
        reader, absent["leakage"] = None, "there is no CLIP to read attributes by"
    return Judges(tuple(texts), tuple(dino), reader), absent


def _learnt(run: Run, judges: Judges) -> Mapping[str, str | None]:
    """What was to be learnt: told by the settings, and known of a new character of miniworld."""
    known: dict[str, str | None] = {}
    source = run.config.data.source
    if source.startswith(MINIWORLD) and isinstance(judges.reader, FactorReader):
        from clipgeom.miniworld.characters import character

        known |= character_values(character(source.removeprefix(MINIWORLD)))
    return known | dict.fromkeys(run.config.evaluation.learnt)


def _training_pictures(run: Run) -> Pictures:
    data, size = run.config.data, run.config.data.size or run.model.size
    cut = "squeeze" if data.crop == "squeeze" else "center"
    arrays = [pixels(sample.decode(), size, cut, np.random.default_rng(0))[0] for sample in run.samples]
    whole = ((torch.stack(arrays) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(whole.permute(0, 2, 3, 1).numpy())


def _public_name(run: Run) -> str:
    """The base model as others can find it; of a directory its last part alone."""
    name = run.config.model.name
    return Path(name).name if Path(name).expanduser().is_dir() else name


def _public_settings(run: Run) -> dict[str, dict[str, Any]]:
    """The settings for the card: where things lie on somebody's machine is not for it to tell."""
    sections: dict[str, dict[str, Any]] = {name: dict(section) for name, section in asdict(run.config).items()}
    sections.pop("run")
    sections["model"]["name"] = _public_name(run)

    def last(value: Any) -> Any:
        if isinstance(value, str) and Path(value).expanduser().exists():
            return Path(value).name
        return tuple(last(part) for part in value) if isinstance(value, tuple) else value

    return {name: {key: last(value) for key, value in section.items()} for name, section in sections.items()}


def _interpolation(run: Run) -> str:
    rulings = run.record.get("locality", {}).get("rulings", [])
    if not rulings:
        return "The locality regulariser was off."
    parts = [f"{ruling['mode']} at {len(ruling['positions'])} position(s): {ruling['reason']}" for ruling in rulings]
    return f"The locality regulariser interpolated by {'; '.join(parts)}."


def _evaluation(folder: Path) -> Evaluation:
    try:
        return Evaluation.from_json(json.loads((folder / EVALUATION).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / EVALUATION} cannot be read ({error}); make it anew with: pti evaluate") from error
