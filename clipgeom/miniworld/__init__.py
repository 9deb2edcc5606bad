"""miniworld, the embedded default: a small synthetic world, its CLIP, and its diffusion model.

Characters stand in places; class, colours, headgear, facing, position, background and style are independent of each
other, and captions mention any subset of them. Both the intended and the actual content of an image are therefore
known.
"""

from clipgeom.miniworld.characters import NEW_CHARACTERS, NewCharacter
from clipgeom.miniworld.dataset import to_dataset, write_image_folder
from clipgeom.miniworld.factors import FACTORS
from clipgeom.miniworld.readers import READ, FactorReaders, entropy, load_readers
from clipgeom.miniworld.scenery import Scenes, scenes
from clipgeom.miniworld.weights import checked_folder, load_clip, load_pipeline

__all__ = [
    "FACTORS",
    "NEW_CHARACTERS",
    "READ",
    "FactorReaders",
    "NewCharacter",
    "Scenes",
    "checked_folder",
    "entropy",
    "load_clip",
    "load_pipeline",
    "load_readers",
    "scenes",
    "to_dataset",
    "write_image_folder",
]
