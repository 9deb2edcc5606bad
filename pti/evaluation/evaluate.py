"""Evaluation of a concept: images of the placeholder token compared with images of its class word.

Both come from the same prompts, which contain ``{token}``. The class word's images give each measure without
training. This module neither generates images nor reads run folders.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from clipgeom._text import PLACEHOLDER
from clipgeom.errors import ConfigError, DomainError
from clipgeom.geometry.estimate import Estimate
from pti.evaluation.attribute_metrics import Leakage, attribute_rate, entropy_ratio, leakage
from pti.evaluation.attributes import AttributeClassifier, mentions
from pti.evaluation.judges import ImageJudge, Images, TextJudge, check_images
from pti.evaluation.metrics import (
    Comparison,
    compare,
    diversity,
    image_similarity,
    likeness_within,
    text_similarity,
)

__all__ = ["ALL_ATTRIBUTES", "Evaluation", "EvaluationImages", "Judges", "evaluate_images"]

ALL_ATTRIBUTES = "all of these"  # key in `recognition` for every attribute right in one image

_Sides = tuple[Sequence[Images], Sequence[Images]]  # images of the token and of the class word, by prompt
_Values = Sequence[Sequence[Mapping[str, Sequence[str]]]]  # attribute values in the images of either side, by prompt


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationImages:
    """Images to evaluate, uint8 of shape (n, height, width, 3).

    Attributes
    ----------
    token, class_word : mapping of ndarray
        By prompt with ``{token}``: images generated with the token, and with the class word, in its place.
    training : ndarray
        Cropped to one size, as in training.
    tuned_class_word : mapping of ndarray, optional
        As `class_word`, but from the tuned model and other noise; measures the drift of the class word.
    """

    token: Mapping[str, Images]
    class_word: Mapping[str, Images]
    training: Images
    tuned_class_word: Mapping[str, Images] | None = None

    def check(self) -> None:
        """Refuse missing prompts, prompts without ``{token}``, and arrays that are not stacks of images."""
        if not self.token:
            raise ConfigError("expected images of at least one prompt, got none")
        tuned = self.class_word if self.tuned_class_word is None else self.tuned_class_word
        for side in (self.token, tuned):
            if different := sorted(set(side) ^ set(self.class_word)):
                raise ConfigError(f"expected images of the same prompts on both sides; only one has {different[0]!r}")
        for prompt in self.token:
            if PLACEHOLDER not in prompt:
                raise ConfigError(f"the prompt {prompt!r} has no {PLACEHOLDER} to replace by token or class word")
        for images in (*self.token.values(), *self.class_word.values(), *tuned.values(), self.training):
            check_images(images)


@dataclass(frozen=True, slots=True)
class Judges:
    """Judges and the attribute classifier of an evaluation.

    Attributes
    ----------
    text : tuple of TextJudge
        For editability, reconstruction and diversity.
    images : tuple of ImageJudge
        For reconstruction and diversity only, such as DINOv2.
    classifier : AttributeClassifier or None
        For recognition and leakage.
    """

    text: tuple[TextJudge, ...] = ()
    images: tuple[ImageJudge, ...] = ()
    classifier: AttributeClassifier | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results of an evaluation; a measure that could not be computed is absent, with the reason in `left_out`.

    Attributes
    ----------
    class_word : str
    prompts : tuple of str
    n_token, n_class_word, n_training : int
        Numbers of images.
    seed : int
    reconstruction, diversity : dict of Comparison
        By judge: mean cosine to the training images, and 1 − mean cosine within a prompt.
    ceiling : dict of Estimate
        By judge: mean cosine between different training images, the upper limit of `reconstruction`.
    editability : dict of Comparison
        By text judge: mean cosine to the prompt with the class word.
    recognition : dict of Comparison
        By attribute of the concept: fraction of images with the expected value; also for all attributes at once.
    leakage : dict of Leakage
        By other attribute, over the prompts that do not contain it.
    entropy : dict of Estimate
        By the same attributes: entropy relative to the class word's.
    class_word_moved : dict of Leakage
        By attribute: change of the class word's images; the field ``token`` refers to the tuned model's.
    left_out : dict of str
    """

    class_word: str
    prompts: tuple[str, ...]
    n_token: int
    n_class_word: int
    n_training: int
    seed: int
    reconstruction: dict[str, Comparison] = field(default_factory=dict)
    ceiling: dict[str, Estimate] = field(default_factory=dict)
    editability: dict[str, Comparison] = field(default_factory=dict)
    diversity: dict[str, Comparison] = field(default_factory=dict)
    recognition: dict[str, Comparison] = field(default_factory=dict)
    leakage: dict[str, Leakage] = field(default_factory=dict)
    entropy: dict[str, Estimate] = field(default_factory=dict)
    class_word_moved: dict[str, Leakage] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON: intervals as lists, an unknown bound as null."""
        plain: dict[str, Any] = _plain(self)
        return plain

    @classmethod
    def from_json(cls, content: Mapping[str, Any], /) -> Self:
        """Create from the result of `to_json`; unknown entries are ignored."""
        content = {"class_word_moved": {}, **content}  # optional entries
        compared = ("reconstruction", "editability", "diversity", "recognition")
        kinds: dict[str, type] = dict.fromkeys(compared, Comparison)
        kinds |= dict.fromkeys(("leakage", "class_word_moved"), Leakage)
        kinds |= dict.fromkeys(("ceiling", "entropy"), Estimate)
        given = {entry.name: content[entry.name] for entry in dataclasses.fields(cls)}
        for name, kind in kinds.items():
            given[name] = {key: _typed(kind, value) for key, value in given[name].items()}
        return cls(**{**given, "prompts": tuple(given["prompts"])})


def evaluate_images(
    images: EvaluationImages,
    /,
    *,
    class_word: str,
    judges: Judges,
    concept_attributes: Mapping[str, str | None] | None = None,
    prompt_attributes: Mapping[str, Collection[str]] | None = None,
    seed: int,
) -> Evaluation:
    """Evaluate images of a placeholder token against those of its class word.

    Parameters
    ----------
    images : EvaluationImages
    class_word : str
    judges : Judges
    concept_attributes : mapping, optional
        The attributes of the concept and their expected values (None: unknown). All others should match the class
        word.
    prompt_attributes : mapping, optional
        The attributes in each prompt; by default found by their words.
    seed : int

    Raises
    ------
    ConfigError
        There are no prompts, or prompts of one side only; a prompt lacks ``{token}``; an attribute is not in the
        classifier's vocabulary.
    ShapeError
        An array is not a stack of images.
    """
    images.check()
    prompts, classifier = tuple(images.token), judges.classifier
    sides = ([images.token[prompt] for prompt in prompts], [images.class_word[prompt] for prompt in prompts])
    evaluation = Evaluation(
        class_word=class_word,
        prompts=prompts,
        n_token=sum(map(len, sides[0])),
        n_class_word=sum(map(len, sides[1])),
        n_training=len(images.training),
        seed=seed,
    )
    seeds = _seeds(seed)
    texts = [prompt.replace(PLACEHOLDER, class_word) for prompt in prompts]
    for judge in (*judges.text, *judges.images):
        if judge.name in evaluation.reconstruction:
            raise ConfigError(f"two judges have the name {judge.name!r}; give them different names")
        _measure_embeddings(evaluation, judge, sides, images.training, texts if judge in judges.text else None, seeds)
    if classifier is not None:
        mentioned = {prompt: _mentioned(prompt, classifier, prompt_attributes) for prompt in prompts}
        expected = dict(concept_attributes or {})
        _check_concept_attributes(classifier, expected)
        values = [[classifier.classify(group) for group in side] for side in sides]
        _measure_attributes(evaluation, classifier, values, expected, mentioned, seeds)
        if images.tuned_class_word is not None:
            tuned = [classifier.classify(images.tuned_class_word[prompt]) for prompt in prompts]
            _measure_class_word(evaluation, classifier, (tuned, values[1]), mentioned, seeds)
    elif concept_attributes:
        raise ConfigError("attributes of the concept need an attribute classifier, got none")
    return evaluation


def _measure_embeddings(
    evaluation: Evaluation,
    judge: ImageJudge,
    sides: _Sides,
    training_images: Images,
    texts: Sequence[str] | None,
    seeds: Iterator[int],
) -> None:
    """Measure reconstruction and diversity by one judge, and editability if it embeds text."""
    token, class_word = ([judge.embed_images(images) for images in side] for side in sides)
    training = judge.embed_images(training_images)
    evaluation.reconstruction[judge.name] = compare(
        *(image_similarity(np.concatenate(groups), training, seed=next(seeds)) for groups in (token, class_word))
    )
    try:
        evaluation.ceiling[judge.name] = likeness_within(training, seed=next(seeds))
    except DomainError:
        evaluation.left_out[f"ceiling by {judge.name}"] = "there is only one training image"
    try:
        evaluation.diversity[judge.name] = compare(
            *(diversity(groups, seed=next(seeds)) for groups in (token, class_word))
        )
    except DomainError as error:
        evaluation.left_out[f"diversity by {judge.name}"] = str(error)
    if texts is None:
        return
    if not isinstance(judge, TextJudge):
        raise ConfigError(f"expected {judge.name} to embed texts, as a judge of texts; it has no embed_texts")
    vectors = judge.embed_texts(texts)
    evaluation.editability[judge.name] = compare(
        *(
            text_similarity(
                np.concatenate(groups), np.repeat(vectors, [len(group) for group in groups], axis=0), seed=next(seeds)
            )
            for groups in (token, class_word)
        )
    )


def _check_concept_attributes(classifier: AttributeClassifier, expected: Mapping[str, str | None]) -> None:
    for attribute, value in expected.items():
        if attribute not in classifier.vocabulary:
            known = ", ".join(classifier.vocabulary)
            raise ConfigError(f"the attribute classifier has no attribute {attribute!r}; it has: {known}")
        if value is not None and value not in classifier.vocabulary[attribute]:
            known = ", ".join(classifier.vocabulary[attribute])
            raise ConfigError(f"the attribute {attribute!r} has no value {value!r}; it has: {known}")


def _measure_attributes(
    evaluation: Evaluation,
    classifier: AttributeClassifier,
    values: _Values,
    concept_attributes: Mapping[str, str | None],
    mentioned: Mapping[str, Collection[str]],
    seeds: Iterator[int],
) -> None:
    """Measure recognition of the concept's attributes, and leakage and entropy of the others."""
    expected = {attribute: value for attribute, value in concept_attributes.items() if value is not None}
    for attribute, value in expected.items():
        evaluation.recognition[attribute] = compare(
            *(attribute_rate([v for group in side for v in group[attribute]], value) for side in values)
        )
    if len(expected) > 1:
        together = [
            [
                str(all(row))
                for group in side
                for row in zip(*(_right(group, a, v) for a, v in expected.items()), strict=True)
            ]
            for side in values
        ]
        evaluation.recognition[ALL_ATTRIBUTES] = compare(*(attribute_rate(rows, "True") for rows in together))
    for attribute in classifier.vocabulary:
        if attribute in concept_attributes:
            continue
        found = _unmentioned(evaluation, attribute, values, mentioned)
        if found is None:
            evaluation.left_out[f"leakage of {attribute}"] = "every prompt contains it"
            continue
        (token, class_word), groups = found
        vocabulary = tuple(classifier.vocabulary[attribute])
        evaluation.leakage[attribute] = leakage(token, class_word, vocabulary, seed=next(seeds), groups=groups)
        try:
            evaluation.entropy[attribute] = entropy_ratio(token, class_word, vocabulary, seed=next(seeds))
        except DomainError as error:
            evaluation.left_out[f"entropy of {attribute}"] = str(error)


def _measure_class_word(
    evaluation: Evaluation,
    classifier: AttributeClassifier,
    values: _Values,
    mentioned: Mapping[str, Collection[str]],
    seeds: Iterator[int],
) -> None:
    """Measure the drift of the class word in every attribute, including those of the concept."""
    for attribute in classifier.vocabulary:
        found = _unmentioned(evaluation, attribute, values, mentioned)
        if found is None:
            evaluation.left_out[f"class word's {attribute}"] = "every prompt contains it"
            continue
        (tuned, base), groups = found
        evaluation.class_word_moved[attribute] = leakage(
            tuned, base, tuple(classifier.vocabulary[attribute]), seed=next(seeds), groups=groups
        )


def _unmentioned(
    evaluation: Evaluation,
    attribute: str,
    values: _Values,
    mentioned: Mapping[str, Collection[str]],
) -> tuple[list[list[str]], tuple[list[str], list[str]]] | None:
    """Values of an attribute on both sides, for prompts that do not contain it; None without such prompts."""
    without = [i for i, prompt in enumerate(evaluation.prompts) if attribute not in mentioned[prompt]]
    if not without:
        return None
    observed = [[value for i in without for value in side[i][attribute]] for side in values]
    first, second = ([evaluation.prompts[i] for i in without for _ in side[i][attribute]] for side in values)
    return observed, (first, second)


def _right(group: Mapping[str, Sequence[str]], attribute: str, value: str) -> list[bool]:
    return [observed == value for observed in group[attribute]]


def _mentioned(
    prompt: str, classifier: AttributeClassifier, prompt_attributes: Mapping[str, Collection[str]] | None
) -> Collection[str]:
    """Return the attributes in a prompt, as given or else by their words."""
    if prompt_attributes is None:
        text = prompt.replace(PLACEHOLDER, " ")
        return [attribute for attribute, values in classifier.vocabulary.items() if mentions(text, values)]
    if prompt not in prompt_attributes:
        raise ConfigError(f"the prompt {prompt!r} is not among those with given attributes")
    if unknown := [attribute for attribute in prompt_attributes[prompt] if attribute not in classifier.vocabulary]:
        known = ", ".join(classifier.vocabulary)
        raise ConfigError(f"the attribute classifier has no attribute {unknown[0]!r}; it has: {known}")
    return prompt_attributes[prompt]


def _seeds(seed: int) -> Iterator[int]:
    """Yield independent seeds without end."""
    rng = np.random.default_rng(seed)
    while True:
        yield int(rng.integers(2**32))


def _typed(kind: type, value: Mapping[str, Any]) -> Any:
    """Create a dataclass of measures from its JSON."""
    if kind is Estimate:
        low, high = (math.nan if bound is None else bound for bound in value["ci95"])
        return Estimate(value["value"], low, high, value["n"])
    nested = {entry.name for entry in dataclasses.fields(kind) if entry.type in (Estimate, "Estimate")}
    return kind(**{key: _typed(Estimate, part) if key in nested else part for key, part in value.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return _plain(value.to_json())
    if dataclasses.is_dataclass(value):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
