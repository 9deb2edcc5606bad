"""From captions to the rows of report.json: agreement with plain numpy on saved vectors, and bounded memory."""

import json
import subprocess
import sys

import numpy as np
import pytest

from clipgeom import DomainError, encode, load_text_encoder, open_captions
from clipgeom.encoder import parse_positions
from clipgeom.report.measure.build import measure_captions
from clipgeom.report.measure.rows import json_ready
from tests.tiny.text_towers import save_projection

RELATIVE = 1e-6


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tower") / "clip"
    save_projection(folder)
    return load_text_encoder(folder)


def measured(tower, path, workspace, positions="eos,5", representations=("hidden", "projected"), **options):
    captions = open_captions(path, limit=options.pop("limit", None), group_size=options.pop("group_size", None))
    return measure_captions(
        tower,
        captions,
        representations=representations,
        positions=parse_positions(positions),
        workspace=workspace,
        **options,
    )


def captions_file(path, n, seed=0):
    rng = np.random.default_rng(seed)
    words = ["the", "cat", "dog", "a", "on", "mat", "red", "blue", "x"]
    path.write_text("".join(" ".join(rng.choice(words, rng.integers(1, 14))) + "\n" for _ in range(n)))
    return path


def plain(vectors):
    """The table's numbers by a plain float64 script."""
    x = vectors.astype(np.float64)
    m = x.mean(axis=0)
    raw, centered = np.linalg.norm(x, axis=1), np.linalg.norm(x - m, axis=1)
    s, p = centered**2, (x - m) @ m
    spread = np.sqrt(((x - m) ** 2).sum() / len(x))
    return {
        "n": len(x),
        "raw.mean_norm": raw.mean(),
        "raw.var_norm": raw.var(),
        "raw.cv_norm": raw.std() / raw.mean(),
        "centered.mean_norm": centered.mean(),
        "centered.var_norm": centered.var(),
        "centered.cv_norm": centered.std() / centered.mean(),
        "center_norm": np.linalg.norm(m),
        "offset_ratio": np.linalg.norm(m) / spread,
        "radial_terms.A": s.var(),
        "radial_terms.B": 4 * p.var(),
        "radial_terms.C": 4 * ((s - s.mean()) * (p - p.mean())).mean(),
    }


def entry(row, path):
    for key in path.split("."):
        row = row[key]
    return row


def assert_rows_agree(report, encoded):
    for row in report["statistics"]:
        vectors, _rows = encoded[row["representation"], row["position"]]
        for path, expected in plain(vectors).items():
            assert entry(row, path) == pytest.approx(expected, rel=RELATIVE), path


def test_rows_agree_with_a_plain_script_and_extremes_name_their_captions(tower, tmp_path):
    path = captions_file(tmp_path / "c.txt", 400)
    result = measured(tower, path, tmp_path)
    texts = path.read_text().splitlines()
    encoded = encode(tower, texts, representations="hidden,projected", positions="eos,5")
    assert_rows_agree(result.report, encoded)
    vectors, rows = encoded["projected", "5"]
    row = result.report["statistics"][3]
    assert (row["representation"], row["position"]) == ("projected", "5")
    assert row["n_excluded"] == 400 - len(rows) > 0
    norms = np.linalg.norm(vectors.astype(float), axis=1)
    highest = row["extremes"]["norm_highest"][0]
    assert highest["text"] == texts[rows[np.argmax(norms)]]
    assert highest["id"] == str(rows[np.argmax(norms)] + 1)
    assert highest["value"] == pytest.approx(norms.max())
    np.testing.assert_allclose(result.centers["projected.5"], vectors.astype(float).mean(axis=0), rtol=1e-6, atol=1e-9)
    json.dumps(result.report, allow_nan=False)
    assert [p.name for p in tmp_path.iterdir()] == ["c.txt"]


def test_the_profile_keeps_content_and_padding_apart(tower, tmp_path):
    path = captions_file(tmp_path / "c.txt", 120)
    result = measured(tower, path, tmp_path, padded=True)
    lengths = {len(ids): 0 for ids in tower.tokens(path.read_text().splitlines()).ids}
    eos = tower.tokens(path.read_text().splitlines()).eos
    assert lengths
    for population in ("content", "padded"):
        rows = [
            r for r in result.report["profile"] if r["representation"] == "hidden" and r["population"] == population
        ]
        for row in rows:
            p = row["position"]
            assert row["n"] == ((eos > p).sum() if population == "content" else (eos < p).sum())
        assert rows
    at_5 = next(r for r in result.report["profile"] if (r["population"], r["position"]) == ("content", 5))
    statistics = next(r for r in result.report["statistics"] if r["position"] == "5")
    assert at_5["mean_raw_norm"] == pytest.approx(statistics["raw"]["mean_norm"], rel=1e-12)
    assert "hidden.padded:40" in result.centers


def five_an_image(path, images, seed=0):
    """Five captions of each image, alike: its own first word nine times of ten, a subset of its words."""
    rng = np.random.default_rng(seed)
    words = ["the", "cat", "dog", "a", "on", "mat", "red", "blue", "x"]
    rows = []
    for image in range(images):
        base = list(rng.choice(words, 12))
        rows += [{"caption": " ".join(base[: rng.integers(3, 13)]), "image_id": image} for _ in range(5)]
    path.with_suffix(".txt").write_text("".join(row["caption"] + "\n" for row in rows))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_intervals_are_by_image_with_ids_and_with_a_group_size_alike(tower, tmp_path):
    path = five_an_image(tmp_path / "c.jsonl", 100)
    by_ids = measured(tower, path, tmp_path, profile=False).report
    by_size = measured(tower, path.with_suffix(".txt"), tmp_path, profile=False, group_size=5).report
    loose = measured(tower, path.with_suffix(".txt"), tmp_path, profile=False).report
    assert [(r["captions"]["groups"], r["captions"]["n_groups"]) for r in (by_ids, by_size, loose)] == [
        ("image ids", 100),
        ("each 5 consecutive captions", 100),
        (None, None),
    ]
    for key in ("statistics", "conformity", "centering"):
        for row, other in zip(by_ids[key], by_size[key], strict=True):
            assert {k: v for k, v in row.items() if k != "extremes"} == {
                k: v for k, v in other.items() if k != "extremes"
            }
    for row, alone in zip(by_ids["statistics"], loose["statistics"], strict=True):
        # at position 5 only the captions that have it, by their own images
        assert row["n_groups"] == 100 if row["position"] == "eos" else 50 < row["n_groups"] <= 100 < row["n"]
        assert alone["n_groups"] == alone["n"] == row["n"]
        assert row["raw"]["mean_norm"] == alone["raw"]["mean_norm"]
        for side in ("raw", "centered"):
            (low, high), (narrow, wide) = (r[side]["ci95"]["mean_norm"] for r in (row, alone))
            assert high - low > wide - narrow
    assert {c["n_groups"] for c in by_ids["centering"]} == {r["n_groups"] for r in by_ids["statistics"]}


def test_captions_of_a_single_image_are_refused(tower, tmp_path):
    path = five_an_image(tmp_path / "c.jsonl", 1)
    with pytest.raises(DomainError, match=r"the 5 vectors at position eos are all of one image"):
        measured(tower, path, tmp_path, positions="eos")


def test_the_same_input_and_seed_give_the_same_report(tower, tmp_path):
    path = captions_file(tmp_path / "c.txt", 60)
    first, second = (measured(tower, path, tmp_path, seed=3).report for _ in range(2))
    for report in (first, second):
        report["provenance"].pop("created")
    assert first == second


def test_the_figures_of_the_published_table(shared, tmp_path):
    """5,000 COCO captions, every fifth line, through coco-text-tiny: the last two rows of SCIENCE.md's table."""
    lines = shared("data/coco2014_karpathy_test_captions.txt").read_text(encoding="utf-8").splitlines()[::5]
    (tmp_path / "coco.txt").write_text("\n".join(lines), encoding="utf-8")
    encoder = load_text_encoder(shared("models/coco-text-tiny"))
    report = measured(encoder, tmp_path / "coco.txt", tmp_path, profile=False).report
    assert_rows_agree(report, encode(encoder, lines, representations="hidden,projected", positions="eos,5"))
    rows = {(r["representation"], r["position"]): r for r in report["statistics"]}
    eos, five = rows["hidden", "eos"], rows["hidden", "5"]
    assert [r["n"] for r in rows.values()] == [5000] * 4
    assert [round(eos["raw"]["var_norm"], 5), round(eos["centered"]["var_norm"], 3)] == [0.00036, 0.293]
    assert [round(eos["raw"]["cv_norm"], 4), round(eos["centered"]["cv_norm"], 4)] == [0.0017, 0.0507]
    assert [round(five["raw"]["var_norm"], 5), round(five["centered"]["var_norm"], 2)] == [0.00042, 1.26]
    assert [round(five["raw"]["cv_norm"], 4), round(five["centered"]["cv_norm"], 3)] == [0.0018, 0.113]
    assert [round(eos["offset_ratio"], 2), round(five["offset_ratio"], 2)] == [0.35, 0.53]


@pytest.mark.parametrize(
    ("lines", "positions", "message"),
    [
        (["a cat", "the dog"], "eos", r"only 2 caption\(s\) can be measured at position eos; at least 3"),
        (["x"] * 9, "40", "no caption is long enough to have content at position 40"),
        (["a cat sat on the mat today", *["x"] * 9], "12", r"only 1 caption\(s\) can be measured at position 12"),
    ],
)
def test_too_few_captions_for_a_position(tower, tmp_path, lines, positions, message):
    (tmp_path / "c.txt").write_text("\n".join(lines))
    with pytest.raises(DomainError, match=message):
        measured(tower, tmp_path / "c.txt", tmp_path, positions=positions)
    assert [p.name for p in tmp_path.iterdir()] == ["c.txt"]


def test_constant_states_at_bos_have_an_outcome(tower, tmp_path):
    path = captions_file(tmp_path / "c.txt", 50)
    report = measured(tower, path, tmp_path, positions="0", representations=("token", "hidden")).report
    token = report["statistics"][0]
    assert "all but constant" in token["notes"][0]
    assert token["offset_ratio"] is None
    json.dumps(report, allow_nan=False)


def test_json_has_no_nan():
    assert json_ready({"a": [np.float64("nan"), np.inf, np.int64(3), (1, np.array([1.5, np.nan]))]}) == {
        "a": [None, None, 3, [1, [1.5, None]]]
    }


_MEASURE = """
import resource, sys
from pathlib import Path
from clipgeom import load_text_encoder, open_captions
from clipgeom.encoder import parse_positions
from clipgeom.report.measure.build import measure_captions
encoder = load_text_encoder(sys.argv[1])
for limit in (10_000, int(sys.argv[4])):
    result = measure_captions(encoder, open_captions(sys.argv[2], limit=limit), representations=("hidden", "projected"),
                              positions=parse_positions("eos,5"), workspace=Path(sys.argv[3]))
    assert result.report["captions"]["n_used"] == limit
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_caption_set(tower, tmp_path):
    path = captions_file(tmp_path / "c.txt", 60_000)
    arguments = [str(tower.name), str(path), str(tmp_path), "60000"]
    out = subprocess.run([sys.executable, "-c", _MEASURE, *arguments], capture_output=True, text=True, check=True)
    small, large = (int(line) for line in out.stdout.split())
    assert large - small < 40, "MB from 10,000 to 60,000 captions; 300 MB are allowed for 400,000"
