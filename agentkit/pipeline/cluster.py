"""What the program says to Flyte: environments with their image, secrets and resources, tasks, the ladder of memory."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agentkit.errors import UserError
from agentkit.pipeline import code_layout
from agentkit.pipeline.cells import Item, is_variable
from agentkit.pipeline.code_layout import quote
from agentkit.pipeline.image import TaskImage
from agentkit.pipeline.plan import Plan, Task
from agentkit.pipeline.settings import Settings
from agentkit.values.durations import parse_duration

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?$", re.IGNORECASE)
_NEEDS = frozenset({"memory", "timeout", "network"})
_KEYS = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "google": "GOOGLE_API_KEY",
    "google-gla": "GOOGLE_API_KEY",
    "groq": "GROQ_API_KEY",
    "mistral": "MISTRAL_API_KEY",
    "xai": "XAI_API_KEY",
    "deepseek": "DEEPSEEK_API_KEY",
    "openrouter": "OPENROUTER_API_KEY",
}
_SECRET = re.compile(r"(API_KEY|_KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS)\w*$")


@dataclass(frozen=True, kw_only=True)
class HeavyTool:
    """A tool that declares memory or time: it gets machines of its own; `memory` are the sizes to try in order."""

    name: str
    item: Item
    memory: tuple[str, ...]
    timeout: float | None
    walled: bool


def heavy_tools(plan: Plan) -> tuple[HeavyTool, ...]:
    return tuple(filter(None, (_heavy(item) for item in plan.module if item.binds & plan.tools)))


def _heavy(item: Item) -> HeavyTool | None:
    for decorator in getattr(item.node, "decorator_list", ()):
        written = {word.arg: word.value for word in getattr(decorator, "keywords", ())}
        given = {option: _value(item, option, written[option]) for option in _NEEDS & written.keys()}
        if not given.get("memory") and not given.get("timeout"):
            continue
        sizes = given.get("memory") or ()
        sizes = (sizes,) if isinstance(sizes, str | int) else tuple(sizes)
        return HeavyTool(
            name=next(iter(item.binds)),
            item=item,
            memory=tuple(map(size_for_flyte, sizes)),
            timeout=_seconds(given.get("timeout")),
            walled=given.get("network") is False,
        )
    return None


def _value(item: Item, option: str, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise UserError(
            f"{item.cell} declares {next(iter(item.binds))} with {option}={ast.unparse(node)}, which a cluster must be "
            f"told before anything runs: write the value itself, or export with --target script"
        ) from error


def _seconds(value: Any) -> float | None:
    if isinstance(value, str):
        return parse_duration(value)
    return float(value) if isinstance(value, int | float) else None


def size_for_flyte(size: str | int) -> str:
    """`512MB` and `512MiB` are `512Mi` there, because a tool counts in units of 1024; an int is bytes."""
    found = _SIZE.match(str(size).strip())
    if found is None:
        return str(size)
    return f"{found[1]}{found[2].upper()}i" if found[2] else found[1]


# ---- environments


def environments(plan: Plan, settings: Settings, image: TaskImage, heavy: Sequence[HeavyTool]) -> str:
    name = slug(plan.notebook.name)
    lines = [_image(image), ""]
    given = [f'"{name}"', "image=image", 'resources=flyte.Resources(cpu=1, memory="1Gi")']
    if names := secrets(plan):
        listed = [f'flyte.Secret(key="{key.lower()}", as_env_var="{key}")' for key in names]
        given.append("secrets=[" + ", ".join(listed) + "]")
    for tool in heavy:
        own = [f'"{name}_{tool.name}"', "image=image"]
        own += [f'resources=flyte.Resources(cpu=1, memory="{tool.memory[0]}")'] if tool.memory else []
        own += [given[-1]] if given[-1].startswith("secrets") else []
        lines.append(code_layout.call(f"{tool.name}_env = flyte.TaskEnvironment", own))
    if heavy:
        given.append(f"depends_on=[{', '.join(f'{tool.name}_env' for tool in heavy)}]")
    lines.append(code_layout.call("env = flyte.TaskEnvironment", given))
    if settings.cron:
        schedule = [
            f'"{name}_schedule"',
            f'automation=flyte.Cron("{settings.cron}")',
            "overwrite_cache=True",
        ]
        lines.append(code_layout.call("schedule = flyte.Trigger", schedule))
    ladder = _LADDER if any(len(tool.memory) > 1 for tool in heavy) else ""
    return "\n".join(lines) + ladder


def _image(image: TaskImage) -> str:
    python = f"({image.python[0]}, {image.python[1]})"
    packages = [quote(name) for name in image.packages]
    packages += [quote(image.own)] if image.own else []
    listed = "".join(f"    {name},\n" for name in packages)
    text = f"image = flyte.Image.from_debian_base(python_version={python}).with_pip_packages(\n{listed})"
    if image.own is None:
        text += "\n# agentkit itself, as it is installed where this file is run or deployed.\n"
        text += "image = image.with_source_folder(pathlib.Path(agentkit.__file__).parent)"
    return text


_LADDER = '''


async def with_more_memory(task, sizes, **given):
    """Once more on a larger machine, as long as one is declared."""
    for size in sizes[:-1]:
        try:
            return await task.override(resources=flyte.Resources(cpu=1, memory=size))(**given)
        except flyte.errors.OOMError:
            continue
    return await task.override(resources=flyte.Resources(cpu=1, memory=sizes[-1]))(**given)'''


def slug(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_").lower() or "notebook"


# ---- tasks


def heavy_task(tool: HeavyTool) -> str:
    """The tool as a task of its own, and what the agent calls in its place."""
    node = tool.item.node
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    name, given = tool.name, ast.unparse(node.args)
    returned = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    arguments = node.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    passed = ", ".join(f"{each}={each}" for each in names)
    options = [f"timeout={tool.timeout:g}"] if tool.timeout else []
    decorator = f"@{name}_env.task({', '.join(options)})" if options else f"@{name}_env.task"
    called = f"await {name}({passed})" if isinstance(node, ast.AsyncFunctionDef) else f"{name}({passed})"
    if tool.walled:
        called = f"await agentkit.pipeline.walled({', '.join(filter(None, [name, passed]))})"
    if len(tool.memory) > 1:
        sizes = ", ".join(quote(size) for size in tool.memory)
        elsewhere = f"await with_more_memory({name}_task, ({sizes}), {passed})"
    else:
        elsewhere = f"await {name}_task({passed})"
    return "\n".join(
        [
            decorator,
            f"async def {name}_task({given}){returned}:",
            f'    """The tool {name}, on machines of its own."""',
            f"    return {called}",
            "",
            "",
            f"async def {name}_elsewhere({given}){returned}:",
            f"    return {elsewhere}",
        ]
    )


def decorator(task: Task) -> str:
    """A pure task is cached by what its code and its inputs are; one with effects, or a map, never is."""
    given = ["retries=3", "report=True"]
    # A map keeps the rows that failed: a cache would keep them for ever, and a rerun asks only them.
    if task.pure and task.items[0].role != "map":
        version = f'agentkit.pipeline.closure(__file__, "{task.name}")'
        given.insert(0, f'cache=flyte.Cache("auto", version_override={version})')
    return f"@env.task({', '.join(given)})"


def main_decorator(settings: Settings) -> str:
    return "@env.task(triggers=schedule)" if settings.cron else "@env.task"


# ---- secrets


def secrets(plan: Plan) -> tuple[str, ...]:
    """The names of the variables that the code or its models read a secret from; never their values."""
    return tuple(name for name in read_variables(plan) if _SECRET.search(name))


def read_variables(plan: Plan) -> tuple[str, ...]:
    found = {name for item in items_of(plan) if item.node is not None for name in _read_from_environ(item.node)}
    found |= {key for model in models_of(plan) for part in model.split("|") if (key := _key_of(part.strip()))}
    return tuple(sorted(found))


def _key_of(model: str) -> str | None:
    return _KEYS.get(model.partition(":")[0]) if ":" in model else None


def items_of(plan: Plan) -> Iterator[Item]:
    yield from plan.module
    for block in plan.main:
        if isinstance(block, Item):
            yield block
    for task in plan.tasks:
        yield from task.items


def models_of(plan: Plan) -> tuple[str, ...]:
    """Every model that the agents name."""
    named = [item.options.get("model") or item.options.get("session model") or _front(item) for item in plan.module]
    return tuple(sorted({model for model in named if model and not is_variable(model)}))


def _front(item: Item) -> str | None:
    found = (
        re.search(r"^model:\s*(\S.*?)\s*$", item.body, re.MULTILINE) if item.body.lstrip().startswith("---") else None
    )
    return found[1].strip("\"'") if found else None


def _read_from_environ(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        match part:
            case ast.Subscript(value=owner, slice=ast.Constant(value=str(name))) if _is_environ(owner):
                yield name
            case ast.Call(
                func=ast.Attribute(value=owner, attr="get" | "pop"), args=[ast.Constant(value=str(name)), *_]
            ):
                if _is_environ(owner):
                    yield name
            case ast.Call(func=ast.Attribute(attr="getenv"), args=[ast.Constant(value=str(name)), *_]):
                yield name
            case ast.Call(func=ast.Name(id="getenv"), args=[ast.Constant(value=str(name)), *_]):
                yield name


def _is_environ(node: ast.expr) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr == "environ") or (
        isinstance(node, ast.Name) and node.id == "environ"
    )
