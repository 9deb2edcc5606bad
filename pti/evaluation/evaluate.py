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

from clipgeom.errors import ConfigError, DomainError
from clipgeom.geometry.estimate import Estimate
from pti.evaluation.attribute_metrics import Leakage, attribute_rate, entropy_ratio, leakage
from pti.evaluation.attributes import AttributeReader, says
from pti.evaluation.judges import PictureJudge, Pictures, TextJudge, check_pictures
from pti.evaluation.metrics import (
    Comparison,
    compare,
    diversity,
    image_similarity,
    likeness_within,
    text_similarity,
)

__all__ = ["PLACEHOLDER", "TOGETHER", "Evaluation", "Judges", "evaluate_pictures"]

PLACEHOLDER = "{token}"
TOGETHER = "all of these"  # key in `recognition` for every attribute right in one image

_Sides = tuple[Sequence[Pictures], Sequence[Pictures]]  # images of the token and of the class word, by prompt
_Read = Sequence[Sequence[Mapping[str, Sequence[str]]]]  # attribute values in the images of either side, by prompt


@dataclass(frozen=True, slots=True)
class Judges:
    """Judges and the attribute classifier of an evaluation.

    Attributes
    ----------
    text : tuple of TextJudge
        For editability, reconstruction and diversity.
    pictures : tuple of PictureJudge
        For reconstruction and diversity only, such as DINOv2.
    reader : AttributeReader or None
        For recognition and leakage.
    """

    text: tuple[TextJudge, ...] = ()
    pictures: tuple[PictureJudge, ...] = ()
    reader: AttributeReader | None = None


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


def evaluate_pictures(
    token_pictures: Mapping[str, Pictures],
    class_pictures: Mapping[str, Pictures],
    training_pictures: Pictures,
    /,
    *,
    class_word: str,
    judges: Judges,
    tuned_class_pictures: Mapping[str, Pictures] | None = None,
    learnt: Mapping[str, str | None] | None = None,
    said: Mapping[str, Collection[str]] | None = None,
    seed: int,
) -> Evaluation:
    """Evaluate images of a placeholder token against those of its class word.

    Parameters
    ----------
    token_pictures, class_pictures : mapping of ndarray of uint8, shape (n, height, width, 3)
        By prompt with ``{token}``: images generated with the token, and with the class word, in its place.
    training_pictures : ndarray of uint8, shape (m, height, width, 3)
        Cropped to one size, as in training.
    class_word : str
    judges : Judges
    tuned_class_pictures : mapping of ndarray, optional
        As `class_pictures`, but from the tuned model and other noise; measures the drift of the class word.
    learnt : mapping, optional
        The attributes of the concept and their expected values (None: unknown). All others should match the class
        word.
    said : mapping, optional
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
    _check(token_pictures, class_pictures, training_pictures)
    if tuned_class_pictures is not None:
        _check(tuned_class_pictures, class_pictures, training_pictures)
    prompts = tuple(token_pictures)
    sides = ([token_pictures[prompt] for prompt in prompts], [class_pictures[prompt] for prompt in prompts])
    evaluation = Evaluation(
        class_word=class_word,
        prompts=prompts,
        n_token=sum(map(len, sides[0])),
        n_class_word=sum(map(len, sides[1])),
        n_training=len(training_pictures),
        seed=seed,
    )
    seeds = _seeds(seed)
    texts = [prompt.replace(PLACEHOLDER, class_word) for prompt in prompts]
    for judge in (*judges.text, *judges.pictures):
        if judge.name in evaluation.reconstruction:
            raise ConfigError(f"two judges are called {judge.name!r}; give them names of their own")
        _see(evaluation, judge, sides, training_pictures, texts if judge in judges.text else None, seeds)
    if judges.reader is not None:
        spoken = {prompt: _said(prompt, judges.reader, said) for prompt in prompts}
        wanted = dict(learnt or {})
        _check_learnt(judges.reader, wanted)
        read = [[judges.reader.read(pictures) for pictures in side] for side in sides]
        _compare_read(evaluation, judges.reader, read, wanted, spoken, seeds)
        if tuned_class_pictures is not None:
            tuned = [judges.reader.read(tuned_class_pictures[prompt]) for prompt in prompts]
            _compare_class_word(evaluation, judges.reader, (tuned, read[1]), spoken, seeds)
    elif learnt:
        raise ConfigError("attributes are named as learnt, but there is no reader to read them")
    return evaluation


def _see(
    evaluation: Evaluation,
    judge: PictureJudge,
    sides: _Sides,
    training_pictures: Pictures,
    texts: Sequence[str] | None,
    seeds: Iterator[int],
) -> None:
    """Measure reconstruction and diversity by one judge, and editability if it embeds text."""
    token, class_word = ([judge.embed_pictures(pictures) for pictures in side] for side in sides)
    training = judge.embed_pictures(training_pictures)
    evaluation.reconstruction[judge.name] = compare(
        *(image_similarity(np.concatenate(groups), training, seed=next(seeds)) for groups in (token, class_word))
    )
    try:
        evaluation.ceiling[judge.name] = likeness_within(training, seed=next(seeds))
    except DomainError:
        evaluation.left_out[f"ceiling by {judge.name}"] = "there is one training picture alone"
    try:
        evaluation.diversity[judge.name] = compare(
            *(diversity(groups, seed=next(seeds)) for groups in (token, class_word))
        )
    except DomainError as error:
        evaluation.left_out[f"diversity by {judge.name}"] = str(error)
    if texts is None:
        return
    if not isinstance(judge, TextJudge):
        raise ConfigError(f"{judge.name} is given as a judge of texts, but embeds none")
    vectors = judge.embed_texts(texts)
    evaluation.editability[judge.name] = compare(
        *(
            text_similarity(
                np.concatenate(groups), np.repeat(vectors, [len(group) for group in groups], axis=0), seed=next(seeds)
            )
            for groups in (token, class_word)
        )
    )


def _check_learnt(reader: AttributeReader, learnt: Mapping[str, str | None]) -> None:
    for attribute, value in learnt.items():
        if attribute not in reader.vocabulary or (value is not None and value not in reader.vocabulary[attribute]):
            known = ", ".join(reader.vocabulary.get(attribute, reader.vocabulary))
            raise ConfigError(f"the reader does not know {attribute!r} as {value!r}; it knows: {known}")


def _compare_read(
    evaluation: Evaluation,
    reader: AttributeReader,
    read: _Read,
    learnt: Mapping[str, str | None],
    spoken: Mapping[str, Collection[str]],
    seeds: Iterator[int],
) -> None:
    """Measure recognition of the concept's attributes, and leakage and entropy of the others."""
    expected = {attribute: value for attribute, value in learnt.items() if value is not None}
    for attribute, value in expected.items():
        evaluation.recognition[attribute] = compare(
            *(attribute_rate([v for group in side for v in group[attribute]], value) for side in read)
        )
    if len(expected) > 1:
        together = [
            [
                str(all(row))
                for group in side
                for row in zip(*(_right(group, a, v) for a, v in expected.items()), strict=True)
            ]
            for side in read
        ]
        evaluation.recognition[TOGETHER] = compare(*(attribute_rate(rows, "True") for rows in together))
    for attribute in reader.vocabulary:
        if attribute in learnt:
            continue
        told = _unsaid(evaluation, attribute, read, spoken)
        if told is None:
            evaluation.left_out[f"leakage of {attribute}"] = "every prompt says it"
            continue
        (token, class_word), groups = told
        values = tuple(reader.vocabulary[attribute])
        evaluation.leakage[attribute] = leakage(token, class_word, values, seed=next(seeds), groups=groups)
        try:
            evaluation.entropy[attribute] = entropy_ratio(token, class_word, values, seed=next(seeds))
        except DomainError as error:
            evaluation.left_out[f"entropy of {attribute}"] = str(error)


def _compare_class_word(
    evaluation: Evaluation,
    reader: AttributeReader,
    read: _Read,
    spoken: Mapping[str, Collection[str]],
    seeds: Iterator[int],
) -> None:
    """Measure the drift of the class word in every attribute, including those of the concept."""
    for attribute in reader.vocabulary:
        told = _unsaid(evaluation, attribute, read, spoken)
        if told is None:
            evaluation.left_out[f"class word's {attribute}"] = "every prompt says it"
            continue
        (tuned, frozen), groups = told
        evaluation.class_word_moved[attribute] = leakage(
            tuned, frozen, tuple(reader.vocabulary[attribute]), seed=next(seeds), groups=groups
        )


def _unsaid(
    evaluation: Evaluation,
    attribute: str,
    read: _Read,
    spoken: Mapping[str, Collection[str]],
) -> tuple[list[list[str]], tuple[list[str], list[str]]] | None:
    """Values of an attribute on both sides, for prompts that do not contain it; None without such prompts."""
    silent = [i for i, prompt in enumerate(evaluation.prompts) if attribute not in spoken[prompt]]
    if not silent:
        return None
    seen = [[value for i in silent for value in side[i][attribute]] for side in read]
    first, second = ([evaluation.prompts[i] for i in silent for _ in side[i][attribute]] for side in read)
    return seen, (first, second)


def _right(group: Mapping[str, Sequence[str]], attribute: str, value: str) -> list[bool]:
    return [seen == value for seen in group[attribute]]


def _said(prompt: str, reader: AttributeReader, said: Mapping[str, Collection[str]] | None) -> Collection[str]:
    """Return the attributes in a prompt, as given or else by their words."""
    if said is None:
        text = prompt.replace(PLACEHOLDER, " ")
        return [attribute for attribute, values in reader.vocabulary.items() if says(text, values)]
    if prompt not in said:
        raise ConfigError(f"the prompt {prompt!r} is not among those with given attributes")
    if unknown := [attribute for attribute in said[prompt] if attribute not in reader.vocabulary]:
        raise ConfigError(
            f"the attribute classifier has no attribute {unknown[0]!r}; it has: {', '.join(reader.vocabulary)}"
        )
    return said[prompt]


def _check(token: Mapping[str, Pictures], class_word: Mapping[str, Pictures], training: Pictures) -> None:
    if not token:
        raise ConfigError("expected images of at least one prompt, got none")
    if different := sorted(set(token) ^ set(class_word)):
        raise ConfigError(f"token and class word need pictures of the same prompts; only one has {different[0]!r}")
    for prompt in token:
        if PLACEHOLDER not in prompt:
            raise ConfigError(f"the prompt {prompt!r} has no {PLACEHOLDER} to put the token, or the class word, in")
    for pictures in (*token.values(), *class_word.values(), training):
        check_pictures(pictures)


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
