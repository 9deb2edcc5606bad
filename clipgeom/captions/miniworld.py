"""Captions of miniworld, generated on the fly."""

from collections.abc import Generator
from dataclasses import dataclass

from clipgeom.captions.stream import Caption

__all__ = ["MiniworldCaptions"]


@dataclass(frozen=True, slots=True)
class MiniworldCaptions:
    """Captions of scenes that no training used. The id of a caption is the number of its scene, as is its image's."""

    @property
    def description(self) -> str:
        """The name."""
        return "miniworld"

    def rows(self) -> Generator[Caption, None, None]:
        """Generate the captions."""
        from clipgeom.miniworld.default import N_SCENES, SEED
        from clipgeom.miniworld.scenery import captions

        for index, text in enumerate(captions(N_SCENES, SEED)):
            yield Caption(str(index), text, str(index))
