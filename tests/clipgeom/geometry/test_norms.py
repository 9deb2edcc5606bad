"""Norms, offsets, radial terms: against plain numpy, against the published table, against simulated truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipgeom import DomainError, ShapeError, measure_shells, measure_spectrum, radial_terms
from clipgeom.geometry.bootstrap import jackknife_interval
from clipgeom.geometry.vectors import FileVectors, as_vectors, row_hashes
from tests.conftest import ROOT


def sample(n=300, d=10, offset=2.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) * rng.uniform(0.5, 2.0, size=d) + offset


def layer_norm(n, d, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) + 0.8 * rng.normal(size=d)
    return (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)


def test_agrees_with_plain_numpy():
    x = sample()
    shells = measure_shells(x)
    m = x.mean(axis=0)
    for summary, norms in ((shells.raw, np.linalg.norm(x, axis=1)), (shells.centered, np.linalg.norm(x - m, axis=1))):
        assert summary.mean_norm == pytest.approx(norms.mean(), rel=1e-12)
        assert summary.var_norm == pytest.approx(norms.var(), rel=1e-11)
        assert summary.cv_norm == pytest.approx(norms.std() / norms.mean(), rel=1e-11)
        assert summary.percentiles["95"] == pytest.approx(np.percentile(norms, 95), rel=1e-12)
        for name in ("mean_norm", "var_norm", "std_norm", "cv_norm"):
            low, high = summary.ci95[name]
            assert low < getattr(summary, name) < high
    assert shells.center_norm == pytest.approx(np.linalg.norm(m))
    assert shells.offset_ratio == pytest.approx(np.linalg.norm(m) / np.sqrt(x.var(axis=0).sum()))


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), offset=st.floats(-5, 5), n=st.integers(4, 60), d=st.integers(1, 12))
def test_radial_terms_add_up_to_the_variance_of_the_squared_norm(seed, offset, n, d):
    x = sample(n, d, offset, seed)
    terms = radial_terms(x)
    squares = (x**2).sum(axis=1)
    assert pytest.approx(squares.var(), rel=1e-9, abs=1e-9) == terms.A + terms.B + terms.C
    s, p = ((x - x.mean(axis=0)) ** 2).sum(axis=1), (x - x.mean(axis=0)) @ x.mean(axis=0)
    assert s.var() == pytest.approx(terms.A, rel=1e-9, abs=1e-9)
    assert 4 * p.var() == pytest.approx(terms.B, rel=1e-9, abs=1e-9)


def test_a_sphere_about_the_origin_has_correlation_minus_one_and_a_shell_off_it_has_none():
    sphere = layer_norm(800, 40, seed=1)
    terms = radial_terms(sphere)
    assert terms.correlation == pytest.approx(-1.0, abs=1e-9)
    assert pytest.approx(terms.C, rel=1e-6) == -(terms.A + terms.B)
    rng = np.random.default_rng(2)
    directions = rng.normal(size=(800, 40))
    shell = directions / np.linalg.norm(directions, axis=1, keepdims=True) * rng.normal(5, 0.1, size=(800, 1)) + 1.0
    low, high = radial_terms(shell).ci95["correlation"]
    assert low < 0 < high


def test_the_best_sphere_is_found_where_there_is_one():
    rng = np.random.default_rng(3)
    directions = rng.normal(size=(500, 6))
    center = np.array([3.0, -1, 2, 0, 5, 1])
    x = 2.5 * directions / np.linalg.norm(directions, axis=1, keepdims=True) + center
    fit = measure_shells(x).sphere
    np.testing.assert_allclose(fit.center, center, atol=1e-10)
    assert fit.radius == pytest.approx(2.5)
    assert fit.cv_norm < 1e-12
    assert measure_shells(x[:7]).sphere is None  # seven points in six dimensions always lie on a sphere


def test_blocks_from_a_file_give_the_same_as_an_array(tmp_path, monkeypatch):
    monkeypatch.setattr("clipgeom.geometry.vectors.BLOCK_BYTES", 8 * 10 * 17)  # 17 rows a block
    x = sample().astype(np.float32)
    x.tofile(tmp_path / "x.f32")
    stored = FileVectors(tmp_path / "x.f32", n=len(x), dim=10, dtype=np.float32)
    from_file, from_array = measure_shells(stored), measure_shells(x)
    np.testing.assert_array_equal(from_file.raw_norms, from_array.raw_norms)
    assert from_file.centered == from_array.centered
    assert from_file.radial == from_array.radial


def shell_population(n, seed):
    rng = np.random.default_rng([11, seed])
    return (1 + rng.gamma(3.0, size=(n, 1)) / 10) * rng.normal(size=(n, 16)) * np.linspace(0.5, 2, 16) + 0.7


def layer_norm_population(n, seed):
    rng = np.random.default_rng([12, seed])
    x = rng.normal(size=(n, 16)) + np.linspace(-1, 1, 16) * (1 + 0.3 * rng.normal(size=(n, 1)))
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    return x * np.linspace(0.8, 1.2, 16) + 0.1


def statistics(shells):
    values = {
        **{f"raw.{k}": (getattr(shells.raw, k), v) for k, v in shells.raw.ci95.items()},
        **{f"centered.{k}": (getattr(shells.centered, k), v) for k, v in shells.centered.ci95.items()},
        **{f"radial.{k}": (getattr(shells.radial, k), v) for k, v in shells.radial.ci95.items()},
        "offset": (shells.offset_ratio_corrected, shells.offset_ratio_ci95),
    }
    return {k: v for k, v in values.items() if not k.endswith("std_norm")}


@pytest.mark.slow
@pytest.mark.parametrize("population", [shell_population, layer_norm_population])
def test_intervals_cover_the_truth(population):
    truth = {k: v[0] for k, v in statistics(measure_shells(population(400_000, 10**6))).items()}
    trials = 150
    covered = dict.fromkeys(truth, 0)
    for seed in range(trials):
        for name, (_value, (low, high)) in statistics(measure_shells(population(1000, seed), seed=seed)).items():
            covered[name] += low <= truth[name] <= high
    rates = {name: count / trials for name, count in covered.items()}
    # 95 % with the binomial noise of 150 trials (± 3 standard errors), and a percentile bootstrap's known optimism
    assert all(0.89 <= rate <= 0.995 for rate in rates.values()), rates


def test_the_offset_interval_holds_zero_where_there_is_no_offset():
    x = np.random.default_rng(4).normal(size=(500, 64))
    shells = measure_shells(x)
    assert shells.offset_ratio > 0.03  # sampling noise alone: 1/√500
    assert shells.offset_ratio_ci95[0] == 0.0


# --- several captions of one image


def images_of_captions(images, seed, dim=16):
    """An off-centre shell with one to nine captions an image, in any order, and the numbers of the images."""
    rng = np.random.default_rng([13, seed])
    image = np.repeat(np.arange(images), rng.integers(1, 10, images))
    directions = 1.3 * rng.normal(size=(images, dim))[image] + rng.normal(size=(len(image), dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    radius = 4 + 0.2 * rng.gamma(2.0, size=images)[image] + 0.2 * rng.gamma(2.0, size=len(image))
    mixed = rng.permutation(len(image))
    return (radius[:, None] * directions + np.linspace(-0.5, 1, dim))[mixed], image[mixed]


def left_out_intervals(x, image):
    """The intervals by the definition: each image left out in turn, and everything measured again."""
    names = [name for name in statistics(measure_shells(x)) if name.split(".")[-1] not in ("C", "correlation")]
    whole = statistics(measure_shells(x))
    without = [statistics(measure_shells(x[image != i])) for i in np.unique(image)]
    ratios = [measure_shells(x[image != i]).offset_ratio for i in np.unique(image)]
    found = {n: jackknife_interval(whole[n][0], np.array([w[n][0] for w in without]), scale="log") for n in names}
    found["offset"] = tuple(np.sqrt(jackknife_interval(measure_shells(x).offset_ratio ** 2, np.array(ratios) ** 2)))
    return found


def test_intervals_by_image_are_those_of_leaving_each_image_out(monkeypatch):
    monkeypatch.setattr("clipgeom.geometry.norms.leave_out._ENTRIES", 200)  # several pieces a block
    x, image = images_of_captions(30, 0)
    by_image = statistics(measure_shells(x, groups=image))
    for name, expected in left_out_intervals(x, image).items():
        assert by_image[name][1] == pytest.approx(expected, rel=1e-9), name


def test_values_do_not_depend_on_groups_and_groups_of_one_change_nothing():
    x, image = images_of_captions(40, 1)
    alone, grouped = measure_shells(x), measure_shells(x, groups=[f"image {i}" for i in image])
    assert (alone.n_groups, grouped.n_groups, grouped.n) == (len(x), 40, len(x))
    assert grouped.raw.percentiles == alone.raw.percentiles
    for name, (value, _) in statistics(alone).items():
        if name != "offset":
            assert statistics(grouped)[name][0] == pytest.approx(value, rel=1e-12)
    assert grouped.offset_ratio_corrected < alone.offset_ratio_corrected < alone.offset_ratio
    single = measure_shells(x, groups=np.arange(len(x)))
    assert (single.raw, single.centered, single.radial) == (alone.raw, alone.centered, alone.radial)


def test_intervals_by_image_cover_the_truth_where_independent_ones_do_not():
    truth = {k: v[0] for k, v in statistics(measure_shells(images_of_captions(40_000, 10**6)[0])).items()}
    names = ("raw.mean_norm", "raw.var_norm", "centered.mean_norm", "centered.var_norm", "offset")
    covered = {by: dict.fromkeys(names, 0) for by in ("image", "caption")}
    trials = 80
    for seed in range(trials):
        x, image = images_of_captions(60, seed)
        for by, groups in (("image", image), ("caption", None)):
            measured = statistics(measure_shells(x, groups=groups))
            for name in names:
                low, high = measured[name][1]
                covered[by][name] += low <= truth[name] <= high
    assert all(count / trials >= 0.88 for count in covered["image"].values()), covered
    assert covered["caption"]["centered.mean_norm"] / trials < 0.7
    assert covered["caption"]["offset"] / trials < 0.7


def test_the_offset_interval_by_image_contains_zero_where_there_is_no_offset():
    image = np.repeat(np.arange(100), 5)
    x = np.random.default_rng(4).normal(size=(100, 64))[image] + 0.3 * np.random.default_rng(5).normal(size=(500, 64))
    shells = measure_shells(x, groups=image)
    assert shells.offset_ratio == pytest.approx(0.1, abs=0.02)  # sampling noise alone: about 1/√100
    assert shells.offset_ratio_ci95[0] == 0.0
    assert shells.offset_ratio_corrected < 0.04
    assert measure_shells(x).offset_ratio_ci95[0] > 0.05  # the risk of taking captions as independent


def test_constant_vectors_in_groups_have_an_outcome():
    shells = measure_shells(np.ones((6, 3)), groups=[0, 0, 1, 1, 2, 2])
    assert shells.centered.ci95["mean_norm"] == (0.0, 0.0)
    assert np.isnan(shells.radial.ci95["correlation"]).all()


# --- real data: the first four rows of SCIENCE.md's table, to its digits


@pytest.mark.parametrize(
    ("file", "raw_var", "centered_var", "raw_cv", "centered_cv", "offset"),
    [
        ("vitb32_text_projected_lvis.npy", "0.479", "0.124", "0.0705", "0.0706", "1.70"),
        ("vitl14_text_hidden_eos_ade150.npy", "0.078", "2.42", "0.0099", "0.0751", "0.92"),
    ],
)
def test_the_published_table_on_real_embeddings(shared, file, raw_var, centered_var, raw_cv, centered_cv, offset):
    x = np.load(shared(f"data/{file}"))
    shells = measure_shells(x)

    def rounded(value, like):
        return f"{value:.{len(like.split('.')[1])}f}"

    assert rounded(shells.raw.var_norm, raw_var) == raw_var
    # 0.12348 stands as 0.124 in the table
    assert shells.centered.var_norm == pytest.approx(float(centered_var), rel=0.005)
    assert rounded(shells.raw.cv_norm, raw_cv) == raw_cv
    assert rounded(shells.centered.cv_norm, centered_cv) == centered_cv
    assert rounded(shells.offset_ratio, offset) == offset


def test_real_embeddings_of_the_repository_have_the_published_statistics():
    """The second row of the table and its radial terms, for clones without the shared folder; the file is float16."""
    x = np.load(ROOT / "tests" / "data" / "vitl14_text_hidden_eos_ade150.npy").astype(np.float64)
    assert x.shape == (150, 768)
    shells = measure_shells(x)
    assert shells.raw.var_norm == pytest.approx(0.0783, rel=0.01)
    assert shells.centered.var_norm == pytest.approx(2.42, rel=0.005)
    assert shells.raw.cv_norm == pytest.approx(0.0099, abs=0.0001)
    assert shells.centered.cv_norm == pytest.approx(0.0751, abs=0.0001)
    assert shells.offset_ratio == pytest.approx(0.924, abs=0.001)
    assert pytest.approx((4340, 5198, -9290), rel=1e-3) == (shells.radial.A, shells.radial.B, shells.radial.C)
    assert shells.radial.correlation == pytest.approx(-0.978, abs=5e-4)


def test_the_published_radial_terms(shared):
    lvis = radial_terms(np.load(shared("data/vitb32_text_projected_lvis.npy")))
    assert (round(lvis.A, 1), round(lvis.B), round(lvis.C)) == (13.0, 255, -72)  # 254.54: 254 in the table, cut
    ade = radial_terms(np.load(shared("data/vitl14_text_hidden_eos_ade150.npy")))
    assert (round(ade.A), round(ade.B), round(ade.C)) == (4340, 5198, -9290)
    assert round(ade.correlation, 3) == -0.978


def test_distinct_vectors_are_counted():
    x = sample(n=50, d=7).astype(np.float32)
    assert (measure_shells(x).n_distinct, measure_shells(x).effective_distinct) == (50, pytest.approx(50))
    few = measure_shells(np.concatenate([x[:2], np.repeat(x[2:3], 6, axis=0), -0.0 * x[:1], 0.0 * x[:1]]))
    assert few.n_distinct == 4
    assert few.effective_distinct == pytest.approx(100 / (1 + 1 + 36 + 4))
    assert few.discrete


def test_hashes_of_a_hundred_thousand_rows_do_not_collide():
    x = np.random.default_rng(0).integers(-3, 4, size=(100_000, 6)).astype(np.float64) / 2
    assert len(np.unique(row_hashes(x))) == len(np.unique(x, axis=0))


# --- spectrum


def test_the_spectrum_of_known_variances():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200_000, 4)) * np.sqrt([4.0, 1.0, 1.0, 2.0]) + [0, 0, 9, 0]
    spectrum = measure_spectrum(measure_shells(x).moments)
    np.testing.assert_allclose(spectrum.eigenvalues, [4, 2, 1, 1], rtol=0.03)
    p = np.array([4, 2, 1, 1]) / 8
    assert spectrum.effective_rank == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=0.01)
    assert spectrum.participation_ratio == pytest.approx(64 / 22, rel=0.02)
    assert spectrum.top_share["1"] == pytest.approx(0.5, rel=0.02)
    assert spectrum.by_center[0].feature == 2
    assert spectrum.by_center[0].share_of_center == pytest.approx(1.0, abs=0.01)
    assert spectrum.by_variance[0].feature == 0
    assert spectrum.off_diagonal_dominance < 0.1


def test_off_diagonal_dominance_sees_a_tilt():
    x = np.random.default_rng(0).normal(size=(4000, 1)) * np.ones(8) + 0.1 * np.random.default_rng(1).normal(
        size=(4000, 8)
    )
    spectrum = measure_spectrum(measure_shells(x).moments)
    assert spectrum.off_diagonal_dominance == pytest.approx(7.0, rel=0.05)
    assert spectrum.off_diagonal_noise < 0.1


# --- bad input


def test_bad_input_is_refused():
    with pytest.raises(DomainError, match="at least 3"):
        measure_shells(np.zeros((2, 4)))
    with pytest.raises(DomainError, match="NaN or infinity"):
        measure_shells(np.array([[1.0], [np.inf], [2.0]]))
    with pytest.raises(DomainError, match="floating-point"):
        measure_shells(np.zeros((4, 4), dtype=int))
    with pytest.raises(ShapeError, match="matrix"):
        measure_shells(np.zeros(4))
    with pytest.raises(ShapeError, match=r"groups of shape \(4,\)"):
        measure_shells(np.zeros((4, 2)), groups=[1, 2])
    with pytest.raises(ShapeError, match="numpy array"):
        as_vectors([[1.0, 2.0]] * 4)


def test_constant_vectors_have_an_outcome():
    shells = measure_shells(np.ones((5, 3)))
    assert shells.offset_ratio == float("inf")
    assert shells.centered.mean_norm == 0
    assert np.isnan(shells.centered.cv_norm)
    assert np.isnan(shells.radial.correlation)
    assert np.isnan(measure_spectrum(shells.moments).effective_rank)
