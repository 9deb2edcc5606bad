"""Miniworld's own judge and attribute classifier, and the attributes of its characters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

from clipgeom.miniworld.characters import NewCharacter
from pti.evaluation.attributes import Vocabulary, mentions
from pti.evaluation.judges import ClipJudge, Images

if TYPE_CHECKING:
    from clipgeom.miniworld.readers import FactorReaders

__all__ = ["MiniworldClassifier", "character_values", "load_miniworld_clip"]


class MiniworldClassifier:
    """Attribute classifiers of miniworld.

    Parameters
    ----------
    readers : FactorReaders
    """

    def __init__(self, readers: FactorReaders) -> None:
        from clipgeom.miniworld.captions import FACING
        from clipgeom.miniworld.readers import READ

        self.readers = readers
        # "top left" is a position; only a verb gives the direction that a figure faces
        facing = {value: tuple(form.format(value) for form in FACING) for value in READ["facing"]}
        vocabulary = {name: {value: (value,) for value in values} for name, values in READ.items()}
        self.vocabulary: Vocabulary = {**vocabulary, "facing": facing}

    @classmethod
    def load(cls, folder: Path | None = None, /) -> Self:
        """Load the package's classifiers, or those in a folder.

        Raises
        ------
        WeightsError
            The weights are missing or damaged.
        """
        from clipgeom.miniworld.readers import load_readers

        return cls(load_readers(folder))

    def attributes_in(self, prompt: str, /) -> set[str]:
        """Return the attributes in a prompt, by miniworld's own phrases: "left" alone may be a position."""
        return {
            attribute
            for attribute, values in self.vocabulary.items()
            if mentions(prompt, {phrase: () for phrases in values.values() for phrase in phrases})
        }

    def classify(self, images: Images, /) -> dict[str, list[str]]:
        """Return the likeliest value of every attribute for each image."""
        return self.readers.read(images)


def load_miniworld_clip(root: Path | None = None) -> ClipJudge:
    """Load miniworld's own CLIP as a judge.

    Raises
    ------
    WeightsError
        The weights are missing or damaged.
    """
    from clipgeom._images import to_tensor
    from clipgeom.miniworld.weights import load_clip

    model, tokenizer = load_clip(root=root)
    return ClipJudge(model, tokenizer, to_tensor)


def character_values(character: NewCharacter, /) -> dict[str, str]:
    """Attribute values that every image of one of miniworld's new characters should have."""
    return {
        **character.factors,
        "pattern": character.pattern or "plain",
        "emblem": character.emblem or "none",
        "two_tone": "yes" if character.headgear_second else "no",
    }
