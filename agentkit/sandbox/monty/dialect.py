"""What generated code may say: checked before anything runs, line and caret and one substitute for each refusal."""

from __future__ import annotations

import ast
import re
import warnings

from agentkit.sandbox.monty import differences, shim_loader, unsupported
from agentkit.sandbox.monty.capabilities import detect, modules
from agentkit.sandbox.monty.problem import Problem, locate
from agentkit.sandbox.monty.rewriting import Prepared, find_iterators, prepare

__all__ = ["REFUSED", "Prepared", "Problem", "check", "guide", "hint", "modules", "notes", "prepare", "problems"]

REFUSED = "the sandbox"
"""What every error says that a shim raises where it could not be exact."""
_DEEPEST = 15
_SHOWN = 60
_MOST_NODES = 100_000


def check(source: str, *, calls: frozenset[str] = frozenset(), given: frozenset[str] = frozenset()) -> None:
    """SandboxError (dialect) for the first thing in `source` that the sandbox does not run, or runs otherwise.

    `calls` are the host's functions, `given` the other names that come from outside.
    """
    found = problems(source, calls=calls, given=given)
    if found:
        first, rest = found[0].error(source), found[1:]
        if rest:
            lines = ", ".join(str(line) for line in dict.fromkeys(problem.line for problem in rest))
            raise first.after((), hint=f"{first.hint}{'; ' if first.hint else ''}also to change: line {lines}")
        raise first


def problems(source: str, *, calls: frozenset[str] = frozenset(), given: frozenset[str] = frozenset()) -> list[Problem]:
    """Everything in `source` that the sandbox does not run, or runs otherwise than Python, in its order."""
    tree = _parse(source)
    if isinstance(tree, Problem):
        return [tree]
    lines = source.split("\n")
    found = [
        *unsupported.problems(tree, runtime=detect(), calls=calls, given=given),
        *differences.problems(tree, calls=calls),
    ]
    return sorted({locate(problem, lines) for problem in found})


def notes(source: str) -> tuple[str, ...]:
    """What in `source`, which has been checked, the sandbox does otherwise than Python where nobody may notice."""
    kept = sorted((node.lineno, node.col_offset, ast.unparse(node)) for node in find_iterators(ast.parse(source)))
    return tuple(
        f"line {line}: the sandbox works out {_shorten(text)} whole, where it stands; Python as far as it is read"
        for line, _, text in kept
    )


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _parse(source: str) -> ast.Module | Problem:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except SyntaxError as error:
        line, column = error.lineno or 1, max(1, error.offset or 1)
        end = error.end_offset if error.end_lineno == line and error.end_offset else column + 1
        return Problem(line=line, column=column, width=max(1, end - column), message=error.msg)
    except (ValueError, RecursionError, MemoryError) as error:
        said = str(error) if isinstance(error, ValueError) else "the code is nested too deeply"
        return Problem(line=1, column=1, width=1, message=said, substitute="")
    return _too_deep(tree) or tree


def _too_deep(tree: ast.Module) -> Problem | None:
    """Code that is nested so deep that it hangs a compiler, without walking it recursively."""
    level: list[tuple[ast.AST, int]] = [(tree, 0)]
    seen = 0
    while level:
        node, depth = level.pop()
        seen += 1
        inner = depth + isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef)
        if inner > _DEEPEST or seen > _MOST_NODES:
            return Problem(
                line=getattr(node, "lineno", 1), column=getattr(node, "col_offset", 0) + 1, width=1,
                message="functions are nested too deeply" if inner > _DEEPEST else "the code is too long",
                substitute="functions side by side" if inner > _DEEPEST else "a shorter program",
            )  # fmt: skip
        level += [(child, inner) for child in ast.iter_child_nodes(node)]
    return None


# ---- what only shows while it runs

_HINTS: tuple[tuple[str, str], ...] = (
    (r"'list' object is not an iterator", "next(iter(items))"),
    (r"has no attribute 'maketrans'|has no attribute 'translate'", "text.replace(old, new), or a dict and a join"),
    (r"has no attribute 'bit_length'", "len(bin(n)) - 2"),
    (r"has no attribute 'as_integer_ratio'", "Decimal(x).as_integer_ratio()"),
    (r"has no attribute 'is_integer'", "x == int(x)"),
    (r"has no attribute '(to|from)_bytes'", "n // 256 and n % 256"),
    (r"has no attribute 'isocalendar'", 'int(day.strftime("%V"))'),
    (r"has no attribute '(fromtimestamp|utcfromtimestamp)'", "datetime(1970, 1, 1) + timedelta(seconds=n)"),
    (r"has no attribute 'toordinal'", "(day - date(1, 1, 1)).days + 1"),
    (r"has no attribute '(__name__|__qualname__|__doc__)'", "a text of your own"),
    (r"has no attribute '__class__'", "type(x)"),
    (r"has no attribute '__(dict|cause|context|traceback)__'", "fields by name; repr(error)"),
    (r"not supported between instances of", "compare fields, or sort with key=lambda x: x.field"),
    (r"cannot suspend in this synchronous", "call it in a loop or a list: [f(x) for x in items]"),
    (r"exceptions can only be called with", 'an error takes one text: ValueError(f"...")'),
    (r"does not match format", "the sandbox reads whole dates only: add the missing part to text and format"),
    (r"unsupported operand type.*timedelta", "timedelta(seconds=delta.total_seconds() * factor)"),
)
_LACKING = re.compile(r"AttributeError: (?:type object )?'([\w.]+)'(?: object)? has no attribute '(\w+)'")
_TYPES = (str, bytes, int, float, list, tuple, dict, set, frozenset, complex, bool)


def hint(message: str) -> tuple[bool, str]:
    """Whether an error of a running program is one that Python would not give, and what to write instead."""
    said = next((instead for pattern, instead in _HINTS if re.search(pattern, message)), "")
    return _is_dialect(message), f"instead: {said}" if said else ""


def _is_dialect(message: str) -> bool:
    if message.startswith("NotImplementedError") or "Internal error in monty" in message:
        return True
    found = _LACKING.search(message)
    if found is None or found[2].startswith("__"):
        return False
    return any(kind.__name__ == found[1] and hasattr(kind, found[2]) for kind in _TYPES)


# ---- what a model is told


def guide() -> str:
    """What the sandbox runs, in a few lines for a model, made from the installed Monty."""
    own = ", ".join(shim_loader.MODULES)
    return (
        "The code is Python without: generators (yield), base classes, decorators on methods, del, async for and async "
        "with, eval and exec, import *. Instead of `del d[k]` write `d.pop(k, None)`, instead of `key=d.get` write "
        "`key=lambda k: d[k]`, instead of an exception class of your own raise ValueError. Special methods that work: "
        "__init__, __str__, __repr__, __eq__, __hash__, __iter__, __next__, __contains__, __getitem__, __call__, "
        "__enter__, __exit__ and arithmetic; not __len__, __bool__, __lt__. datetime.strptime needs a whole date, and "
        f"with a time both hour and minute. Modules: {', '.join(modules())} (in part: {own}). No others, no files, no "
        "network."
    )
