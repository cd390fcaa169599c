"""What stands in a cell: statements, agents to build and to run, and what only a notebook can do."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from agentkit.errors import SpecError, UserError
from agentkit.map.prompt_template import outer_expressions
from agentkit.map.row_files import names_file
from agentkit.pipeline.names import Uses, expression_reads, uses
from agentkit.pipeline.reader import Cell

Role: TypeAlias = Literal["parameter", "import", "definition", "code", "build", "run", "map", "sandbox"]
DURABLE: frozenset[Role] = frozenset({"run", "map", "sandbox"})
"""The roles whose steps the journal keeps."""

_PLACE = "__magic_{}__"
_MAGIC = re.compile(r"(?P<indent>[ \t]*)(?P<target>[A-Za-z_][\w.,\[\]\"' \t*()]*=[ \t]*)?(?P<sign>%|!|\?)(?P<text>.*)$")
_HELP = re.compile(r"[ \t]*[\w.%]+\?{1,2}[ \t]*$")
_TIMED = re.compile(r"(?:time|timeit)\b(?:\s+-\S+)*\s*(?P<code>.*)$")
_EXPORTS = re.compile(r"^[ \t]*%agent[ \t]+export\b", re.MULTILINE)
_CODE_CELLS = frozenset({"time", "timeit", "capture", "prun"})
_SKIPPED = frozenset({"skip", "remove-cell", "remove_cell"})
_RUNS = frozenset({"run", "step"})
_NOT_IN_A_PIPELINE = {
    "fresh": "a rerun would pay again",
    "mode": "the pipeline has its own",
    "walk": "a pipeline is not watched",
}
_REFUSED = {
    "edit": "puts a person's edit in a run",
    "fork": "makes a branch of a run",
}


class AgentLine(Protocol):
    """A magic line as it was read."""

    @property
    def verb(self) -> str: ...
    @property
    def rest(self) -> str: ...
    @property
    def options(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, kw_only=True)
class Language:
    """How magic lines and the `{{ }}` in bodies are read; the notebook's own readers, handed down."""

    line: Callable[..., Any]
    holes: Callable[[str], tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One statement, or one agent to build or run, at its place; `name` is the agent's or what the tag `step:` says."""

    order: int
    cell: Cell
    role: Role
    text: str
    uses: Uses
    node: ast.stmt | None = None
    name: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    holes: tuple[str, ...] = ()

    @property
    def binds(self) -> frozenset[str]:
        return self.uses.binds


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What the export does not have, and why."""

    cell: Cell
    text: str
    why: str

    def __str__(self) -> str:
        first, *more = self.text.strip().splitlines() or [""]
        return f"{self.cell}: {first[:60]}{' …' if more or len(first) > 60 else ''} ({self.why})"


@dataclass(kw_only=True)
class CellContents:
    """The notebook taken apart: `policy` is what `%agent policy` and `breaker` said, `budgets` what `budget` did."""

    items: list[Item] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    policy: dict[str, str] = field(default_factory=dict)
    budgets: dict[str, dict[str, str]] = field(default_factory=dict)
    model: str | None = None


def take_apart(cells: tuple[Cell, ...], language: Language) -> CellContents:
    """Every cell in order; UserError names the cell that cannot be read."""
    contents = CellContents()
    # A notebook that exports itself goes on with what it does with the program.
    last = next((number for number, cell in enumerate(cells) if _EXPORTS.search(cell.source)), len(cells))
    for cell in cells[last:]:
        contents.left_out.append(LeftOut(cell, cell.source, "the export, and what comes after it"))
    for cell in cells[:last]:
        if cell.tags & _SKIPPED:
            contents.left_out.append(LeftOut(cell, cell.source, "its tag says so"))
        elif cell.source.strip():
            _CellReader(cell, language, contents).read()
    return contents


@dataclass
class _CellReader:
    cell: Cell
    language: Language
    contents: CellContents
    magics: dict[str, str] = field(default_factory=dict)

    def read(self) -> None:
        source = self.cell.source
        head = source.lstrip("\n").split("\n", 1)
        if not head[0].startswith("%%"):
            return self.code(source)
        magic, body = head[0][2:].strip(), head[1] if len(head) > 1 else ""
        name = magic.partition(" ")[0]
        if name == "agent":
            return self.agent(magic.removeprefix("agent").strip(), body)
        if name in _CODE_CELLS:
            self.leave_out(head[0], "a magic")
            return self.code("\n" + body)
        return self.leave_out(source, "a magic")

    def leave_out(self, text: str, why: str) -> None:
        self.contents.left_out.append(LeftOut(self.cell, text, why))

    def refuse(self, problem: str) -> UserError:
        return UserError(f"{self.cell} {problem}")

    def add(self, role: Role, text: str, used: Uses, **more: Any) -> None:
        order = len(self.contents.items)
        self.contents.items.append(Item(order=order, cell=self.cell, role=role, text=text, uses=used, **more))

    # -- agents

    def parse_magic(self, line: str, *, cell: bool) -> AgentLine:
        try:
            asked: AgentLine = self.language.line(line, cell=cell)
        except UserError as error:
            raise self.refuse(f"cannot be read: {error}; correct it, or tag the cell `skip`") from error
        return asked

    def agent(self, line: str, body: str) -> None:
        asked = self.parse_magic(line, cell=True)
        match asked.verb:
            case "build":
                self.build(asked, body)
            case "run" | "step":
                self.run(asked, body)
            case "map":
                self.map(asked, body)
            case "sandbox":
                self.sandbox(asked, body)
            case verb if verb in _REFUSED:
                raise self.refuse(f"{_REFUSED[verb]} (%%agent {verb}): that cannot be exported; tag the cell `skip`")
            case _:
                self.leave_out(f"%%agent {line}", "shows or steers the notebook")

    def build(self, line: AgentLine, body: str) -> None:
        options = dict(line.options)
        if "model" not in options and self.contents.model is not None:
            options["session model"] = self.contents.model
        listed = [name for name in re.split(r"[,\s]+", options.get("tools", "")) if name]
        later = {name.partition(".")[0] for name in listed}
        later |= expression_reads(options["output"]) if "output" in options else frozenset()
        later |= {options["deps"]} if "deps" in options else set()
        later |= {options["model"]} if is_variable(options.get("model", "")) else set()
        holes = self.holes(body)
        reads = self.read_by(holes)
        used = Uses(reads=reads, later=frozenset(later), binds=frozenset({line.rest}), surely=frozenset({line.rest}))
        self.add("build", self.cell.source, used, name=line.rest, options=options, body=body, holes=holes)

    def run(self, line: AgentLine, body: str | None, *, target: str = "") -> None:
        name, _, text = line.rest.partition(" ")
        template, options = text if body is None else body, self.options_of(line)
        if "headless" in self.contents.policy:
            options.setdefault("headless", self.contents.policy["headless"])
        bound = target or options.get("as", "") or f"answer_{self.cell.number}"
        holes = self.holes(template)
        reads = self.read_by(holes) | {name} | ({options["deps"]} if "deps" in options else set())
        names = frozenset({bound})
        self.add(
            "run",
            self.cell.source,
            Uses(reads=frozenset(reads), binds=names, surely=names, awaits=True),
            name=name,
            options={**options, "as": bound},
            body=template.strip(),
            holes=holes,
        )

    def map(self, line: AgentLine, body: str) -> None:
        options = self.options_of(line)
        if "rows" not in options:
            raise self.refuse(f"maps {line.rest} over nothing: say which rows, --rows FRAME")
        if "headless" in self.contents.policy:
            options.setdefault("headless", self.contents.policy["headless"])
        bound = options.get("as", "") or f"answers_{self.cell.number}"
        try:
            holes = outer_expressions(body)
            rows = frozenset() if names_file(options["rows"]) else expression_reads(options["rows"])
        except (SpecError, SyntaxError) as error:
            raise self.refuse(f"cannot be read: {error}; correct it, or tag the cell `skip`") from error
        reads = self.read_by(holes) | rows | {line.rest} | ({options["deps"]} if "deps" in options else set())
        names = frozenset({bound})
        self.add(
            "map",
            self.cell.source,
            Uses(reads=frozenset(reads), binds=names, surely=names, awaits=True),
            name=line.rest,
            options={**options, "as": bound},
            body=body.strip(),
            holes=holes,
        )

    def options_of(self, line: AgentLine) -> dict[str, str]:
        options = dict(line.options)
        for option, why in _NOT_IN_A_PIPELINE.items():
            if option in options:
                self.leave_out(f"--{option} {options.pop(option)}".strip(), why)
        return options

    def sandbox(self, line: AgentLine, body: str) -> None:
        if "step" in line.options:
            raise self.refuse("steps through a program (--step): take that away and run it once, or tag it `skip`")
        options = self.options_of(line)
        names = {key: tuple(filter(None, re.split(r"[,\s]+", options.get(key, "")))) for key in ("in", "out", "call")}
        called = frozenset(name.partition(".")[0] for name in names["call"])
        bound = frozenset(names["out"])
        self.add(
            "sandbox",
            self.cell.source,
            Uses(reads=frozenset(names["in"]), later=called, binds=bound, surely=bound, awaits=True),
            options=options,
            body=body,
        )

    def holes(self, template: str) -> tuple[str, ...]:
        return self.language.holes(template)

    def read_by(self, holes: tuple[str, ...]) -> frozenset[str]:
        return frozenset().union(*(expression_reads(hole) for hole in holes))

    # -- code

    def code(self, source: str) -> None:
        text = "\n".join(self.without_magics(source.split("\n")))
        try:
            tree = compile(text, f"<{self.cell}>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None)
            raise self.refuse(f"is not Python{f', line {line}' if line else ''}: {error.args[0]}") from error
        lines = text.split("\n")
        end = 0
        for number, node in enumerate(tree.body):
            following = tree.body[number + 1] if number + 1 < len(tree.body) else None
            self.statement(node, _text_of(node, lines, end, following))
            end = node.end_lineno or end

    def without_magics(self, lines: list[str]) -> Iterator[str]:
        done: list[str] = []
        position = 0
        while position < len(lines):
            line = lines[position]
            position += 1
            found = _MAGIC.match(line) if not _inside(done) else None
            if found is None and _HELP.match(line) and not _inside(done):
                self.leave_out(line, "help")
                found, text = None, ""
            elif found is None or (found["target"] is None and found["sign"] == "?" and not found["text"]):
                text = line
            else:
                while line.endswith("\\") and position < len(lines):
                    line = line[:-1] + lines[position]
                    position += 1
                    done.append("")
                text = self.place_hole(_MAGIC.match(line) or found)
            done.append(text)
        return iter(done)

    def place_hole(self, found: re.Match[str]) -> str:
        indent, target, text = found["indent"], found["target"] or "", found["text"].strip()
        timed = _TIMED.match(text) if found["sign"] == "%" else None
        if timed is not None and timed["code"]:
            self.leave_out(f"%{text}", "a magic: its statement is kept")
            return f"{indent}{target}{timed['code']}"
        place = _PLACE.format(len(self.magics))
        self.magics[place] = found["sign"] + text
        return f"{indent}{target}{place}"

    def statement(self, node: ast.stmt, text: str) -> None:
        magics = [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and part.id in self.magics]
        if magics:
            return self.magic(node, self.magics[magics[0]], text)
        if any(isinstance(part, ast.Name) and part.id == "get_ipython" for part in ast.walk(node)):
            return self.leave_out(text, "needs the notebook's shell")
        used = uses(node)
        self.add(self.role(node), text, used, node=node)
        return None

    def role(self, node: ast.stmt) -> Role:
        if "parameters" in self.cell.tags and isinstance(node, ast.Assign | ast.AnnAssign):
            return "parameter"
        if isinstance(node, ast.Import | ast.ImportFrom):
            return "import"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return "definition"
        return "code"

    def magic(self, node: ast.stmt, magic: str, text: str) -> None:
        target = ""
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            target = node.targets[0].id
        if not magic.startswith("%agent"):
            return self.leave_out(f"{target} = {magic}" if target else magic, "a magic")
        asked = self.parse_magic(magic.removeprefix("%agent").strip(), cell=False)
        top = isinstance(node, ast.Expr) or bool(target)
        if asked.verb in _REFUSED:
            raise self.refuse(f"{_REFUSED[asked.verb]} ({magic}): that cannot be exported; tag the cell `skip`")
        if asked.verb in _RUNS and not top:
            raise self.refuse(f"runs an agent by {magic} inside a block: write `await {asked.rest.split()[0]}.run(…)`")
        if asked.verb in _RUNS:
            return self.run(asked, None, target=target)
        if asked.verb == "model" and asked.rest:
            self.contents.model = asked.rest
        elif asked.verb == "policy":
            self.contents.policy.update(asked.options)
        elif asked.verb == "breaker" and asked.rest:
            self.contents.policy["breaker"] = f"{self.contents.policy.get('breaker', '')} {asked.rest}".strip()
        elif asked.verb == "budget":
            return self.budget(asked, magic)
        elif asked.verb == "throttle" and asked.rest:
            return self.leave_out(magic, "paces this kernel; a pipeline keeps to what the server says")
        else:
            return self.leave_out(f"{target} = {magic}" if target else magic, "shows or steers the notebook")
        return self.leave_out(magic, "carried over")

    def budget(self, line: AgentLine, magic: str) -> None:
        """An agent's budget is what its build says; the others are in the ledger of the user, on this machine."""
        scope, _, limits = line.rest.partition(" ")
        if not (limits or line.options):
            return self.leave_out(magic, "shows the notebook")
        agents = {item.name for item in self.contents.items if item.role == "build"}
        if scope not in agents:
            return self.leave_out(magic, "holds for this user on this machine, also for the program; on no other")
        self.contents.budgets.setdefault(scope, {}).update({"limits": limits.strip(), **line.options})
        return self.leave_out(magic, "carried over")


def is_variable(model: str) -> bool:
    """Whether `--model` names an object of the notebook."""
    return model.isidentifier() and model not in ("offline", "test")


# ---- the text of statements


def _text_of(node: ast.stmt, lines: list[str], end: int, following: ast.stmt | None) -> str:
    """A statement as it was written, with the comments above it; statements that share a line are written anew."""
    first = min([node.lineno, *(part.lineno for part in getattr(node, "decorator_list", ()))])
    last = node.end_lineno or first
    if first <= end or (following is not None and following.lineno <= last):
        return ast.unparse(node)
    while first - 1 > end and lines[first - 2].lstrip().startswith("#"):
        first -= 1
    text = "\n".join(lines[first - 1 : last])
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        text = text.rstrip().removesuffix(";").rstrip()
    return "\n".join(line.rstrip() for line in text.split("\n")) if '"""' not in text and "'''" not in text else text


_TOKEN = re.compile(r'#[^\n]*|"""|\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|\\.|[\[\](){}]', re.DOTALL)


def _inside(lines: list[str]) -> bool:
    """Whether the line after these is in the middle of a text or a bracket."""
    code, level, position = "\n".join(lines), 0, 0
    while (token := _TOKEN.search(code, position)) is not None:
        position, text = token.end(), token[0]
        if text in {'"""', "'''"}:
            end = re.compile(r"(?:\\.|(?!" + text + r").)*" + text, re.DOTALL).match(code, position)
            if end is None:
                return True
            position = end.end()
        elif text in "[({":
            level += 1
        elif text in "])}":
            level -= 1
    return level > 0
