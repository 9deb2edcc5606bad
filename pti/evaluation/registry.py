"""Choice of the judges and of the attribute classifier for a run's base model and settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from clipgeom.errors import ClipGeomError
from pti._miniworld import character_of, is_miniworld
from pti.config.schema import Config
from pti.evaluation.attributes import ZeroShotClassifier
from pti.evaluation.evaluate import Judges
from pti.evaluation.judges import ClipJudge, DinoJudge, ImageJudge, TextJudge
from pti.evaluation.miniworld import MiniworldClassifier, character_values, load_miniworld_clip

__all__ = ["concept_attributes", "load_judges", "prompt_attributes"]

_CLIP = "openai/clip-vit-large-patch14"


def load_judges(config: Config, *, device: str, root: Path | None = None) -> tuple[Judges, dict[str, str]]:
    """Load the judges and the attribute classifier.

    Parameters
    ----------
    config : Config
        With the class word.
    device : str
    root : Path, optional
        Folder of miniworld's weights; by default the package's.

    Returns
    -------
    judges : Judges
    absent : dict of str
        The reason for each that is left out, by measure or judge.

    Raises
    ------
    EncoderError
        A judge in the settings cannot be loaded.
    """
    settings, own = config.evaluation, is_miniworld(config.model.pretrained_model)
    absent: dict[str, str] = {}
    text: list[TextJudge] = []
    if own and settings.clip_model is None:
        text.append(load_miniworld_clip(root))
    else:
        try:
            text.append(ClipJudge.load(settings.clip_model or _CLIP, device=device))
        except ClipGeomError as error:
            if settings.clip_model is not None:
                raise
            absent["CLIP"] = f"{error}; set evaluation.clip_model to another one"
    images: list[ImageJudge] = []
    if settings.dino_model is not None:
        images.append(DinoJudge.load(settings.dino_model, device=device))
    else:
        absent["DINOv2"] = "evaluation.dino_model is not set"
    if own:
        classifier: MiniworldClassifier | ZeroShotClassifier | None = MiniworldClassifier.load(
            None if root is None else root / "readers"
        )
    elif text:
        classifier = ZeroShotClassifier(text[0], subject=config.concept.class_word or "")
    else:
        classifier, absent["leakage"] = None, "there is no CLIP to classify attributes with"
    return Judges(tuple(text), tuple(images), classifier), absent


def concept_attributes(config: Config, judges: Judges) -> Mapping[str, str | None]:
    """Attributes of the concept and their values, from the settings or from a new character of miniworld."""
    known: dict[str, str | None] = {}
    character = character_of(config.data.source)
    if character is not None and isinstance(judges.classifier, MiniworldClassifier):
        known |= character_values(character)
    return known | dict.fromkeys(config.evaluation.concept_attributes)


def prompt_attributes(config: Config, judges: Judges) -> Mapping[str, Collection[str]] | None:
    """Attributes in each prompt of the evaluation, if the classifier has phrases of its own for them."""
    if not isinstance(judges.classifier, MiniworldClassifier):
        return None
    return {prompt: judges.classifier.attributes_in(prompt) for prompt in config.evaluation.prompts}
