"""Programs of the process tier that answer in agentkit's place: real processes, and whatever they can write to."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from pstats import FunctionProfile, StatsProfile
from typing import Any

import pytest

import agentkit
from agentkit.errors import SandboxError, UserError
from agentkit.events import Step
from agentkit.runtime.session import Session
from agentkit.sandbox.boundary import from_record

SEND = """
import json, os, time
def send(*bodies, begun=b""):
    for number in range(3, 64):
        for body in bodies:
            try:
                os.write(number, begun + body)
            except OSError:
                pass
def done(value, outputs=None, **more):
    outputs = {"out": 1} if outputs is None else outputs
    return json.dumps({"how": "done", "value": value, "outputs": outputs, "peak": 1, **more}).encode()
"""
NAMES = "{'$': 'object', 'module': 'posix', 'name': 'system', 'of': {'command': 'touch ran'}}"

PROGRAMS = {
    "in its place, naming os.system": f"send(done({NAMES}))\nos._exit(0)",
    "an output that names os.system": f"send(done(1, {{'out': {NAMES}}}))\nos._exit(0)",
    "beside its own": f"send(done({NAMES}))",
    "from a fork": f"if os.fork() == 0:\n    send(done({NAMES}))\n    os._exit(0)\ntime.sleep(0.5)",
    "from a fork that outlives it": f"if os.fork() == 0:\n    send(done({NAMES}))\n    time.sleep(9)\ntime.sleep(0.5)\n"
    "os._exit(0)",
    "by C": f"import ctypes\nl = ctypes.CDLL(None)\nb = done({NAMES})\n[l.write(n, b, len(b)) for n in range(64)]\n"
    "os._exit(0)",
    "a class with __setstate__": "send(done({'$': 'object', 'module': 'tests.values.test_typed_json', "
    "'name': 'Reduced', 'of': {}}))\nos._exit(0)",
    "a pickle": "send(done({'$': 'pickle', 'of': 'gASVHwAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOU'}))\nos._exit(0)",
    "other outputs": "send(done(1, {'out': 1, 'more': 2}))\nos._exit(0)",
    "more than is asked": "send(done(1, printed='x'))\nos._exit(0)",
    "that it was not begun": "send(json.dumps(dict(how='refused', text='no walls', peak=1)).encode())\nos._exit(0)",
    "that it is stopped": "send(json.dumps(dict(how='stopped', text='', peak=1)).encode())\nos._exit(0)",
    "another measure": "send(json.dumps(dict(how='memory', text='', peak=-5)).encode())\nos._exit(0)",
    "an error at no line": "send(json.dumps(dict(how='raised', kind='E', module='m', message='', line=0, trace='',"
    "peak=1)).encode())\nos._exit(0)",
    "words": "send(b'done')\nos._exit(0)",
    "without an end": "send(b'[' * 2_000_000)\nos._exit(0)",
    "very deep": "deep = 1\nfor _ in range(900): deep = [deep]\nsend(done(deep))\nos._exit(0)",
    "a queue of queues": "send(done([{'$': 'deque', 'of': []}] * 80_000))\nos._exit(0)",
    "a year of work": "send(done({'$': 'set', 'of': [n * (2**61 - 1) for n in range(300_000)]}))\nos._exit(0)",
}


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.chdir(tmp_path)
    with agentkit.session("test", folder=tmp_path) as opened:
        yield opened


def run(source: str, **options: Any) -> Any:
    options = {"tier": "process", "outputs": ["out"], "limits": "time=60s", **options}
    return asyncio.run(agentkit.sandbox(SEND + source, **options))


@pytest.mark.parametrize("source", PROGRAMS.values(), ids=PROGRAMS)
def test_a_forged_reply_is_an_error_of_the_program_and_nothing_is_made_of_it(source: str, session: Session) -> None:
    modules, began = set(sys.modules), time.monotonic()
    with pytest.raises(
        SandboxError, match=r"^code: the program forged its reply, and nothing of it was made: (out: )?it"
    ) as e:
        run("out = 1\n" + source)
    assert len(str(e.value)) < 800
    assert time.monotonic() - began < 20
    assert not {"posix", "tests.values.test_typed_json"} & (set(sys.modules) - modules)
    assert not Path("ran").exists()
    steps = [event for event in session.trace(session.runs()[0].id) if isinstance(event, Step)]
    [program] = [step for step in steps if step.name == "program"]
    assert "forged" in (program.error or ""), "it is recorded as the program's error, not as an answer"


def test_a_reply_of_little_text_and_many_values_is_too_large(session: Session) -> None:
    # 60 MB of "[],": 20 million lists of 56 bytes.
    with pytest.raises(SandboxError, match="limit: more leaves it than can be handed over"):
        run("out = 1\nbody = done([]).replace(b'[]', b'[' + b'[],' * 20_000_000 + b'[]]', 1)\nsend(body)\nos._exit(0)",
            limits="memory=2GB,time=60s")  # fmt: skip


def test_the_way_from_the_keeper_to_the_kernel_is_not_the_program_s(tmp_path: Path) -> None:
    """Without walls too, where both are processes of one user: what the keeper holds open is not to be opened."""
    source = """
import os
held = []
for name in ("fd/1", "mem", "environ"):
    try:
        open(f"/proc/{os.getppid()}/{name}", "wb" if name == "fd/1" else "rb").close()
        held.append(name)
    except PermissionError:
        pass
held
"""
    job = {"kind": "cell", "source": source, "file": "c", "inputs": {}, "outputs": []}
    program = f"""
from agentkit.sandbox.process.parent import Child
from agentkit.sandbox.process.resources import Box
print(Child({job!r}, Box(seconds=20)).wait())
"""
    script = tmp_path / "program.py"
    script.write_text(program)
    done = subprocess.run(
        # Root may look everywhere; so not even root's children are given its rights here.
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "'value': []" in done.stdout, done


# ---- what may come back


def test_what_went_in_comes_back(session: Session) -> None:
    given = FunctionProfile("1", 0.5, 0.5, 0.5, 0.5, "f.py", 3)
    source = "import dataclasses\nout = [dataclasses.replace(given, line_number=7)]\n"
    assert run(source, inputs={"given": given}).outputs["out"] == [dataclasses.replace(given, line_number=7)]


PROFILE = """
from pstats import FunctionProfile, StatsProfile
out = StatsProfile(1.5, {"f": FunctionProfile("1", 0.5, 0.5, 0.5, 0.5, "f.py", 3)})
"""


def test_what_did_not_go_in_is_declared(session: Session) -> None:
    with pytest.raises(SandboxError, match=r"names 'pstats.StatsProfile', which neither went in nor was"):
        run(PROFILE)
    # What its fields are declared to hold comes with it.
    out = run(PROFILE, outputs={"out": StatsProfile}).outputs["out"]
    assert type(out) is StatsProfile and type(out.func_profiles["f"]) is FunctionProfile
    with pytest.raises(UserError, match="a class for each is of tier='process'"):
        run("out = 1", outputs={"out": StatsProfile}, tier="monty")


def test_a_recorded_answer_is_read_by_the_same_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with agentkit.session("test", folder=tmp_path):
        first = run(PROFILE, outputs={"out": StatsProfile})
    monkeypatch.setattr("subprocess.Popen", None)
    with agentkit.session("test", folder=tmp_path):
        assert run(PROFILE, outputs={"out": StatsProfile}).outputs == first.outputs
    with (
        agentkit.session("test", folder=tmp_path),
        pytest.raises(UserError, match=r"it names 'pstats.StatsProfile', which neither went in"),
    ):
        run(PROFILE)


def test_a_record_that_nobody_here_wrote_makes_nothing() -> None:
    with pytest.raises(UserError, match=r"it names 'posix.system', which neither went in"):
        from_record({"$": "tuple", "v": [{"$": "parcel", "v": ast.literal_eval(NAMES)}]})
    for false in ({"$": "frame", "v": ["rows", []]}, {"$": "Decimal", "v": []}, {"$": "set", "v": [[]]}):
        with pytest.raises(UserError, match="the record holds what is no value"):
            from_record(false)
