import numpy as np
import pytest

from clipgeom import DomainError, ShapeError, compare_modalities
from clipgeom.geometry.modality import _split


def two_clouds(n=200, d=12, gap=3.0, seed=0):
    rng = np.random.default_rng(seed)
    shared_part = rng.normal(size=(n, d))
    images = shared_part + 0.3 * rng.normal(size=(n, d))
    texts = shared_part + 0.3 * rng.normal(size=(n, d))
    images[:, 4] += gap
    texts[:, 4] -= gap
    return images, texts


def test_the_known_figures_of_the_published_pairs(shared):
    images, texts = np.load(shared("data/vitb16_image_text_pairs_normalized.npy"))
    report = compare_modalities(images, texts)
    assert round(report.gap, 3) == 0.851
    assert round(report.pairing.image_to_text_r_at_1, 3) == 0.552
    assert round(report.pairing.paired_cosine, 3) == 0.310
    assert round(report.pairing.unpaired_cosine, 3) == 0.162
    assert report.separability.accuracy == 1.0
    assert report.separability.reached
    assert len(report.separability.features) <= 2
    losses = {point.alpha: point.contrastive_loss for point in report.offsets}
    assert min(losses, key=losses.get) == 0.0  # the article's finding, on other data


def test_the_feature_that_separates_is_found():
    separability = compare_modalities(*two_clouds(gap=8.0)).separability
    assert separability.features == (4,)
    assert separability.accuracy == separability.features_accuracy == 1.0


def test_one_population_cannot_be_separated():
    rng = np.random.default_rng(0)
    report = compare_modalities(rng.normal(size=(600, 8)), rng.normal(size=(500, 8)), paired=False)
    low, high = report.separability.accuracy_ci95
    assert low < 0.5 < high
    assert report.pairing is None
    assert all(point.contrastive_loss is None for point in report.offsets)


def test_two_features_together_are_found_where_neither_suffices():
    rng = np.random.default_rng(1)
    images, texts = rng.normal(size=(2, 800, 6))
    hidden = 10 * rng.normal(size=(2, 800))
    images[:, 1], images[:, 3] = hidden[0] + 2, hidden[0] - 2  # only the difference of the two tells them apart
    texts[:, 1], texts[:, 3] = hidden[1] - 2, hidden[1] + 2
    images[:, [1, 3]] += 0.1 * rng.normal(size=(800, 2))
    texts[:, [1, 3]] += 0.1 * rng.normal(size=(800, 2))
    separability = compare_modalities(images, texts, paired=False).separability
    assert set(separability.features) == {1, 3}


def test_the_divergence_is_zero_for_equal_and_one_for_disjoint_conformities():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(300, 10)) + 1
    assert compare_modalities(x, x.copy(), alphas=[0.0]).offsets[0].conformity_divergence == 0.0
    tight = 0.01 * rng.normal(size=(300, 10)) + 1
    assert compare_modalities(x, tight, alphas=[0.0]).offsets[0].conformity_divergence == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("paired", [True, False])
def test_captions_of_one_image_are_resampled_and_split_together(paired):
    images, texts = two_clouds(n=80, gap=0.4)
    jitter = 0.02 * np.random.default_rng(3).normal(size=(400, 12))
    groups = np.repeat(np.arange(80), 5)
    repeated = np.repeat(texts, 5, axis=0) + jitter
    others = np.repeat(images, 5, axis=0) + jitter if paired else images

    def width(interval):
        return interval[1] - interval[0]

    single, loose = compare_modalities(images, texts, paired=paired), compare_modalities(others, repeated)
    grouped = compare_modalities(others, repeated, groups=groups)
    assert grouped.gap == loose.gap
    assert width(grouped.gap_ci95) == pytest.approx(width(single.gap_ci95), rel=0.15)
    assert width(loose.gap_ci95) < 0.85 * width(grouped.gap_ci95)
    assert width(grouped.separability.accuracy_ci95) > (1.5 if paired else 1.0) * width(
        loose.separability.accuracy_ci95
    )
    if paired:
        for name in ("paired_cosine", "unpaired_cosine"):
            assert width(grouped.pairing.ci95[name]) > 1.8 * width(loose.pairing.ci95[name])


@pytest.mark.parametrize("paired", [True, False])
def test_the_split_by_group_leaves_no_group_on_both_sides(paired):
    codes = np.random.default_rng(0).integers(0, 30, 200)
    n_images = 200 if paired else 90
    (images, texts), (images_out, texts_out) = _split(n_images, 200, paired, codes, np.random.default_rng(1))
    assert len(images) == len(texts) > 30
    assert len(images_out) == len(texts_out) > 30
    assert not set(codes[texts]) & set(codes[texts_out])
    assert not set(images) & set(images_out)
    if paired:
        assert not set(codes[images]) & set(codes[texts_out])


def test_bad_input_is_refused():
    x = np.random.default_rng(0).normal(size=(20, 4))
    with pytest.raises(ShapeError, match="not of one space"):
        compare_modalities(x, x[:, :3].copy())
    with pytest.raises(ShapeError, match="equally many"):
        compare_modalities(x, x[:15], paired=True)
    with pytest.raises(DomainError, match="at least 8 texts"):
        compare_modalities(x, x[:3])
    broken = x.copy()
    broken[3] = 0
    with pytest.raises(DomainError, match="zero vector"):
        compare_modalities(x, broken)
    broken[3] = np.nan
    with pytest.raises(DomainError, match="NaN"):
        compare_modalities(x, broken)
