"""Runs every case of a folder once, each with an agent of its own, and prints what was live.

`python program.py FOLDER`: FOLDER holds `cases.json` (name to program) and the modules; the journal lies in it.
"""

from __future__ import annotations

import asyncio
import json
import linecache
import os
import sys
from pathlib import Path
from typing import Any

from pydantic_ai.messages import ModelMessage, ToolReturnPart

import agentkit
from agentkit.events import Step
from agentkit.testing import Call, ScriptedModel
from agentkit.trace.explain import explain


def answer(messages: list[ModelMessage]) -> Any:
    """Call the tool, then say what it gave."""
    last = messages[-1].parts[-1]
    return f"{last.content!r}" if isinstance(last, ToolReturnPart) else Call("tool")


def define(number: int, text: str) -> Any:
    """Run the program as a cell of a notebook would be."""
    name = f"<case {number}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, name, "exec", dont_inherit=True), namespace)
    tool = namespace["tool"]
    return tool if hasattr(tool, "__agentkit__") else agentkit.tool(effects="none")(tool)


async def perform(folder: Path) -> dict[str, Any]:
    said: dict[str, Any] = {}
    cases = json.loads((folder / "cases.json").read_text())
    tools = {name: define(number, text) for number, (name, text) in enumerate(cases.items())}
    # Twice in one process: what the first call imported must not make the second another one.
    for _ in range(2):
        with agentkit.session("staleness", folder=folder) as session:
            for number, (name, tool) in enumerate(tools.items()):
                model = ScriptedModel.by(answer)
                agent = agentkit.build(agentkit.Spec(), name=f"case{number}", tools=[tool], model=model)
                found = await agentkit.ask(agent, "go")
                steps = [event for event in found.events() if isinstance(event, Step)]
                said.setdefault(name, []).append(
                    {
                        "output": found.output,
                        "live": [step.name for step in steps if not step.replayed],
                        "why": [str(reason) for reason in explain(session.store, found.run.id)],
                    }
                )
    return said


if __name__ == "__main__":
    place = Path(sys.argv[1])
    os.environ |= {file.stem: file.read_text() for file in place.glob("*.env")}
    os.chdir(place)
    sys.path.insert(0, str(place))
    print(json.dumps(asyncio.run(perform(place))))
