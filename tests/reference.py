"""What can be typed, from the tables that read it: `python -m tests.reference` writes docs/reference.md."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentkit.cli.main import parser
from agentkit.notebook.grammar import GROUPS, VERBS, format_option

PAGE = Path(__file__).parent.parent / "docs" / "reference.md"
_TOP = """# Everything that can be typed

Written by `python -m tests.reference` from the tables that the magics and the command line read. In a notebook the same
is said by `%agent help`, `%agent help VERB` and Tab. What Python has for each of these: [python.md](python.md).

An option's value runs to the next ` --`, so lists, JSON and `a | b` need no quotes. `A,B*`: names with commas, `*` for
anything. RUN is a run's id or the name of an agent (its newest run); STEP a number that a panel or pause shows.
"""


def page() -> str:
    return "\n".join([_TOP, "## In a notebook", "", *_notebook(), "## In a shell", "", *_shell()]).rstrip() + "\n"


def _notebook() -> Iterator[str]:
    yield from ("`%agent` alone: the session at a glance.", "")
    for group, names in GROUPS.items():
        yield from (f"### {group.capitalize()}", "")
        for name in names:
            yield from _verb(name)


def _verb(name: str) -> Iterator[str]:
    verb = VERBS[name]
    sign = "%agent" if verb.where == "line" else "%%agent"
    either = f" (or `%agent {name}` in one line)" if verb.where == "both" else ""
    yield from (f"#### `{' '.join(filter(None, [sign, name, verb.words]))}`", "", _sentence(f"{verb.help}{either}"), "")
    yield from _table([(format_option(key, option), option.help) for key, option in verb.options.items()])


def _sentence(text: str) -> str:
    return _escaped(f"{text[:1].upper()}{text[1:]}.")


def _table(rows: list[tuple[str, str]]) -> Iterator[str]:
    if rows:
        yield from ("| | |", "|---|---|")
        yield from (f"| `{left.replace('|', chr(92) + '|')}` | {_escaped(right)} |" for left, right in rows)
        yield ""


def _escaped(text: str) -> str:
    """Without what Markdown would take for its own."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def _shell() -> Iterator[str]:
    yield from _commands(parser(), "agentkit")


def _commands(parser: ArgumentParser, name: str, said: str = "") -> Iterator[str]:
    below: list[Any] = [action for action in parser._actions if hasattr(action, "_choices_actions")]
    for commands in below:
        helps = {choice.dest: choice.help for choice in commands._choices_actions}
        for word, inner in commands.choices.items():
            yield from _commands(inner, f"{name} {word}", helps[word])
    if not below:
        yield from (f"#### `{name}`", "", _sentence(said), "")
        yield from _table([row for action in parser._actions if (row := _argument(action)) is not None])


def _argument(action: Any) -> tuple[str, str] | None:
    if "--help" in action.option_strings:
        return None
    value = action.metavar or ("|".join(action.choices) if action.choices else action.dest.upper())
    if not action.option_strings:
        return f"[{value}]" if action.nargs in ("?", "*") else str(value), action.help or ""
    wanted = "" if action.nargs == 0 else f" [{value}]" if action.nargs == "?" else f" {value}"
    return ", ".join(action.option_strings) + wanted, action.help or ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
