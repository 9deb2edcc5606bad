"""Pictures as the UNet sees them, each computed once.

What is kept is kept by view (which picture, which cut-out, mirrored or not), never by step: a loader that shuffles
would pair a cached latent with another picture's caption (TRAINER.md, trap 6). A view is encoded on its own, so that
its latent does not depend on what else was in the batch, and a resumed run has the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from pti.config.schema import DataSection
from pti.data.captions import drop_tags, mix_captions
from pti.data.dataset import Sample
from pti.data.latent_refinement import refine_latents
from pti.data.transforms import image_to_tensor
from pti.data.views import ImageView
from pti.models.pipeline import DiffusionModel
from pti.scaling import scaled

if TYPE_CHECKING:
    pass

__all__ = ["LatentCache"]


_WORDINGS, _EXCHANGED = 1, 2  # their streams of random numbers, beside those of cut-outs


class LatentCache:
    """Latents and sizes of views.

    Parameters
    ----------
    model : DiffusionModel
    samples : sequence of Sample
    data : DataSection
        How pictures are cut.
    seed : int
        Of the random cut-outs.
    """

    def __init__(self, model: DiffusionModel, samples: Sequence[Sample], data: DataSection, *, seed: int) -> None:
        self._model, self._samples, self._data, self._seed = model, samples, data, seed
        self.size = data.resolution or model.size
        self.size -= self.size % model.factor
        self.crops = data.num_random_crops if data.resize_mode == "random" else 1
        self.wordings = data.wordings if data.caption_tag_dropout_rate else 1
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
        dropout, templates = self._data.caption_tag_dropout_rate, self._data.prompt_templates
        return drop_tags(caption, dropout=dropout, templates=templates, count=count, rng=np.random.default_rng(seeds))

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def flips(self) -> bool:
        """Whether views may be mirrored."""
        return self._data.random_flip

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one latent."""
        side = self.size // self._model.factor
        return int(self._model.vae.config.latent_channels), side, side

    def caption(self, view: ImageView) -> str:
        """The caption of a view's picture in the view's wording, with ``{token}``."""
        return self._wordings[view.sample][view.wording]

    def exchanged(self, view: ImageView) -> str:
        """A caption in whose place another was put, part by part from those of all pictures; the first wording is whole."""
        return self._exchanged[view.sample][view.wording]

    def captions(self, *, exchanged: bool = False) -> list[str]:
        """Every caption in every wording, each once, sorted; or those whose parts were exchanged."""
        return sorted({text for texts in (self._exchanged if exchanged else self._wordings) for text in texts})

    def of(self, views: Sequence[ImageView], noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents of some views, scaled as the UNet takes them.

        Parameters
        ----------
        views : sequence of ImageView
        noise : Tensor, shape (n, channels, side, side)
            Standard normal: which latent of the autoencoder's distribution is taken. Ignored where its mean is.

        Returns
        -------
        latents : Tensor, shape (n, channels, side, side)
        sizes : Tensor, shape (n, 6)
            For SDXL; see `time_ids`.
        """
        moments = [self._moments(view) for view in views]
        latents = torch.stack([mean for mean, _, _ in moments])
        if self._data.vae_encoding == "sample":
            latents = latents + torch.stack([deviation for _, deviation, _ in moments]) * noise.to(latents)
        return scaled(self._model.vae, latents), torch.cat([sizes for _, _, sizes in moments])

    def pixels(self, view: ImageView) -> tuple[torch.Tensor, torch.Tensor]:
        """A view's picture and its sizes, as the function `image_to_tensor` makes them."""
        rng = np.random.default_rng((self._seed, view.sample, view.crop))
        image = self._samples[view.sample].decode()
        return image_to_tensor(image, self.size, self._data.resize_mode, rng, mirrored=view.mirrored)

    @property
    def unmirrored_views(self) -> list[ImageView]:
        """Every picture in every cut-out, not mirrored."""
        return [ImageView(sample, crop) for sample in range(len(self)) for crop in range(self.crops)]

    def means(self) -> torch.Tensor:
        """Means of the latents of all views, unscaled, shape (n, channels, side, side)."""
        return torch.stack([self._moments(view)[0] for view in self._views()])

    def take(self, means: torch.Tensor) -> None:
        """Use such means, which were made before, in place of fitting them again."""
        self._means = dict(zip(self._views(), means, strict=True))

    def _views(self) -> list[ImageView]:
        ways = (False, True) if self.flips else (False,)
        return [replace(view, mirrored=mirrored) for view in self.unmirrored_views for mirrored in ways]

    def set_loss_weights(self, view: ImageView, cells: torch.Tensor) -> None:
        """Let places in a picture's cut-out count by weights of shape (1, side, side)."""
        self._cells[view.sample, view.crop] = cells

    def loss_weights(self, views: Sequence[ImageView]) -> torch.Tensor | None:
        """Weights of places, shape (n, 1, side, side), mirrored with the pictures; None where none were given."""
        if not self._cells:
            return None
        found = [(self._cells[view.sample, view.crop], view.mirrored) for view in views]
        return torch.stack([cells.flip(-1) if mirrored else cells for cells, mirrored in found])

    @torch.no_grad()
    def _moments(self, view: ImageView) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        view = replace(view, wording=0)  # they share the picture
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
