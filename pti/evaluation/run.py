"""Evaluation of a trained run, with the result in ``evaluation.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from clipgeom._images import to_uint8
from clipgeom._progress import Progress, Quiet
from clipgeom.errors import ClipGeomError
from clipgeom.geometry.estimate import Estimate
from pti._files import write_json
from pti._lock import locked
from pti._random import rng_for
from pti.data.dataset import MINIWORLD
from pti.data.latent_cache import LatentCache
from pti.data.transforms import image_to_tensor
from pti.data.views import ImageView
from pti.evaluation.attributes import FactorReader, ZeroShotReader, character_values
from pti.evaluation.evaluate import Judges, evaluate_pictures
from pti.evaluation.judges import ClipJudge, DinoJudge, Pictures, TextJudge
from pti.evaluation.metrics import mean_estimate
from pti.losses import add_noise, denoising_loss, predict_noise, prediction_target
from pti.models.prompt_embeds import encode_prompts
from pti.models.sampling import sample_images
from pti.runs.image_grid import save_image_grid
from pti.runs.layout import EVALUATION
from pti.runs.run import Run, finished_run

__all__ = ["evaluate_run", "held_out_loss"]

_CLIP = "openai/clip-vit-large-patch14"
_LEVELS = 16  # timesteps at which held-out images are denoised, spread over the schedule


@locked
def evaluate_run(folder: str | Path, *, root: Path | None = None, progress: Progress | None = None) -> Path:
    """Generate images of the prompts in ``[evaluation]``, measure them, and write ``evaluation.json``.

    Images of the token and of the class word start from the same noise; the latter come from the base model. The
    tuned model generates images of the class word from other noise, to measure its drift.

    Parameters
    ----------
    folder : str or Path
        A run folder.
    root : Path, optional
        Folder of miniworld's weights; by default the package's.
    progress : Progress, optional

    Raises
    ------
    CheckpointError
        The run's training has not finished.
    ConfigError
        An attribute named as learnt is not in the vocabulary.
    EncoderError
        A judge in the settings cannot be loaded.
    """
    progress = Quiet() if progress is None else progress
    run = finished_run(folder, root)
    settings, sampling = run.config.evaluation, run.config.sampler
    judges, absent = _judges(run, root)
    if not judges.text:
        progress.note(f"evaluation without CLIP: {absent['CLIP']}")
    n = len(settings.prompts)
    progress.expect(3 * settings.images_per_prompt * n, "drawn", "pictures")
    drawn: list[dict[str, Pictures]] = []
    for scale, word, first in ((1.0, "{token}", 0), (0.0, "{class}", 0), (1.0, "{class}", n)):
        drawn.append({})
        for number, prompt in enumerate(settings.prompts, start=first):
            drawn[-1][prompt] = sample_images(
                run.model,
                [prompt.replace("{token}", word)] * settings.images_per_prompt,
                seed=int(rng_for(settings.seed, "evaluation", number).integers(2**31)),
                steps=sampling.num_inference_steps,
                guidance=sampling.guidance_scale,
                lora_scale=scale,
                size=run.config.data.resolution,
            )
            progress(settings.images_per_prompt)
    assert run.config.concept.class_word is not None  # set by a trained run
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
    content["held_out_loss"] = {name: estimate.to_json() for name, estimate in losses.items()}
    if not losses:
        content["left_out"]["held_out_loss"] = "no picture was kept from training; see data.holdout"
    path = run.folder / EVALUATION
    write_json(path, content)
    save_image_grid(
        run.folder / "previews" / "evaluation.png",
        np.concatenate([of_token[prompt] for prompt in settings.prompts]),
        settings.images_per_prompt,
        run.marks,
    )
    return path


@torch.no_grad()
def held_out_loss(run: Run) -> dict[str, Estimate]:
    """Mean squared denoising error on held-out images, with the token and with the class word.

    All images have the same timesteps, and both sides the same noise. An image's score is the mean over timesteps.
    Empty without held-out images.
    """
    if not run.held_out:
        return {}
    model, seed = run.model, run.config.evaluation.seed
    assert model.placeholder is not None
    latents = LatentCache(model, run.held_out, run.config.data, seed=seed)
    n_times = len(model.alphas_cumprod)
    times = torch.tensor([int((i + 0.5) * n_times / _LEVELS) for i in range(_LEVELS)], device=model.device)
    scores: dict[str, list[float]] = {"token": [], "class_word": []}
    for number in range(len(latents)):
        view = ImageView(number)
        rng = rng_for(seed, "held-out", number)
        clean, sizes = latents.of([view], torch.zeros(1, *latents.shape))
        clean = clean.expand(_LEVELS, -1, -1, -1)
        noise = torch.from_numpy(rng.standard_normal(tuple(clean.shape), dtype=np.float32)).to(model.device)
        noisy = add_noise(model.alphas_cumprod, clean, noise, times)
        target = prediction_target(model.prediction, model.alphas_cumprod, clean, noise, times)
        caption = latents.caption(view)
        for side, text, scale in (
            ("token", model.placeholder.in_prompt(caption), 1.0),
            ("class_word", model.placeholder.in_class_prompt(caption), 0.0),
        ):
            with run.lora.scaled(scale):
                conditions = encode_prompts(model, [text] * _LEVELS)
                if conditions.pooled_prompt_embeds is not None:
                    conditions = conditions.with_time_ids(sizes.expand(_LEVELS, -1))
                scores[side].append(float(denoising_loss(predict_noise(model, noisy, times, conditions), target)))
    return {side: mean_estimate(np.array(values), seed=seed) for side, values in scores.items()}


def _judges(run: Run, root: Path | None) -> tuple[Judges, dict[str, str]]:
    """Load the judges and the attribute classifier, with a reason for each that is left out."""
    settings, own = run.config.evaluation, run.config.model.pretrained_model == "miniworld"
    absent: dict[str, str] = {}
    texts: list[TextJudge] = []
    if own and settings.clip_model is None:
        texts.append(ClipJudge.miniworld(root=root))
    else:
        try:
            texts.append(ClipJudge.load(settings.clip_model or _CLIP, device=str(run.model.device)))
        except ClipGeomError as error:
            if settings.clip_model is not None:
                raise
            absent["CLIP"] = f"{error}; name another one in evaluation.clip_model"
    dino = (
        [DinoJudge.load(settings.dino_model, device=str(run.model.device))] if settings.dino_model is not None else []
    )
    if not dino:
        absent["DINOv2"] = "none was named in evaluation.dino_model"
    if own:
        reader: FactorReader | ZeroShotReader | None = FactorReader.load(None if root is None else root / "readers")
    elif texts:
        reader = ZeroShotReader(texts[0], subject=run.config.concept.class_word or "")
    else:
        reader, absent["leakage"] = None, "there is no CLIP to read attributes by"
    return Judges(tuple(texts), tuple(dino), reader), absent


def _learnt(run: Run, judges: Judges) -> Mapping[str, str | None]:
    """Attributes of the concept and their values, from the settings or from a new character of miniworld."""
    known: dict[str, str | None] = {}
    source = run.config.data.source
    if source.startswith(MINIWORLD) and isinstance(judges.reader, FactorReader):
        from clipgeom.miniworld.characters import character

        known |= character_values(character(source.removeprefix(MINIWORLD)))
    return known | dict.fromkeys(run.config.evaluation.concept_attributes)


def _training_pictures(run: Run) -> Pictures:
    data, size = run.config.data, run.config.data.resolution or run.model.size
    cut = "stretch" if data.resize_mode == "stretch" else "center_crop"
    arrays = [image_to_tensor(sample.decode(), size, cut, np.random.default_rng(0))[0] for sample in run.samples]
    return np.ascontiguousarray(to_uint8(torch.stack(arrays)))
