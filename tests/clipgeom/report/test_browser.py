"""The pages in a real browser: they open from disk, ask for nothing, fit a phone, sort, and turn dark."""

import json
import os
import shutil
from pathlib import Path

import pytest

from clipgeom.report.compare import write_comparison
from clipgeom.report.write import write_report
from tests.clipgeom.report.samples import NASTY, captioned, full, paired, tiny

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PAGES = ("full", "nasty", "paired", "tiny", "compare")
PHONE = 390


def _program(*names):
    return next(
        (found for name in names if (found := shutil.which(name, path=f"/usr/bin:{os.environ.get('PATH', '')}"))), None
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = _program("chromium", "chromium-browser", "google-chrome")
    chromedriver = _program("chromedriver")
    if chromium is None or chromedriver is None:
        missing = "no Chromium with chromedriver on this machine"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    root = tmp_path_factory.mktemp("pages")
    write_report(full(60), root / "full")
    write_report(captioned(captions=NASTY, model="<b>" + "m" * 300, profile=True), root / "nasty")
    write_report(paired(), root / "paired")
    write_report(tiny(profile=True), root / "tiny")
    write_comparison(root / "full", root / "nasty", root / "compare.html")
    return {name: root / name / "report.html" for name in PAGES[:-1]} | {"compare": root / "compare.html"}


@pytest.fixture(autouse=True)
def screen(browser):
    """Every test begins on a light desktop screen."""
    emulate(browser, width=1280, scheme="light")


def emulate(browser, *, width=None, scheme=None):
    if width is not None:
        metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    if scheme is not None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def open_page(browser, path: Path):
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what earlier pages said
    browser.get(path.as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach((each) => { each.open = true; });")


def order(browser, column):
    """The values by which the first table's column sorts, from top to bottom."""
    return browser.execute_script(
        "const rows = [...document.querySelector('.scroll table').tBodies[0].rows];"
        "return rows.map((row) => row.cells[arguments[0]].dataset.value);",
        column,
    )


@pytest.mark.parametrize("name", PAGES)
def test_the_page_opens_without_an_error_or_a_request(browser, pages, name):
    open_page(browser, pages[name])
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert pages[name].as_uri() in urls  # the log is on
    assert [url for url in urls if not url.startswith("data:")] == [pages[name].as_uri()]


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_is_drawn(browser, pages, name):
    open_page(browser, pages[name])
    sizes = browser.execute_script(
        "const drawings = [...document.querySelectorAll('figure svg')];"
        "return drawings.map((svg) => [svg.dataset.figure, svg.getBoundingClientRect()]);"
    )
    assert len(sizes) >= 3
    assert [figure for figure, box in sizes if box["width"] < 200 or box["height"] < 50] == []


@pytest.mark.parametrize("name", PAGES)
def test_no_label_leaves_its_figure(browser, pages, name):
    open_page(browser, pages[name])
    outside = browser.execute_script("""
        const outside = [];
        for (const svg of document.querySelectorAll("figure svg")) {
          const frame = svg.getBoundingClientRect();
          for (const text of svg.querySelectorAll("text")) {
            const box = text.getBoundingClientRect();
            const past = [frame.left - box.left, box.right - frame.right,
                          frame.top - box.top, box.bottom - frame.bottom];
            if (Math.max(...past) > 1)
              outside.push([svg.dataset.figure, text.textContent]);
          }
        }
        return outside;""")
    assert outside == []


@pytest.mark.parametrize("name", PAGES)
def test_the_page_fits_a_phone(browser, pages, name):
    emulate(browser, width=PHONE)
    open_page(browser, pages[name])
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE


@pytest.mark.parametrize("name", ["full", "compare"])
def test_dark_and_light_differ_and_stay_readable(browser, pages, name):
    read = """
        const channels = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
        const style = (selector) => getComputedStyle(document.querySelector(selector));
        return [style("body").backgroundColor, style("body").color, style("figure svg text").fill,
                style("figcaption").color].map(channels);"""
    open_page(browser, pages[name])
    light = browser.execute_script(read)
    emulate(browser, scheme="dark")
    dark = browser.execute_script(read)
    assert contrast(light[0], dark[0]) > 10
    for background, *inks in (light, dark):
        assert min(contrast(background, ink) for ink in inks) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_stand_out_from_the_page(browser, pages, scheme):
    emulate(browser, scheme=scheme)
    open_page(browser, pages["full"])
    colours = browser.execute_script("""
        const probe = document.body.appendChild(document.createElement("i"));
        return ["page", "raw", "centered", "along", "cross", "gold"].map((name) => {
          probe.style.color = `var(--${name})`;
          return getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
        });""")
    assert min(contrast(colours[0], colour) for colour in colours[1:]) >= 3  # WCAG 1.4.11, graphical objects


def test_a_click_sorts_by_number_and_back(browser, pages):
    open_page(browser, pages["full"])
    given = order(browser, 5)
    button = browser.find_elements("css selector", ".scroll table .columns button")[5]
    numbers = [float(value) for value in given]
    for state, expected in (
        ("ascending", sorted(numbers)),
        ("descending", sorted(numbers, reverse=True)),
        ("none", numbers),
    ):
        button.click()
        assert [float(value) for value in order(browser, 5)] == expected
        heads = browser.find_elements("css selector", ".scroll table .columns th")[:12]
        assert [head.get_attribute("aria-sort") for head in heads[:11]].count(state) >= 1
        assert heads[5].get_attribute("aria-sort") == state


def test_the_keyboard_sorts_too_and_missing_values_stay_last(browser, pages):
    from selenium.webdriver.common.keys import Keys

    open_page(browser, pages["full"])
    column = 9  # the centred CV, which a constant row does not have
    button = browser.find_elements("css selector", ".scroll table .columns button")[column]
    for key in (Keys.ENTER, Keys.SPACE):
        button.send_keys(key)
        values = order(browser, column)
        assert values[-1] == ""
        numbers = [float(value) for value in values[:-1]]
        assert numbers == sorted(numbers, reverse=key == Keys.SPACE)


def test_words_sort_as_words(browser, pages):
    open_page(browser, pages["full"])
    browser.find_elements("css selector", ".scroll table .columns button")[0].click()
    assert order(browser, 0) == sorted(order(browser, 0))


def test_captions_are_text_and_never_markup(browser, pages):
    open_page(browser, pages["nasty"])
    shown = browser.execute_script(
        "return [...document.querySelectorAll('.captions bdi')].map((each) => each.textContent)"
    )
    assert "<script>alert(1)</script>" in shown
    assert "w" * 3000 in shown
    assert browser.execute_script("return document.querySelectorAll('script, img, .captions script').length") == 1


def contrast(first, second):
    """Contrast ratio of two sRGB colours after WCAG 2."""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)
