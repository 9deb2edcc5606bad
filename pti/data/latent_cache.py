"""Latents of the training images, each computed once.

Latents are cached by view (image, crop, mirrored or not), never by step. With shuffling, a cache by step would pair a
latent with another image's caption (docs/traps.md, 6). Each view is encoded alone, so that its latent does not depend
on the batch and a resumed run has identical bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from clipgeom.errors import ConfigError
from pti.config.schema import DataSection
from pti.data.captions import drop_tags, mix_captions
from pti.data.dataset import Sample
from pti.data.latent_refinement import refine_latents
from pti.data.transforms import image_to_tensor
from pti.data.views import ImageView
from pti.models.latent_scaling import scaled
from pti.models.pipeline import DiffusionModel

if TYPE_CHECKING:
    pass

__all__ = ["LatentCache"]


CAPTION_VARIANTS = 8  # of each image under tag dropout
_WORDINGS, _EXCHANGED = 1, 2  # their streams of random numbers, beside those of crops


class LatentCache:
    """Latents, time ids and captions of image views.

    Parameters
    ----------
    model : DiffusionModel
    samples : sequence of Sample
    data : DataSection
        Resolution, crops and mirroring.
    seed : int
        Seed of the random crops.
    templates : sequence of str
        Replacements for the tag with ``{token}`` under tag dropout (`drop_tags`).

    Raises
    ------
    ConfigError
        A template lacks ``{token}``.
    """

    def __init__(
        self,
        model: DiffusionModel,
        samples: Sequence[Sample],
        data: DataSection,
        *,
        seed: int,
        templates: Sequence[str] = (),
    ) -> None:
        for template in templates:
            if "{token}" not in template:
                raise ConfigError(f"experimental.prompt_templates: {template!r} lacks {{token}}, the placeholder token")
        self._model, self._samples, self._data, self._seed = model, samples, data, seed
        self._templates = tuple(templates)
        self.size = data.resolution or model.size
        self.size -= self.size % model.factor
        self.crops = data.num_random_crops if data.resize_mode == "random_crop" else 1
        self.wordings = CAPTION_VARIANTS if data.caption_tag_dropout_rate else 1
        said = [sample.caption for sample in samples]
        self._wordings = [self._worded(caption, self.wordings, (seed, i, _WORDINGS)) for i, caption in enumerate(said)]
        exchanges = [mix_captions(said, rng=np.random.default_rng((seed, k, _EXCHANGED))) for k in range(self.wordings)]
        self._exchanged = [
            [self._worded(texts[i], 2, (seed, i, _EXCHANGED, k))[k > 0] for k, texts in enumerate(exchanges)]
            for i in range(len(said))
        ]
        self._kept: dict[ImageView, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        self._cells: dict[tuple[int, int], torch.Tensor] = {}
        self._means: dict[ImageView, torch.Tensor] = {}

    def _worded(self, caption: str, count: int, seeds: tuple[int, ...]) -> tuple[str, ...]:
        dropout, templates = self._data.caption_tag_dropout_rate, self._templates
        return drop_tags(caption, dropout=dropout, templates=templates, count=count, rng=np.random.default_rng(seeds))

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def flips(self) -> bool:
        """Whether views may be mirrored."""
        return self._data.random_flip

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one latent."""
        side = self.size // self._model.factor
        return int(self._model.vae.config.latent_channels), side, side

    def caption(self, view: ImageView) -> str:
        """Return the caption of a view in the view's variant, with ``{token}``."""
        return self._wordings[view.sample][view.wording]

    def exchanged(self, view: ImageView) -> str:
        """Return a caption mixed from the tags of all images; the first variant is complete."""
        return self._exchanged[view.sample][view.wording]

    def captions(self, *, exchanged: bool = False) -> list[str]:
        """Return all caption variants, or all mixed captions: each once, sorted."""
        return sorted({text for texts in (self._exchanged if exchanged else self._wordings) for text in texts})

    def of(self, views: Sequence[ImageView], noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return latents of some views, in the UNet's units.

        Parameters
        ----------
        views : sequence of ImageView
        noise : Tensor, shape (n, channels, side, side)
            Standard normal; selects a latent from the autoencoder's distribution. Ignored if the mean is used.

        Returns
        -------
        latents : Tensor, shape (n, channels, side, side)
        sizes : Tensor, shape (n, 6)
            SDXL's time ids; see `time_ids`.
        """
        moments = [self._moments(view) for view in views]
        latents = torch.stack([mean for mean, _, _ in moments])
        if self._data.vae_encoding == "sample":
            latents = latents + torch.stack([deviation for _, deviation, _ in moments]) * noise.to(latents)
        return scaled(self._model.vae, latents), torch.cat([sizes for _, _, sizes in moments])

    def pixels(self, view: ImageView) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a view's pixels and time ids; see `image_to_tensor`."""
        rng = np.random.default_rng((self._seed, view.sample, view.crop))
        image = self._samples[view.sample].decode()
        return image_to_tensor(image, self.size, self._data.resize_mode, rng, mirrored=view.mirrored)

    @property
    def unmirrored_views(self) -> list[ImageView]:
        """Every crop of every image, not mirrored."""
        return [ImageView(sample, crop) for sample in range(len(self)) for crop in range(self.crops)]

    def means(self) -> torch.Tensor:
        """Means of the latents of all views, unscaled, shape (n, channels, side, side)."""
        return torch.stack([self._moments(view)[0] for view in self._views()])

    def take(self, means: torch.Tensor) -> None:
        """Use these means, stored by an earlier run, in place of refining them again."""
        self._means = dict(zip(self._views(), means, strict=True))

    def _views(self) -> list[ImageView]:
        ways = (False, True) if self.flips else (False,)
        return [replace(view, mirrored=mirrored) for view in self.unmirrored_views for mirrored in ways]

    def set_loss_weights(self, view: ImageView, cells: torch.Tensor) -> None:
        """Set the loss weights of positions in a crop, shape (1, side, side)."""
        self._cells[view.sample, view.crop] = cells

    def loss_weights(self, views: Sequence[ImageView]) -> torch.Tensor | None:
        """Loss weights of positions, shape (n, 1, side, side), mirrored with the images; None if none are set."""
        if not self._cells:
            return None
        found = [(self._cells[view.sample, view.crop], view.mirrored) for view in views]
        return torch.stack([cells.flip(-1) if mirrored else cells for cells, mirrored in found])

    @torch.no_grad()
    def _moments(self, view: ImageView) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        view = replace(view, wording=0)  # caption variants share the image
        if view not in self._kept:
            array, sizes = self.pixels(view)
            vae = self._model.vae
            posterior = vae.encode(array[None].to(vae.device, vae.dtype)).latent_dist
            device = self._model.device
            mean = self._means.get(view)
            if mean is None:
                mean = refine_latents(
                    vae, posterior.mean, array[None].to(vae.device), self._data.latent_refinement_steps
                )[0]
            self._kept[view] = (
                mean.to(device),
                posterior.std[0].float().to(device),
                sizes.to(device),
            )
        return self._kept[view]
