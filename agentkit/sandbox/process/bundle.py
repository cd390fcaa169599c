"""What a notebook function needs to run elsewhere: its source, the notebook code it calls, its values and imports."""

from __future__ import annotations

import ast
import builtins
import collections
import dataclasses
import enum
import functools
import inspect
import linecache
import sys
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from agentkit.errors import UserError
from agentkit.tools.digest import lookup
from agentkit.tools.inputs import is_library
from agentkit.tools.source import Source, definition_of, source_of

_MUTABLE = (list, dict, set, collections.deque, bytearray)
_GENERATED = ("<string>", "<attrs generated")


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """One definition as it stands in its cell: `text` begins at `line` of `file`."""

    file: str
    line: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """Run the `imports` (name, module, attribute), then the `units`, then set the `values`: `function` is defined."""

    function: str
    units: tuple[Unit, ...]
    imports: tuple[tuple[str, str, str | None], ...]
    values: dict[str, Any]


def bundle(function: Callable[..., Any]) -> Bundle:
    """Everything `function` reads, by name. Raises UserError, which names it, for what cannot run elsewhere."""
    name = getattr(function, "__name__", "it")
    plain = inspect.unwrap(function)
    if not isinstance(plain, types.FunctionType):
        kind = "a method of an object in the kernel" if isinstance(plain, types.MethodType) else type(plain).__name__
        raise UserError(f"{name} cannot run in a process of its own: it is {kind}; write it as a plain `def`")
    walk = _ClosureWalk(tool=name)
    walk.add(name, function)
    return Bundle(function=name, units=tuple(walk.units.values()), imports=tuple(walk.imports), values=walk.values)


@dataclass(kw_only=True)
class _ClosureWalk:
    """One walk over a tool and all it reaches; what is defined first comes first."""

    tool: str
    units: dict[str, Unit] = field(default_factory=dict)
    imports: list[tuple[str, str, str | None]] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, value: Any) -> None:
        if name in self.seen:
            if self.seen[name] is not value:
                self._refuse(f"{name} stands for two things in the code it calls; rename one of them")
            return
        self.seen[name] = value
        place = _place(value)
        if place is not None:
            self.imports.append((name, *place))
        elif isinstance(value, types.ModuleType):
            self._refuse(f"it uses the module {name}, which cannot be imported elsewhere")
        elif isinstance(value, type):
            self._class(name, value)
        elif callable(value) and isinstance(inspect.unwrap(value), types.FunctionType):
            self._function(name, value)
        else:
            self._value(name, value)

    def _refuse(self, why: str) -> None:
        raise UserError(f"{self.tool} cannot run in a process of its own: {why}")

    # -- code

    def _function(self, name: str, value: Any) -> None:
        function = inspect.unwrap(value)
        source = source_of(function.__code__)
        found = definition_of(function.__code__)
        if found is None or isinstance(found[0], ast.Lambda):
            self._refuse(f"the source of {name} cannot be read; write it as a `def` in a cell")
            return
        self._check_changes(name, function, source)
        node, text = found
        kept = [each for each in node.decorator_list if not _is_ours(each, function)]
        outer = [*kept, *node.args.defaults, *(each for each in node.args.kw_defaults if each is not None)]
        self._names(function, [*_names_in(outer), *source.reads])
        self._annotations(function, node)
        if node.name != name:
            self._refuse(f"{name} is defined as {node.name}; call it by that name")
        self.units[name] = _unit(function.__code__.co_filename, node, text, kept)

    def _names(self, function: types.FunctionType, names: Iterable[str]) -> None:
        for name in names:
            found, value = lookup(function, name)
            if found:
                self.add(name, value)

    def _annotations(self, function: types.FunctionType, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """What types are named by, for arguments that are more than JSON; what cannot go is not needed."""
        given = [each.annotation for each in (*node.args.args, *node.args.kwonlyargs) if each.annotation is not None]
        for name in _names_in(given):
            found, value = lookup(function, name)
            if found and (isinstance(value, type) or _place(value) is not None):
                self.add(name, value)

    def _check_changes(self, name: str, function: types.FunctionType, source: Source) -> None:
        changed = [each for each in source.reads if each in source.changed and _is_needed(function, each)]
        for each in (*source.assigns, *changed):
            self._refuse(f"{name} changes {each}, and the change would be lost there; return it instead")

    def _class(self, name: str, cls: type) -> None:
        found = _class_definition(cls)
        if found is None:
            self._refuse(f"the source of class {name} cannot be read; define it in a cell")
            return
        file, node, text = found
        methods = [each for each in map(_function_of, vars(cls).values()) if each is not None]
        space = _space(methods, cls)
        reads = [read for method in methods for read in source_of(method.__code__).reads]
        for each in (*_names_in([*node.bases, *node.decorator_list, *node.keywords, *_fields_of(node)]), *reads):
            if each in space and each != name:
                self.add(each, space[each])
        self.units[name] = _unit(file, node, text, node.decorator_list)

    # -- values

    def _value(self, name: str, value: Any) -> None:
        for cls in _classes_in(value):
            if _place(cls) is None:
                self.add(cls.__name__, cls)
        self.values[name] = value


def _place(value: Any) -> tuple[str, str | None] | None:
    """Where a module, function or class can be imported from; None for what is the notebook's own."""
    if isinstance(value, types.ModuleType):
        return None if value.__name__ == "__main__" or value.__spec__ is None else (value.__name__, None)
    if not (isinstance(value, type | types.FunctionType | types.BuiltinFunctionType) or callable(value)):
        return None
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return (module, name) if found is value else None


def _is_needed(function: types.FunctionType, name: str) -> bool:
    found, value = lookup(function, name)
    return found and isinstance(value, _MUTABLE)


def _is_ours(decorator: ast.expr, function: types.FunctionType) -> bool:
    """`@agentkit.tool(…)`, under whatever name: it says how to call the function, and nothing of what it does."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    parts: list[str] = []
    while isinstance(called, ast.Attribute):
        parts.insert(0, called.attr)
        called = called.value
    if not isinstance(called, ast.Name):
        return False
    _, found = lookup(function, called.id)
    for part in parts:
        found = getattr(found, part, None)
    return getattr(found, "__module__", None) == "agentkit.tools.declaration"


def _names_in(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name):
                yield inner.id


def _unit(file: str, node: Any, text: str, decorators: list[ast.expr]) -> Unit:
    """The lines of a definition, with the decorators that are kept."""
    lines = text.splitlines(keepends=True)
    first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    dropped = [each for each in node.decorator_list if each not in decorators]
    for each in dropped:
        for place in range(each.lineno, (each.end_lineno or each.lineno) + 1):
            lines[place - 1] = "\n"
    return Unit(file=file, line=first, text=textwrap.dedent("".join(lines[first - 1 : node.end_lineno])))


# -- classes


def _function_of(member: Any) -> types.FunctionType | None:
    """The function that was written in the class; not what a decorator has generated."""
    inner = getattr(member, "__func__", getattr(member, "fget", member))
    plain = inspect.unwrap(inner) if callable(inner) else inner
    if not isinstance(plain, types.FunctionType) or plain.__code__.co_filename.startswith(_GENERATED):
        return None
    if is_library(plain.__code__.co_filename):
        return None
    return plain if definition_of(plain.__code__) is not None else None


def _space(methods: list[types.FunctionType], cls: type) -> dict[str, Any]:
    return methods[0].__globals__ if methods else vars(sys.modules.get(cls.__module__, builtins))


def _fields_of(node: ast.ClassDef) -> Iterator[ast.AST]:
    """What is read when the class is made; its methods are read as they are compiled."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from (*each.decorator_list, *each.args.defaults, *filter(None, each.args.kw_defaults))
        else:
            yield each


def _class_definition(cls: type) -> tuple[str, ast.ClassDef, str] | None:
    """A class of a cell has no file of its own: it is the newest of its name that says the same fields."""
    names = set(inspect.get_annotations(cls))
    for file, entry in reversed(list(linecache.cache.items())):
        text = "".join(entry[2]) if len(entry) > 2 else ""
        if f"class {cls.__name__}" not in text:
            continue
        for node in ast.walk(_parse(text)):
            if isinstance(node, ast.ClassDef) and node.name == cls.__name__ and _fields(node) == names:
                return file, node, text
    return None


@functools.lru_cache(maxsize=32)
def _parse(text: str) -> ast.AST:
    try:
        return ast.parse(text)
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])


def _fields(node: ast.ClassDef) -> set[str]:
    return {
        each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }


def _classes_in(value: Any, depth: int = 4) -> Iterator[type]:
    """The notebook's classes whose instances a value holds."""
    if depth == 0:
        return
    if isinstance(value, enum.Enum) or dataclasses.is_dataclass(value) or hasattr(type(value), "model_fields"):
        yield type(value)
        inner: Iterable[Any] = vars(value).values() if hasattr(value, "__dict__") else ()
    elif isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        inner = value
    else:
        return
    for each in inner:
        yield from _classes_in(each, depth - 1)
