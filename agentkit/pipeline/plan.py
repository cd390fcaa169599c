"""Where each statement goes: to the module, into `main`, or into a task with typed inputs and outputs."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from agentkit.errors import UserError
from agentkit.pipeline import surroundings
from agentkit.pipeline.cells import DURABLE, CellContents, Item, LeftOut
from agentkit.pipeline.dataflow import SHOWS, Graph, check
from agentkit.pipeline.items import (
    Parameter,
    assignments_of,
    check_parameters,
    makes_agent,
    parameter_of,
    runs_more,
    task_name,
    tools_of,
    without_effects,
)
from agentkit.pipeline.names import BUILTINS, shows_only
from agentkit.pipeline.reader import Cell, Notebook


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one cell runs with agents; `shared` are the inputs that functions read as globals.

    `talk` is the run whose conversation it carries on, `talked` whether its own is carried on; `pure` that no tool
    in it has effects, so that it may run beside others and be cached.
    """

    name: str
    cell: Cell
    items: tuple[Item, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shared: tuple[str, ...]
    agents: tuple[str, ...]
    talk: str = ""
    talked: bool = False
    pure: bool = False


Block: TypeAlias = "Item | Task | tuple[Task, ...]"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The program: `late` are names that functions read as globals and that get their value in `main`."""

    notebook: Notebook
    parameters: tuple[Parameter, ...]
    module: tuple[Item, ...]
    main: tuple[Block, ...]
    tasks: tuple[Task, ...]
    results: tuple[str, ...]
    late: frozenset[str]
    left_out: tuple[LeftOut, ...]
    policy: Mapping[str, str]
    budgets: Mapping[str, Mapping[str, str]]
    tools: frozenset[str]


def plan(notebook: Notebook, contents: CellContents, *, everything: bool = False) -> Plan:
    """The program that the notebook is; UserError names the cells that cannot be exported, and how to mend them."""
    graph = Graph.of(contents)
    _check_agents(notebook, contents)
    kept = graph.needs(everything=everything)
    check(graph, kept, notebook.live)
    surroundings.check(contents, kept)
    return _Planner(notebook, contents, graph, kept).plan()


def _check_agents(notebook: Notebook, contents: CellContents) -> None:
    if not any(item.role in DURABLE or item.uses.awaits for item in contents.items):
        raise UserError(
            f"{notebook.name} runs no agent: a pipeline needs a %%agent run cell, or an awaited `agent.run(…)`"
        )


@dataclass
class _Planner:
    notebook: Notebook
    contents: CellContents
    graph: Graph
    kept: tuple[Item, ...]

    def plan(self) -> Plan:
        parameters = tuple(map(parameter_of, (item for item in self.kept if item.role == "parameter")))
        check_parameters(parameters)
        self.agents = {item.name for item in self.kept if item.role == "build"}
        self.tasks_of = self._cells_with_tasks()
        module = self._module({parameter.name for parameter in parameters})
        placed = {item.order for item in module}
        rest = [item for item in self.kept if item.order not in placed and item.role != "parameter"]
        self._check_agents_alone(rest)
        self.late = self._late_names(module, rest, parameters)
        self._check_instruction_values()
        self._check_rebound()
        results = self._results(rest)
        blocks = self._blocks(rest, results, {parameter.name for parameter in parameters})
        tasks = tuple(block for block in blocks if isinstance(block, Task))
        return Plan(
            notebook=self.notebook,
            parameters=parameters,
            module=module,
            main=tuple(self._gather(blocks)),
            tasks=tasks,
            results=results,
            late=self.late,
            left_out=self._list_left_out(),
            policy=self.contents.policy,
            budgets=self.contents.budgets,
            tools=frozenset(name for item in self.kept if item.role == "build" for name in tools_of(item)),
        )

    # -- the level of the module

    def _cells_with_tasks(self) -> set[int]:
        return {item.cell.number for item in self.kept if item.role in DURABLE or item.uses.awaits}

    def _module(self, parameters: set[str]) -> tuple[Item, ...]:
        fixed = [item for item in self.kept if item.role in ("import", "definition", "build")]
        hoisted = self._hoist(parameters)
        self._check_definitions(fixed, hoisted, parameters)
        return tuple(sorted((*fixed, *hoisted), key=lambda item: item.order))

    def _global_reads(self) -> set[str]:
        """What functions, classes and agents read as globals."""
        found: set[str] = set()
        for item in self.kept:
            if item.role in ("definition", "build"):
                found |= item.uses.reads | item.uses.later | self.graph.reach(item.uses.later)
            if item.role == "code" and makes_agent(item):
                found |= item.binds
        return found - self.graph.constant

    def _hoist(self, parameters: set[str]) -> list[Item]:
        """The plain statements that give functions their globals, and rest on no parameter and no answer."""
        givers: dict[str, list[Item]] = {}
        for item in self.kept:
            if item.role in {"code", *DURABLE}:
                for name in item.binds | item.uses.deletes | self._same_as(self.graph.changes(item)):
                    givers.setdefault(name, []).append(item)
        wanted = self._global_reads() & set(givers)
        chosen: dict[int, Item] = {}
        while wanted:
            name = wanted.pop()
            group = self._group(name, givers, parameters)
            if group is None:
                continue
            new = [item for item in group if item.order not in chosen]
            chosen |= {item.order: item for item in new}
        return list(chosen.values())

    def _group(self, name: str, givers: Mapping[str, list[Item]], parameters: set[str]) -> list[Item] | None:
        """Every statement that must be hoisted with `name`; None when one of them cannot be."""
        names, found = [name], dict[int, Item]()
        seen = {name}
        while names:
            here = names.pop()
            if here in parameters or not self._is_final_early(here, givers.get(here, [])):
                return None
            for item in givers.get(here, []):
                if item.role != "code" or item.cell.number in self.tasks_of or item.uses.deletes:
                    return None
                found[item.order] = item
                more = (item.binds | self.graph.reads(item) | self.graph.changes(item)) - self.graph.constant - BUILTINS
                names += sorted(more - seen)
                seen |= more
        return list(found.values())

    def _is_final_early(self, name: str, givers: Sequence[Item]) -> bool:
        """Whether the name has its last value before anything uses it through a function."""
        if not givers:
            return True
        last = max(item.order for item in givers)
        through = [
            item
            for item in self.kept
            if item.role in {"code", *DURABLE} and item not in givers and name in self.graph.reads(item)
        ]
        return all(item.order > last for item in through)

    def _check_definitions(self, fixed: Sequence[Item], hoisted: Sequence[Item], parameters: set[str]) -> None:
        made = {name for item in (*fixed, *hoisted) for name in item.binds} | BUILTINS | SHOWS
        for item in fixed:
            if item.role == "definition" and (late := sorted(item.uses.reads - made)):
                giver = next((other for other in self.kept if late[0] in other.binds), item)
                why = "is a parameter" if late[0] in parameters else f"gets its value in {giver.cell} while it runs"
                raise UserError(
                    f"{item.cell} defines {next(iter(item.binds))} with {late[0]}, which {why}: a default, a "
                    "decorator or a class body is evaluated when the module is imported; read it inside the function"
                )

    def _check_instruction_values(self) -> None:
        """What instructions are filled in with is read when the agent is built; the program builds it where it asks."""
        for built in (item for item in self.kept if item.role == "build" and item.uses.reads):
            read = self.graph.reach(built.uses.reads) - self.graph.constant - BUILTINS
            users = [item for item in self.kept if item.order > built.order and built.name in self.graph.reads(item)]
            asked = [item for item in users if item.role != "definition"]
            for item in self.kept:
                between = asked and built.order < item.order < asked[-1].order and item.role == "code"
                changed = item.binds | self._same_as(self.graph.changes(item)) if between else frozenset[str]()
                if name := next(iter(sorted(changed & read)), None):
                    raise UserError(
                        f"{built.cell} builds {built.name} with {name} in its instructions, and {item.cell} changes "
                        f"{name} before {asked[-1].cell} asks it: put the change above, or use another name"
                    )

    def _check_agents_alone(self, rest: Sequence[Item]) -> None:
        """A program makes an agent where it asks it; what an agent remembers is there and nowhere else."""
        for item in rest:
            alone = item.role == "code" and item.cell.number not in self.tasks_of
            if alone and (names := sorted(item.uses.reads & self.agents)):
                raise UserError(
                    f"{item.cell} looks at the agent {names[0]} and asks it nothing: the program has it only where it "
                    "asks; put the line in a cell that awaits its run, or tag the cell `skip`"
                )

    def _check_rebound(self) -> None:
        """`global n` in a function: `main` and the tasks would each have an n of their own."""
        for item in self.kept:
            for name in sorted(item.uses.binds_later) if item.role == "definition" else ():
                giver = next((other for other in self.kept if name in other.binds and other is not item), None)
                if giver is not None:
                    function = next(iter(item.binds))
                    raise UserError(
                        f"{item.cell}: {function} gives {name} another value (global {name}), and {giver.cell} makes "
                        f"it: let {function} return the value, and assign it in a cell"
                    )

    def _same_as(self, names: Iterable[str]) -> frozenset[str]:
        return frozenset(other for name in names for other in self.graph.same.get(name, {name}))

    # -- main

    def _late_names(
        self, module: Sequence[Item], rest: Sequence[Item], parameters: Sequence[Parameter]
    ) -> frozenset[str]:
        mains = {name for item in rest for name in item.binds} | {parameter.name for parameter in parameters}
        read = {name for item in module if item.role == "definition" for name in item.uses.later}
        tools = {name for item in module if item.role == "build" for name in item.uses.later}
        lambdas = {name for item in rest for name in item.uses.later}
        return frozenset(mains & (read | tools)) | frozenset(self.agents & (read | (lambdas - self.agents)))

    def _results(self, rest: Sequence[Item]) -> tuple[str, ...]:
        tainted = self.graph.items_of_answers()
        results: list[str] = []
        for item in rest:
            if item.order not in tainted:
                continue
            if item.role in DURABLE:
                names = sorted(item.binds)
            else:
                names = sorted((assignments_of(item) | (item.uses.changes - item.binds)) - self.graph.constant)
                after = [other for other in rest if other.order > item.order]
                # What a later statement goes on with is on the way to a result.
                names = [name for name in names if not any(name in self.graph.reads(other) for other in after)]
            results += [name for name in names if name not in results]
        return tuple(results)

    def _blocks(self, rest: Sequence[Item], results: Sequence[str], parameters: set[str]) -> list[Item | Task]:
        """From the end to the beginning, because what is needed later is what a task has to give."""
        mains = parameters | {name for item in rest for name in item.binds}
        blocks: list[Item | Task] = []
        need = set(results)
        for group in reversed(self._groups(rest)):
            first = group[0]
            if first.cell.number not in self.tasks_of:
                blocks.append(first)
                need |= self.graph.reads(first) & mains
                continue
            after = [item for item in rest if item.order > group[-1].order]
            task = self._task(group, after, mains, frozenset(need))
            need = (need - {name for item in group for name in item.uses.surely}) | set(task.inputs)
            blocks.append(task)
        return self._conversations(self._name_tasks(blocks[::-1], mains))

    def _groups(self, rest: Sequence[Item]) -> list[list[Item]]:
        """Each plain statement by itself, and all of a cell that runs agents."""
        groups: list[list[Item]] = []
        for item in rest:
            cell = item.cell.number
            if groups and cell in self.tasks_of and groups[-1][0].cell.number == cell:
                groups[-1].append(item)
            else:
                groups.append([item])
        return groups

    def _name_tasks(self, blocks: Sequence[Item | Task], mains: set[str]) -> list[Item | Task]:
        taken = {"main", "env", "image", "schedule", "NOTEBOOK", *mains, *self.graph.constant, *BUILTINS}
        named: list[Item | Task] = []
        for block in blocks:
            if isinstance(block, Task):
                name = block.name
                while taken & {name, f"{name}_shard"}:
                    name += "_task" if not name.endswith("_task") else "_"
                taken |= {name, f"{name}_shard"}
                block = replace(block, name=name)
            named.append(block)
        return named

    def _task(self, group: Sequence[Item], after: Sequence[Item], mains: set[str], need: frozenset[str]) -> Task:
        binds = {name for item in group for name in item.binds}
        changed = {name for item in group for name in self.graph.changes(item)} & (mains | binds)
        self._check_shared_state(group, after, changed)
        outputs = (binds | {name for item in group for name in item.uses.changes} & changed) & need
        surely: set[str] = set()
        inputs: set[str] = set()
        for item in group:
            inputs |= (self.graph.reads(item) & mains) - surely
            surely |= item.uses.surely
        # What is bound only sometimes keeps its value otherwise.
        inputs |= (outputs - surely) & self._before(group[0]) & mains
        reads = frozenset[str]().union(*(self.graph.reads(item) for item in group))
        return Task(
            name=task_name(group),
            cell=group[0].cell,
            items=tuple(group),
            inputs=tuple(sorted(inputs)),
            outputs=tuple(sorted(outputs)),
            shared=tuple(sorted(inputs & self.late & self.graph.reach(reads & self.graph.constant))),
            agents=tuple(sorted(self.agents & reads)),
            pure=self._pure(reads, group),
        )

    def _before(self, first: Item) -> set[str]:
        return {name for item in self.kept if item.order < first.order for name in item.binds}

    def _check_shared_state(self, group: Sequence[Item], after: Sequence[Item], changed: set[str]) -> None:
        """A tool that changes a variable does so in its own task, where nobody else sees it."""
        own = {name for item in group for name in item.uses.changes | item.binds}
        for name in sorted(changed - own):
            reader = next((item for item in after if self._looks_at(item, name)), None)
            if reader is not None:
                raise UserError(
                    f"{group[0].cell} runs code that changes {name}, and {reader.cell} reads it: a task has its own "
                    f"copy of {name}; let the tool return what it did, or write it to a file or a database"
                )

    def _looks_at(self, item: Item, name: str) -> bool:
        """Whether it reads the name otherwise than through the functions that only change it."""
        if name in item.uses.reads:
            return True
        reached = self.graph.reads(item) & self.graph.constant
        functions = [other for other in self.kept if other.role == "definition" and other.binds & reached]
        return any(name in other.uses.later and name not in other.uses.changes_later for other in functions)

    def _pure(self, reads: frozenset[str], group: Sequence[Item]) -> bool:
        tools = {name for item in self.kept if item.role == "build" and item.name in reads for name in tools_of(item)}
        others = any("mcp" in item.options for item in self.kept if item.role == "build" and item.name in reads)
        made = {name for item in self.kept if item.role == "code" and makes_agent(item) for name in item.binds}
        declared = {
            name for item in self.kept if item.role == "definition" and without_effects(item) for name in item.binds
        }
        code = any(item.role == "code" and runs_more(item) for item in group)
        return not others and not code and not (made & reads) and tools <= declared | self.agents

    def _conversations(self, blocks: Sequence[Item | Task]) -> list[Item | Task]:
        """`--continue` goes on from the last run of that agent, in whatever cell it was."""
        talks: dict[str, str] = {}
        newest: dict[str, Task] = {}
        for block in blocks:
            if not isinstance(block, Task) or block.items[0].role != "run":
                continue
            item = block.items[0]
            if "continue" in item.options:
                if item.options["continue"] or item.name not in newest:
                    what = f"run {item.options['continue']}" if item.options["continue"] else "a run of an earlier day"
                    raise UserError(
                        f"{item.cell} continues {what}, which is not in this notebook: continue a run of a cell above"
                    )
                talks[block.name] = newest[item.name].name
            newest[item.name] = block
        spoken = set(talks.values())
        return [
            replace(block, talk=talks.get(block.name, ""), talked=block.name in spoken)
            if isinstance(block, Task)
            else block
            for block in blocks
        ]

    def _gather(self, blocks: Sequence[Item | Task]) -> list[Block]:
        """Tasks that do not need each other and have no effects, side by side."""
        done: list[Block] = []
        group: list[Task] = []

        def end() -> None:
            if group:
                done.append(group[0] if len(group) == 1 else tuple(group))
                group.clear()

        for block in blocks:
            if isinstance(block, Task):
                names = {name for task in group for name in task.outputs}
                talks = {task.name for task in group}
                if not block.pure or names & {*block.inputs, *block.outputs} or block.talk in talks:
                    end()
                group.append(block)
                if not block.pure:
                    end()
                continue
            if group and not self._independent(block, group):
                end()
            done.append(block)
        end()
        return done

    def _independent(self, item: Item, group: Iterable[Task]) -> bool:
        """Whether a plain statement may as well stand before the tasks it came after."""
        given = {name for task in group for name in (*task.outputs, *task.inputs)}
        mine = item.binds | item.uses.deletes | self.graph.may_change(item)
        outputs = {name for task in group for name in task.outputs}
        quiet = isinstance(item.node, ast.Assign | ast.AnnAssign)
        return quiet and not mine & given and not self.graph.reads(item) & outputs

    def _list_left_out(self) -> tuple[LeftOut, ...]:
        kept = {item.order for item in self.kept}
        more = []
        for item in self.contents.items:
            if item.order not in kept:
                shows = item.node is not None and shows_only(item.node)
                more.append(LeftOut(item.cell, item.text, "only shows" if shows else "no result needs it"))
        return tuple(sorted((*self.contents.left_out, *more), key=lambda each: each.cell.number))
