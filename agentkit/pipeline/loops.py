"""Loops that ask an agent for each of many things: the runs do not need each other, so they go side by side."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from agentkit.pipeline import code_layout
from agentkit.pipeline.cells import Item

_NAMES = frozenset({"each_run", "each_item", "each_answer"})


@dataclass(frozen=True, kw_only=True)
class _Loop:
    """`kept` is what the loop does with each answer; without it the answers are a list called `bound`."""

    target: str
    over: str
    asked: str
    bound: str = ""
    kept: str = ""


def side_by_side(item: Item) -> str | None:
    """The statement with its runs gathered; None where one run may need what another one left."""
    if item.node is None or item.uses.all_reads & _NAMES:
        return None
    loop = _read(ast.parse(item.text).body[0], item.text)
    if loop is None:
        return None
    asked = f"async def each_run({loop.target}):\n" + code_layout.indent(f"return {loop.asked}") + "\n\n"
    if loop.bound:
        return (
            f"{asked}{loop.bound} = await asyncio.gather(*[each_run({loop.target}) for {loop.target} in {loop.over}])"
        )
    listed = f"each_item = list({loop.over})\n"
    gathered = f"each_answer = await asyncio.gather(*[each_run({loop.target}) for {loop.target} in each_item])\n"
    return f"{asked}{listed}{gathered}for {loop.target}, answer in zip(each_item, each_answer):\n    {loop.kept}"


def _read(node: ast.stmt, text: str) -> _Loop | None:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.ListComp(elt=asked, generators=[one])):
            if one.ifs or one.is_async or not _asks_once(asked) or _awaits(one.iter):
                return None
            return _loop(one.target, one.iter, asked, text, bound=name)
        case ast.For(target=target, iter=over, body=[ast.Expr(value=ast.Call() as call)], orelse=[]):
            match call:
                case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="append"), args=[asked], keywords=[]):
                    kept = f"{name}.append(answer)"
                    return None if _needs(asked, over, {name}) else _loop(target, over, asked, text, kept=kept)
        case ast.For(
            target=ast.Name(id=each) as target,
            iter=over,
            body=[ast.Assign(targets=[ast.Subscript(value=ast.Name(id=name), slice=ast.Name(id=key))], value=asked)],
            orelse=[],
        ) if key == each:
            kept = f"{name}[{key}] = answer"
            return None if _needs(asked, over, {name}) else _loop(target, over, asked, text, kept=kept)
    return None


def _needs(asked: ast.expr, over: ast.expr, changed: set[str]) -> bool:
    """Whether a run looks at what the runs before it left."""
    names = {part.id for part in (*ast.walk(asked), *ast.walk(over)) if isinstance(part, ast.Name)}
    return bool(names & (changed | {"answer"})) or not _asks_once(asked) or _awaits(over)


def _loop(
    target: ast.expr, over: ast.expr, asked: ast.expr, text: str, *, bound: str = "", kept: str = ""
) -> _Loop | None:
    if not isinstance(target, ast.Name):
        return None
    pieces = [ast.get_source_segment(text, part) for part in (over, asked)]
    source, question = pieces
    if source is None or question is None or "\n" in source:
        return None
    return _Loop(target=target.id, over=source, asked=question, bound=bound, kept=kept)


def _asks_once(asked: ast.expr) -> bool:
    """`(await agent.run(…)).output`: what is kept is the answer, and nothing else happens on the way."""
    match asked:
        case ast.Attribute(value=ast.Await(value=ast.Call(func=ast.Attribute(attr="run"))), attr="output"):
            inner = [part for part in ast.walk(asked) if isinstance(part, ast.Await | ast.NamedExpr)]
            return len(inner) == 1
        case _:
            return False


def _awaits(node: ast.expr) -> bool:
    return any(isinstance(part, ast.Await) for part in ast.walk(node))
