"""The type of each name that crosses between tasks: as it was declared, as it is in the kernel, or as it is written."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from agentkit.pipeline.cells import Item
from agentkit.pipeline.plan import Plan

ANY = "typing.Any"
_PLAIN = (str, int, float, bool)


class Types:
    """Says which annotation a name of `main` has; `mains` are those names."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._module = frozenset(name for item in plan.module for name in item.binds)
        self.mains = frozenset(self._main_names())

    def _main_names(self) -> Iterator[str]:
        yield from (parameter.name for parameter in self._plan.parameters)
        for block in self._plan.main:
            tasks = block if isinstance(block, tuple) else (block,)
            for each in tasks:
                yield from each.binds if isinstance(each, Item) else each.outputs

    def of(self, name: str) -> str:
        """The annotation of a name."""
        return (
            self._parameter(name)
            or self._answer(name)
            or self._format_live_type(name)
            or self._format_type(name)
            or ANY
        )

    def _parameter(self, name: str) -> str | None:
        for parameter in self._plan.parameters:
            if parameter.name == name:
                return parameter.annotation or literal_type(ast.parse(parameter.default, mode="eval").body)
        return None

    def _answer(self, name: str) -> str | None:
        for task in self._plan.tasks:
            item = task.items[0]
            if item.role == "run" and name in item.binds:
                return self._output(item)
        return None

    def _output(self, item: Item) -> str:
        made = [other for other in self._plan.module if other.role == "build" and other.name == item.name]
        if not made:
            return ANY
        output = next((each for each in reversed(made) if each.order < item.order), made[0]).options.get("output")
        return output or "str"

    def _format_live_type(self, name: str) -> str | None:
        live = self._plan.notebook.live
        return None if live is None or name not in live else self.of_value(live[name])

    def of_value(self, value: Any) -> str | None:
        kind = type(value)
        if kind in _PLAIN:
            return kind.__name__
        if kind is list and value and len({type(each) for each in value}) == 1 and type(value[0]) in _PLAIN:
            return f"list[{type(value[0]).__name__}]"
        if kind is dict and value and _one_type(value.keys()) is str and _one_type(value.values()) in _PLAIN:
            return f"dict[str, {type(next(iter(value.values()))).__name__}]"
        return kind.__name__ if kind.__name__ in self._module and kind.__module__ == "__main__" else None

    def _format_type(self, name: str) -> str | None:
        kinds = set()
        for block in self._plan.main:
            if isinstance(block, Item) and name in block.binds:
                match block.node:
                    case ast.Assign(targets=[ast.Name()], value=value) | ast.AnnAssign(value=ast.expr() as value):
                        kinds.add(literal_type(value))
                    case _:
                        return None
            elif not isinstance(block, Item):
                tasks = block if isinstance(block, tuple) else (block,)
                if any(name in task.outputs for task in tasks):
                    return None
        return kinds.pop() if len(kinds) == 1 else None


def _one_type(values: Any) -> type | None:
    kinds = {type(value) for value in values}
    return kinds.pop() if len(kinds) == 1 else None


def literal_type(value: ast.expr) -> str:
    """`list[str]` of `["a", "b"]`; Any of what is not a plain value."""
    match value:
        case ast.Constant(value=bool() | int() | float() | str() as plain):
            return type(plain).__name__
        case ast.JoinedStr():
            return "str"
        case ast.Call(func=ast.Name(id="int" | "str" | "float" | "bool" as name)):
            return name
        case ast.Call(func=ast.Name(id="len")):
            return "int"
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return literal_type(operand)
        case ast.List(elts=[first, *rest]):
            kinds = {literal_type(each) for each in (first, *rest)}
            return f"list[{kinds.pop()}]" if len(kinds) == 1 and ANY not in kinds else ANY
        case _:
            return ANY
