"""A model's answer as Markdown that cannot act: text, tables, code and inline pictures, whatever parses it.

JupyterLab trusts the outputs of a cell that was just run. It executes HTML in them, draws `mermaid` fences and fetches
every picture named there. What a model writes can come from a page or a row it has read, so it is shown, never run.

Parsers differ in what they take for code: formulas, link definitions and containers may swallow a fence. Code stays as
it is where every one of its lines is inert on its own, or where nothing around it could swallow it. Other code is
written as HTML whose text holds nothing but letters, digits, spaces and character references.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_FORMULA = re.compile(r"\$[^$`]+\$")
_CODE = re.compile(r"(?<![`\\])(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_SAFE_LINK = re.compile(r"\s*<?(?:https?://|mailto:)|[\w./#-]+\)", re.IGNORECASE)
# An SVG picture is a document: it is not among these.
_DATA_PICTURE = r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+\)"
_SAFE_PICTURE = re.compile(_DATA_PICTURE, re.IGNORECASE)
_PICTURE = re.compile(rf"!\[(?![^\[\]\\]*\]\({_DATA_PICTURE})", re.IGNORECASE)
# What may end the label of a link definition, also of one that began on an earlier line.
_DEFINITION = re.compile(r"^([\s>*+\d.)-]*+\[?+(?:\\.|[^\[\]\\])*+\]):(?!\s*<?(?:https?://|mailto:))", re.IGNORECASE)
_RUN = re.compile(r"`{3,}|~{3,}|(?:(?<=[\s>])|^):{3,}")
# Whatever gives a formula a style, a link or a file in MathJax, its extensions or KaTeX.
_FORMULA_ACTS = re.compile(
    r"(?<!\\)(\\++)(?=(?:style|href|url|class|cssId|data|require|mmlToken|bbox|includegraphics|include|input|html[A-Z]\w*)"
    r"(?![A-Za-z]))"
)
_LANGUAGES = frozenset(
    "bash c c++ clojure console cpp cs csharp css csv cuda cython diff docker dockerfile elixir erlang fortran"
    " fsharp go graphql haskell hcl html http ini ipython ipython3 java javascript js json json5 jsonl jsx julia"
    " kotlin kql latex less lua makefile markdown matlab md nix objective-c ocaml pascal perl php plaintext"
    " powershell prolog proto protobuf pycon python python3 py r rb regex rst ruby rs rust sas scala scheme scss sh"
    " shell sparql spark sql stata swift terraform tex text toml ts tsv tsx txt typescript vb vue xml yaml yml zig"
    " zsh".split()
)
"""Fences that are coloured as code. What a front end may draw (mermaid, vega, math, directives) is not among them."""


def neutralize(text: str) -> str:
    """Return the same Markdown with everything that could act made visible as text."""
    # Markdown ends a line there too.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines, position = text.split("\n"), 0
    shown: list[str] = []
    blocks = _blocks(text)
    certain = _certain(lines, blocks)
    for block in blocks:
        shown += map(_line, lines[position : block.start])
        whole = lines[block.start : block.end]
        as_it_is = all(map(_plain if certain else _inert, {*whole, *block.content.split("\n")}))
        shown += whole if as_it_is else [_as_html(whole[0], block)]
        position = block.end
    return "\n".join([*shown, *map(_line, lines[position:])])


@dataclass(frozen=True, kw_only=True)
class _Block:
    """A block of code: its lines, its own text and the fence around it, empty where it is indented."""

    start: int
    end: int
    content: str
    fence: str


_MAY_HOLD_BLOCKS = re.compile(r"```|~~~|^(?: {4}|\t)", re.MULTILINE)


def _blocks(text: str) -> list[_Block]:
    if _MAY_HOLD_BLOCKS.search(text) is None:
        return []
    # Most answers hold no code; the parser is imported for the first that does.
    from markdown_it import MarkdownIt

    # HTML is shown as text, so that it hides no fence.
    parser = MarkdownIt("commonmark").enable("table").disable("html_block")
    parser.core.ruler.enableOnly(["block"])
    return [
        _Block(start=each.map[0], end=each.map[1], content=each.content, fence=each.markup)
        for each in parser.parse(text)
        if each.map is not None and (each.type == "fence" or (each.type == "code_block" and each.level == 0))
    ]


_MAY_SWALLOW_A_FENCE = re.compile(r"\$|\\[(\[]|\\begin|\]:|```|~~~|:::")


def _certain(lines: list[str], blocks: list[_Block]) -> bool:
    """Return whether every parser takes these blocks for code: fences at the margin, nothing that could swallow one."""
    position = 0
    for block in blocks:
        closing = lines[block.end - 1] if block.end - block.start > 1 else ""
        if not block.fence or closing != block.fence or not lines[block.start].startswith(block.fence):
            return False
        if any(map(_MAY_SWALLOW_A_FENCE.search, lines[position : block.start])):
            return False
        position = block.end
    return not any(map(_MAY_SWALLOW_A_FENCE.search, lines[position:]))


def _as_html(opening: str, block: _Block) -> str:
    """Return the block on one line, where neither a formula nor a blank line cuts it in two."""
    before = opening[: opening.index(block.fence)]
    return f"{before}<pre><code>{_references(block.content)}</code></pre>"


def _references(code: str) -> str:
    return re.sub(r"[^A-Za-z0-9 ]", lambda found: f"&#{ord(found[0])};", code)


def _line(line: str) -> str:
    if _MAY_ACT.search(line) is None:
        return line
    shown, position = "", 0
    for code in _CODE.finditer(line):
        shown += _text(line[position : code.start()])
        shown += code[0] if _inert(code[0]) else f"<code>{_references(code[2])}</code>"
        position = code.end()
    return _fences(shown + _text(line[position:]))


def _inert(line: str) -> bool:
    return _text(line) == line


def _plain(line: str) -> bool:
    return _fences(line) == line


_MAY_ACT = re.compile(r"[<\[\]\\]|```|~~~|:::")


def _text(text: str) -> str:
    if _MAY_ACT.search(text) is None:
        return text
    # A formula is typeset from its source, where a character reference would be an error and a space is nothing.
    shown = _FORMULA.sub(lambda found: _TAG.sub("< ", found[0]), text)
    shown = _PICTURE.sub("[", _TAG.sub("&lt;", shown))
    shown = _DEFINITION.sub(r"\1\\:", shown)
    # An even number of backslashes is no command.
    shown = _FORMULA_ACTS.sub(lambda found: found[1] + "\\" * (len(found[1]) % 2), shown)
    first, *pieces = shown.split("](")
    return _fences(first + "".join(map(_link, pieces)))


def _link(piece: str) -> str:
    return f"]({piece}" if _SAFE_LINK.match(piece) or _SAFE_PICTURE.match(piece) else f"]\\({piece}"


def _fences(line: str) -> str:
    """Return the line with only those fences that begin plain code, or end it."""

    def fence(found: re.Match[str]) -> str:
        info = line[found.end() :].strip().lower()
        plain = not info or (info in _LANGUAGES and found[0][0] != ":")
        return found[0] if plain else "".join(f"\\{mark}" for mark in found[0])

    return _RUN.sub(fence, line)
