"""What a single statement or cell is in a program: a parameter, a maker of agents, a tool without effects, a result."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from agentkit.errors import UserError
from agentkit.pipeline.cells import Item
from agentkit.pipeline.code_layout import quote
from agentkit.pipeline.names import BUILTINS
from agentkit.pipeline.reader import Cell


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """An argument of `main`, as the cell tagged `parameters` gives it."""

    name: str
    annotation: str | None
    default: str
    cell: Cell


def parameter_of(item: Item) -> Parameter:
    match item.node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            annotation = None
        case ast.AnnAssign(target=ast.Name(id=name), annotation=typed, value=ast.expr() as value):
            annotation = ast.unparse(typed)
        case _:
            raise UserError(f"{item.cell} is tagged `parameters`: write one `name = value` in a line, not {item.text}")
    if item.uses.reads - BUILTINS - ({annotation} if annotation else set()) and not literal(value):
        raise UserError(
            f"{item.cell}: the parameter {name} has a default that is computed ({ast.unparse(value)}): write a value"
        )
    return Parameter(name=name, annotation=annotation, default=format_expression(value), cell=item.cell)


def format_expression(value: ast.expr) -> str:
    match value:
        case ast.Constant(value=str(text)):
            return quote(text)
        case ast.List(elts=parts):
            return f"[{', '.join(map(format_expression, parts))}]"
        case _:
            return ast.unparse(value)


def literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except ValueError:
        return False
    return True


def check_parameters(parameters: Sequence[Parameter]) -> None:
    seen: dict[str, Parameter] = {}
    for parameter in parameters:
        if parameter.name in seen:
            raise UserError(f"{parameter.cell}: the parameter {parameter.name} is given twice")
        seen[parameter.name] = parameter


def tools_of(item: Item) -> list[str]:
    return [name.strip() for name in item.options.get("tools", "").replace(",", " ").split()]


def makes_agent(item: Item) -> bool:
    if not isinstance(item.node, ast.Assign | ast.AnnAssign) or item.uses.awaits or item.node.value is None:
        return False
    called = [part.func for part in ast.walk(item.node.value) if isinstance(part, ast.Call)]
    names = {part.attr if isinstance(part, ast.Attribute) else getattr(part, "id", "") for part in called}
    return any(name == "durable" or name.endswith(("Agent", "Model", "Toolset")) for name in names)


def runs_more(item: Item) -> bool:
    """Whether a statement does something beside running agents and computing."""
    return any(isinstance(part, ast.With | ast.AsyncWith | ast.Raise) for part in ast.walk(item.node or ast.Pass()))


def without_effects(item: Item) -> bool:
    return any(
        isinstance(decorator, ast.Call)
        and any(
            word.arg == "effects" and isinstance(word.value, ast.Constant) and word.value.value == "none"
            for word in decorator.keywords
        )
        for decorator in getattr(item.node, "decorator_list", ())
    )


def assignments_of(item: Item) -> frozenset[str]:
    """The names a plain assignment gives a value that can be a result: not the run of an agent itself."""
    match item.node:
        case ast.Assign(value=value) if is_run(value):
            return frozenset()
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
            return item.binds
        case _:
            return frozenset()


def is_run(value: ast.expr) -> bool:
    """Whether the value is what `agent.run(…)` gives, or a list of them, and not their outputs."""
    attributes = {part.attr for part in ast.walk(value) if isinstance(part, ast.Attribute)}
    return isinstance(value, ast.Await) and "run" in attributes and "output" not in attributes


def task_name(group: Sequence[Item]) -> str:
    first = group[0]
    tagged = sorted(tag.removeprefix("step:") for tag in first.cell.tags if tag.startswith("step:"))
    if tagged:
        return "".join(sign if sign.isalnum() else "_" for sign in tagged[0])
    if first.role in ("run", "map"):
        return f"find_{next(iter(first.binds))}"
    if first.role == "sandbox":
        return "compute_" + "_".join(sorted(first.binds)) if first.binds else f"sandbox_{first.cell.number}"
    return f"cell_{first.cell.number}"
