"""What Monty cannot run, found in the source before anything of it runs, each with one thing to write instead."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator

from agentkit.sandbox.monty.capabilities import Runtime
from agentkit.sandbox.monty.problem import Problem, problem

_TYPES = frozenset({"str", "list", "dict", "set", "tuple", "bytes"})
_METHODS = frozenset(
    name
    for kind in (str, bytes, int, float, list, tuple, dict, set)
    for name in dir(kind)
    if not name.startswith("_") and callable(getattr(kind, name))
)


def problems(tree: ast.Module, *, runtime: Runtime, calls: frozenset[str], given: frozenset[str]) -> Iterator[Problem]:
    """Everything in `tree` that Monty would stop at; `calls` and `given` are the names it gets from outside."""
    scope = _Scope(tree, calls | given)
    for node in ast.walk(tree):
        yield from _syntax(node)
        yield from _check_import(node, runtime)
        yield from _check_name(node, scope, runtime)
        yield from _attribute(node, scope, runtime)
        yield from _call(node)
        yield from _check_callback(node, calls)


# ---- statements and expressions

_GATHER = "await asyncio.gather(*[call(x) for x in items])"


def _syntax(node: ast.AST) -> Iterator[Problem]:
    match node:
        case ast.Delete(targets=[target, *_]):
            yield problem(node, "there is no del", _without_del(target))
        case ast.Yield() | ast.YieldFrom():
            yield problem(node, "there are no generators", "append to a list and return the list")
        case ast.ClassDef():
            yield from _class(node)
        case ast.AsyncFor() | ast.AsyncWith():
            kind = "async for" if isinstance(node, ast.AsyncFor) else "async with"
            yield problem(node, f"there is no {kind}", _GATHER)
        case ast.comprehension(is_async=1):
            yield problem(
                node.target, "there are no async comprehensions", "await asyncio.gather(*[f(x) for x in items])"
            )
        case ast.TryStar():
            yield problem(node, "there is no except*", "except")
        case ast.ImportFrom(names=[ast.alias(name="*")]):
            yield problem(node, "there is no import *", f"import {node.module}")
    if type(node).__name__ == "TypeAlias":
        yield problem(node, "there are no type aliases", "leave it out, or assign the type to a name")
    if type(node).__name__ == "TemplateStr":
        yield problem(node, "there are no template strings", 'f"..."')


def _without_del(target: ast.expr) -> str:
    match target:
        case ast.Subscript(value=value, slice=ast.Slice() as where):
            return f"{ast.unparse(value)}[{ast.unparse(where)}] = []"
        case ast.Subscript(value=value, slice=where):
            key = ast.unparse(where)
            number = key.lstrip("-").isdecimal()
            return f"{ast.unparse(value)}.pop({key})" if number else f"{ast.unparse(value)}.pop({key}, None)"
        case _:
            return f"{ast.unparse(target)} = None"


def _class(node: ast.ClassDef) -> Iterator[Problem]:
    if node.bases or node.keywords:
        at = [*node.bases, *(keyword.value for keyword in node.keywords)][0]
        yield problem(at, "classes have no base classes", _without_base(node))
    for item in node.body:
        yield from _class_item(item)


def _without_base(node: ast.ClassDef) -> str:
    base = ast.unparse(node.bases[0]).rpartition(".")[2] if node.bases else "metaclass"
    if base.endswith(("Exception", "Error", "Warning")):
        return f'raise ValueError("{node.name}: ...") where it is raised, except ValueError where it is caught'
    return {
        "object": f"class {node.name}:",
        "Enum": f"class {node.name}: with plain values, NAME = 1",
        "IntEnum": f"class {node.name}: with plain values, NAME = 1",
        "StrEnum": f'class {node.name}: with plain values, NAME = "name"',
        "NamedTuple": f'{node.name} = namedtuple("{node.name}", "field1 field2")',
        "TypedDict": "a plain dict",
        "ABC": f"class {node.name}: without it",
        "Protocol": "leave the class out",
        "Generic": f"class {node.name}:",
    }.get(base, f"class {node.name}: with the methods it needs, or one that holds a {base}")


def _class_item(item: ast.stmt) -> Iterator[Problem]:
    match item:
        case ast.FunctionDef(decorator_list=[decorator, *_]) | ast.AsyncFunctionDef(decorator_list=[decorator, *_]):
            yield problem(decorator, "methods have no decorators", _without_decorator(decorator, item.name))
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Pass() | ast.Expr():
            return
        case ast.Assign(targets=[ast.Name()]) | ast.AnnAssign(target=ast.Name()):
            return
        case _:
            yield problem(item, "a class holds methods and plain variables only", "move it out of the class")


def _without_decorator(decorator: ast.expr, name: str) -> str:
    match ast.unparse(decorator).split("(")[0].rpartition(".")[2]:
        case "property" | "cached_property":
            return f"def {name}(self), called as {name}()"
        case "staticmethod" | "classmethod":
            return f"a function {name}() outside the class"
        case _:
            return "call the decorating function where the method is called"


# ---- imports

_INSTEAD = {
    "numpy": "lists and math, or --tier process",
    "pandas": "lists of dicts, or --tier process",
    "scipy": "--tier process",
    "sklearn": "--tier process",
    "matplotlib": "let the values out and draw them outside",
    "requests": "a function of the host (--call)",
    "httpx": "a function of the host (--call)",
    "urllib": "a function of the host (--call); for a URL's parts, text.split()",
    "socket": "a function of the host (--call)",
    "subprocess": "a function of the host (--call)",
    "threading": "asyncio.gather for host calls",
    "concurrent": "asyncio.gather for host calls",
    "multiprocessing": "asyncio.gather for host calls",
    "enum": "a class with plain values",
    "abc": "leave it out",
    "contextlib": "a class with __enter__ and __exit__, or try and finally",
    "fractions": "decimal.Decimal, or two whole numbers",
    "uuid": "hashlib.sha256(text.encode()).hexdigest()[:32]",
    "zoneinfo": "timezone(timedelta(hours=1)) of datetime",
    "calendar": "datetime: (date(y, m % 12 + 1, 1) - timedelta(days=1)).day",
    "logging": "print",
    "pprint": "json.dumps(value, indent=2)",
    "traceback": "print(repr(error))",
    "warnings": "print",
    "secrets": "random",
    "shutil": "there are no files",
    "tempfile": "there are no files",
    "pickle": "json",
    "difflib": "compare the lists line by line",
    "collections.abc": "leave the annotation out",
}
_NAMES_INSTEAD = {
    ("sys", "platform"): "leave the question out: the sandbox is the same on every machine",
    ("sys", "argv"): "hand the values in by name (--in)",
    ("sys", "executable"): "leave it out: no program can be started",
    ("collections", "OrderedDict"): "dict, which keeps its order",
    ("collections", "ChainMap"): "{**second, **first}",
    ("collections", "UserDict"): "dict",
    ("dataclasses", "asdict"): "a dict of the fields, {'x': p.x}",
    ("dataclasses", "astuple"): "a tuple of the fields",
    ("dataclasses", "replace"): "a new instance with all fields",
    ("functools", "wraps"): "leave it out",
    ("functools", "cmp_to_key"): "sort with key=lambda x: (x.a, x.b)",
    ("functools", "singledispatch"): "isinstance",
    ("functools", "total_ordering"): "sort with key=lambda x: x.field",
    ("functools", "cached_property"): "a method",
    ("re", "VERBOSE"): "the pattern on one line",
    ("re", "X"): "the pattern on one line",
    ("datetime", "UTC"): "timezone.utc",
    ("json", "JSONEncoder"): "convert the values before json.dumps",
    ("typing", "NamedTuple"): 'namedtuple("Name", "field1 field2")',
    ("typing", "TypedDict"): "a plain dict",
    ("typing", "cast"): "the value itself",
    ("statistics", "correlation"): "sums with math.fsum",
    ("statistics", "NormalDist"): "mean and stdev",
    ("string", "Template"): 'f"..." or text.replace("$name", name)',
    ("string", "Formatter"): 'f"..."',
    ("operator", "methodcaller"): "lambda x: x.method()",
    ("io", "BytesIO"): "bytes",
    ("sys", "exit"): "raise RuntimeError(...), or end the code with an if",
    ("os", "system"): "a function of the host (--call)",
    ("os", "environ"): "an input (--in)",
}


def _check_import(node: ast.AST, runtime: Runtime) -> Iterator[Problem]:
    match node:
        case ast.Import(names=aliases):
            for alias in aliases:
                yield from _module(alias, alias.name, runtime)
        case ast.ImportFrom(level=level) if level:
            yield problem(node, "there are no modules of yours in the sandbox", "define it in the code")
        case ast.ImportFrom(module=str(module), names=aliases) if module != "__future__":
            missing = list(_module(node, module, runtime))
            yield from missing
            for alias in aliases if not missing else ():
                if alias.name != "*" and _lacks(module, alias.name, runtime):
                    yield problem(alias, f"{module} has no {alias.name}", _NAMES_INSTEAD.get((module, alias.name), ""))


def _lacks(module: str, name: str, runtime: Runtime) -> bool:
    return runtime.lacks(module, name) or (module, name) in _NOT_OF_HERE


_NOT_OF_HERE = frozenset({("sys", "platform"), ("sys", "argv"), ("sys", "executable")})
"""What the sandbox says of itself, where a program asks for the machine."""


def _module(at: ast.AST, name: str, runtime: Runtime) -> Iterator[Problem]:
    first = name.partition(".")[0]
    if name in runtime.modules or name == "os.path":
        return
    instead = _INSTEAD.get(name) or _INSTEAD.get(first, "")
    yield problem(at, f"there is no module {name}", instead or f"one of {', '.join(runtime.modules)}")


# ---- names

_BUILTINS_INSTEAD = {
    "callable": 'hasattr(x, "__call__")',
    "issubclass": "isinstance of a value",
    "vars": "the fields by name",
    "dir": "the fields by name",
    "globals": "a dict of your own",
    "super": "there are no base classes: call the function itself",
    "bytearray": "bytes, or a list of numbers",
    "memoryview": "bytes",
    "input": "an input (--in)",
    "exit": "raise RuntimeError(...)",
    "quit": "raise RuntimeError(...)",
    "ascii": "repr",
    "compile": "write the code itself",
    "__import__": "import",
    "delattr": "setattr(x, name, None)",
    "staticmethod": "a function outside the class",
    "classmethod": "a function outside the class",
    "ConnectionError": "OSError",
    "IOError": "OSError",
    "EnvironmentError": "OSError",
    "EOFError": "ValueError",
    "UnicodeError": "ValueError",
    "SyntaxError": "ValueError",
    "Warning": "Exception",
    "ExceptionGroup": "the first error",
}


class _Scope:
    """Which names a program gives a meaning of its own."""

    def __init__(self, tree: ast.AST, given: frozenset[str]) -> None:
        self.names = set(given)
        self.attributes: set[str] = set()
        self.modules: dict[str, str] = {}
        for node in ast.walk(tree):
            self._see(node)

    def _see(self, node: ast.AST) -> None:
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                self.names.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                self.names.add(name)
                self.attributes.add(name)
                if isinstance(node, ast.ClassDef):
                    self.attributes |= {item.id for item in ast.walk(node) if isinstance(item, ast.Name)}
            case ast.Attribute(attr=name, ctx=ast.Store()):
                self.attributes.add(name)
            case ast.Constant(value=str(text)):
                self.attributes |= set(text.replace(",", " ").split())  # The fields of a namedtuple.
            case ast.Import(names=aliases):
                for alias in aliases:
                    name = alias.asname or alias.name.partition(".")[0]
                    self.names.add(name)
                    self.modules[name] = alias.name if alias.asname else name
            case ast.ImportFrom(names=aliases):
                self.names |= {alias.asname or alias.name for alias in aliases}


def _check_name(node: ast.AST, scope: _Scope, runtime: Runtime) -> Iterator[Problem]:
    match node:
        case ast.Name(id=name, ctx=ast.Load()) if name in runtime.builtins_lacking and name not in scope.names:
            yield problem(node, f"there is no {name}", _BUILTINS_INSTEAD.get(name, ""))


def _attribute(node: ast.AST, scope: _Scope, runtime: Runtime) -> Iterator[Problem]:
    match node:
        case ast.Attribute(value=ast.Name(id=base), attr=name) if base in scope.modules:
            module = scope.modules[base]
            if _lacks(module, name, runtime):
                yield problem(node, f"{module} has no {name}", _NAMES_INSTEAD.get((module, name), ""))
            return
        case ast.Call():
            yield from _check_bound_method(node, scope)
        case _:
            return


def _check_bound_method(call: ast.Call, scope: _Scope) -> Iterator[Problem]:
    """Methods of builtins that are passed as values, and methods called on a type."""
    match call.func:
        case ast.Attribute(
            value=ast.Name(id="str" | "list" | "dict" | "set" | "tuple" | "bytes" as kind), attr=name
        ) if name in _METHODS and kind not in scope.names and name not in ("fromkeys", "fromhex") and call.args:
            first, *rest = map(ast.unparse, call.args)
            yield problem(call.func, f"{kind}.{name} is not called on the type", f"{first}.{name}({', '.join(rest)})")
    for value in [*call.args, *(keyword.value for keyword in call.keywords)]:
        match value:
            case ast.Attribute(value=base, attr=name) if name in _METHODS and name not in scope.attributes:
                if not (isinstance(base, ast.Name) and base.id in scope.modules):
                    yield problem(value, f"the method .{name} is no value of its own", _as_lambda(base, name, scope))


def _as_lambda(base: ast.expr, name: str, scope: _Scope) -> str:
    if isinstance(base, ast.Name) and base.id in dir(builtins) and base.id not in scope.names:
        return f"lambda x: x.{name}()"
    if name == "get":
        return f"lambda k: {ast.unparse(base)}[k]"
    return f"lambda x: {ast.unparse(base)}.{name}(x)"


# ---- calls

_ERRORS = frozenset(
    name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
)
_UNSUPPORTED_KEYWORDS = {
    ("dumps", "default"): "convert the values before json.dumps",
    ("dumps", "cls"): "convert the values before json.dumps",
    ("dataclass", "order"): "sort with key=lambda x: x.field",
    ("dataclass", "slots"): "leave it out",
    ("dataclass", "kw_only"): "leave it out",
    ("gather", "return_exceptions"): "try and except in the awaited function",
}


def _call(node: ast.AST) -> Iterator[Problem]:
    match node:
        case ast.Call(func=ast.Name(id="print"), keywords=keywords):
            for keyword in keywords:
                if keyword.arg == "file" and not ast.unparse(keyword.value).startswith("sys.std"):
                    instead = f'{ast.unparse(keyword.value)}.write(f"...\\n")'
                    yield problem(keyword.value, "print writes to the output only", instead)
        case ast.Call(func=ast.Name(id=name), args=args) if name in _ERRORS and not _sayable(args):
            yield problem(node, "an error takes one text", f'{name}("...")')
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), keywords=keywords):
            for keyword in keywords:
                if (name, keyword.arg) in _UNSUPPORTED_KEYWORDS:
                    said = f"{name} takes no {keyword.arg}"
                    yield problem(keyword.value, said, _UNSUPPORTED_KEYWORDS[name, keyword.arg or ""])


def _check_callback(node: ast.AST, calls: frozenset[str]) -> Iterator[Problem]:
    """A host call waits for its answer, which what calls it for each item does not."""
    match node:
        case ast.Call(func=ast.Name(id="map" | "filter"), args=[ast.Name(id=name) as function, items, *_]) if (
            name in calls
        ):
            yield problem(function, f"{name} is a function of the host", f"[{name}(x) for x in {ast.unparse(items)}]")


def _sayable(args: list[ast.expr]) -> bool:
    if len(args) > 1:
        return False
    return not args or not isinstance(args[0], ast.Constant) or isinstance(args[0].value, str)
