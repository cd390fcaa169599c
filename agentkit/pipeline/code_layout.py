"""How generated code is laid out: indentation that leaves texts alone, imports in order, literals that can be read."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterable, Sequence

from agentkit.pipeline.cells import Item

WIDTH = 120


def literal(text: str) -> str:
    """A text as Python source that can be read: several lines in triple quotes where that says the same."""
    if "\n" in text and "\\" not in text and '"""' not in text and not text.endswith('"') and _plain(text):
        return f'"""{text}"""' if len(text.split("\n", 1)[0]) < WIDTH - 20 else f'"""\\\n{text}"""'
    return quote(text)


def _plain(text: str) -> bool:
    return all(sign == "\n" or sign.isprintable() for sign in text) and not any(
        line != line.rstrip() for line in text.split("\n")
    )


def quote(text: str) -> str:
    """In double quotes, as the formatter writes it."""
    shown = repr(text)
    if shown.startswith("'") and '"' not in text:
        return '"' + shown[1:-1].replace("\\'", "'") + '"'
    return shown


def indent(text: str, by: int = 4) -> str:
    """`text` further to the right; lines inside a text of several lines stay what they are."""
    inside = _inside_texts(text)
    lines = text.split("\n")
    return "\n".join(
        line if number in inside or not line.strip() else " " * by + line for number, line in enumerate(lines, 1)
    )


def _inside_texts(text: str) -> set[int]:
    inside: set[int] = set()
    starts: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "STRING":
            inside |= set(range(token.start[0] + 1, token.end[0] + 1))
        elif kind == "FSTRING_START":
            starts.append(token.start[0])
        elif kind == "FSTRING_END":
            inside |= set(range(starts.pop() + 1, token.end[0] + 1))
    return inside


def call(function: str, arguments: Sequence[str], *, room: int = WIDTH) -> str:
    """A call in one line where it fits, else an argument a line."""
    line = f"{function}({', '.join(arguments)})"
    if len(line) <= room and "\n" not in line:
        return line
    return "\n".join([f"{function}(", *(indent(f"{argument},") for argument in arguments), ")"])


def argument(expression: str) -> str:
    """Return an expression as it may stand among others: in parentheses where it would be several, or a statement."""
    node = ast.parse(expression.strip(), mode="eval").body
    return f"({expression.strip()})" if isinstance(node, ast.Tuple | ast.NamedExpr) else expression.strip()


def sequence(parts: Iterable[str], brackets: str = "[]") -> str:
    return f"{brackets[0]}{', '.join(parts)}{brackets[1]}"


def imports(items: Sequence[Item], used: frozenset[str], *, more: Iterable[str] = ()) -> str:
    """Every import that is used, once, in the order of the style guide."""
    plain: set[tuple[str, str | None]] = {(name, None) for name in more}
    froms: dict[tuple[int, str], set[tuple[str, str | None]]] = {}
    for item in items:
        match item.node:
            case ast.Import(names=aliases):
                plain |= {
                    (alias.name, alias.asname)
                    for alias in aliases
                    if (alias.asname or alias.name.partition(".")[0]) in used
                }
            case ast.ImportFrom(module=module, names=aliases, level=level):
                chosen = {(a.name, a.asname) for a in aliases if (a.asname or a.name) in used or module == "__future__"}
                if chosen:
                    froms.setdefault((level, module or ""), set()).update(chosen)
    return _sort_imports(plain, froms)


def _sort_imports(plain: set[tuple[str, str | None]], froms: dict[tuple[int, str], set[tuple[str, str | None]]]) -> str:
    sections: dict[int, list[tuple[int, str, str]]] = {}
    for name, alias in plain:
        text = f"import {name}" + (f" as {alias}" if alias and alias != name else "")
        sections.setdefault(_section(name, 0), []).append((0, name.lower(), text))
    for (level, module), names in froms.items():
        listed = [
            name + (f" as {alias}" if alias and alias != name else "") for name, alias in sorted(names, key=_case)
        ]
        text = f"from {'.' * level}{module} import {', '.join(listed)}"
        if len(text) > WIDTH:
            text = "\n".join([f"from {'.' * level}{module} import (", *(f"    {name}," for name in listed), ")"])
        sections.setdefault(_section(module, level), []).append((1, module.lower(), text))
    return "\n\n".join("\n".join(text for _, _, text in sorted(sections[key])) for key in sorted(sections))


def _case(name: tuple[str, str | None]) -> tuple[bool, bool, str]:
    # Constants first, then classes, then functions: as isort orders them.
    return (not name[0].isupper(), not name[0][:1].isupper(), name[0])


def _section(module: str, level: int) -> int:
    if module == "__future__":
        return 0
    if level:
        return 3
    return 1 if module.partition(".")[0] in sys.stdlib_module_names else 2
