"""What depends on what: the statements the results need, in an order in which each name means what it meant."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from agentkit.errors import UserError, nearest
from agentkit.pipeline.cells import DURABLE, CellContents, Item, LeftOut
from agentkit.pipeline.names import BUILTINS, CHANGING, shows_only

_EFFECTS = frozenset({"write", "writelines", "send", "put", "close"})
_NOTEBOOK_ONLY = {
    "_": "holds the last result: bind the answer with --as NAME, or assign it",
    "__": "holds an earlier result: assign it to a name",
    "Out": "is the notebook's list of results: assign the value to a name",
    "In": "is the notebook's list of inputs",
    "get_ipython": "is the notebook's shell",
}
SHOWS = frozenset({"display"})
"""Names that only a notebook has and that only show: outside it they print."""


@dataclass(kw_only=True)
class Graph:
    """The items with what calling a name reads and changes, and which names may be one object."""

    items: tuple[Item, ...]
    left_out: tuple[LeftOut, ...] = ()
    later: dict[str, frozenset[str]] = field(default_factory=dict)
    changed_by: dict[str, frozenset[str]] = field(default_factory=dict)
    rebound_by: dict[str, frozenset[str]] = field(default_factory=dict)
    classes: dict[str, frozenset[str]] = field(default_factory=dict)
    same: dict[str, frozenset[str]] = field(default_factory=dict)
    constant: frozenset[str] = frozenset()

    @classmethod
    def of(cls, contents: CellContents) -> Graph:
        items = tuple(contents.items)
        graph = cls(items=items, left_out=tuple(contents.left_out))
        graph.constant = frozenset(
            name for item in items if item.role in ("import", "definition", "build") for name in item.binds
        )
        graph._follow_calls()
        graph.classes = graph._classes(lambda item: item.uses.shares)
        own = frozenset(name for item in items if item.role == "definition" for name in item.binds)
        graph.same = graph._classes(lambda item: _aliases(item, own))
        return graph

    # -- what is reached through a name

    def _follow_calls(self) -> None:
        """What a name gets from the names it is made of, until nothing is added: `handlers = [f]` may call f."""
        later: defaultdict[str, set[str]] = defaultdict(set)
        changed: defaultdict[str, set[str]] = defaultdict(set)
        rebound: defaultdict[str, set[str]] = defaultdict(set)
        grew = True
        while grew:
            grew = False
            for item in self.items:
                used, through = item.uses, _callees(item)
                for target, own in ((later, used.later), (changed, used.changes_later), (rebound, used.binds_later)):
                    found = own.union(*(target[name] for name in through))
                    if target is later and item.role == "build":
                        found |= used.reads
                    for name in used.binds | used.changes:
                        grew = grew or not found <= target[name]
                        target[name] |= found
        self.later, self.changed_by, self.rebound_by = (
            {name: frozenset(names) for name, names in found.items()} for found in (later, changed, rebound)
        )

    def reads(self, item: Item) -> frozenset[str]:
        """What it reads, also through the functions and agents it may call."""
        if item.role in ("import", "definition", "build"):
            return item.uses.reads
        return self.reach(item.uses.reads | item.uses.later)

    def reach(self, names: Iterable[str]) -> frozenset[str]:
        direct = frozenset(names)
        return direct.union(*(self.later.get(name, frozenset()) for name in direct))

    def changes(self, item: Item) -> frozenset[str]:
        """The objects it certainly changes, also through the functions it calls."""
        if item.role in ("import", "definition", "build"):
            return frozenset()
        called = frozenset().union(*(self.changed_by.get(name, frozenset()) for name in self.reads(item)))
        rebound = frozenset().union(*(self.rebound_by.get(name, frozenset()) for name in self.reads(item)))
        return item.uses.changes | called | rebound

    def may_change(self, item: Item) -> frozenset[str]:
        """The objects it may change, under every name they may have: what it is handed is not known to stay."""
        if item.role in ("import", "definition", "build"):
            return frozenset()
        direct = (self.changes(item) | item.uses.touches) - self.constant
        return frozenset().union(direct, *(self.classes.get(name, frozenset()) for name in direct))

    def _classes(self, shared: Any) -> dict[str, frozenset[str]]:
        parent: dict[str, str] = {}

        def find(name: str) -> str:
            while parent.setdefault(name, name) != name:
                name = parent[name]
            return name

        for item in self.items:
            if item.role in ("import", "definition", "build"):
                continue
            held = shared(item)
            # What a function of the notebook gives back may be a global that it reads.
            held |= self.reach(held & self.constant) if held & self.constant else frozenset()
            group = sorted((held | item.binds if held else set()) - self.constant - BUILTINS)
            for name in group[1:]:
                parent[find(name)] = find(group[0])
        groups: defaultdict[str, set[str]] = defaultdict(set)
        for name in parent:
            groups[find(name)].add(name)
        return {name: frozenset(groups[find(name)]) for name in parent}

    # -- what the results need

    def items_of_answers(self) -> frozenset[int]:
        """The items that rest on an agent's answer."""
        names: set[str] = set()
        found: set[int] = set()
        for item in self.items:
            if item.role in DURABLE or (item.role == "code" and item.uses.awaits):
                found.add(item.order)
                names |= item.binds | (self.may_change(item) if item.role == "code" else frozenset())
            elif item.role == "code" and self.reads(item) & names:
                found.add(item.order)
                names |= item.binds | self.changes(item)
        return frozenset(found)

    def needs(self, *, everything: bool = False) -> tuple[Item, ...]:
        """The items that are kept, in their order."""
        tainted = self.items_of_answers()
        # A result is what its name has in the end, whatever gave it that.
        live = {name for item in self.items if item.order in tainted for name in item.uses.surely}
        kept: list[Item] = []
        for item in reversed(self.items):
            shows = item.node is not None and shows_only(item.node)
            root = item.order in tainted or item.role == "parameter" or _acts(item)
            wanted = live & (item.binds | item.uses.deletes | self.may_change(item))
            if not shows and (root or wanted or everything):
                kept.append(item)
                live -= item.uses.surely | (item.uses.deletes - item.uses.binds)
                live |= self.reads(item)
                if item.role in ("definition", "build", "import"):
                    live |= item.uses.reads
        return tuple(reversed(kept))


def _aliases(item: Item, own: frozenset[str]) -> frozenset[str]:
    """The names whose very object the statement binds or puts into another; `own` functions may give back theirs."""
    if item.node is None:
        return frozenset()
    return frozenset(name for part in ast.walk(item.node) for name in _aliases_by(part, own))


def _aliases_by(node: ast.AST, own: frozenset[str]) -> Iterator[str]:
    match node:
        case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value) | ast.NamedExpr(value=value):
            yield from _aliases_in(value, own)
        case ast.Call(func=ast.Attribute(value=owner, attr=method), args=arguments) if method in CHANGING:
            for part in (owner, *arguments):
                yield from _aliases_in(part, own)
        case ast.For(target=target, iter=source):
            yield from _aliases_in(source, own)
            yield from (part.id for part in ast.walk(target) if isinstance(part, ast.Name))
        case ast.withitem(context_expr=source):
            yield from (part.id for part in ast.walk(source) if isinstance(part, ast.Name))
        case _:
            return


def _aliases_in(value: ast.AST, own: frozenset[str]) -> Iterator[str]:
    match value:
        case ast.Name(id=name):
            yield name
        case ast.Attribute(value=inner) | ast.Starred(value=inner) | ast.NamedExpr(value=inner):
            yield from _aliases_in(inner, own)
        case ast.Subscript(value=inner, slice=ast.Constant() | ast.Name()):
            yield from _aliases_in(inner, own)
        case ast.Call(func=ast.Name(id=name)) if name not in own:
            return
        case ast.Call(func=function, args=arguments) if not isinstance(function, ast.Attribute):
            # A library gives something new; what a function or lambda of the notebook gives may be held.
            yield from (part.id for each in (function, *arguments) for part in ast.walk(each) if _is_name(part))
        case ast.List() | ast.Tuple() | ast.Set() | ast.Dict() | ast.IfExp() | ast.BoolOp():
            for part in ast.iter_child_nodes(value):
                yield from _aliases_in(part, own)
        case ast.ListComp(elt=part, generators=generators) | ast.SetComp(elt=part, generators=generators):
            yield from _aliases_in(part, own)
            for generator in generators:
                yield from _aliases_in(generator.iter, own)
        case _:
            return


def _is_name(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name)


def _acts(item: Item) -> bool:
    """Whether a statement does something that no name shows: it may write a file, send, or stop the program."""
    if item.role != "code" or item.node is None:
        return False
    return any(_acts_here(part) for part in ast.walk(item.node))


def _acts_here(part: ast.AST) -> bool:
    if isinstance(part, ast.Assert | ast.Raise):
        return True
    if not isinstance(part, ast.Expr) or shows_only(part) or isinstance(part.value, ast.Constant):
        return False
    match part.value:
        case ast.Call(func=ast.Attribute(value=ast.Name(), attr=method)) if method in CHANGING - _EFFECTS:
            return any(isinstance(inner, ast.Call) for argument in part.value.args for inner in ast.walk(argument))
        case _:
            return True


def _callees(item: Item) -> frozenset[str]:
    """The names whose functions what it binds may call; an agent's answer is data."""
    if item.role in DURABLE or item.uses.awaits:
        return frozenset()
    return item.uses.later | (frozenset() if item.role == "definition" else item.uses.reads)


# ---- what cannot be exported


def check(graph: Graph, kept: Sequence[Item], live: Mapping[str, Any] | None) -> None:
    """UserError for a name that no cell gives, for what needs a person at the keyboard, and for another order."""
    for item in kept:
        for name in item.uses.reads | item.uses.later:
            if name in _NOTEBOOK_ONLY and not any(name in other.binds for other in kept):
                raise UserError(f"{item.cell} reads {name}, which {_NOTEBOOK_ONLY[name]}")
        if item.node is not None and (line := _asks(item.node)):
            raise UserError(
                f"{item.cell} calls input() (line {line}): nobody types into a pipeline; "
                "make it a parameter (a cell tagged `parameters`), or let the agent ask (--ask)"
            )
    _check_definitions(graph, kept, live)
    _check_once(kept)
    _check_order(graph, kept)


def _asks(node: ast.AST) -> int | None:
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "input":
            return part.lineno
    return None


def _check_definitions(graph: Graph, kept: Sequence[Item], live: Mapping[str, Any] | None) -> None:
    whenever = frozenset().union(BUILTINS, SHOWS, *(item.binds | item.uses.binds_later for item in kept))
    defined: set[str] = set(BUILTINS | SHOWS)
    deleted: dict[str, Item] = {}
    for item in kept:
        missing = sorted((item.uses.reads - defined) | (item.uses.later - whenever))
        if missing:
            raise _undefined_name_error(item, missing[0], graph, deleted, live)
        defined |= item.binds | item.uses.binds_later
        for name in item.uses.deletes - item.uses.binds:
            defined.discard(name)
            deleted[name] = item


def _undefined_name_error(
    item: Item, name: str, graph: Graph, deleted: Mapping[str, Item], live: Mapping[str, Any] | None
) -> UserError:
    items = graph.items
    if stars := [other for other in items if other.uses.stars]:
        star = stars[0]
        return UserError(
            f"{item.cell} reads {name}, which may come from {star.cell} (`{star.text.strip()}`): "
            f"import by name there: from {star.uses.stars[0]} import {name}"
        )
    if name in deleted:
        return UserError(f"{item.cell} reads {name}, which {deleted[name].cell} deletes: do not delete it, or move it")
    after = [other for other in items if name in other.binds and other.order > item.order]
    if after:
        return UserError(f"{item.cell} reads {name}, which only {after[0].cell} defines: move that cell above it")
    if live is not None and name in live:
        return UserError(
            f"{item.cell} reads {name}, which is in the kernel and in no cell (hidden state, of a cell that was "
            "deleted or a line that is left out): write a cell that makes it"
        )
    left = next((each for each in graph.left_out if re.search(rf"\b{re.escape(name)}\b", each.text)), None)
    if left is not None:
        return UserError(
            f"{item.cell} reads {name}, and {left.cell}, where it may come from, is left out ({left.why}): "
            f"make {name} in a cell, or tag {item.cell} `skip`"
        )
    known = [other for each in items for other in each.binds]
    return UserError(f"{item.cell} reads {name}, which no cell defines{nearest(name, known)}: add a cell that makes it")


def _check_once(kept: Sequence[Item]) -> None:
    """At the level of the module a name has one meaning."""
    first: dict[str, Item] = {}
    for item in kept:
        for name in item.binds:
            other = first.setdefault(name, item)
            kinds = {other.role, item.role}
            if other is item or not kinds & {"definition", "import"} or _same(other, item):
                continue
            raise UserError(
                f"{name} is defined in {other.cell} and again in {item.cell}: a function, class or import has one "
                "meaning in a module; give one of them another name"
            )


def _same(one: Item, other: Item) -> bool:
    return one.node is not None and other.node is not None and ast.dump(one.node) == ast.dump(other.node)


def _check_order(graph: Graph, kept: Sequence[Item]) -> None:
    """Refuse when the cells were executed in an order in which a name had another value."""
    # Among all of them: what is not kept in this order may have given the value in the other.
    counted = [item for item in graph.items if item.cell.executed is not None]
    executed = sorted(counted, key=lambda item: (item.cell.executed or 0, item.order))
    if executed == counted:
        return
    by_page, by_clock = _givers(graph, counted), _givers(graph, executed)
    for item in kept:
        for name, giver in sorted(by_page.get(item.order, {}).items()):
            other = by_clock[item.order].get(name)
            if other != giver:
                page, clock = _cell(giver, graph.items), _cell(other, graph.items)
                raise UserError(
                    f"{item.cell} reads {name}: from top to bottom it comes from {page}, but when it was executed it "
                    f"came from {clock}; use Restart and Run All, save, and export again"
                )


def _cell(order: int | None, items: Sequence[Item]) -> str:
    return next((str(item.cell) for item in items if item.order == order), "no cell")


def _givers(graph: Graph, items: Sequence[Item]) -> dict[int, dict[str, int | None]]:
    """For each item, which item gave each name it reads its value."""
    newest: dict[str, int] = {}
    givers: dict[int, dict[str, int | None]] = {}
    for item in items:
        givers[item.order] = {name: newest.get(name) for name in graph.reads(item) - BUILTINS - SHOWS}
        for name in item.binds | graph.changes(item):
            newest[name] = item.order
    return givers
