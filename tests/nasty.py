"""Texts that try to be more than text: markup, terminal sequences, YAML, code, and what no encoding can write."""

from hypothesis import strategies as st

from clipgeom._text import one_line

FRAGMENTS = (
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<!--", "-->", "</td>", "&lt;b&gt;", "&#60;"),
    *(
        "[a](https://example.org)",
        "![a](b.png)",
        "[x]: /url",
        "<https://example.org>",
        "https://example.org",
        "www.example.org",
    ),
    *(
        "`",
        "```",
        "``` x",
        "~~~",
        "**",
        "__",
        "_",
        "~~",
        "*",
        "\\",
        "\\|",
        "|",
        "$",
        "$$",
        "^",
        "@somebody",
        "a@example.org",
    ),
    *(
        "# ",
        "- ",
        "+ ",
        "1. ",
        "2) ",
        "> ",
        "===",
        "---",
        "***",
        "    ",
        "\n",
        "\r\n",
        "\n\n",
        "\t",
        "| a | b |",
        "|---|---|",
    ),
    *(
        "...",
        "{{ 7 * 7 }}",
        "{% raw %}",
        "%",
        "!",
        "!!python/object:os.system",
        ": ",
        "? ",
        "'",
        '"',
        "#",
        "null",
        "true",
        "1e3",
    ),
    *(
        "\x1b[31m",
        "\x1b]0;owned\x07",
        "\x9b",
        "\x00",
        "\x7f",
        "\u202e",
        "\u2066",
        "\u2028",
        "\u0085",
        "\ufeff",
        "\ud83d",
        "🐈",
    ),
    *("knight", "a", "1", " "),
)
NASTY = (
    st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), min_size=1, max_size=8)
    .map("".join)
    .filter(lambda text: bool(one_line(text)))
)
