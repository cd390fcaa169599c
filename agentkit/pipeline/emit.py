"""The program as text: one readable module, the same bytes for the same notebook."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agentkit.agent.spec import Spec
from agentkit.budget.budget import Budget, merge, parse
from agentkit.pipeline import cluster, code_layout, map_calls
from agentkit.pipeline.cells import Item, is_variable
from agentkit.pipeline.code_layout import WIDTH, literal, quote
from agentkit.pipeline.dataflow import SHOWS
from agentkit.pipeline.image import TaskImage
from agentkit.pipeline.items import Parameter
from agentkit.pipeline.loops import side_by_side
from agentkit.pipeline.plan import Plan, Task
from agentkit.pipeline.settings import Settings
from agentkit.pipeline.types import ANY, Types
from agentkit.values.durations import parse_duration


def emit(plan: Plan, settings: Settings, image: TaskImage) -> str:
    """The module without its header, which says what was checked."""
    return _Module(plan, settings, image).text()


@dataclass
class _Module:
    plan: Plan
    settings: Settings
    image: TaskImage

    def __post_init__(self) -> None:
        self.flyte = self.settings.target == "flyte"
        self.types = Types(self.plan)
        self.makers = {item.order: self._maker(item) for item in self.plan.module if item.role == "build"}
        self.heavy = cluster.heavy_tools(self.plan) if self.flyte else ()

    def _maker(self, item: Item) -> str:
        same = [other for other in self.plan.module if other.role == "build" and other.name == item.name]
        number = same.index(item) + 1
        return f"make_{item.name}" + (f"_{number}" if number > 1 else "")

    def maker(self, agent: str, before: int) -> Item:
        """The build that an agent's name stands for at a place."""
        made = [item for item in self.plan.module if item.role == "build" and item.name == agent]
        return next((item for item in reversed(made) if item.order < before), made[0])

    # -- the whole

    def text(self) -> str:
        body = [*self.constants(), *self.environments(), *self.definitions(), *self.tasks(), self.main(), self.start()]
        code = "\n\n\n".join(block.strip("\n") for block in body if block)
        top = code_layout.imports(self.plan.module, _names_in(code), more=self.own_imports(code))
        return f"{top}\n\n{code}\n"

    def own_imports(self, code: str) -> Iterator[str]:
        bound = {name for item in self.plan.module for name in item.binds if item.role == "import"}
        wanted = {
            "agentkit": "agentkit" not in bound,
            "agentkit.pipeline": "agentkit.pipeline." in code,
            "asyncio": "asyncio." in code and "asyncio" not in bound,
            "flyte": self.flyte,
            "flyte.errors": "flyte.errors." in code,
            "flyte.report": self.flyte,
            "functools": "functools." in code and "functools" not in bound,
            "pathlib": "pathlib." in code and "pathlib" not in bound,
            "sys": "sys.argv" in code and "sys" not in bound,
        }
        yield from (name for name, needed in wanted.items() if needed)
        if re.search(r"\bAny\b", code) and "Any" not in bound:
            yield "typing"

    def constants(self) -> list[str]:
        lines = [f"NOTEBOOK = {quote(self.plan.notebook.name)}"]
        if any(name in SHOWS for item in self.all_items() for name in item.uses.all_reads):
            lines.append("display = print  # what the notebook shows is printed here")
        late = sorted(self.plan.late)
        if late:
            lines += ["", "# Functions read these as globals; every task is given their values."]
            lines += [f"{name} = None" for name in late]
        return ["\n".join(lines)]

    def all_items(self) -> list[Item]:
        inner = [item for task in self.plan.tasks for item in task.items]
        return [*self.plan.module, *(block for block in self.plan.main if isinstance(block, Item)), *inner]

    def environments(self) -> list[str]:
        return [cluster.environments(self.plan, self.settings, self.image, self.heavy)] if self.flyte else []

    # -- the level of the module

    def definitions(self) -> Iterator[str]:
        loose: list[str] = []
        for item in self.plan.module:
            if item.role == "import":
                continue
            if item.role == "code":
                loose.append(item.text)
                continue
            if loose:
                yield "\n".join(loose)
                loose = []
            yield item.text if item.role == "definition" else self.factory(item)
            if item.role == "definition":
                yield from (cluster.heavy_task(tool) for tool in self.heavy if tool.item is item)
        if loose:
            yield "\n".join(loose)

    def factory(self, item: Item) -> str:
        given = ", ".join(self.factory_inputs(item))
        made = code_layout.call("agentkit.build", list(self.build_arguments(item)), room=WIDTH - 11)
        doc = f'    """The agent that {item.cell} builds."""'
        head = f"def {self.makers[item.order]}({given}) -> {self.any()}:"
        return f"{head}\n{doc}\n" + code_layout.indent(f"return {made}")

    def factory_inputs(self, item: Item) -> list[str]:
        """What its instructions are filled in with and is made in `main`."""
        mains = self.types.mains
        return sorted(name for name in item.uses.reads if name in mains)

    def build_arguments(self, item: Item) -> Iterator[str]:
        options = item.options
        spec = Spec.parse(item.body)
        yield self.spec(spec, item)
        yield f"name={quote(item.name)}"
        if tools := _split_names(options.get("tools", "")):
            yield f"tools={code_layout.sequence(self.tool(name, item) for name in tools)}"
        model = options.get("model") or (None if spec.model else options.get("session model"))
        if model:
            yield f"model={model if is_variable(model) else quote(model)}"
        for option, value in {**options, **self.budget(item)}.items():
            if (argument := _build_option(option, value)) is not None:
                yield argument

    def budget(self, item: Item) -> dict[str, str]:
        """What `%agent budget` said of an agent is in the place of its own limits of that kind."""
        said = self.plan.budgets.get(item.name)
        if said is None:
            return {}
        own = said["limits"] != "off" and item.options.get("budget")
        limits = merge(parse(own) if own else (), parse(said["limits"], window="run")) if said["limits"] else ()
        at_limit = said.get("at-limit")
        return {"budget": Budget(limits=limits).text, **({"at-limit": at_limit} if at_limit else {})}

    def spec(self, spec: Spec, item: Item) -> str:
        instructions = self.fill(spec.instructions, item.holes)
        if not spec.fields:
            return f"agentkit.Spec(instructions={instructions})"
        fields = code_layout.indent(repr(dict(spec.fields)), 0)
        return code_layout.call("agentkit.Spec", [f"instructions={instructions}", f"fields={fields}"], room=100)

    def fill(self, template: str, holes: Sequence[str]) -> str:
        if not holes and "{{{{" not in template:
            return literal(template)
        values = ", ".join(f"{quote(hole)}: {code_layout.argument(hole)}" for hole in dict.fromkeys(holes))
        return f"agentkit.fill({literal(template)}, {{{values}}})"

    def tool(self, name: str, item: Item) -> str:
        agents = {other.name for other in self.plan.module if other.role == "build"}
        if name in agents:
            inner = self.maker(name, item.order)
            return f"{self.makers[inner.order]}({', '.join(self.factory_inputs(inner))})"
        if any(tool.name == name for tool in self.heavy):
            return f"agentkit.pipeline.elsewhere({name}, {name}_elsewhere, flyte=flyte)"
        return name

    # -- tasks

    def tasks(self) -> Iterator[str]:
        for task in self.plan.tasks:
            yield self.task(task)

    def task(self, task: Task) -> str:
        given = [f"{name}: {self.type(name)}" for name in task.inputs]
        given += ["conversation: str"] if task.talk else []
        outputs = [self.type(name) for name in task.outputs] + (["str"] if task.talked else [])
        head = code_layout.call(f"async def {task.name}", given, room=WIDTH - 40)
        lines = [f"{head} -> {_return_type(outputs)}:", f'    """{self.describe(task)}"""']
        if task.shared:
            lines.append(f"    globals().update({', '.join(f'{name}={name}' for name in task.shared)})")
        first = task.items[0]
        if first.role == "map" and (count := map_calls.shards(first, self.settings)) is not None:
            return self.shard_tasks(task, first, count)
        match first.role:
            case "run":
                lines += self.emit_question(task, first)
            case "map":
                lines += self.emit_map(task, first, rows=map_calls.rows(first))
            case _:
                lines += self.emit_body(task)
        decorator = f"{cluster.decorator(task)}\n" if self.flyte else ""
        return decorator + "\n".join(lines)

    def shard_tasks(self, task: Task, item: Item, count: int) -> str:
        """A task that maps a part of the rows, and a function that has it done for all of them."""
        part = next(name for name in ("shard", "shard_", "shard__") if name not in task.inputs)
        body = "\n".join(self.emit_map(task, item, rows=part))
        needed = {*_names_in(code_layout.indent(f"async def body():\n{body}", 0)), *task.shared}
        given = [name for name in task.inputs if name in needed]
        typed = [f"{part}: {ANY}", *(f"{name}: {self.type(name)}" for name in given)]
        name = f"{task.name}_shard"
        head = code_layout.call(f"async def {name}", typed, room=WIDTH - 40)
        asked = f"{str(item.cell).capitalize()}, a part of the rows: {item.name} is asked about each of them."
        shared = f"    globals().update({', '.join(f'{each}={each}' for each in task.shared)})\n" if task.shared else ""
        one = f'{cluster.decorator(task)}\n{head} -> {ANY}:\n    """{asked}"""\n{shared}{body}'
        performed = name
        if given:
            performed = code_layout.call("functools.partial", [name, *(f"{each}={each}" for each in given)], room=60)
        key = [f"key={quote(item.options['key'])}"] if "key" in item.options else []
        # No name is bound before the notebook's own are read: one of them may be called as ours.
        cut = code_layout.call("agentkit.pipeline.cut", [map_calls.rows(item), f"{count}", *key], room=80)
        mapped = code_layout.call("frames = flyte.map.aio", [performed, cut, "return_exceptions=False"], room=WIDTH - 4)
        inputs = [f"{each}: {self.type(each)}" for each in task.inputs]
        head = code_layout.call(f"async def {task.name}", inputs, room=WIDTH - 40)
        lines = [f"{head} -> {ANY}:", f'    """{self.describe(task)}"""']
        lines.append(code_layout.indent(mapped))
        lines += ["    return await agentkit.pipeline.join(frames)"]
        return one + "\n\n\n" + "\n".join(lines)

    def describe(self, task: Task) -> str:
        first = task.items[0]
        match first.role:
            case "run":
                return f"{str(first.cell).capitalize()}: {first.name} is asked."
            case "map":
                return f"{str(first.cell).capitalize()}: {first.name} is asked about each row."
            case "sandbox":
                return f"{str(first.cell).capitalize()}: code in the sandbox."
            case _:
                return f"{str(first.cell).capitalize()}, with its agents."

    def opening(self) -> str:
        given = ["NOTEBOOK"] + (["flyte=flyte"] if self.flyte else [])
        given += [f"{key}={quote(value)}" for key, value in self.plan.policy.items()]
        return f"    async with agentkit.pipeline.task({', '.join(given)}):"

    def emit_question(self, task: Task, item: Item) -> list[str]:
        built = self.maker(item.name, item.order) if item.name in task.agents else None
        agent = item.name
        if built is not None:
            agent = f"{self.makers[built.order]}({', '.join(self.factory_inputs(built))})"
        given = [agent, self.fill(item.body, item.holes)]
        deps = item.options.get("deps") or (built.options.get("deps") if built is not None else None)
        given += [f"deps={deps}"] if deps else []
        given += [f"headless={quote(item.options['headless'])}"] if "headless" in item.options else []
        given += ["conversation=conversation"] if task.talk else []
        asked = code_layout.call("answer = await agentkit.ask", given, room=WIDTH - 8)
        outputs = ["answer.output" for _ in task.outputs] + (["answer.conversation"] if task.talked else [])
        returned = [f"    return {', '.join(outputs)}"] if outputs else []
        return [self.opening(), code_layout.indent(asked, 8), *returned]

    def emit_map(self, task: Task, item: Item, *, rows: str) -> list[str]:
        sharded = rows != map_calls.rows(item)
        built = self.maker(item.name, item.order) if item.name in task.agents else None
        agent = item.name
        if built is not None:
            agent = f"{self.makers[built.order]}({', '.join(self.factory_inputs(built))})"
        given = [agent, rows, literal(item.body)]
        # Filled in once, and by the map: what a value says is never read as a column of a row.
        texts = [
            f"{quote(hole)}: agentkit.fill({quote(f'{{{{ {hole} }}}}')}, {{{quote(hole)}: {value}}}, strip=False)"
            for hole, value in ((hole, code_layout.argument(hole)) for hole in item.holes)
        ]
        given += [f"values={{{', '.join(texts)}}}"] if texts else []
        deps = item.options.get("deps") or (built.options.get("deps") if built is not None else None)
        given += [f"deps={deps}"] if deps else []
        given += map_calls.arguments(item, sharded=sharded, settings=self.settings)
        mapped = code_layout.call("mapped = await agentkit.map", given, room=WIDTH - 8)
        returned = ["    return mapped.frame"] if sharded or task.outputs else []
        return [self.opening(), code_layout.indent(mapped, 8), *returned]

    def emit_body(self, task: Task) -> list[str]:
        lines = [self.opening()]
        shared = set(self.plan.late)
        for agent in task.agents:
            built = self.maker(agent, task.items[0].order)
            made = f"{self.makers[built.order]}({', '.join(self.factory_inputs(built))})"
            lines.append(f"        {agent} = {made}")
            if agent in shared:
                lines.append(f"        globals().update({agent}={agent})")
        if any(item.role == "sandbox" for item in task.items):
            lines += [code_layout.indent(self.emit_sandbox(item), 8) for item in task.items]
        else:
            for item in task.items:
                gathered = side_by_side(item) if task.pure else None
                lines.append(code_layout.indent(gathered or item.text, 8))
                lines += [f"        {line}" for line in self.emit_globals(item)]
        if task.outputs or task.talked:
            lines.append(f"    return {', '.join(task.outputs)}")
        return lines

    def emit_sandbox(self, item: Item) -> str:
        options = item.options
        names = {key: _split_names(options.get(key, "")) for key in ("in", "out", "call")}
        # A cell ends in a line's end, and is recorded with it.
        given = [literal(item.body if item.body.endswith("\n") else f"{item.body}\n")]
        given += [f"inputs={_mapping(names['in'])}"] if names["in"] else []
        given += [f"outputs={code_layout.sequence(map(quote, names['out']))}"] if names["out"] else []
        given += [f"calls={_mapping(names['call'])}"] if names["call"] else []
        for key, value in options.items():
            if key in ("approve", "limits", "tier", "headless"):
                given.append(f"{key}={quote(value)}")
        result = "result" if "result" not in {*names["in"], *names["out"]} else "came_out"
        start = f"{result} = await agentkit.sandbox" if names["out"] else "await agentkit.sandbox"
        called = code_layout.call(start, given, room=WIDTH - 8)
        bound = [f"{name} = {result}.outputs[{quote(name)}]" for name in names["out"]]
        return "\n".join([called, *bound])

    def emit_globals(self, item: Item) -> list[str]:
        """Names that functions read as globals get their value there."""
        names = sorted((item.uses.binds & self.plan.late) - {task.name for task in self.plan.tasks})
        return [f"globals().update({', '.join(f'{name}={name}' for name in names)})"] if names else []

    # -- main

    def main(self) -> str:
        given = [self.parameter(parameter) for parameter in self.plan.parameters]
        head = code_layout.call("async def main", given, room=WIDTH - 40)
        doc = "The notebook from top to bottom."
        if len(self.plan.results) > 1:
            doc = f"The notebook from top to bottom; gives {', '.join(self.plan.results)}."
        if len(doc) > WIDTH - 10:
            doc = "The notebook from top to bottom; what it gives is in the last line."
        lines = [f"{head} -> {_return_type([self.type(name) for name in self.plan.results])}:", f'    """{doc}"""']
        late = sorted({parameter.name for parameter in self.plan.parameters} & self.plan.late)
        if late:
            lines.append(f"    globals().update({', '.join(f'{name}={name}' for name in late)})")
        for block in self.plan.main:
            match block:
                case Item():
                    lines.append(code_layout.indent(block.text))
                    lines += [f"    {line}" for line in self.emit_globals(block)]
                case Task():
                    lines.append(f"    {self.format_await(block)}")
                    lines += self.emit_global_inputs((block,))
                case _:
                    lines.append(self.together(block))
                    lines += self.emit_global_inputs(block)
        if self.plan.results:
            lines.append(f"    return {', '.join(self.plan.results)}")
        decorator = f"{cluster.main_decorator(self.settings)}\n" if self.flyte else ""
        return decorator + "\n".join(lines)

    def emit_global_inputs(self, tasks: Sequence[Task]) -> list[str]:
        names = sorted({name for task in tasks for name in task.outputs} & self.plan.late)
        return [f"    globals().update({', '.join(f'{name}={name}' for name in names)})"] if names else []

    def parameter(self, parameter: Parameter) -> str:
        return f"{parameter.name}: {self.type(parameter.name)} = {parameter.default}"

    def format_call(self, task: Task) -> str:
        given = [*task.inputs, *([f"{task.talk}_talk"] if task.talk else [])]
        return f"{task.name}({', '.join(given)})"

    def format_targets(self, task: Task) -> str:
        return ", ".join([*task.outputs, *([f"{task.name}_talk"] if task.talked else [])])

    def format_await(self, task: Task) -> str:
        bound = self.format_targets(task)
        return f"{bound} = await {self.format_call(task)}" if bound else f"await {self.format_call(task)}"

    def together(self, tasks: Sequence[Task]) -> str:
        bound = [self.format_targets(task) or "_" for task in tasks]
        bound = [f"({each})" if ", " in each else each for each in bound]
        target = "" if all(each == "_" for each in bound) else f"{', '.join(bound)} = "
        called = [self.format_call(task) for task in tasks]
        gathered = code_layout.call(f"{target}await asyncio.gather", called, room=WIDTH - 4)
        return code_layout.indent(gathered)

    def start(self) -> str:
        if self.flyte:
            return ""
        given = ", ".join(f"{parameter.name}" for parameter in self.plan.parameters)
        run = "agentkit.pipeline.start(main)" if given else "asyncio.run(main())"
        shown = f"print({run})" if self.plan.results else run
        return f'if __name__ == "__main__":\n    {shown}'

    # -- types

    def any(self) -> str:
        return "typing.Any"

    def type(self, name: str) -> str:
        return self.types.of(name)


def _split_names(names: str) -> list[str]:
    return [name for name in re.split(r"[,\s]+", names) if name]


def _build_option(option: str, value: str) -> str | None:
    match option:
        case "tools" | "model" | "session model":
            return None
        case "output" | "deps":
            return f"{option}={value}"
        case "mcp":
            return f"mcp={code_layout.sequence(quote(place.strip()) for place in value.split(','))}"
        case "ttl":
            seconds = parse_duration(value)
            return None if seconds is None else f"ttl={seconds:g}"
        case _:
            return f"{option.replace('-', '_')}={quote(value) if value else True}"


def _return_type(types: Sequence[str]) -> str:
    if not types:
        return "None"
    return types[0] if len(types) == 1 else f"tuple[{', '.join(types)}]"


def _mapping(names: Sequence[str]) -> str:
    """A method goes by its own name."""
    return "{" + ", ".join(f"{quote(name.rpartition('.')[2])}: {name}" for name in names) + "}"


def _names_in(code: str) -> frozenset[str]:
    """Every name in the code, those in annotations that are texts too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Name(id=name):
                found.add(name)
            case ast.Constant(value=str(text)) if text.isprintable() and len(text) < 200:
                found |= set(re.findall(r"[A-Za-z_]\w*", text)) if re.fullmatch(r"[\w.\[\], |]+", text) else set()
    return frozenset(found)
