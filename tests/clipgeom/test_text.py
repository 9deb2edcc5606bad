"""Texts of strangers are shown as they are, and do nothing."""

import html
import unicodedata

import pytest
from hypothesis import given
from markdown_it import MarkdownIt

from clipgeom._text import code, markdown, one_line, printable
from tests.nasty import NASTY

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


@given(NASTY)
def test_a_terminal_gets_no_control_characters(text):
    shown = printable(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n\r"]
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert printable(shown) == shown
    line = one_line(text)
    assert line == " ".join(line.split())
    shown.encode()


def test_captions_of_every_script_are_left_alone():
    for text in ("שלום \u200f עולם", "🐈\u200d⬛", "naïve “quotes” – 3 × 5", "two\nlines\tand a tab"):
        assert printable(text) == text


@pytest.mark.parametrize("escape", [markdown, code])
@pytest.mark.parametrize("frame", ["{}", "a {}", "- {}", "> {}", "# {}", "| a |\n|---|\n| {} |"])
@given(text=NASTY)
def test_a_text_in_markdown_is_that_text(escape, frame, text):
    found = PARSER.parse(frame.format(escape(text)))
    expected = PARSER.parse(frame.format("x"))
    assert [token.type for token in found] == [token.type for token in expected]
    last = [token for token in found if token.type == "inline"][-1]
    assert {child.type for child in last.children} <= {"text", "code_inline"}
    content = "".join(child.content for child in last.children)
    assert content == ("a " if frame == "a {}" else "") + one_line(text)


@given(NASTY)
def test_a_text_escaped_for_markdown_is_safe_html_too(text):
    assert not set(markdown(text)) & set("<>")
    assert html.unescape(markdown(text)) == one_line(text)


def test_ordinary_texts_stay_readable():
    assert (
        markdown("vslerp_norm is validated (AUC 0.51, on-shell 0.9)")
        == "vslerp_norm is validated (AUC 0.51, on-shell 0.9)"
    )
    assert code("<zork>") == "`<zork>`"
    assert code("a | b") == "a &#124; b"
    assert code("") == ""
