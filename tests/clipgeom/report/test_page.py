"""The page as text: what it says, how numbers are written, and that nothing in it can run or call out."""

import base64
import copy
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from clipgeom.encoder.positions import Position
from clipgeom.geometry.vectors import ArrayVectors
from clipgeom.report.measure.build import measure_embeddings
from clipgeom.report.render.figures.all import draw_report
from clipgeom.report.render.numbers import correlation, number
from clipgeom.report.render.page import render_report, report_grouping
from clipgeom.report.render.summary import headline, overlap, read_row
from tests.clipgeom.report.samples import NASTY, captioned, full, paired, tiny, vectors


class Page(HTMLParser):
    """Elements, attributes and texts of a page, as a browser would read them."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts = [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    def find(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def rendered(measured):
    return render_report(measured.report, draw_report(measured.report, measured.rows))


@pytest.fixture(scope="module")
def nasty():
    return rendered(captioned(captions=NASTY, model="<b>&\"model'", profile=True))


@pytest.mark.parametrize(
    ("value", "interval", "expected"),
    [
        (0.00036450, (0.00035146, 0.00037805), ("0.000365", "[0.000351, 0.000378]")),
        (11.3198, (11.3193, 11.3203), ("11.320", "[11.319, 11.320]")),
        (135.03, (124.1, 145.4), ("135", "[124, 145]")),
        (4.97e-8, (4.6e-8, 5.3e-8), ("4.97×10⁻⁸", "[4.60, 5.30]×10⁻⁸")),
        (-0.5, (-0.55, -0.45), ("−0.500", "[−0.550, −0.450]")),
        (0.0, (0.0, 0.0), ("0", "")),
        (0.123456, None, ("0.1235", "")),
        (1234567.0, None, ("1.235×10⁶", "")),
        (52345.6, None, ("52,346", "")),
        (1.0, (None, None), ("1.000", "")),
        (None, None, ("–", "")),
        (float("nan"), None, ("–", "")),
    ],
)
def test_numbers_carry_the_digits_their_interval_supports(value, interval, expected):
    cell = number(value, interval)
    assert (cell.text, cell.detail) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-0.37994, "−0.3799"),
        (0.9999986, "0.9999986"),
        (-0.9995897, "−0.99959"),
        (1 - 1e-14, "0.9999999"),
        (1.0, "1.0000"),
    ],
)
def test_a_correlation_is_not_rounded_to_one(value, expected):
    assert correlation(value).text == expected


@pytest.mark.parametrize(
    ("kind", "shape", "side"), [("sphere", "sphere", "raw"), ("shell", "shell", "centered"), ("ball", "neither", None)]
)
def test_shapes_are_read_from_the_radial_terms(kind, shape, side):
    row = captioned([("hidden", "eos", kind)], n=400).report["statistics"][0]
    reading = read_row(row)
    assert (reading.shape, reading.variance, reading.cv) == (shape, side, side)
    assert read_row({**row, "n": 10}).shape == "unknown"
    assert read_row({**row, "effective_distinct": 29.9}).shape == "unknown"


def test_the_headline_says_which_side_is_tighter():
    statistics = captioned(n=400).report["statistics"]
    first, second, *rest = headline(statistics)
    assert first.startswith("In hidden (eos), raw norms are tighter than centred norms, by their variance and")
    assert second.startswith("In projected (5), centred norms are tighter than raw norms")
    assert any("sphere about the origin" in sentence and "hidden (eos)" in sentence for sentence in rest)
    assert any("the final LayerNorm puts every vector" in sentence for sentence in rest)
    assert headline(statistics[:1])[0].startswith("At hidden (eos), raw norms")


def test_the_headline_claims_nothing_where_intervals_overlap():
    statistics = captioned([("token", "eos", "ball")], n=400).report["statistics"]
    assert "neither raw nor centred" in headline(statistics)[0]


def test_the_headline_tells_the_statistics_apart():
    row = copy.deepcopy(captioned([("a", "eos", "ball")], n=400).report["statistics"][0])
    row["raw"]["ci95"] |= {"var_norm": [3, 4], "cv_norm": [0.1, 0.2]}
    row["centered"]["ci95"] |= {"var_norm": [1, 2], "cv_norm": [0.3, 0.4]}
    row["raw"] |= {"var_norm": 3.5, "cv_norm": 0.15}
    row["centered"] |= {"var_norm": 1.5, "cv_norm": 0.35}
    assert headline([row])[0] == "At a (eos), centred norms are tighter by variance, but raw norms by CV."


def test_unit_vectors_are_no_finding():
    row = copy.deepcopy(captioned([("normalized", "eos", "sphere")]).report["statistics"][0])
    row["raw"] |= {"mean_norm": 1.0, "std_norm": 1e-7}
    assert headline([row]) == [
        "All vectors have unit length, so that raw norms cannot vary: only the centred numbers carry information."
    ]


@pytest.mark.parametrize("name", ["token", "prenorm", "penultimate", "projected", "normalized", "a file of mine"])
def test_only_hidden_states_are_said_to_come_out_of_a_layer_norm(name):
    statistics = captioned([("hidden", "eos", "sphere"), (name, "eos", "sphere")], n=400).report["statistics"]
    own, other = (sentence for sentence in headline(statistics) if "the radial terms cancel" in sentence)
    assert own.startswith("In hidden (eos)")
    assert "LayerNorm" in own
    assert other.startswith(f"In {name} (eos)")
    assert "LayerNorm" not in other
    assert "LayerNorm" not in " ".join(headline(statistics, encoded=False))  # vectors of a file may be anything


def test_vectors_of_a_file_are_described_as_measured():
    x = vectors("sphere", 400)
    measured = measure_embeddings(ArrayVectors(x), source="x.npy", representation="hidden", position=Position("eos"))
    header = rendered(measured).split("</header>")[0]
    assert "the radial terms cancel" in header
    assert "LayerNorm" not in header
    assert "LayerNorm" not in measured.report["centering"][0]["explanation"]


@pytest.mark.parametrize("kind", ["sphere", "shell", "ball"])
def test_few_distinct_vectors_get_no_verdict_on_a_shape(kind):
    """As at position 1, where nearly all captions begin with "a": one vector 300 times, 60 others now and then."""
    x = vectors(kind, 61)[np.maximum(np.arange(400) - 300, 0) % 61]
    measured = measure_embeddings(ArrayVectors(x), source="x.npy", representation="hidden", position=Position("eos"))
    row = measured.report["statistics"][0]
    assert row["n_distinct"] == 61
    assert row["effective_distinct"] == pytest.approx(
        1 / np.sum((np.unique(x, axis=0, return_counts=True)[1] / 400) ** 2)
    )
    assert read_row(row).shape == "unknown"
    assert headline([row])[-1] == (
        "hidden (eos): a few distinct vectors again and again, so there is no verdict on a shape."
    )
    assert row["notes"] == ["only 61 distinct vectors, as many as 1.8 equally common ones: no verdict on their shape"]
    doubled = measure_embeddings(
        ArrayVectors(np.repeat(vectors(kind, 200), 2, axis=0)),
        source="x.npy",
        representation="hidden",
        position=Position("eos"),
        check=False,
    )
    assert doubled.report["statistics"][0]["effective_distinct"] == pytest.approx(200)
    assert read_row(doubled.report["statistics"][0]).shape != "unknown"


def test_constant_rows_and_few_samples_are_named():
    constant = captioned([("hidden", "0", "constant")]).report["statistics"]
    assert headline(constant) == ["The vectors of every row are all but constant, so there is no shell to speak of."]
    assert "as few as 3 samples" in headline(tiny().report["statistics"])[-1]


def test_intervals_that_touch_overlap():
    assert overlap([0, 1], [1, 2]) is True
    assert overlap([0, 1], [1.1, 2]) is False
    assert overlap([0, None], [1, 2]) is None


def test_the_only_script_is_ours_and_the_policy_names_it(nasty):
    page = Page(nasty)
    assert len(page.find("script")) == 1
    script = re.search(r"<script>(.*?)</script>", nasty, flags=re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(meta["content"] for meta in page.find("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_captions_and_names_appear_as_written(nasty):
    page = Page(nasty)
    for caption in NASTY:
        if "\x00" not in caption:
            assert caption in page.texts
    assert page.texts.count("<b>&\"model'") >= 2
    assert not page.find("img") + page.find("b")


def test_nothing_in_the_page_points_outside(nasty):
    for tag, attributes in Page(nasty).elements:
        for name, value in attributes.items():
            if name in {"href", "src", "xlink:href", "action", "srcset"}:
                assert value.startswith(("#", "data:")), (tag, name, value)
    assert not re.search(r"url\((?!#)|@import", nasty)


@pytest.mark.parametrize("measured", [full(60), tiny(), paired()], ids=["twelve", "tiny", "paired"])
def test_ids_are_unique_and_every_reference_resolves(measured):
    html = rendered(measured)
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = set(re.findall(r'url\(#([^)"]+)\)|href="#([^"]+)"', html))
    assert {a or b for a, b in references} <= set(ids)


def test_every_figure_has_a_description_and_a_caption(nasty):
    page = Page(nasty)
    figures = page.find("figure")
    described = [svg for svg in page.find("svg") if svg.get("role") == "img" and svg.get("aria-label")]
    assert len(figures) == len(described) == len(page.find("figcaption")) > 10


def test_figures_of_the_page_follow_its_colours(nasty):
    drawings = "".join(re.findall(r"<svg.*?</svg>", nasty, flags=re.DOTALL))
    colours = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", drawings))
    assert colours <= {"#000000"}  # matplotlib's own default inside marker definitions, overridden where they are used
    assert "var(--raw)" in drawings
    assert "<style" not in drawings


def test_sections_appear_only_with_their_data():
    captions, vectors = rendered(captioned(n=40, profile=True)), rendered(paired())
    assert 'id="modality"' not in captions
    assert 'id="profile"' in captions
    assert 'id="modality"' in vectors
    assert 'id="captions"' not in vectors
    assert 'id="centering"' not in captions


def test_the_centering_check_has_its_verdict_figure_and_table():
    measured = captioned([("hidden", "eos", "sphere"), ("projected", "5", "shell")], n=200, check=True)
    measured.report["centering"][0]["explanation"] = "<none> is better"
    html = rendered(measured)
    assert html.index('id="radial"') < html.index('id="centering"') < html.index('id="spectra"')
    section = html[html.index('<section id="centering"') :].split("</section>")[0]
    for entry in measured.report["centering"]:
        assert entry["decided"]
        assert entry["verdict"] in section
    assert section.count("<figure>") == section.count("<table>") == 2
    assert "&lt;none&gt; is better" in section
    assert "To interpolate, use" in html.split("</header>")[0]


def test_a_check_without_a_verdict_says_so_without_a_figure():
    html = rendered(captioned(n=40, check=True))
    section = html[html.index('<section id="centering"') :].split("</section>")[0]
    assert "No verdict: 40 distinct vectors are too few" in section
    assert "<figure>" not in section


@pytest.mark.parametrize(
    ("groups", "n_groups", "source", "expected"),
    [
        ("image ids", 40, "coco.json", "Intervals are by image: 200 captions of 40 images."),
        ("each 5 consecutive captions", 40, "c.txt", "of 40 images (each 5 consecutive captions)."),
        ("image ids", 200, "coco.json", ""),
        (None, None, "c.txt", "where several captions belong to one image, give --group-size N."),
        (None, None, "c.csv", "belong to one image, give --image-column or --group-size N."),
    ],
)
def test_the_page_names_what_intervals_assume(groups, n_groups, source, expected):
    measured = captioned([("hidden", "eos", "sphere")])
    measured.report["captions"] |= {"groups": groups, "n_groups": n_groups}
    measured.report["provenance"]["captions"] = source
    measured.report["statistics"][0]["n_groups"] = n_groups or 200
    note = report_grouping(measured.report)
    assert note.endswith(expected) if expected else note == ""
    html = rendered(measured)
    assert (note in html) if note else ("Intervals are by" not in html and "Intervals assume" not in html)
    assert ("40 images" in html.split("</table>")[0].split("<table>")[1]) is (n_groups == 40)


def test_the_page_of_vectors_names_what_intervals_assume():
    assert report_grouping(paired().report).endswith("several vectors belong to one image, give --group-size N.")
    assert report_grouping(paired(group_size=3).report) == (
        "Intervals are by image: 60 vectors of 20 images (each 3 consecutive vectors)."
    )
    assert report_grouping(paired(group_size=1).report) == ""


def test_missing_numbers_sort_last_and_read_as_a_dash():
    measured = captioned([("hidden", "0", "constant"), ("hidden", "eos", "sphere")], n=40)
    html = rendered(measured)
    assert '<td class="number" data-value="">–' in html
    assert "None" not in re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL)
    assert "nan" not in [text.strip().lower() for text in Page(html).texts]
