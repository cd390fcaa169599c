"""A program with one tool that must not act unasked, and how it is run as this user or as another one.

`python stranger.py '{"folder": …}'` runs it once and prints what came of it as JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

from pydantic_ai.messages import ModelMessage, ToolReturnPart

import agentkit
from agentkit.agent.spec import Spec
from agentkit.approval import decisions
from agentkit.approval.policy import Decision
from agentkit.cli.main import main
from agentkit.errors import AgentKitError
from agentkit.events import Step
from agentkit.journal import row_codec
from agentkit.testing import Call, ScriptedModel

ROOT = Path(__file__).parents[2]


def answer(messages: list[ModelMessage]) -> Any:
    results = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
    return str(results[-1].content) if results else Call("pay", {"amount": 100})


async def perform(wish: dict[str, Any]) -> dict[str, Any]:
    effects = Path(wish["effects"])

    @agentkit.tool(effects="once", approve=wish.get("declared", "ask"))
    def pay(amount: int) -> str:
        """Pay an amount."""
        with effects.open("a") as file:
            file.write(f"{amount}\n")
        return f"paid {amount}"

    @agentkit.tool(effects="once", approve="ask")
    def edited(amount: int) -> str:
        """Pay an amount."""
        with effects.open("a") as file:
            file.write(f"{amount} and something else\n")
        return f"paid {amount}"

    edited.__name__ = edited.__qualname__ = "pay"
    tool = edited if wish.get("edited") else pay
    told: dict[str, Any] = {"outputs": [], "error": "", "asked": 0, "live": []}

    async def ask(questions: tuple[Any, ...]) -> tuple[Decision, ...]:
        told["asked"] += len(questions)
        return tuple(Decision(**wish["decide"]) for _ in questions)

    with agentkit.session("here", folder=wish["folder"], mode=wish.get("mode")) as session:
        session.asker = ask if "decide" in wish else None
        agent = agentkit.build(Spec.parse("You pay."), name="payer", tools=[tool], model=ScriptedModel.by(answer))
        try:
            for _ in range(wish.get("times", 1)):
                done = await agentkit.ask(agent, wish.get("prompt", "Pay."), fresh=wish.get("fresh", False))
                told["outputs"].append(done.output)
                told["live"] += [one.kind for one in done.events() if isinstance(one, Step) and not one.replayed]
        except AgentKitError as error:
            told["error"] = f"{type(error).__name__}: {error}"
        told["mode"], told["remarks"] = session.mode, list(session.remarks)
        told["questions"] = [(one.id, one.source, one.waits) for one in decisions.everything(session.store)]
        told["sources"] = session.store.sources()
    return told


def run(folder: Path, *, state: Path, effects: Path, apart: bool = False, **wish: Any) -> dict[str, Any]:
    """One session by the user whose folder for state is `state`; `apart`: in a process of its own."""
    # Where the tool writes is the same for everybody, or it would be another tool.
    written = effects.with_name("effects")
    wish |= {"folder": str(folder), "effects": str(written)}
    with mock.patch.dict(os.environ, {"XDG_STATE_HOME": str(state), "PYTHONPATH": str(ROOT)}):
        if apart:
            command = [sys.executable, __file__, json.dumps(wish)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            told = json.loads(done.stdout.splitlines()[-1])
        else:
            told = json.loads(json.dumps(asyncio.run(perform(wish))))
    if written.exists():
        with effects.open("a") as file:
            file.write(written.read_text())
        written.unlink()
    return {**told, "effects": effects.read_text().splitlines() if effects.exists() else []}


def command(*words: str, state: Path) -> int:
    """`agentkit …` by that user; its exit status."""
    with mock.patch.dict(os.environ, {"XDG_STATE_HOME": str(state)}):
        return main(words)


def change(folder: Path, *statements: str) -> None:
    """What somebody with SQLite and our source does to a journal: changes, and correct checksums again."""
    with closing(sqlite3.connect(folder / ".agentkit" / "journal.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)
        query = f"SELECT {row_codec.ROW} FROM {row_codec.STORED}"
        for values in connection.execute(query).fetchall():
            digest = row_codec.seal(values[: row_codec.BODIES], *values[row_codec.BODIES : row_codec.SEAL])
            if values[row_codec.SEAL][:32] != digest:
                forged = digest + hashlib.sha256(digest).digest()[:16]
                connection.execute("UPDATE step SET sum = ? WHERE id = ?", (forged, values[row_codec.SEAL + 1]))


AFTER_THE_DECISION = (
    "DELETE FROM body WHERE step > (SELECT max(id) FROM step WHERE kind = 'approval')",
    "DELETE FROM use WHERE step > (SELECT max(id) FROM step WHERE kind = 'approval')",
    "DELETE FROM step WHERE id > (SELECT max(id) FROM step WHERE kind = 'approval')",
    "DELETE FROM run",
)
"""What is left ends with an approval whose call was, as it seems, never made."""


if __name__ == "__main__":
    print(json.dumps(asyncio.run(perform(json.loads(sys.argv[1])))))
