"""What a statement reads, binds, changes and leaves for later, by the compiler's own symbol tables and its tree."""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__"}

CHANGING = frozenset(
    "add append appendleft clear discard extend extendleft insert pop popitem popleft put remove reverse setdefault "
    "sort update write writelines send close fit partial_fit difference_update intersection_update seek seed shuffle "
    "symmetric_difference_update __setitem__ __delitem__ __setattr__ move_to_end rotate subtract".split()
)
"""Methods that change the object they are called on."""

_COMPREHENSIONS = frozenset({"listcomp", "setcomp", "dictcomp", "genexpr"})
_FRESH_CALLS = frozenset(
    "len int str float bool repr sum abs round hash id ord chr isinstance issubclass callable format hex bin oct "
    "any all type print complex bytes range".split()
)
_PURE_CALLS = _FRESH_CALLS | frozenset(
    "list tuple set dict frozenset sorted min max zip map enumerate reversed".split()
)
_SHOWING = frozenset("print display len sorted type help".split())
_LOOKING = frozenset(
    "head tail describe info sample show plot value_counts nunique unique items keys values mean sum min max median "
    "std round to_string to_markdown result metadata".split()
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Uses:
    """Of one statement, all as names of the notebook.

    `reads` are read when it is executed, `later` when what it defines is called. `binds` get a value, `surely` those
    that always do; `deletes` lose theirs. `changes` are objects it certainly changes, `touches` those it may have
    changed (called upon, or handed to somebody); `binds_later` and `changes_later` do so when it is called. `shares`
    are names that may be the same object as what is bound. `parameters` are changed parameters by place.
    """

    reads: frozenset[str] = frozenset()
    later: frozenset[str] = frozenset()
    binds: frozenset[str] = frozenset()
    surely: frozenset[str] = frozenset()
    deletes: frozenset[str] = frozenset()
    changes: frozenset[str] = frozenset()
    touches: frozenset[str] = frozenset()
    binds_later: frozenset[str] = frozenset()
    changes_later: frozenset[str] = frozenset()
    shares: frozenset[str] = frozenset()
    stars: tuple[str, ...] = ()
    awaits: bool = False
    shows_only: bool = False

    @property
    def all_reads(self) -> frozenset[str]:
        return self.reads | self.later


def uses(node: ast.stmt) -> Uses:
    """What `node`, a statement at the top level of a cell, does with the names of the notebook."""
    module = ast.Module(body=[node], type_ignores=[])
    table = symtable.symtable(ast.unparse(module), "<cell>", "exec")
    reads, later, binds, binds_later = _scopes(table)
    changes, touches = _changes(node), _touches(node)
    inner = list(_deferrals(node))
    deletes = frozenset(part.id for part in _here(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Del))
    exposed, surely = _exposure([node], frozenset())
    outer = later | binds_later
    changes_later = frozenset(name for part in inner for name in _changes_in(ast.walk(part)) if name in outer)
    return Uses(
        reads=(reads | _augmented_names(node) | deletes) & (exposed | deletes - binds | deletes - surely),
        later=later | binds_later,
        binds=(binds - deletes) | _except_names(node),
        surely=surely - deletes,
        deletes=deletes,
        changes=changes,
        touches=touches | changes,
        binds_later=binds_later,
        changes_later=changes_later,
        shares=_shares(node),
        stars=tuple(
            part.module or ""
            for part in ast.walk(node)
            if isinstance(part, ast.ImportFrom) and any(alias.name == "*" for alias in part.names)
        ),
        awaits=any(isinstance(part, ast.Await | ast.AsyncFor | ast.AsyncWith) for part in _here(node))
        or any(isinstance(part, ast.comprehension) and part.is_async for part in _here(node)),
        shows_only=shows_only(node),
    )


def expression_reads(source: str) -> frozenset[str]:
    """The names that an expression reads."""
    found = uses(ast.parse(source.strip()).body[0])
    return found.reads | found.later


# ---- scopes


def _scopes(table: symtable.SymbolTable) -> tuple[frozenset[str], frozenset[str], frozenset[str], frozenset[str]]:
    reads, later, binds, binds_later = set[str](), set[str](), set[str](), set[str]()
    for symbol in table.get_symbols():
        if symbol.is_referenced():
            reads.add(symbol.get_name())
        if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace():
            binds.add(symbol.get_name())
    for child in table.get_children():
        _inner(child, True, reads, later, binds, binds_later)
    return frozenset(reads), frozenset(later), frozenset(binds - {"*"}), frozenset(binds_later)


def _inner(
    table: symtable.SymbolTable, now: bool, reads: set[str], later: set[str], binds: set[str], binds_later: set[str]
) -> None:
    if table.get_type() == "function" and table.get_name() not in _COMPREHENSIONS:
        now = False
    # A generator may be consumed when its names have other values.
    lazy = table.get_name() == "genexpr"
    for symbol in table.get_symbols():
        if not symbol.is_global():
            continue
        if symbol.is_referenced():
            (reads if now else later).add(symbol.get_name())
            if lazy:
                later.add(symbol.get_name())
        if symbol.is_assigned():
            (binds if now else binds_later).add(symbol.get_name())
    for child in table.get_children():
        _inner(child, now, reads, later, binds, binds_later)


def _augmented_names(node: ast.stmt) -> frozenset[str]:
    """`n += 1` reads n, which the symbol table calls an assignment."""
    targets = [part.target for part in _here(node) if isinstance(part, ast.AugAssign)]
    return frozenset(target.id for target in targets if isinstance(target, ast.Name))


def _except_names(node: ast.stmt) -> frozenset[str]:
    return frozenset(part.name for part in _here(node) if isinstance(part, ast.ExceptHandler) and part.name)


def _certain_bindings(node: ast.stmt) -> frozenset[str]:
    """What is bound whenever the statement ends without an error."""
    match node:
        case ast.Assign(targets=targets):
            return frozenset(name for target in targets for name in _target_names(target))
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
            return frozenset({name})
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return frozenset({name})
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return frozenset((alias.asname or alias.name).partition(".")[0] for alias in aliases) - {"*"}
        case ast.With(body=body, items=items) | ast.AsyncWith(body=body, items=items):
            bound = [name for item in items if item.optional_vars for name in _target_names(item.optional_vars)]
            # A context manager may swallow an error of the body.
            return frozenset(bound) if body else frozenset()
        case _:
            return frozenset()


def _target_names(target: ast.expr) -> Iterator[str]:
    match target:
        case ast.Name(id=name):
            yield name
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            for part in parts:
                yield from _target_names(part)
        case ast.Starred(value=value):
            yield from _target_names(value)
        case _:
            pass


def _exposure(body: Sequence[ast.stmt], bound: frozenset[str]) -> tuple[set[str], frozenset[str]]:
    """The names that are read before the statements surely bind them, and what is bound after them."""
    exposed: set[str] = set()
    for node in body:
        found, bound = _exposure_of(node, bound)
        exposed |= found
    return exposed, bound


def _exposure_of(node: ast.stmt, bound: frozenset[str]) -> tuple[set[str], frozenset[str]]:
    match node:
        case ast.If(test=test, body=body, orelse=orelse) | ast.While(test=test, body=body, orelse=orelse):
            first, after_body = _exposure(body, bound)
            other, after_else = _exposure(orelse, bound)
            after = after_body & after_else if isinstance(node, ast.If) else bound
            return _read_in(test, bound) | first | other, after
        case (
            ast.For(target=target, iter=source, body=body, orelse=orelse)
            | ast.AsyncFor(target=target, iter=source, body=body, orelse=orelse)
        ):
            inner, _ = _exposure(body, bound | set(_target_names(target)))
            other, _ = _exposure(orelse, bound)
            return _read_in(source, bound) | _read_in(target, bound) | inner | other, bound
        case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
            return _exposure_of_with(items, body, bound)
        case ast.Try(body=body, handlers=handlers, orelse=orelse, finalbody=final):
            return _exposure_of_try(body, handlers, orelse, final, bound)
        case ast.Match():
            captured = {name for part in ast.walk(node) for name in _captures(part)}
            return _read_in(node, bound | captured), bound
        case _:
            return _read_in(node, bound), bound | _certain_bindings(node)


def _captures(pattern: ast.AST) -> Iterator[str]:
    match pattern:
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
            yield name
        case _:
            pass


def _exposure_of_with(
    items: Sequence[ast.withitem], body: Sequence[ast.stmt], bound: frozenset[str]
) -> tuple[set[str], frozenset[str]]:
    exposed: set[str] = set()
    for item in items:
        exposed |= _read_in(item.context_expr, bound)
        if item.optional_vars is not None:
            bound |= frozenset(_target_names(item.optional_vars))
    inner, after = _exposure(body, bound)
    return exposed | inner, after


def _exposure_of_try(
    body: Sequence[ast.stmt],
    handlers: Sequence[ast.ExceptHandler],
    orelse: Sequence[ast.stmt],
    final: Sequence[ast.stmt],
    bound: frozenset[str],
) -> tuple[set[str], frozenset[str]]:
    exposed, after = _exposure(body, bound)
    other, after = _exposure(orelse, after)
    exposed |= other
    for handler in handlers:
        if handler.type is not None:
            exposed |= _read_in(handler.type, bound)
        found, ended = _exposure(handler.body, bound | ({handler.name} if handler.name else set()))
        exposed |= found
        after &= ended
    last, ended = _exposure(final, bound)
    return exposed | last, after | (ended - bound)


def _read_in(node: ast.stmt | ast.expr, bound: frozenset[str]) -> set[str]:
    statement = node if isinstance(node, ast.stmt) else ast.Expr(value=node)
    module = ast.fix_missing_locations(ast.Module(body=[_as_load(statement)], type_ignores=[]))
    reads, _, _, _ = _scopes(symtable.symtable(ast.unparse(module), "<cell>", "exec"))
    return set(reads | _augmented_names(statement)) - bound


def _as_load(statement: ast.stmt) -> ast.stmt:
    """A target stands alone as an expression: what it is made of is read, its plain names are not."""
    if isinstance(statement, ast.Expr) and isinstance(getattr(statement.value, "ctx", None), ast.Store):
        names = [name for part in _parts(statement.value) for name in _all_names(part)]
        return ast.Expr(value=ast.Tuple(elts=[ast.Name(id=name, ctx=ast.Load()) for name in names], ctx=ast.Load()))
    return statement


def _parts(target: ast.AST) -> Iterator[ast.AST]:
    """The subscripts and attributes in a target."""
    if isinstance(target, ast.Subscript | ast.Attribute):
        yield target
    elif isinstance(target, ast.Tuple | ast.List):
        for part in target.elts:
            yield from _parts(part)


# ---- walking what is executed now, and what is not


def _here(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what is executed with it: not the bodies of functions and lambdas."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and child in _bodies(node):
            continue
        yield from _here(child)


def _bodies(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> list[ast.AST]:
    return [node.body] if isinstance(node, ast.Lambda) else list(node.body)


def _deferrals(node: ast.AST) -> Iterator[ast.AST]:
    for part in _here(node):
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _bodies(part)


# ---- changes


def root_of(node: ast.AST) -> str | None:
    """`a` of `a`, `a.b`, `a[0].b`, `a.loc[0]`."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Starred | ast.Await):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _changes(node: ast.stmt) -> frozenset[str]:
    return frozenset(_changes_in(_here(node)))


def _changes_in(parts: Iterable[ast.AST]) -> Iterator[str]:
    for part in parts:
        found: list[str | None] = []
        match part:
            case ast.Subscript(ctx=ast.Store() | ast.Del()) | ast.Attribute(ctx=ast.Store() | ast.Del()):
                found = [root_of(part)]
            case ast.AugAssign(target=ast.Name(id=name)):
                found = [name]
            case ast.Call(func=ast.Attribute(value=owner, attr=method), args=arguments) if method in CHANGING:
                # `random.shuffle(x)`, `heapq.heappush(x, …)`: the object handed over is changed.
                found = [root_of(owner), *(root_of(argument) for argument in arguments[:1])]
            case ast.Call(func=ast.Attribute(value=owner), keywords=keywords) if _in_place(keywords):
                found = [root_of(owner)]
            case ast.Call(func=ast.Name(id="setattr" | "delattr" | "next" | "heappush" | "heappop" | "shuffle")):
                found = [root_of(argument) for argument in part.args[:1]]
        yield from (name for name in found if name is not None)


def _in_place(keywords: list[ast.keyword]) -> bool:
    return any(word.arg == "inplace" and not _is(word.value, False) for word in keywords)


def _is(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _touches(node: ast.stmt) -> frozenset[str]:
    """Names whose objects are called upon or handed to a call: it may change them."""
    found: set[str | None] = set()
    for part in _here(node):
        match part:
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=keywords):
                if name not in _PURE_CALLS:
                    found |= {name, *_arguments(arguments, keywords)}
                elif name in ("list", "tuple", "set", "dict", "sorted", "min", "max", "zip", "map", "sum", "enumerate"):
                    # They may consume an iterator.
                    found |= {root_of(argument) for argument in arguments}
            case ast.Call(func=function, args=arguments, keywords=keywords):
                found |= {root_of(function), *_arguments(arguments, keywords)}
            case ast.For(iter=source) | ast.comprehension(iter=source):
                found.add(root_of(source))
    return frozenset(name for name in found if name is not None)


def _arguments(arguments: list[ast.expr], keywords: list[ast.keyword]) -> Iterator[str | None]:
    for argument in (*arguments, *(word.value for word in keywords)):
        yield from (part.id for part in ast.walk(argument) if isinstance(part, ast.Name))


def _shares(node: ast.stmt) -> frozenset[str]:
    """Names of which a part may be in what the statement binds or changes."""
    match node:
        case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value) | ast.AugAssign(value=value):
            return frozenset() if _fresh(value) else _all_names(value)
        case ast.Expr() | ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.Import() | ast.ImportFrom():
            return _all_names(node) if isinstance(node, ast.Expr) and not shows_only(node) else frozenset()
        case _:
            return frozenset(part.id for part in _here(node) if isinstance(part, ast.Name))


def _all_names(node: ast.AST) -> frozenset[str]:
    return frozenset(part.id for part in ast.walk(node) if isinstance(part, ast.Name))


def _fresh(value: ast.expr) -> bool:
    """Whether the value is surely a new object that holds none of the others: a number, a text, a truth."""
    match value:
        case ast.Constant() | ast.JoinedStr() | ast.Compare():
            return True
        case ast.UnaryOp(operand=operand):
            return _fresh(operand)
        case ast.BinOp(left=left, right=right):
            return _fresh(left) and _fresh(right)
        case ast.Call(func=ast.Name(id=name)):
            return name in _FRESH_CALLS - {"sum"}
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
            return all(_fresh(part) for part in parts)
        case _:
            return False


# ---- what is only for the eye


def shows_only(node: ast.AST) -> bool:
    """Whether a statement only shows something: a bare expression without a call that could do anything."""
    return isinstance(node, ast.Expr) and all(_looks(part) for part in _here(node.value))


def _looks(part: ast.AST) -> bool:
    match part:
        case ast.Call(func=ast.Name(id=name)):
            return name in _SHOWING or name in _FRESH_CALLS or name in _PURE_CALLS
        case ast.Call(func=ast.Attribute(attr=method), keywords=keywords):
            return (method in _LOOKING or method in _STRING_METHODS) and not _in_place(keywords)
        case ast.Call() | ast.NamedExpr() | ast.Await() | ast.Yield() | ast.YieldFrom():
            return False
        case _:
            return True


_STRING_METHODS = frozenset(
    "join split splitlines strip lstrip rstrip lower upper title replace startswith endswith format count".split()
)
