"""Comparison of two modalities: the gap between images and texts, their separability, and an offset sweep.

Gap: Liang et al., *Mind the Gap*, NeurIPS 2022. Offset sweep x' = x − α·m: Levi & Gilboa, arXiv 2411.14517, §5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipgeom._extras import needs_extra
from clipgeom._repr import short_repr
from clipgeom.errors import DomainError, ShapeError
from clipgeom.geometry._conformity import conformity
from clipgeom.geometry.bootstrap import Codes, Features, Interval, grouped_share_interval, mean_intervals
from clipgeom.geometry.groups import group_codes
from clipgeom.geometry.vectors import ArrayVectors

if TYPE_CHECKING:
    from jaxtyping import Float

    Matrix = Float[NDArray[np.float64], "_ d"]

__all__ = ["ModalityReport", "OffsetPoint", "Pairing", "Separability", "compare_modalities"]

ALPHAS = tuple(round(-1 + 0.25 * i, 2) for i in range(17))  # −1 … 3, as in Levi & Gilboa 2025, arXiv 2411.14517
LOGIT_SCALE = 100.0  # CLIP's learnt temperature is clipped here
BINS = 64  # bins of the conformity histograms
MAX_SAMPLES = 5000  # larger modalities are thinned evenly: the loss needs an n × n matrix


@dataclass(frozen=True, slots=True)
class Pairing:
    """Statistics of paired images and texts: cosines, and retrieval within the sample.

    `r_at_1` counts an image whose own caption is the nearest of all n (ties go to the earlier caption).
    """

    n: int
    paired_cosine: float
    unpaired_cosine: float
    image_to_text_r_at_1: float
    text_to_image_r_at_1: float
    ci95: dict[str, Interval]


@dataclass(frozen=True, slots=True)
class Separability:
    """Linear separability of the modalities, on held-out samples.

    `accuracy` uses all features of `n_held_out` held-out vectors, with its interval (Clopper–Pearson; by group where
    there are groups); `features` is
    the shortest list, chosen one by one on the other half, whose held-out accuracy reaches it: an upper bound of the
    fewest, since only greedy choices are tried. `reached` is False where the list stopped at its maximal length.
    """

    n_held_out: int
    accuracy: float
    accuracy_ci95: Interval
    features: tuple[int, ...]
    features_accuracy: float
    reached: bool


@dataclass(frozen=True, slots=True)
class OffsetPoint:
    """One offset α of the sweep, both modalities moved by −α times their own mean.

    `conformity_divergence` is the Jensen–Shannon divergence (bits, 0…1) of the two conformity distributions;
    `contrastive_loss` is CLIP's symmetric loss at logit scale 100 (nats), None where samples are not paired.
    """

    alpha: float
    conformity_divergence: float
    contrastive_loss: float | None


@short_repr
@dataclass(frozen=True, slots=True)
class ModalityReport:
    """Comparison of images and texts; see the fields' types. `gap` is the distance of the mean unit vectors, in [0, 2]."""

    n_images: int
    n_texts: int
    n_images_given: int
    n_texts_given: int
    gap: float
    gap_ci95: Interval
    pairing: Pairing | None
    separability: Separability
    offsets: tuple[OffsetPoint, ...]


def compare_modalities(
    images: NDArray[Any],
    texts: NDArray[Any],
    /,
    *,
    paired: bool | None = None,
    groups: Sequence[Any] | NDArray[Any] | None = None,
    seed: int = 0,
    alphas: Sequence[float] = ALPHAS,
) -> ModalityReport:
    """Compare image and text embeddings of one joint space.

    Parameters
    ----------
    images, texts : ndarray, shapes (n, d) and (m, d)
        Projected embeddings. Cosines do not depend on normalisation; the offset sweep uses the vectors unchanged.
    paired : bool, optional
        Whether the i-th image belongs to the i-th text. By default, whether n = m.
    groups : sequence of length m, optional
        An id for each text (and for its image where these are paired); texts with the same id, such as the captions of
        one image, are split and resampled together.
    seed : int
        Of the split and the bootstrap.
    alphas : sequence of float
        Offsets to try.

    Raises
    ------
    ShapeError
        Not two matrices of the same width, `paired` with different n, or `groups` of another length.
    DomainError
        Fewer than eight of either, zero vectors, NaN, or a single group.
    """
    for name, array in (("images", images), ("texts", texts)):
        ArrayVectors(array)
        if len(array) < 8:
            raise DomainError(f"expected at least 8 {name} to compare the modalities, got {len(array)}")
        if not np.isfinite(array).all():
            raise DomainError(f"the {name} contain NaN or infinity")
    if images.shape[1] != texts.shape[1]:
        raise ShapeError(f"images have {images.shape[1]} features, texts {texts.shape[1]}; they are not of one space")
    if paired is None:
        paired = len(images) == len(texts)
    if paired and len(images) != len(texts):
        raise ShapeError(f"paired samples must be equally many, got {len(images)} images and {len(texts)} texts")
    codes = group_codes(groups, len(texts))
    if codes is not None:
        codes = np.unique(codes[_thinned(len(texts))], return_inverse=True)[1]
    x, y = (rows[_thinned(len(rows))].astype(np.float64) for rows in (images, texts))
    u, v = _unit(x, "images"), _unit(y, "texts")
    gap, gap_ci95 = _gap(u, v, paired, codes, seed)
    return ModalityReport(
        n_images=len(x),
        n_texts=len(y),
        n_images_given=len(images),
        n_texts_given=len(texts),
        gap=gap,
        gap_ci95=gap_ci95,
        pairing=_pairing(u, v, codes, seed) if paired else None,
        separability=_separability(x, y, paired, codes, seed),
        offsets=tuple(_offset(x, y, alpha, paired) for alpha in alphas),
    )


def _thinned(n: int) -> NDArray[np.int64]:
    """Indices of the rows in use: all n, or `MAX_SAMPLES` evenly spaced ones."""
    return np.linspace(0, n - 1, min(n, MAX_SAMPLES)).astype(np.int64)


def _unit(rows: Matrix, name: str) -> Matrix:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not norms.all():
        raise DomainError(f"one of the {name} is the zero vector and has no direction; leave it out")
    return rows / norms


def _gap(u: Matrix, v: Matrix, paired: bool, codes: Codes, seed: int) -> tuple[float, Interval]:
    """Distance of the means, with the interval of its derivative along the gap; it ends at zero."""
    vector = u.mean(axis=0) - v.mean(axis=0)
    gap = float(np.linalg.norm(vector))
    if gap == 0:
        return 0.0, (0.0, 0.0)
    along_u, along_v = (u - u.mean(axis=0)) @ vector / gap, (v - v.mean(axis=0)) @ vector / gap
    if paired:
        columns = np.stack([along_u, along_v], axis=1)
        moved = Features(columns, {"gap": lambda f: np.maximum(gap + f[0] - f[1], 0.0)})
        return gap, mean_intervals(moved, seed=seed, codes=codes)[0]["gap"]
    variance = along_v.var() / len(v)
    if codes is not None:
        sums = np.bincount(codes, along_v)
        variance = len(sums) / (len(sums) - 1) * np.sum(sums**2) / len(v) ** 2
    half = 1.96 * (along_u.var() / len(u) + variance) ** 0.5
    return gap, (max(gap - half, 0.0), gap + half)


def _pairing(u: Matrix, v: Matrix, codes: Codes, seed: int) -> Pairing:
    cosines = u @ v.T
    n = len(u)
    diagonal = np.diag(cosines)
    to_text = (cosines.argmax(axis=1) == np.arange(n)).astype(np.float64)
    to_image = (cosines.argmax(axis=0) == np.arange(n)).astype(np.float64)
    # mean over all others, seen from either side of each pair
    others = (cosines.sum(axis=1) + cosines.sum(axis=0) - 2 * diagonal) / (2 * (n - 1))
    features = np.stack([diagonal, others, to_text, to_image], axis=1)
    center = features.mean(axis=0)
    functions = {
        "paired_cosine": lambda f: f[0],
        "unpaired_cosine": lambda f: center[1] + 2 * (f[1] - center[1]),  # either end of a pair is resampled
        "image_to_text_r_at_1": lambda f: f[2],
        "text_to_image_r_at_1": lambda f: f[3],
    }
    [ci95] = mean_intervals(Features(features, functions), seed=seed, codes=codes)
    return Pairing(
        n=n,
        paired_cosine=float(center[0]),
        unpaired_cosine=float(center[1]),
        image_to_text_r_at_1=float(center[2]),
        text_to_image_r_at_1=float(center[3]),
        ci95=ci95,
    )


def _split(
    n_images: int, n_texts: int, paired: bool, codes: Codes, rng: np.random.Generator
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Split images and texts into fitted and held-out ones, equally many of each, so that chance accuracy is ½."""
    images, texts = rng.permutation(n_images), rng.permutation(n_texts)
    n = min(n_images, n_texts)
    if codes is None:
        return [(images[: n // 2], texts[: n // 2]), (images[n // 2 : n], texts[n // 2 : n])]
    chosen = rng.permutation(int(codes.max()) + 1) % 2 == 0  # groups lie on one side as a whole
    fitted = chosen[codes[texts]]
    of_images = chosen[codes[images]] if paired else np.arange(n_images) < n_images // 2
    parts = []
    for side in (True, False):
        pair = images[of_images == side], texts[fitted == side]
        least = min(map(len, pair))
        parts.append((pair[0][:least], pair[1][:least]))
    return parts


def _separability(
    images: Matrix, texts: Matrix, paired: bool, codes: Codes, seed: int, *, longest: int = 16
) -> Separability:
    with needs_extra("report", "comparing modalities"):
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from scipy.stats import binomtest

    fitted, held_out = _split(len(images), len(texts), paired, codes, np.random.default_rng(seed))
    (x, y), (x_out, y_out) = (
        (np.concatenate([images[i], texts[j]]), np.repeat([0, 1], [len(i), len(j)])) for i, j in (fitted, held_out)
    )

    def right(columns: Sequence[int] | slice) -> NDArray[np.bool_]:
        # shrinkage after Ledoit and Wolf: defined with fewer samples than features, and for constant features
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x[:, columns], y)
        hits: NDArray[np.bool_] = model.predict(x_out[:, columns]) == y_out
        return hits

    total = len(y_out)
    hits = right(slice(None))
    best = int(hits.sum())
    if codes is None:
        exact = binomtest(best, total).proportion_ci()
        accuracy_ci95 = (float(exact.low), float(exact.high))
    else:
        own = codes[held_out[0]] if paired else codes.max() + 1 + held_out[0]
        accuracy_ci95 = grouped_share_interval(hits, np.concatenate([own, codes[held_out[1]]]))
    chosen: list[int] = []
    reached = 0
    while len(chosen) < min(longest, x.shape[1]):
        chosen.append(_next_feature(x, y, chosen))
        reached = int(right(chosen).sum())
        if reached >= best:
            break
    return Separability(
        n_held_out=total,
        accuracy=best / total,
        accuracy_ci95=accuracy_ci95,
        features=tuple(chosen),
        features_accuracy=reached / total,
        reached=reached >= best,
    )


def _next_feature(x: Matrix, y: NDArray[np.int64], chosen: list[int]) -> int:
    """Return the feature that adds most to the Fisher separation, given the chosen ones.

    The separation is the Mahalanobis distance of the class means. With residuals r of a feature after regression on
    the chosen ones within the classes, the gain is the squared difference of the class means of r over its variance.
    This Gram–Schmidt step tries all features at once.
    """
    first, second = x[y == 0], x[y == 1]
    difference = first.mean(axis=0) - second.mean(axis=0)
    within = np.concatenate([first - first.mean(axis=0), second - second.mean(axis=0)])
    if chosen:
        basis = within[:, chosen]
        weights = np.linalg.lstsq(basis, within, rcond=None)[0]
        within = within - basis @ weights
        difference = difference - difference[chosen] @ weights
    variance = np.mean(within**2, axis=0)
    floor = (
        1e-12 * float(np.mean(x**2)) + np.finfo(float).tiny
    )  # a constant feature separates nothing by rounding noise
    gain = difference**2 / np.maximum(variance, floor)
    gain[chosen] = -1.0
    return int(np.argmax(gain))


def _offset(images: Matrix, texts: Matrix, alpha: float, paired: bool) -> OffsetPoint:
    x, y = images - alpha * images.mean(axis=0), texts - alpha * texts.mean(axis=0)
    a, b = conformity(x).values, conformity(y).values
    return OffsetPoint(
        alpha=alpha,
        conformity_divergence=_divergence(a, b),
        contrastive_loss=_contrastive_loss(_unit(x, "images"), _unit(y, "texts")) if paired else None,
    )


def _divergence(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    from scipy.spatial.distance import jensenshannon

    low, high = min(a.min(), b.min()), max(a.max(), b.max())
    if low == high:
        return 0.0
    p, q = (np.histogram(values, bins=BINS, range=(low, high))[0] / len(values) for values in (a, b))
    return float(jensenshannon(p, q, base=2) ** 2)


def _contrastive_loss(u: Matrix, v: Matrix) -> float:
    from scipy.special import logsumexp

    logits = LOGIT_SCALE * (u @ v.T)
    diagonal = np.diag(logits)
    rows, columns = logsumexp(logits, axis=1) - diagonal, logsumexp(logits, axis=0) - diagonal
    return float((rows.mean() + columns.mean()) / 2)
