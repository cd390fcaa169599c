"""The code of a function as a tree without positions: equal across formatting and Python versions."""

from __future__ import annotations

import ast
import dis
import hashlib
import inspect
import linecache
import os
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import CodeType
from typing import Any

_SKIPPED = {"ctx", "kind", "type_comment", "type_ignores"}
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_SCOPES = (*_DEFINITIONS, ast.ClassDef, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_READ = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_ATTRIBUTE = {"LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"}
_ASSIGNED = {"STORE_GLOBAL", "DELETE_GLOBAL"}
_CHANGING = frozenset(
    "add append appendleft clear discard extend extendleft insert pop popitem popleft put put_nowait remove reverse "
    "setdefault sort update write writelines".split()
)


@dataclass(frozen=True, slots=True)
class Source:
    """What the code of one function says, its nested functions included.

    `rebound` are the outer names it gives a new value (`global n; n += 1`), `changed` those whose value it changes
    (`calls.append(x)`, `cache[k] = v`, `self.n += 1`, also as "self.n"): state it leaves, not what it computes with.
    `imports` are the modules it imports, as `import`, `import_module` and `sys.modules` name them, with a dot before
    those of its own package. `search_names` are the names of which it reads an attribute that is known only when
    it runs,
    and `blind` says through what else it reads values that its text does not name. `note` says why the source itself
    could not be read, if so.
    """

    digest: bytes
    reads: tuple[str, ...]
    assigns: tuple[str, ...]
    rebound: frozenset[str]
    changed: frozenset[str]
    imports: tuple[str, ...]
    attributes: frozenset[str]
    searched: frozenset[str] = frozenset()
    blind: tuple[str, ...] = ()
    note: str | None = None


_KNOWN: dict[int, tuple[weakref.ref[CodeType], Source]] = {}


def source_of(code: CodeType) -> Source:
    """Read once for each code object: equal ones may stand in cells that differ in an annotation."""
    known = _KNOWN.get(id(code))
    if known is not None and known[0]() is code:
        return known[1]
    source = _read(code)
    place = id(code)
    _KNOWN[place] = (weakref.ref(code, lambda _: _KNOWN.pop(place, None)), source)
    return source


def _read(code: CodeType) -> Source:
    nodes, note = _nodes(code)
    text = "".join(_canonical(node) for node in nodes) if nodes else _describe_bytecode(code)
    instructions = list(_instructions(code))
    named = lookups_in(nodes)
    return Source(
        digest=hashlib.sha256(text.encode("utf-8", "backslashreplace")).digest(),
        reads=tuple(sorted(_read_names(instructions) | set(code.co_freevars) | named.names)),
        assigns=tuple(sorted({i.argval for i in instructions if i.opname in _ASSIGNED})),
        rebound=_rebound(instructions, code),
        changed=frozenset(name for node in nodes for name in _mutations(node)),
        imports=tuple(sorted({*_imports(instructions), *named.modules})),
        attributes=frozenset({i.argval for i in instructions if i.opname in _ATTRIBUTE} | named.attributes),
        searched=named.search_names,
        blind=tuple(sorted(named.blind)),
        note=note,
    )


def _imports(instructions: Sequence[dis.Instruction]) -> Iterator[str]:
    for place, each in enumerate(instructions):
        if each.opname == "IMPORT_NAME":
            level = instructions[place - 2].argval if place > 1 else 0
            if each.argval or level:
                yield "." * (level if isinstance(level, int) else 0) + each.argval


def _read_names(instructions: Iterable[dis.Instruction]) -> set[str]:
    names = {i.argval for i in instructions if i.opname in _READ}
    # A class body reads `__name__` and its kind for bookkeeping.
    return {name for name in names if not (name.startswith("__") and name.endswith("__"))}


def _instructions(code: CodeType) -> Iterator[dis.Instruction]:
    yield from dis.get_instructions(code)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _instructions(constant)


def _rebound(instructions: Sequence[dis.Instruction], code: CodeType) -> frozenset[str]:
    stored = {i.argval for i in instructions if i.opname in _ASSIGNED | {"STORE_DEREF", "DELETE_DEREF"}}
    return frozenset(stored - set(code.co_cellvars))


def _describe_bytecode(code: CodeType) -> str:
    """Of code without source: what the interpreter made of it, which differs between Python versions."""
    constants = [_describe_bytecode(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return repr((code.co_code.hex(), constants, code.co_names, code.co_varnames, code.co_freevars))


# -- finding the definition


def _nodes(code: CodeType) -> tuple[list[ast.AST], str | None]:
    """The definition of `code`, or all that stand on its line where lambdas share one; and why there is none."""
    linecache.checkcache(code.co_filename)
    text = "".join(linecache.getlines(code.co_filename))
    if not text:
        return [], "has no source: its bytecode is compared, which differs between Python versions"
    try:
        nodes = _definitions(text).get((code.co_name, code.co_firstlineno), [])
    except (SyntaxError, ValueError):
        return [], "has a source that cannot be parsed: its bytecode is compared"
    if not nodes or (os.path.exists(code.co_filename) and not _is_current(code, text)):
        return [], "was edited since it was imported: reload its module (its bytecode is compared until then)"
    return nodes, None


def definition_of(code: CodeType) -> tuple[Any, str] | None:
    """The one definition of `code` and the text it stands in; None where its source is not at hand or not alone."""
    nodes, note = _nodes(code)
    if note is not None or len(nodes) != 1:
        return None
    return nodes[0], "".join(linecache.getlines(code.co_filename))


@lru_cache(maxsize=32)
def _definitions(text: str) -> dict[tuple[str, int], list[ast.AST]]:
    found: dict[tuple[str, int], list[ast.AST]] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, _DEFINITIONS):
            name = "<lambda>" if isinstance(node, ast.Lambda) else node.name
            lines = [node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))]
            found.setdefault((name, min(lines)), []).append(node)
    return found


def _is_current(code: CodeType, text: str) -> bool:
    """Whether the file still says what was imported from it: else today's source would vouch for yesterday's code."""
    return any(
        _describe_bytecode(code) == _describe_bytecode(other)
        for other in _codes(text, code.co_name, code.co_firstlineno)
    )


def _codes(text: str, name: str, line: int) -> list[CodeType]:
    return [code for code in _all_codes(text) if code.co_name == name and code.co_firstlineno == line]


@lru_cache(maxsize=32)
def _all_codes(text: str) -> tuple[CodeType, ...]:
    def walk_codes(code: CodeType) -> Iterator[CodeType]:
        yield code
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from walk_codes(constant)

    return tuple(walk_codes(compile(text, "<source>", "exec", dont_inherit=True)))


# -- whole files


@dataclass(frozen=True, slots=True)
class Text:
    """A module's file: the digest of what it says, all that it imports, the names it gives functions and the constants
    it sets once, as literals.

    `blind` says through what it imports what is named only when it runs, or reads what nobody sees.
    """

    digest: bytes
    imports: tuple[tuple[str, tuple[str, ...]], ...]
    constants: dict[str, Any]
    defined: tuple[str, ...]
    blind: tuple[str, ...]


UNSEEN_READERS = frozenset({"read_parquet", "read_hdf"})
"""Functions of pandas (and its kin) whose engine opens the file by itself, where no audit event tells of it."""


@lru_cache(maxsize=256)
def text_of(path: str, changed: int, size: int) -> Text | None:
    """What the file at `path` says, read once for each state of it; None where it cannot be read as Python."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    named = lookups_in([tree])
    imports: dict[str, tuple[str, ...]] = dict.fromkeys(named.modules, ())
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                imports |= {alias.name: imports.get(alias.name, ()) for alias in aliases}
            case ast.ImportFrom(module=module, names=aliases, level=level):
                name = "." * level + (module or "")
                imports[name] = (*imports.get(name, ()), *(alias.name for alias in aliases))
    digest = hashlib.sha256(_canonical(tree).encode("utf-8", "backslashreplace")).digest()
    unseen = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & UNSEEN_READERS
    blind = tuple(sorted({name for name in named.blind if "import" in name} | unseen))
    defined = tuple(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return Text(digest, tuple(sorted(imports.items())), _constants(tree), defined, blind)


def _constants(tree: ast.Module) -> dict[str, Any]:
    """Without lists and the like, which are there to be filled, and without what functions set anew."""
    stores = Counter(
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )
    anew = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    found: dict[str, Any] = {}
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ) if stores[name] == 1 and name not in anew:
                with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                    found[name] = ast.literal_eval(value)
    return {name: value for name, value in found.items() if not isinstance(value, list | dict | set)}


def is_current(code: CodeType) -> bool:
    """Whether the file that the code is of still says what was imported from it."""
    return _is_current(code, "".join(linecache.getlines(code.co_filename)))


# -- the tree


def _canonical(node: ast.AST) -> str:
    """Without the decorators of the definition itself: what they made of it is the object that is called."""
    out: list[str] = []
    _dump(node, out, skipped=_SKIPPED | {"decorator_list"})
    return "".join(out)


def _dump(value: Any, out: list[str], skipped: set[str] = _SKIPPED) -> None:
    if isinstance(value, ast.Constant):
        out.append(_constant(value.value))
    elif isinstance(value, ast.AST):
        out.append(f"{type(value).__name__}(")
        for name, field in _fields(value):
            # Empty fields say nothing, and a later Python adds more of them.
            if name not in skipped and field is not None and field != []:
                out.append(f"{name}=")
                _dump(field, out)
        out.append(")")
    elif isinstance(value, list):
        out.append("[")
        for item in value:
            _dump(item, out)
            out.append(",")
        out.append("]")
    else:
        out.append(repr(value))


def _constant(value: object) -> str:
    # Beyond 4,300 digits `repr` of an int raises.
    return f"{type(value).__name__}:{hex(value) if type(value) is int else value!r}"


def _fields(node: ast.AST) -> list[tuple[str, Any]]:
    named = {name: getattr(node, name, None) for name in sorted(node._fields)}
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
        named["body"] = _clean_docstring(node.body)
    if isinstance(node, ast.JoinedStr):
        named["values"] = _join_strings(node.values)
    if isinstance(node, ast.FormattedValue) and isinstance(node.format_spec, ast.JoinedStr):
        named["format_spec"] = node.format_spec if _join_strings(node.format_spec.values) else None
    if isinstance(node, ast.ImportFrom):
        named["level"] = node.level or None
    return list(named.items())


def _clean_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    match body:
        case [ast.Expr(value=ast.Constant(value=str(text))), *rest]:
            cleaned = "\n".join(line.rstrip() for line in inspect.cleandoc(text).splitlines())
            return [ast.Expr(value=ast.Constant(value=cleaned)), *rest]
        case _:
            return body


def _join_strings(values: Sequence[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string with neighbouring texts made one: where they are split depends on the parser."""
    merged: list[ast.expr] = []
    for value in values:
        last = merged[-1] if merged else None
        match last, value:
            case ast.Constant(value=str(before)), ast.Constant(value=str(after)):
                merged[-1] = ast.Constant(value=before + after)
            case _, ast.Constant(value=""):
                pass
            case _:
                merged.append(value)
    return merged


# -- what a function changes


def _mutations(node: ast.AST, local: frozenset[str] | None = None) -> Iterator[str]:
    """Names of which an item, an attribute or the content is changed; `local` are those of the scopes around `node`.

    What is changed of a local name says nothing of the outer value of that name. The parameters of the function itself
    count as outer ones: the object that a method is bound to comes from outside.
    """
    if isinstance(node, _SCOPES):
        bound = _local_names(node) - (frozenset() if local is not None else {each.arg for each in _parameters(node)})
        local = ((local or frozenset()) | bound) - _outer(node)
    for child in ast.iter_child_nodes(node):
        yield from _mutations(child, local)
    match node:
        case ast.Subscript(ctx=ast.Store() | ast.Del()) | ast.Attribute(ctx=ast.Store() | ast.Del()):
            names = _root(node)
        case ast.Call(func=ast.Attribute(value=owner, attr=method)) if method in _CHANGING:
            names = _root(owner)
        case _:
            return
    yield from (name for name in names if name.partition(".")[0] not in (local or ()))


def _local_names(scope: ast.AST) -> frozenset[str]:
    """The names that are local to this function, class or comprehension."""
    names = {each.arg for each in _parameters(scope)}
    for node in _inside(scope):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name.partition(".")[0] for alias in aliases}
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                names.add(name)
            case ast.MatchMapping(rest=str(name)):
                names.add(name)
    return frozenset(names)


def _outer(scope: ast.AST) -> frozenset[str]:
    """The names that it says are not its own."""
    said = (node for node in _inside(scope) if isinstance(node, ast.Global | ast.Nonlocal))
    return frozenset(name for node in said for name in node.names)


def _parameters(scope: ast.AST) -> list[ast.arg]:
    given = getattr(scope, "args", None)
    if not isinstance(given, ast.arguments):
        return []
    rest = [each for each in (given.vararg, given.kwarg) if each is not None]
    return [*given.posonlyargs, *given.args, *given.kwonlyargs, *rest]


def _inside(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope without those of the scopes inside it."""
    for node in ast.iter_child_nodes(scope):
        yield node
        if not isinstance(node, _SCOPES):
            yield from _inside(node)


def _root(node: ast.expr) -> Iterator[str]:
    """`a` of `a`, `a.b`, `a[0].b`; for the first parameter of a method also `self.b`."""
    dotted = None
    while isinstance(node, ast.Attribute | ast.Subscript):
        dotted = node.attr if isinstance(node, ast.Attribute) else dotted
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id
        if dotted is not None:
            yield f"{node.id}.{dotted}"


# -- what a function looks up by a text


@dataclass(kw_only=True)
class Lookups:
    """What a text reads by names that are written as texts: globals, attributes, modules; and what nobody can say."""

    names: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)
    blind: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)

    @property
    def search_names(self) -> frozenset[str]:
        return frozenset(self.unknown)


def lookups_in(nodes: Iterable[ast.AST]) -> Lookups:
    found = Lookups()
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        match node:
            case ast.Subscript(value=owner, slice=key, ctx=ast.Load()):
                _look_up(owner, key, found)
            case ast.Call(func=ast.Attribute(value=owner, attr="get"), args=[key, *_]):
                _look_up(owner, key, found)
            case ast.Call(func=ast.Name(id="getattr"), args=[owner, key, *_]):
                found.attributes |= _texts(key)
                if isinstance(owner, ast.Name) and not _texts(key):
                    found.unknown.add(owner.id)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__" as by) | ast.Attribute(attr="import_module" as by),
                args=[key, *_],
            ):
                found.modules |= _texts(key)
                found.blind |= set() if _texts(key) else {f"{by}()"}
            case ast.Call(func=ast.Name(id="eval" | "exec" as by)):
                found.blind.add(f"{by}()")
    return found


def _look_up(owner: ast.expr, key: ast.expr, found: Lookups) -> None:
    """`owner[key]`, where the owner is a namespace."""
    texts = _texts(key)
    match owner:
        case ast.Call(func=ast.Name(id="globals"), args=[]):
            found.names |= texts
            found.blind |= set() if texts else {"globals()"}
        case ast.Attribute(value=ast.Name(id="sys"), attr="modules"):
            found.modules |= texts
            found.blind |= set() if texts else {"sys.modules"}
        case (
            ast.Call(func=ast.Name(id="vars"), args=[ast.Name(id=name)])
            | ast.Attribute(value=ast.Name(id=name), attr="__dict__")
        ):
            found.attributes |= texts
            found.unknown |= set() if texts else {name}


def _texts(key: ast.expr) -> set[str]:
    """The text that a key is, if it is one."""
    return {key.value} if isinstance(key, ast.Constant) and isinstance(key.value, str) else set()
