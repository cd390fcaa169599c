"""Arguments for a tool, taken from the prompt and from what earlier results named; never invented."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from pydantic_ai.tools import ToolDefinition

from agentkit.define.planner.words import Number, Prompt, Sense, parts, root, roots

_TEXTUAL = frozenset(
    "query question prompt text message body content request task topic search instruction q note".split()
)
_QUESTIONS = frozenset("query question prompt request task topic search q".split())
_COUNTING = frozenset("n k limit count top row head size number max_results first last".split())
_ABOVE = frozenset("above over min minimum at_least greater gt lower threshold floor than from".split())
_BELOW = frozenset("below under max maximum at_most less lt upper threshold ceiling to".split())
_MOST_CALLS = 5


@dataclass(frozen=True, kw_only=True)
class Known:
    """Names that earlier results gave, by the tool that gave them, and the text to put into a message."""

    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    summary: str = ""

    def of(self, parameter: str) -> tuple[str, ...]:
        """The names a parameter chooses from: a `column` is one of what `columns` gave."""
        wanted = roots(parameter)
        return tuple(name for tool, found in self.names.items() if wanted & roots(tool) for name in found)

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for found in self.names.values() for name in found))


@dataclass(frozen=True)
class Found:
    """Values for one parameter, best first; `sure` when the prompt named them. Several sure ones mean several calls."""

    values: tuple[Any, ...] = ()
    sure: bool = False


@dataclass(frozen=True)
class _Literals:
    """What in the prompt has not been given to a parameter yet; `members` say how, as in `by weather`."""

    numbers: tuple[Number, ...]
    texts: tuple[str, ...]
    members: frozenset[str]

    def without(self, value: Any) -> _Literals:
        taken = next((number for number in self.numbers if number.value == value), None)
        numbers = tuple(number for number in self.numbers if number is not taken)
        return replace(self, numbers=numbers, texts=tuple(text for text in self.texts if text != value))


def arguments(tool: ToolDefinition, prompt: Prompt, known: Known, *, guess: bool = True) -> list[dict[str, Any]]:
    """The calls the prompt asks of this tool; none if a required argument is nowhere to be found.

    With `guess` a text may also be a bare word of the prompt, as in `weather paris`.
    """
    schema = tool.parameters_json_schema
    bare = prompt.last_word_besides(roots(tool.name)) if guess else None
    return _Filler(schema.get("$defs", {}), prompt, known, bare).calls(schema) or []


def needs(tool: ToolDefinition) -> list[str]:
    """Required parameters that take a free text, so that somebody has to know what may be in it."""
    schema = tool.parameters_json_schema
    properties = schema.get("properties", {})
    return [
        name
        for name in schema.get("required", ())
        if _shape(properties[name], schema.get("$defs", {})).get("type") == "string"
        and "enum" not in _shape(properties[name], schema.get("$defs", {}))
    ]


def takes_question(tool: ToolDefinition) -> bool:
    """Whether the tool takes a question in words, as a search or another agent does."""
    return any(set(parts(name)) & _QUESTIONS for name in needs(tool))


def only_numbers(tool: ToolDefinition) -> bool:
    """Whether every parameter is a number."""
    shapes = tool.parameters_json_schema.get("properties", {}).values()
    return bool(shapes) and all(shape.get("type") in ("integer", "number") for shape in shapes)


def mentioned(member: Any, prompt: Prompt) -> bool:
    """Whether the prompt names this member of a fixed set."""
    if str(member) in (*prompt.quoted, *prompt.names):
        return True
    if isinstance(member, (int, float)) and not isinstance(member, bool):
        return any(number.value == member for number in prompt.numbers)
    # All its words, small ones too: a member may be called `all` or `by_day`.
    return bool(parts(str(member))) and all(root(part) in prompt.roots for part in parts(str(member)))


def members(tool: ToolDefinition) -> Iterator[Any]:
    """Every member of every fixed set among the parameters."""
    schema = tool.parameters_json_schema
    for each in schema.get("properties", {}).values():
        shape = _shape(each, schema.get("$defs", {}))
        shape = _shape(shape["items"], schema.get("$defs", {})) if "items" in shape else shape
        yield from shape.get("enum", ())


def fitting(tool: ToolDefinition, number: Number) -> bool:
    """Whether the tool has a parameter that is for such a number."""
    schema = tool.parameters_json_schema
    return any(
        _shape(each, schema.get("$defs", {})).get("type") in ("integer", "number") and number.sense in _senses(name)
        for name, each in schema.get("properties", {}).items()
    )


@dataclass(frozen=True)
class _Filler:
    """Fills one tool's schema. `bare` is the word to take for a text when nothing better is there."""

    defs: Mapping[str, Any]
    prompt: Prompt
    known: Known
    bare: str | None

    def calls(self, schema: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """The objects this schema can be filled with; None if something required is missing."""
        required = set(schema.get("required", ()))
        prompt = self.prompt
        made: list[dict[str, Any]] = [{}]
        shapes = {name: _shape(each, self.defs) for name, each in schema.get("properties", {}).items()}
        named = {str(each) for shape in shapes.values() for each in shape.get("enum", ()) if mentioned(each, prompt)}
        texts = tuple(dict.fromkeys((*prompt.quoted, *prompt.names, *prompt.proper)))
        left = _Literals(prompt.numbers, texts, frozenset(named))
        alone = sum(_is_free_text(shape) for shape in shapes.values()) == 1
        for name, shape in shapes.items():
            found = self.value(name, shape, left, must=name in required)
            if not found.values and name in required:
                return None
            if not found.values:
                continue
            several = found.sure and len(found.values) > 1 and len(made) == 1 and (alone or "enum" in shape)
            values = found.values[:_MOST_CALLS] if several else found.values[:1]
            made = [{**call, name: value} for value in values for call in made]
            for value in values:
                left = left.without(value)
        return made

    def value(self, name: str, shape: Mapping[str, Any], left: _Literals, *, must: bool) -> Found:
        if "enum" in shape:
            return _member(shape["enum"], self.prompt, must=must)
        match shape.get("type"):
            case "boolean":
                return _flag(name, self.prompt, must=must)
            case "integer" | "number" as kind:
                return _number(name, kind, left.numbers, must=must)
            case "string":
                return self.text(name, shape, left, must=must)
            case "array":
                return self.array(name, shape, left, must=must)
            case "object":
                inner = self.calls(shape)
                return Found((inner[0],)) if inner and (must or inner[0]) else Found()
            case _:
                anything = (*left.texts, *(number.value for number in left.numbers))
                return Found(anything[:1]) if must else Found()

    def array(self, name: str, shape: Mapping[str, Any], left: _Literals, *, must: bool) -> Found:
        item = _shape(shape.get("items", {"type": "string"}), self.defs)
        if item.get("type") in ("integer", "number"):
            plain = [number.value for number in left.numbers if number.sense == "plain"]
            return Found((plain,)) if plain else Found()
        found = self.value(name, item, left, must=must)
        values = found.values if found.sure else found.values[:1]
        return Found((list(values),)) if values else Found()

    def text(self, name: str, shape: Mapping[str, Any], left: _Literals, *, must: bool) -> Found:
        if shape.get("format") in ("date", "date-time"):
            dates = tuple(text for text in left.texts if text[:4].isdigit() and text[4:5] == "-")
            return Found(dates, sure=bool(dates))
        if choices := self.known.of(name):
            return _among([choice for choice in choices if choice not in left.members], self.prompt, must=must)
        if texts := _suited(name, left.texts, self.known, self.prompt):
            return Found(texts, sure=True)
        if set(parts(name)) & _TEXTUAL and must:
            return Found((self.known.summary or self.prompt.text.strip(),))
        beside = _beside(name, self.prompt) or self.bare
        return Found((beside,)) if beside and must else Found()


def _shape(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema itself behind references and `| None`."""
    if "$ref" in schema:
        return _shape(defs[schema["$ref"].rpartition("/")[2]], defs)
    options = [each for each in schema.get("anyOf", schema.get("oneOf", ())) if each.get("type") != "null"]
    if options:
        return _shape(options[0], defs)
    return {**schema, "enum": [schema["const"]]} if "const" in schema else schema


def _is_free_text(shape: Mapping[str, Any]) -> bool:
    return shape.get("type") == "string" and "enum" not in shape


def _member(members: Sequence[Any], prompt: Prompt, *, must: bool) -> Found:
    named = tuple(member for member in members if mentioned(member, prompt))
    grouped = tuple(member for member in named if roots(str(member)) & prompt.grouped)
    if grouped or named:
        return Found(grouped or named, sure=True)
    return Found(tuple(members[:1])) if must else Found()


def _flag(name: str, prompt: Prompt, *, must: bool) -> Found:
    if roots(name) & prompt.roots:
        return Found((not roots(name) & prompt.negated,))
    return Found((False,)) if must else Found()


def _senses(name: str) -> frozenset[Sense]:
    """What kinds of numbers a parameter of this name takes, going by its words."""
    words = {name, *parts(name)}
    senses: set[Sense] = set()
    if words & _COUNTING:
        senses.add("count")
    if words & _ABOVE:
        senses.add("above")
    if words & _BELOW:
        senses.add("below")
    if "year" in words:
        senses.add("year")
    return frozenset(senses)


def _number(name: str, kind: str, numbers: Sequence[Number], *, must: bool) -> Found:
    fit = [number for number in numbers if kind == "number" or float(number.value).is_integer()]
    senses = _senses(name)
    meant = [number for number in fit if number.sense in senses]
    if not meant:
        # A number that says nothing about itself fits anywhere; one that says something else does not.
        loose: set[Sense] = {"plain"} if senses else {"plain", "above", "below", "year"}
        meant = [number for number in fit if number.sense in loose]
        meant = meant if must or senses != {"count"} else []
    values = tuple(int(number.value) if kind == "integer" else number.value for number in meant)
    return Found(values[:1])


def _suited(name: str, texts: Sequence[str], known: Known, prompt: Prompt) -> tuple[str, ...]:
    """The texts of the prompt that may be what this parameter is called after."""
    words = set(parts(name))
    if words & _TEXTUAL:
        return tuple(text for text in texts if text in prompt.quoted)[:1]
    if words & {"url", "link"}:
        return tuple(text for text in texts if "://" in text)
    if words & {"email", "to", "recipient", "address"} and (mails := tuple(text for text in texts if "@" in text)):
        return mails
    if words & {"path", "file", "filename", "folder"}:
        return tuple(text for text in texts if "/" in text or "." in text)
    foreign = tuple(text for text in texts if text not in known.all)
    return foreign or tuple(texts)


def _among(choices: Sequence[str], prompt: Prompt, *, must: bool) -> Found:
    literal = {text.lower() for text in (*prompt.quoted, *prompt.names)}
    named = tuple(choice for choice in choices if choice.lower() in literal)
    if named:
        return Found(named, sure=True)
    marks = {choice: likeness(choice, prompt) for choice in choices}
    best = max(marks.values(), default=0.0)
    if best <= 0:
        return Found()
    alike = tuple(choice for choice in choices if marks[choice] == best)
    return Found(alike[:1]) if must or best >= 1 else Found()


def likeness(name: str, prompt: Prompt) -> float:
    """How far the words of a name are in the prompt: `temp_max` is near `the warmest`."""
    pieces = parts(name)
    hits = sum(_in_prompt(piece, prompt) for piece in pieces)
    ends = {found.direction for found in prompt.extremes}
    toward = 0.25 * ({"most"} == ends and "max" in pieces) + 0.25 * ({"least"} == ends and "min" in pieces)
    return hits / len(pieces) + toward if hits else 0.0


def _in_prompt(piece: str, prompt: Prompt) -> bool:
    if root(piece) in prompt.roots:
        return True
    # `precip` for precipitation, `qty` not: an abbreviation that is the beginning of a word.
    return len(piece) >= 4 and any(word.startswith(piece) for word in prompt.words)


def _beside(name: str, prompt: Prompt) -> str | None:
    """The word after the parameter's own name: `region north`, `for user ann`."""
    for word, after in pairwise(prompt.words):
        if root(word) in roots(name) and after[0].isalpha() and root(after) not in roots(name):
            return after
    return None
