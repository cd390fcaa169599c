"""From a notebook to a checked program on disk: read, planned, written, proved."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agentkit.pipeline import cluster, map_calls, secrets
from agentkit.pipeline.cells import Language, take_apart
from agentkit.pipeline.emit import emit
from agentkit.pipeline.image import TaskImage, image_of
from agentkit.pipeline.plan import Plan, plan
from agentkit.pipeline.reader import Notebook
from agentkit.pipeline.settings import Settings


@dataclass(frozen=True, kw_only=True)
class PipelineProgram:
    """A module as text, without the header that says what was checked, and the plan it was written from.

    `scrub` takes the secrets out of what is told of it.
    """

    plan: Plan
    settings: Settings
    image: TaskImage
    body: str
    scrub: Callable[[str], str] = field(default=str, repr=False)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.body.encode()).hexdigest()

    def text(self, verdict: tuple[str, ...] = ()) -> str:
        """The whole file."""
        return f"{header(self, verdict)}\n\n{self.body}"


def program(notebook: Notebook, language: Language, settings: Settings, *, everything: bool = False) -> PipelineProgram:
    """The program that a notebook is; UserError names the cells that cannot be exported."""
    known = secrets.secrets_in(notebook.cells)
    planned = plan(notebook, take_apart(notebook.cells, language), everything=everything)
    planned = replace(planned, left_out=(*planned.left_out, *map_calls.left_out(planned, settings)))
    items = list(cluster.items_of(planned))
    image = image_of(items, python=sys.version_info[:2], models=cluster.models_of(planned))
    body = emit(planned, settings, image)
    secrets.refuse(body, notebook.cells, known)
    return PipelineProgram(plan=planned, settings=settings, image=image, body=body, scrub=known.scrub)


def header(program: PipelineProgram, verdict: tuple[str, ...]) -> str:
    plan = program.plan
    lines = [*_script_block(program), f'"""{_escape(plan.notebook.name)}, exported from the notebook by agentkit.', ""]
    lines += _commands(program)
    if named := [name for name in cluster.read_variables(plan) if name not in cluster.secrets(plan)]:
        lines += ["", f"Reads from the environment: {', '.join(named)}"]
    if plan.left_out:
        lines += ["", "Left out:"] + [f"- {_escape(str(each))}" for each in plan.left_out]
    if verdict:
        lines += [
            "",
            "Checked:",
            *(f"- {_escape(line)}" for line in verdict),
            f"- sha256 of what follows {program.digest}",
        ]
    scrubbed = [program.scrub(line) for line in lines]
    return "\n".join(line if len(line) <= 119 else line[:118] + "…" for line in [*scrubbed, '"""'])


def _commands(program: PipelineProgram) -> list[str]:
    file, settings = program.settings.file, program.settings
    given = "".join(f" --{parameter.name} …" for parameter in program.plan.parameters[:1])
    if settings.target == "script":
        return [f"    python {file}{given}"]
    lines = [f"    DO_NOT_TRACK=1 flyte run --local {file} main{given}", f"    flyte run {file} main{given}"]
    if settings.container or settings.cron:
        lines.append(f"    flyte deploy --version {program.digest[:12]} {file} env")
    return lines


def _script_block(program: PipelineProgram) -> list[str]:
    image = program.image
    packages = [*image.packages, *([image.own] if image.own else [])]
    packages += ["flyte>=2.12"] if program.settings.target == "flyte" else []
    python = f'# requires-python = ">={image.python[0]}.{image.python[1]}"'
    listed = [f'#     "{name}",' for name in sorted(packages)]
    own = (
        []
        if image.own
        else ["# agentkit itself: the copy installed where this was exported (it has no address to pin)"]
    )
    return ["# /// script", python, "# dependencies = [", *listed, "# ]", "# ///", *own]


def _escape(text: str) -> str:
    return text.replace("\\", "/").replace('"""', "'''")
