"""What type checkers know of an agent: the script of a user who has both switched to strict."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = '''
"""A user's script."""

import asyncio
from dataclasses import dataclass
from typing import assert_type

from pydantic import BaseModel
from pydantic_ai import Agent, AgentRunResult

import agentkit


class City(BaseModel):
    name: str
    people: int


@dataclass
class Desk:
    key: str


@agentkit.tool(effects="none", ttl="7d")
def people(city: str) -> int:
    """How many live there."""
    return len(city)


spec = agentkit.Spec(instructions="You know cities.")
talker = agentkit.build(spec, name="talker", tools=[people], ttl="12h")
finder = agentkit.build(spec, name="finder", output=City, ttl=60)
clerk = agentkit.build(spec, name="clerk", output=City, deps=Desk("a"))
adopted = agentkit.durable(Agent("test", name="own", output_type=City, deps_type=Desk))


async def named(agent: agentkit.DurableAgent[object, City]) -> str:
    return (await agent.run("Where?")).output.name


async def main() -> None:
    async with agentkit.session("typed") as opened:
        assert_type(opened, agentkit.Session)
        assert_type((await talker.run("Where?")).output, str)
        assert_type(await finder.run("Where?"), AgentRunResult[City])
        assert_type((await finder.run("Where?", output_type=int)).output, int)
        assert_type((await clerk.run("Where?", deps=Desk("b"))).output, City)
        assert_type((await adopted.run("Where?", deps=Desk("b"))).output.people, int)
        assert_type(await agentkit.ask(talker, "Where?"), agentkit.Answer[str])
        assert_type((await agentkit.ask(finder, "Where?", fresh=True)).output, City)
        assert_type((await agentkit.ask(clerk, "Where?", deps=Desk("b"))).output.name, str)
        assert_type(await agentkit.ask(adopted, "Where?", deps=Desk("b")), agentkit.Answer[City])
        assert_type(finder.last, agentkit.Answer[City] | None)
        assert_type(adopted.last, agentkit.Answer[City] | None)
        async with finder.run_stream("Where?") as stream:
            assert_type(await stream.get_output(), City)
        async with clerk.iter("Where?", deps=Desk("b")) as run:
            async for _ in run:
                pass
            assert run.result is not None
            assert_type(run.result.output, City)
        assert_type(await named(finder), str)
        assert_type(people("Bern"), int)


with agentkit.session("typed") as opened:
    assert_type(finder.run_sync("Where?").output, City)
    assert_type(agentkit.durable(finder).run_sync("Where?").output.name, str)
    assert_type(opened.runs()[0].status == "done", bool)
try:
    asyncio.run(main())
except (agentkit.ApprovalPending, agentkit.BudgetExceeded) as stopped:
    assert_type(str(stopped), str)
'''
WRONG = """
import agentkit
from pydantic import BaseModel


class City(BaseModel):
    name: str


class Desk(BaseModel):
    key: str


spec = agentkit.Spec(instructions="x")
finder = agentkit.build(spec, name="finder", output=City, deps=Desk(key="a"))
first: int = finder.run_sync("Where?", deps=Desk(key="b")).output
finder.run_sync("Where?", deps=3)
finder.run_sync("Where?", promt="again")
agentkit.durable(3)
"""
WRONG_LINES = {15, 16, 17, 18}
FILES = {"right.py": SCRIPT, "wrong.py": WRONG}
ROOT = Path(__file__).parent.parent


LONGEST = 900
"""Where nothing is in mypy's cache yet it reads pydantic-ai, its client libraries and pandas first."""


def checked_by_mypy(folder: Path) -> dict[str, set[int]]:
    """The lines with errors, by file. With our own settings (strict), so that what the lint read is not read again."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-error-summary",
            "--output=json",
            *(str(folder / name) for name in FILES),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONGEST,
    )
    assert done.returncode in (0, 1), done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return by_file([(each["file"], each["line"]) for each in found if each["severity"] == "error"])


def checked_by_pyright(folder: Path) -> dict[str, set[int]]:
    """The same of basedpyright, which is pyright with node in its wheel: that of pyright fetches one when it runs."""
    settings = {"typeCheckingMode": "strict", "pythonVersion": "3.11"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    program = Path(sysconfig.get_path("scripts")) / "basedpyright"
    done = subprocess.run(
        [program, "--outputjson", "--pythonpath", sys.executable, *FILES],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LONGEST,
    )
    assert done.returncode in (0, 1), done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["generalDiagnostics"]
    errors = [each for each in found if each["severity"] == "error"]
    return by_file([(each["file"], each["range"]["start"]["line"] + 1) for each in errors])


def by_file(found: list[tuple[str, int]]) -> dict[str, set[int]]:
    return {name: {line for file, line in found if Path(file).name == name} for name in FILES}


@pytest.mark.timeout(LONGEST + 60)
@pytest.mark.parametrize("checked", [checked_by_mypy, checked_by_pyright])
def test_the_types_of_a_users_agents_reach_the_answers(
    tmp_path: Path, checked: Callable[[Path], dict[str, set[int]]]
) -> None:
    """And what does not fit is an error of its line, so a checker that knows nothing of agentkit is noticed."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text.lstrip(), encoding="utf-8")
    assert checked(tmp_path) == {"right.py": set(), "wrong.py": WRONG_LINES}
