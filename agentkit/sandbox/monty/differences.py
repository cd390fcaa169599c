"""Where Monty answers otherwise than Python and says nothing: each is refused here, at its line."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from agentkit.sandbox.monty.problem import Problem, problem
from agentkit.sandbox.monty.shims.checks import lost


def problems(tree: ast.AST, *, calls: frozenset[str]) -> Iterator[Problem]:
    """The silent differences that can be seen in the source."""
    for node in ast.walk(tree):
        match node:
            case ast.Call():
                yield from _call(node)
            case ast.Dict():
                yield from _equal_keys(node)
            case ast.Constant(value=str() as text) if any("\ud800" <= char <= "\udfff" for char in text):
                yield problem(node, "a lone surrogate becomes another character in the sandbox", "leave it out")
            case ast.ClassDef():
                yield from _dunders(node)
    yield from _find_eval(tree)
    yield from _hashes(tree)
    yield from _eager(tree, calls)


# ---- calls


def _call(node: ast.Call) -> Iterator[Problem]:
    match node.func:
        case ast.Attribute(attr="strptime") if len(node.args) == 2:
            format = node.args[1]
            if isinstance(format, ast.Constant) and isinstance(format.value, str):
                said = lost(format.value)
                if said is not None:
                    yield problem(format, said, _READ_BY_HAND)


_READ_BY_HAND = (
    'complete the text first, `datetime.strptime(text + ":00", "%Y-%m-%d %H:%M")`, or read it with int(text[:2])'
)


def _equal_keys(node: ast.Dict) -> Iterator[Problem]:
    seen: dict[object, ast.expr] = {}
    for key in node.keys:
        if not isinstance(key, ast.Constant):
            continue
        first = seen.setdefault(key.value, key)
        if first is not key and repr(first.value) != repr(key.value):  # type: ignore[attr-defined]
            equal = f"{ast.unparse(first)} and {ast.unparse(key)}"
            yield problem(
                key, f"{equal} are one key, spelled otherwise in the sandbox than in Python", "keep one of them"
            )


# ---- classes

IGNORED = {
    "__bool__": "an instance is always true in the sandbox: compare a field, `if self.items:`",
    "__len__": "write a method `size()` and call it",
    "__format__": "write a method `text()` and call it in the f-string",
    "__setattr__": "check the value in a method that sets it",
    "__delattr__": "write a method that sets it to None",
    "__getattr__": "write a method `get(name)` and call it",
    "__getattribute__": "write a method `get(name)` and call it",
    "__new__": "use a function that makes the instance",
    "__del__": "call a method at the end",
    "__lt__": "sort with `key=lambda x: ...`",
    "__le__": "compare a field of both",
    "__gt__": "sort with `key=lambda x: ...`",
    "__ge__": "compare a field of both",
    "__reversed__": "write a method that returns the reversed list",
    "__bytes__": "write a method `to_bytes()` and call it",
    "__iadd__": "write `a = a + b` with `__add__`, or a method",
    "__class_getitem__": "leave the brackets out",
    "__init_subclass__": "there is no inheritance in the sandbox",
    "__missing__": "use collections.defaultdict",
    "__copy__": "write a method `copy()` and call it",
    "__deepcopy__": "write a method `copy()` and call it",
    "__get__": "write a method and call it",
    "__set__": "write a method and call it",
    "__set_name__": "write a method and call it",
    "__dir__": "leave it out",
}
"""Special methods that Monty does not call, or not everywhere; what to write instead."""


def _dunders(node: ast.ClassDef) -> Iterator[Problem]:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name in IGNORED:
            yield problem(item, f"{item.name} is not called in the sandbox", IGNORED[item.name])


def _find_eval(tree: ast.AST) -> Iterator[Problem]:
    """Code in a text could not be checked."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        match node:
            case ast.Name(id="eval" | "exec" as name, ctx=ast.Load()) if name not in own:
                yield problem(node, f"there is no {name}", "write the code itself; json.loads reads data")


def _hashes(tree: ast.AST) -> Iterator[Problem]:
    inside = {
        id(node)
        for method in ast.walk(tree)
        if isinstance(method, ast.FunctionDef) and method.name == "__hash__"
        for node in ast.walk(method)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="hash")) if id(node) not in inside:
                yield problem(node, "hash() gives other numbers than Python", "use hashlib.sha256(text.encode())")


# ---- what Python would not have done yet

_SHORT = {"any", "all", "next", "islice", "takewhile", "dropwhile"}


def _eager(tree: ast.AST, calls: frozenset[str]) -> Iterator[Problem]:
    """Monty builds generator expressions whole, so host calls would be made that Python never makes."""
    if not (asking := _asking_functions(tree, calls)):
        return
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[*args]) if name in _SHORT:
                lazy = [arg for arg in args if _is_lazy(arg, asking)]
            case ast.For(iter=iter) if _leaves(node) and _is_lazy(iter, asking):
                lazy = [iter]
            case _:
                continue
        for one in lazy:
            yield problem(
                one, "it would make all its host calls first, in the sandbox", "write a for loop that stops with break"
            )


def _asking_functions(tree: ast.AST, calls: frozenset[str]) -> set[str]:
    """The host calls and the program's functions that make one."""
    asking = set(calls)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for _ in functions:
        more = {function.name for function in functions if _names(function) & asking}
        if more <= asking:
            break
        asking |= more
    return asking


def _names(node: ast.AST) -> set[str]:
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}


def _is_lazy(node: ast.expr, asking: set[str]) -> bool:
    match node:
        case ast.GeneratorExp():
            return bool(_names(node) & asking)
        case ast.Call(func=ast.Name(id="map" | "filter"), args=[function, *_]):
            return bool(_names(function) & asking)
        case _:
            return False


def _leaves(loop: ast.For) -> bool:
    return any(isinstance(node, ast.Break | ast.Return) for node in ast.walk(loop))
