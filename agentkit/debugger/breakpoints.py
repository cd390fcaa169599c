"""Where runs pause by themselves: before a tool, or when a condition on cost, tokens, turn and the like holds."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agentkit.errors import UserError, nearest

FACTS = ("cost", "tokens", "seconds", "step", "turn", "depth", "kind", "tool", "model", "agent")
"""What a condition may name: money and tokens are those of this run's live steps so far."""

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


@dataclass(frozen=True)
class Breakpoint:
    """A condition as it was typed, and what decides it."""

    text: str
    condition: ast.expr

    @classmethod
    def parse(cls, text: str) -> Breakpoint:
        """`tool=NAME`, `turn=N`, `cost=USD`, or `when "cost > 0.10 and turn > 2"`; UserError says what is wrong."""
        text = text.strip()
        word, _, rest = text.partition(" ")
        if word == "when":
            return cls(text, _parse_condition(_unquote(rest)))
        name, sign, value = text.partition("=")
        name, value = name.strip(), _unquote(value)
        match name:
            case "tool" if sign and value:
                return cls(text, _parse_condition(f"tool == {value!r}"))
            case "turn" | "step" | "cost" if sign and _is_number(value):
                return cls(text, _parse_condition(f"{name} >= {value}"))
        raise UserError(f'{text or "nothing"} is no place to pause: tool=NAME, turn=N, cost=USD or when "cost > 0.10"')

    @property
    def facts(self) -> frozenset[str]:
        """The facts that have to be known to decide it."""
        return frozenset(node.id for node in ast.walk(self.condition) if isinstance(node, ast.Name))

    def holds(self, facts: Mapping[str, Any]) -> bool:
        return bool(_value(self.condition, facts))


def _unquote(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _is_number(text: str) -> bool:
    try:
        return float(text) >= 0
    except ValueError:
        return False


def _parse_condition(text: str) -> ast.expr:
    try:
        condition = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise UserError(f'when "{text}": not a condition ({error.msg}); for example when "cost > 0.10"') from error
    for node in ast.walk(condition):
        if isinstance(node, ast.Name) and node.id not in FACTS:
            raise UserError(f'when "{text}": unknown {node.id}{nearest(node.id, FACTS)}; known: {", ".join(FACTS)}')
        if not _is_allowed(node):
            raise UserError(f'when "{text}": only comparisons joined by and, or, not; for example "cost > 0.10"')
    return condition


def _is_allowed(node: ast.AST) -> bool:
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            return True
        case ast.UnaryOp():
            return isinstance(node.op, ast.Not)
        case ast.cmpop():
            return type(node) in _COMPARE
        case _:
            return isinstance(node, _ALLOWED)


_ALLOWED = (ast.BoolOp, ast.boolop, ast.Compare, ast.Name, ast.Constant, ast.Not, ast.USub, ast.expr_context)


def _value(node: ast.expr, facts: Mapping[str, Any]) -> Any:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_value(value, facts) for value in values)
        case ast.BoolOp(values=values):
            return any(_value(value, facts) for value in values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, facts)
        case ast.UnaryOp(operand=operand):
            return -_value(operand, facts)
        case ast.Compare(left=left, ops=ops, comparators=others):
            return _compare(_value(left, facts), ops, [_value(other, facts) for other in others])
        case ast.Name(id=name):
            return facts[name]
        case ast.Constant(value=value):
            return value
    raise AssertionError(f"{ast.dump(node)} was let through")


def _compare(left: Any, ops: list[ast.cmpop], others: list[Any]) -> bool:
    for op, right in zip(ops, others, strict=True):
        try:
            if not _COMPARE[type(op)](left, right):
                return False
        except TypeError:
            # What a step does not have (the tool of a model request) is neither more nor less than anything.
            return False
        left = right
    return True
