"""Hostile programs, each with how it ends: nothing leaves, nothing stays behind, and the kernel goes on."""

from __future__ import annotations

import asyncio
import datetime
import os
import resource
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agentkit.errors import ApprovalPending, SandboxError
from agentkit.sandbox.limits import Limits
from agentkit.sandbox.monty import driver

LIMITS = Limits(memory=64 << 20, time=0.4, calls=20, printed=100_000)
PATIENT = replace(LIMITS, time=20)
"""For what the clock is not to stop: how far a program is after 0.4 s depends on who else uses the machine."""
WORLD = driver.Clock(now=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
SECRET = "s3cr3t-of-the-host"
FOLDER = Path(__file__).with_name("hostile")


class Hostile(NamedTuple):
    """`ends`: value, stopped, or the fault of its error; `said` is in the value or the error."""

    name: str
    ends: str
    said: str
    source: str


def corpus() -> list[Hostile]:
    found = []
    for path in sorted(FOLDER.glob("*.txt")):
        for block in path.read_text(encoding="utf-8").split("%% ")[1:]:
            head, _, source = block.partition("\n")
            name, ends, said = (part.strip() for part in head.split("|", 2))
            found.append(Hostile(f"{path.stem}: {name}", ends, said, source.removesuffix("\n")))
    return found


CORPUS = corpus()


def test_there_are_enough_and_no_two_have_one_name() -> None:
    assert len(CORPUS) >= 120
    assert len({hostile.name for hostile in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize("hostile", CORPUS, ids=lambda hostile: hostile.name.replace(" ", "-"))
def test_it_ends_as_it_should(hostile: Hostile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENTKIT_TEST_SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    timed = hostile.ends == "limit" and hostile.said in ("", "computing")
    ended, said, told = asyncio.run(_ended(hostile.source, LIMITS if timed else PATIENT))
    assert (ended, hostile.said in said) == (hostile.ends, True), f"{ended}: {said}"
    assert SECRET not in said + told
    assert not list(tmp_path.iterdir())
    assert time.monotonic() - begun < 6, "it held the kernel up"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10, "it filled the kernel's memory"


async def _ended(source: str, limits: Limits) -> tuple[str, str, str]:
    """How it ended, what it came to, and all that was printed or told to the host."""
    told: list[str] = []

    async def call(made: driver.HostCall) -> Any:
        told.append(f"{made.name}{made.args}"[:1000])
        return _answer(made.name, made.args, made.kwargs)

    program = driver.Program(source=source, functions=frozenset({"f", "fail", "ask"}))
    try:
        ended = await driver.run(program, world=WORLD, call=call, limits=limits, printed=told.append)
    except SandboxError as error:
        return error.fault, str(error), "".join(told)
    except ApprovalPending as error:
        assert not [text for text in told if text.startswith("f(")], "it went on after the question"
        return "stopped", str(error), "".join(told)
    return "value", repr(ended.value)[:1000], "".join(told)


def _answer(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if name == "ask":
        raise ApprovalPending(steps=["s1"], asked="ask")
    if name == "fail":
        raise driver.CallFailed("ValueError", "no")
    return args[0] if args else dict(kwargs)


def test_no_worker_is_left_behind() -> None:
    asyncio.run(_ended("while True: pass", LIMITS))
    deadline = time.monotonic() + 5
    while (left := _workers()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def _workers() -> list[int]:
    """Children of this process that compute."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == os.getpid() and fields[0] == "R":
            found.append(int(path.parent.name))
    return found
