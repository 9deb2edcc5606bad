"""The documents agree with the repository: links, named paths, the layer diagram, the list of decisions."""

import ast
import configparser
import re
import runpy

import pytest

from tests.conftest import ROOT

DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
)
FENCED = re.compile(r"```.*?```", re.DOTALL)
PACKAGES = ("analysis", "bin", "benchmarks", "clipgeom", "docs", "examples", "pti", "reports", "requirements", "tests")


def layers_of(container):
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    for section in parser.values():
        if section.get("type") == "layers" and section.get("containers", "").split() == [container]:
            return section["layers"].split("\n")[1:]
    raise AssertionError(container)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_links_and_paths_exist(path):
    text = FENCED.sub("", path.read_text(encoding="utf-8"))
    links = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    missing = [link for link in links if not (path.parent / link).exists()]
    named = re.findall(rf"`((?:{'|'.join(PACKAGES)})/[\w./-]+)`", text)
    missing += [name for name in named if "NAME" not in name and not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("package", ["analysis", "clipgeom", "pti"])
def test_the_layer_diagram_is_that_of_the_linter(package):
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (diagram,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    (block,) = [block for block in diagram.split("\n\n") if block.startswith(package)]
    assert [line.strip() for line in block.removeprefix(package).strip().split("\n")] == layers_of(package)


def test_every_decision_is_listed_once():
    folder = ROOT / "docs" / "decisions"
    files = sorted(path.name for path in folder.glob("0*.md"))
    assert re.findall(r"\]\((0[^)]+)\)", (folder / "README.md").read_text(encoding="utf-8")) == files
    for number, name in enumerate(files, 1):
        first = (folder / name).read_text(encoding="utf-8").split("\n", 1)[0]
        assert name.startswith(f"{number:04d}-")
        assert first.startswith(f"# {number:04d} ")


def test_list_docstrings_finds_texts_and_breaches():
    script = runpy.run_path(str(ROOT / "bin" / "list-docstrings"))
    assert script["breaches"]("Encode prompts; held-out ones too, as `what says` does.") == []
    assert script["breaches"]("What the UNet says.") == ['opens with "What"', 'uses "says"']
    assert script["breaches"](" ".join(["word"] * 26)) == ["26 words in a sentence"]
    source = '"""Module."""\na: int = option(1, "Help " "text.")\ntyper.Option(help="More.")\n'
    assert list(script["texts"](ast.parse(source))) == [
        (1, "docstring", "Module."),
        (2, "help", "Help text."),
        (3, "help", "More."),
    ]
