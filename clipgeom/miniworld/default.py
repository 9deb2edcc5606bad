"""Default scenes of the commands, and their image embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clipgeom.miniworld.weights import load_clip

__all__ = ["N_SCENES", "SEED", "image_embeddings"]

SEED = 5  # seed of the scenes in reports; no training used it
N_SCENES = 20_000
_BATCH = 100


def image_embeddings(ids: Sequence[str], /) -> NDArray[np.float64]:
    """Embed the images of some default scenes; projected, not normalised.

    Parameters
    ----------
    ids : sequence of str
        Their numbers, which are the ids of their captions.

    Returns
    -------
    ndarray of float64, shape (n, d)
    """
    import torch

    from clipgeom._images import to_tensor
    from clipgeom.miniworld.scenery import picture

    model, _ = load_clip()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(ids), _BATCH):
            drawn = np.stack([picture(int(number), SEED) for number in ids[start : start + _BATCH]])
            pooled = model.vision_model(pixel_values=to_tensor(drawn)).pooler_output
            parts.append(model.visual_projection(pooled).double().numpy())
    return np.concatenate(parts)
