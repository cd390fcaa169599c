"""Dies at each named crash point of each kind of step, lives again and tells: `python -m tests.kill.points`."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentkit.agent.ask import ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.errors import InDoubt
from agentkit.tools.declaration import tool
from tests.kill import workload
from tests.kill.figures import name_of, outputs_of, rows
from tests.kill.harness import Warm, server
from tests.kill.workload import STEP, Crew, Job, does
from tests.serving import control


@dataclass(frozen=True, kw_only=True)
class Case:
    """`places` says at which intent, call and record the step in question stands."""

    name: str
    job: Job
    places: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`effects` is how often each effect was asked for, `keys` with how many idempotency keys."""

    killed: bool
    doubts: list[str]
    outputs_equal: bool
    effects: dict[str, int]
    keys: dict[str, int]
    asked: int
    expected: int
    listed: int


def _prompt(*turns: str) -> Job:
    async def job(crew: Crew) -> list[str]:
        return [str((await crew.worker.run(does(*turns))).output)]

    return job


async def _streamed(crew: Crew) -> list[str]:
    return [str((await ask(crew.worker, "a stream", on_text=lambda text: None)).output)]


async def _inside(crew: Crew) -> list[str]:
    prompt = f"do worker {json.dumps({'prompt': does('order:inner')})}"
    return [str((await crew.lead.run(prompt)).output)]


def _happened(name: str) -> str | None:
    """The probe of a tool that can look: whether the far side has it."""
    seen = any(entry["name"] == name for entry in control(workload.SITE, "_ledger") if entry["kind"] == "effect")
    return workload.happened(name) if seen else None


@tool(effects="once", verify=_happened)
async def pay(name: str) -> str:
    """Pay something, which can be looked up."""
    return await workload.post_async(name)


async def _probed(crew: Crew) -> list[str]:
    payer = build(Spec(instructions="Pay."), name="payer", tools=[pay], model=crew.worker.model)
    return [str((await payer.run(does("pay:bill"))).output)]


_MODEL = {"intent": 1, "call": 1, "record": 1}
_TOOL = {"intent": 2, "call": 2, "record": 2}

CASES = (
    Case(name="model", job=_prompt(), places=_MODEL),
    Case(name="streamed model", job=_streamed, places=_MODEL),
    Case(name="none", job=_prompt("find:x"), places=_TOOL),
    Case(name="idempotent", job=_prompt("put:x"), places=_TOOL),
    Case(name="once", job=_prompt("order:x"), places=_TOOL),
    Case(name="once in a thread", job=_prompt("send:x"), places=_TOOL),
    Case(name="once with a probe", job=_probed, places=_TOOL),
    Case(name="undeclared in a thread", job=_prompt("touch:x"), places=_TOOL),
    # Intents: lead's request, the call of worker, worker's request, order. Ends: lead's and worker's requests, order.
    Case(name="model inside a sub-agent", job=_inside, places={"intent": 3, "call": 2, "record": 2}),
    Case(name="once inside a sub-agent", job=_inside, places={"intent": 4, "call": 3, "record": 3}),
)


def lived(warm: Warm, folder: Path, job: Job, *, crash_at: str | None = None) -> int:
    """One life; its wait status. A doubt that a life ends with is written down."""

    def work() -> None:
        if crash_at is not None:
            os.environ["AGENTKIT_CRASH_AT"] = crash_at
        try:
            warm.live(folder, job)
        except InDoubt as doubt:
            with (folder / "doubts").open("a") as file:
                file.write(f"{doubt.name} {doubt.reason}\n")

    pid = warm.fork(folder, work)
    status = os.waitpid(pid, 0)[1]
    if (folder / "error").exists():
        raise AssertionError((folder / "error").read_text())
    return status


def settled(warm: Warm, folder: Path) -> None:
    os.waitpid(warm.fork(folder, lambda: warm.settle_doubts(folder)), 0)


def undisturbed(warm: Warm, case: Case) -> tuple[list[str], int]:
    control(warm.root, "_reset")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        lived(warm, folder, case.job)
        return outputs_of(folder)[0], sum(row.kind == "model" for row in rows(folder))


def crashed(warm: Warm, case: Case, point: str, calm: tuple[list[str], int]) -> Outcome:
    control(warm.root, "_reset")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        status = lived(warm, folder, case.job, crash_at=f"{point}:{case.places[point]}")
        lived(warm, folder, case.job)
        doubts = (folder / "doubts").read_text().splitlines() if (folder / "doubts").exists() else []
        if doubts:
            settled(warm, folder)
            lived(warm, folder, case.job)
        return _outcome(folder, control(warm.root, "_ledger"), calm, killed=status == signal.SIGKILL, doubts=doubts)


def _outcome(
    folder: Path, ledger: list[dict[str, Any]], calm: tuple[list[str], int], *, killed: bool, doubts: list[str]
) -> Outcome:
    effects = [entry for entry in ledger if entry["kind"] == "effect"]
    keys = {(entry["name"], entry["headers"]["idempotency-key"]) for entry in effects}
    recorded = rows(folder)
    assert {name_of(row) for row in recorded} >= {entry["headers"][STEP] for entry in ledger}
    return Outcome(
        killed=killed,
        doubts=doubts,
        outputs_equal=outputs_of(folder) == [calm[0]],
        effects=dict(Counter(entry["name"] for entry in effects)),
        keys=dict(Counter(name for name, _ in keys)),
        asked=sum(entry["kind"] != "effect" for entry in ledger),
        expected=calm[1],
        listed=sum(row.maybe_paid_twice for row in recorded),
    )


def main() -> None:
    outcomes: dict[str, dict[str, Any]] = {}
    with server(delay=0.0) as root:
        warm = Warm(root, seed=0)
        for case in CASES:
            calm = undisturbed(warm, case)
            for point in case.places:
                outcomes[f"{case.name} {point}"] = asdict(crashed(warm, case, point, calm))
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
