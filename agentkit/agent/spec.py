"""What a person writes to define an agent: YAML front matter (AgentSpec fields) and instructions in Markdown.

```
---
model: openai:gpt-5
model_settings: {temperature: 0}
---
You answer questions about the sales table.
```
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from agentkit.errors import SpecError, nearest

FENCE = "---"
_BREAKS = "\x85\u2028\u2029\ufeff"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """`fields` are AgentSpec fields by name, plain JSON values, without `instructions`."""

    instructions: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, *, first_line: int = 1) -> Spec:
        """Read a body; `first_line` is the number its first line has where the person sees it (errors name it)."""
        lines = text.replace("\r\n", "\n").split("\n")
        opening = next((number for number, line in enumerate(lines) if line.strip()), None)
        if opening is None or lines[opening].rstrip() != FENCE:
            return cls(instructions=text.strip())
        closing = _find_end(lines, opening, first_line)
        head = "\n".join(lines[opening + 1 : closing])
        fields = _front_matter(head, first_line=first_line + opening + 1)
        body = "\n".join(lines[closing + 1 :]).strip()
        given = fields.pop("instructions", None)
        return cls(instructions="\n\n".join([*_texts(given), *filter(None, [body])]), fields=fields)

    def text(self) -> str:
        """The same spec as a body: `Spec.parse(spec.text()) == spec`."""
        if self.fields:
            # YAML's other line breaks come back as spaces unless they are escaped.
            readable = not any(sign in json.dumps(dict(self.fields), ensure_ascii=False) for sign in _BREAKS)
            head = yaml.safe_dump(dict(self.fields), sort_keys=False, allow_unicode=readable, width=100)
            return f"{FENCE}\n{head}{FENCE}\n{self.instructions}\n"
        if self.instructions.startswith(FENCE):
            return f"{FENCE}\n{FENCE}\n{self.instructions}\n"
        return f"{self.instructions}\n"

    @property
    def model(self) -> str | None:
        return self.fields.get("model")

    @property
    def name(self) -> str | None:
        return self.fields.get("name")


def _texts(given: str | list[str] | None) -> list[str]:
    parts = [given] if isinstance(given, str) else (given or [])
    return [part.strip() for part in parts if part.strip()]


def _find_end(lines: list[str], opening: int, first_line: int) -> int:
    for number in range(opening + 1, len(lines)):
        if lines[number].rstrip() == FENCE:
            return number
    raise SpecError(
        f"line {first_line + opening}: front matter starts with {FENCE} and is never closed: "
        f"put a line {FENCE} before the instructions"
    )


class _Loader(yaml.SafeLoader):
    """Plain JSON values only: a date stays the text it was typed as, and nothing can refer to something else."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # its stubs are partial
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not read here", problem_mark=mark)
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _front_matter(head: str, *, first_line: int) -> dict[str, Any]:
    try:
        loader = _Loader(head)
        node = loader.get_single_node()
        _plain(node, first_line)
        values = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise SpecError(_yaml_problem(error, head, first_line)) from error
    except (ValueError, RecursionError) as error:
        raise SpecError(f"line {first_line}: front matter cannot be read: {error}") from error
    if node is None or values is None:
        return {}
    lines = {key.value: key.start_mark.line + first_line for key, _ in node.value}
    _check(values, lines)
    return {name: value for name, value in values.items() if value is not None}


def _yaml_problem(error: yaml.YAMLError, head: str, first_line: int) -> str:
    if not isinstance(error, yaml.MarkedYAMLError):
        line = first_line + head.count("\n", 0, getattr(error, "position", 0))
        return f"line {line}: front matter cannot be read: {str(error).splitlines()[0]}"
    mark = error.problem_mark or error.context_mark
    line = first_line + (mark.line if mark else 0)
    return f"line {line}: front matter is not YAML: {error.problem or error.context}"


def _plain(node: yaml.Node | None, first_line: int) -> None:
    """Refuse what YAML would take silently: repeated keys, keys that are not text, binary and other tags."""
    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        raise SpecError(f"line {first_line}: front matter must be `field: value` lines, one for each field")
    # Nesting is bounded by YAML's own parser, sharing by the refusal of aliases.
    stack: list[yaml.Node] = [node]
    while stack:
        here = stack.pop()
        line = here.start_mark.line + first_line
        if isinstance(here, yaml.MappingNode):
            _plain_keys(here, first_line)
            stack += [value for _, value in here.value]
        elif isinstance(here, yaml.SequenceNode):
            stack += here.value
        if here.tag.removeprefix("tag:yaml.org,2002:") not in {"map", "seq", "str", "int", "float", "bool", "null"}:
            raise SpecError(f"line {line}: a value tagged {here.tag} is not read here: write plain text or numbers")
        if here.tag.endswith(":float") and not _finite(str(here.value)):
            raise SpecError(f"line {line}: {here.value} is not a number that can be sent")


def _plain_keys(node: yaml.MappingNode, first_line: int) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + first_line
        if key.tag != "tag:yaml.org,2002:str":
            got = getattr(key, "value", "")
            raise SpecError(f"line {line}: a field name must be text, got {got!r}: put it in quotes")
        if key.value in seen:
            raise SpecError(f"line {line}: {key.value} is given twice (first in line {seen[key.value]})")
        seen[key.value] = line


def _finite(text: str) -> bool:
    try:
        return math.isfinite(float(text.replace("_", "")))
    except ValueError:
        return not text.lower().lstrip("+-").startswith((".inf", ".nan"))


def _check(values: dict[str, Any], lines: Mapping[str, int]) -> None:
    # pydantic-ai takes a second to import: only a body that has front matter pays for it.
    from pydantic import ValidationError
    from pydantic_ai import ModelSettings
    from pydantic_ai.agent.spec import AgentSpec, get_capability_registry

    known = [name for name in AgentSpec.model_fields if name != "json_schema_path"]
    settings = set(ModelSettings.__annotations__)
    for name in values:
        if name not in known:
            raise SpecError(f"line {lines[name]}: unknown field {name}{_advice(name, known, settings)}")
    # Handlebars is never run on what a person wrote, so text with braces is checked as any other text.
    sample = {name: _without_braces(value) for name, value in values.items() if value is not None}
    try:
        AgentSpec.model_validate(sample)
    except ValidationError as error:
        raise SpecError(_invalid(error, values, lines)) from error
    for name in values.get("model_settings") or {}:
        if name not in settings and "_" not in name:
            raise SpecError(f"line {lines['model_settings']}: unknown model setting {name}{nearest(name, settings)}")
    registry = get_capability_registry()
    for capability in values.get("capabilities") or []:
        name = capability if isinstance(capability, str) else next(iter(capability), "")
        if name not in registry:
            raise SpecError(f"line {lines['capabilities']}: unknown capability {name}{nearest(name, registry)}")


def _advice(name: str, known: Iterable[str], settings: Iterable[str]) -> str:
    if name in settings:
        return f": it is a model setting, write `model_settings: {{{name}: …}}`"
    return nearest(name, known) or f": one of {', '.join(known)}"


def _without_braces(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("{{", "")
    if isinstance(value, list):
        return [_without_braces(item) for item in value]
    return value


def _invalid(error: Any, values: Mapping[str, Any], lines: Mapping[str, int]) -> str:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    return f"line {lines[name]}: {name}: {first['msg']} (got {str(values[name])[:60]!r})"
