"""Evaluation of a trained run, with the result in ``evaluation.json``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from clipgeom._images import to_uint8
from clipgeom._progress import Progress, Quiet
from clipgeom._text import CLASS_PLACEHOLDER, PLACEHOLDER
from clipgeom.geometry.estimate import Estimate
from pti._files import write_json
from pti._lock import locked
from pti._random import rng_for
from pti.data.latent_cache import LatentCache
from pti.data.transforms import image_to_tensor
from pti.data.views import ImageView
from pti.evaluation.evaluate import EvaluationImages, evaluate_images
from pti.evaluation.judges import Images
from pti.evaluation.metrics import mean_estimate
from pti.evaluation.registry import concept_attributes, load_judges, prompt_attributes
from pti.losses import add_noise, denoising_loss, predict_noise, prediction_target
from pti.models.prompt_embeds import encode_prompts
from pti.models.sampling import sample_images
from pti.runs.image_grid import save_image_grid
from pti.runs.layout import EVALUATION
from pti.runs.run import Run, finished_run

__all__ = ["evaluate_run", "held_out_loss"]

_N_TIMESTEPS = 16  # timesteps of held-out images, spread over the schedule


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
        An attribute of the concept is not in the vocabulary.
    EncoderError
        A judge in the settings cannot be loaded.
    """
    progress = Quiet() if progress is None else progress
    run = finished_run(folder, root)
    settings, sampling = run.config.evaluation, run.config.sampler
    judges, absent = load_judges(run.config, device=str(run.model.device), root=root)
    if not judges.text:
        progress.note(f"evaluation without CLIP: {absent['CLIP']}")
    n = len(settings.prompts)
    progress.expect(3 * settings.images_per_prompt * n, "generated", "images")
    sides: list[dict[str, Images]] = []
    for scale, word, first in ((1.0, PLACEHOLDER, 0), (0.0, CLASS_PLACEHOLDER, 0), (1.0, CLASS_PLACEHOLDER, n)):
        sides.append({})
        for number, prompt in enumerate(settings.prompts, start=first):
            sides[-1][prompt] = sample_images(
                run.model,
                [prompt.replace(PLACEHOLDER, word)] * settings.images_per_prompt,
                seed=int(rng_for(settings.seed, "evaluation", number).integers(2**31)),
                steps=sampling.num_inference_steps,
                guidance=sampling.guidance_scale,
                lora_scale=scale,
                size=run.config.data.resolution,
            )
            progress(settings.images_per_prompt)
    assert run.config.concept.class_word is not None  # set by a trained run
    token, class_word, tuned_class_word = sides
    evaluation = evaluate_images(
        EvaluationImages(token, class_word, _training_images(run), tuned_class_word),
        class_word=run.config.concept.class_word,
        judges=judges,
        concept_attributes=concept_attributes(run.config, judges),
        prompt_attributes=prompt_attributes(run.config, judges),
        seed=settings.seed,
    )
    content = {"schema": "pti.evaluation/1", **evaluation.to_json()}
    content["left_out"] |= absent
    content["marks"] = list(run.marks)
    losses = held_out_loss(run)
    content["held_out_loss"] = {name: estimate.to_json() for name, estimate in losses.items()}
    if not losses:
        content["left_out"]["held_out_loss"] = "no image was held out from training; see data.holdout"
    path = run.folder / EVALUATION
    write_json(path, content)
    save_image_grid(
        run.folder / "previews" / "evaluation.png",
        np.concatenate([token[prompt] for prompt in settings.prompts]),
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
    cache = LatentCache(model, run.held_out, run.config.data, seed=seed)
    n_timesteps = len(model.alphas_cumprod)
    timesteps = torch.tensor(
        [int((i + 0.5) * n_timesteps / _N_TIMESTEPS) for i in range(_N_TIMESTEPS)], device=model.device
    )
    scores: dict[str, list[float]] = {"token": [], "class_word": []}
    for number in range(len(cache)):
        # One image at all timesteps.
        view = ImageView(number)
        rng = rng_for(seed, "held-out", number)
        latents, time_ids = cache.of([view], torch.zeros(1, *cache.shape))
        latents = latents.expand(_N_TIMESTEPS, -1, -1, -1)
        noise = torch.from_numpy(rng.standard_normal(tuple(latents.shape), dtype=np.float32)).to(model.device)
        noisy_latents = add_noise(model.alphas_cumprod, latents, noise, timesteps)
        target = prediction_target(model.prediction, model.alphas_cumprod, latents, noise, timesteps)

        # The tuned model with the token, and the base model with the class word.
        caption = cache.caption(view)
        for side, text, scale in (
            ("token", model.placeholder.in_prompt(caption), 1.0),
            ("class_word", model.placeholder.in_class_prompt(caption), 0.0),
        ):
            with run.lora.scaled(scale):
                prompt_embeds = encode_prompts(model, [text] * _N_TIMESTEPS)
                if prompt_embeds.pooled_prompt_embeds is not None:
                    prompt_embeds = prompt_embeds.with_time_ids(time_ids.expand(_N_TIMESTEPS, -1))
                noise_pred = predict_noise(model, noisy_latents, timesteps, prompt_embeds)
                scores[side].append(float(denoising_loss(noise_pred, target)))
    return {side: mean_estimate(np.array(values), seed=seed) for side, values in scores.items()}


def _training_images(run: Run) -> Images:
    data, size = run.config.data, run.config.data.resolution or run.model.size
    cut = "stretch" if data.resize_mode == "stretch" else "center_crop"
    arrays = [image_to_tensor(sample.decode(), size, cut, np.random.default_rng(0))[0] for sample in run.samples]
    return np.ascontiguousarray(to_uint8(torch.stack(arrays)))
