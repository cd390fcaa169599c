"""The magic line: verb, words and options, read without quotes, because a value runs to the next ` --option`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from agentkit.errors import UserError, nearest
from agentkit.notebook.grammar import VERBS, Option, Verb, usage

_OPTION = re.compile(r"(?:^|(?<=\s))--([A-Za-z][A-Za-z0-9_-]*)(?:=|(?=\s)|$)")
_JSON = json.JSONDecoder()


@dataclass(frozen=True, kw_only=True)
class Line:
    """`rest` is what stands between the verb and the first option, as typed; `words` is the same, split."""

    verb: str
    rest: str = ""
    options: Mapping[str, str]

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(self.rest.split())

    @property
    def word(self) -> str:
        """The first word, or nothing."""
        return next(iter(self.words), "")

    def has(self, option: str) -> bool:
        return option in self.options


def parse(text: str, *, cell: bool) -> Line:
    """Read what follows `%agent` (or `%%agent` when `cell`); UserError names what is not known, and the nearest."""
    head, options = tokenize(text)
    name, _, rest = head.strip().partition(" ")
    if any(key == "help" for key, _ in options) or name.endswith("?"):
        return Line(verb="help", rest=name.rstrip("?"), options={})
    if not name and not cell and not options:
        return Line(verb="", options={})
    verb = _find_verb(name, cell=cell)
    given, loose = _check_options(name, verb, options)
    line = Line(verb=name, rest=" ".join(filter(None, [rest.strip(), *loose])), options=given)
    _count(line, verb)
    return line


def tokenize(text: str) -> tuple[str, list[tuple[str, str]]]:
    """What precedes the first option, and each option with its value (a value that is JSON may hold ` --`)."""
    found = _OPTION.search(text)
    if found is None:
        return text.strip(), []
    head, options = text[: found.start()].strip(), []
    while found is not None:
        following = _OPTION.search(text, _json_end(text, found.end()))
        end = len(text) if following is None else following.start()
        options.append((found[1], text[found.end() : end].strip()))
        found = following
    return head, options


def _json_end(text: str, start: int) -> int:
    begin = start + len(text[start:]) - len(text[start:].lstrip())
    try:
        _, end = _JSON.raw_decode(text, begin)
    except ValueError:
        return start
    return end if text[end : end + 1].isspace() or end == len(text) else start


def _find_verb(name: str, *, cell: bool) -> Verb:
    sign = "%%agent" if cell else "%agent"
    if not name:
        raise UserError(f"{sign} needs a verb: {', '.join(_verbs(cell))} (%agent help explains)")
    if name not in VERBS:
        raise UserError(f"{sign}: unknown verb {name}{nearest(name, VERBS)}; %agent help lists them")
    verb = VERBS[name]
    if cell and verb.where == "line":
        raise UserError(f"%agent {name} is a line: write it with one % and without a body")
    if not cell and verb.where == "cell":
        raise UserError(f"%%agent {name} is a cell: write it with %% in the first line and a body under it")
    return verb


def _verbs(cell: bool) -> list[str]:
    return [name for name, verb in VERBS.items() if verb.where != ("line" if cell else "cell")]


def _check_options(name: str, verb: Verb, options: list[tuple[str, str]]) -> tuple[dict[str, str], list[str]]:
    """The options by name, and the words that stood after a flag: they belong to the verb."""
    given: dict[str, str] = {}
    loose: list[str] = []
    for key, value in options:
        option = verb.options.get(key)
        if option is None:
            raise UserError(_describe_unknown_option(name, verb, key))
        if key in given:
            raise UserError(f"%agent {name}: --{key} is given twice")
        given[key] = _value(name, key, option, value)
        if option.value is None and value:
            loose.append(value)
    return given, loose


def _describe_unknown_option(name: str, verb: Verb, key: str) -> str:
    hint = nearest(key, verb.options)
    known = ", ".join(f"--{option}" for option in verb.options) or "none"
    return f"%agent {name}: unknown option --{key}{hint.replace('mean ', 'mean --') or f'; it takes {known}'}"


def _value(name: str, key: str, option: Option, value: str) -> str:
    if option.value is None:
        return ""
    if not value and not option.optional:
        raise UserError(f"%agent {name}: --{key} needs a value: --{key} {option.value}")
    return value


def _count(line: Line, verb: Verb) -> None:
    if len(line.words) < verb.least:
        raise UserError(f"%agent {line.verb} needs {verb.words}: {usage(line.verb)}")
    if verb.most is not None and len(line.words) > verb.most:
        extra = line.words[verb.most]
        raise UserError(f"%agent {line.verb}: what is {extra!r}? {usage(line.verb)}")
