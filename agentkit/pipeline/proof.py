"""The export run for its proof, in a process of its own: `python -m agentkit.pipeline.proof FILE TARGET COUNT`."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from agentkit.errors import AgentKitError
from agentkit.events import Event, Run, Step
from agentkit.map.frame import without_run
from agentkit.pipeline import entry
from agentkit.runtime.session import Session
from agentkit.tools.digest import value_digest

MARK = "agentkit-proof:"


def main(file: str, target: str, count: int) -> None:
    """Run the program with its own parameters; one line says what happened. `count` is how many results it gives."""
    events: dict[tuple[str, int], Event] = {}
    entry.opened.append(lambda session: _listen(session, events))
    said: dict[str, Any] = {"error": None, "results": None}
    try:
        result = _run(load(Path(file)), target)
        several = count > 1 or (target == "flyte" and isinstance(result, tuple))
        values = tuple(result)[:count] if several else (result,)[:count]
        said["results"] = [value_digest(without_run(value)).hex() for value in values]
        said["shown"] = repr(values)[:2_000]
    except Exception as error:  # noqa: BLE001 - whatever the program raises is what the proof has to say
        said["error"] = _describe_error(error)
        said["traceback"] = traceback.format_exc()[-4_000:]
    said["runs"] = [_of_run(event) for event in events.values() if isinstance(event, Run) and event.parent_run is None]
    steps = [event for event in events.values() if isinstance(event, Step)]
    said["steps"] = [_of_step(step) for step in steps]
    said["replayed"] = sum(step.replayed for step in steps)
    said["live"] = sum(not step.replayed for step in steps)
    sys.stdout.write(f"\n{MARK}{json.dumps(said)}\n")


def _listen(session: Session, events: dict[tuple[str, int], Event]) -> None:
    session.listen(lambda event: events.__setitem__(_identity(event), event))


def _identity(event: Event) -> tuple[str, int]:
    return (event.run, event.ord) if isinstance(event, Step) else (event.id, -1)


def _of_step(step: Step) -> str:
    state = "replayed" if step.replayed else "live"
    return f"{state}: {step.kind} {step.name} {step.request[:60]!r}" + (f" ({step.error})" if step.error else "")


def _of_run(run: Run) -> dict[str, Any]:
    told = {"agent": run.agent, "prompt": run.prompt, "output": run.output, "status": run.status}
    return told if run.rows is None else {**told, "rows": run.rows}


def _describe_error(error: BaseException) -> str:
    seen: list[BaseException] = [error]
    while (inner := seen[-1].__cause__ or seen[-1].__context__) is not None and len(seen) < 20:
        seen.append(inner)
    ours = next((each for each in seen if isinstance(each, AgentKitError)), error)
    return f"{type(ours).__name__}: {ours}"


def load(path: Path) -> ModuleType:
    """The program as a module named `pipeline`."""
    spec = importlib.util.spec_from_file_location("pipeline", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pipeline"] = module
    sys.path.insert(0, str(path.parent))
    spec.loader.exec_module(module)
    return module


def _run(module: ModuleType, target: str) -> Any:
    if target == "script":
        return asyncio.run(module.main())
    flyte: Any = module.__dict__["flyte"]
    return flyte.with_runcontext(mode="local", disable_run_cache=True).run(module.__dict__["main"]).outputs()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
