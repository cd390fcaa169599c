"""The driver: one program in one throw-away process, whose errors have a place and a kind, and whose limits hold."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import time
from typing import Any

import pytest

from agentkit.errors import SandboxError, UserError
from agentkit.sandbox.limits import Limits
from agentkit.sandbox.monty import worker_pool
from agentkit.sandbox.monty.analysis import find_awaits, statements
from agentkit.sandbox.monty.driver import CallFailed, Clock, HostCall, Program, ProgramEnd, Stop, run

WORLD = Clock(now=datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC), seed=7)


class Host:
    """What a program may call, and what it has called."""

    def __init__(self) -> None:
        self.calls: list[HostCall] = []
        self.printed = ""
        self.running = self.most = 0

    async def call(self, call: HostCall) -> Any:
        self.calls.append(call)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0.01)
            match call.name:
                case "fail":
                    raise CallFailed("ConnectionError", "the line is dead")
                case "stop":
                    raise KeyboardInterrupt
                case _:
                    return [call.name, *call.args, dict(call.kwargs)]
        finally:
            self.running -= 1

    def hear(self, text: str) -> None:
        self.printed += text

    def run(self, source: str, *, limits: Limits | None = None, pause: Any = None, **more: Any) -> ProgramEnd:
        program = Program(source=source, functions=frozenset({"look", "fail", "stop"}), **more)
        return asyncio.run(run(program, world=WORLD, call=self.call, limits=limits, printed=self.hear, pause=pause))


def failed(source: str, **more: Any) -> SandboxError:
    with pytest.raises(SandboxError) as raised:
        Host().run(source, **more)
    return raised.value


def test_values_calls_and_prints() -> None:
    host = Host()
    ended = host.run("x = look(a, b=2)\nprint('x', x)\ny = x[1]\ny + 1", inputs={"a": 1}, outputs=("x", "y"))
    assert ended == ProgramEnd(value=2, outputs={"x": ["look", 1, {"b": 2}], "y": 1}, calls=1)
    assert host.printed == "x ['look', 1, {'b': 2}]\n"
    (call,) = host.calls
    assert (call.line, call.text, call.number) == (1, "look(a, b=2)", 0)


def test_clock_and_chance_stand_still() -> None:
    source = "import datetime, random, time\n(datetime.datetime.now(), time.time(), random.random(), time.sleep(9))"
    one, other = Host().run(source), Host().run(source)
    assert one == other and one.value[0] == datetime.datetime(2026, 1, 2, 3, 4)


def test_calls_that_are_awaited_are_made_together_and_others_at_once() -> None:
    host = Host()
    ended = host.run("import asyncio\nlate = [look(n) for n in range(3)]\nr = await asyncio.gather(*late, look(9))\nr")
    assert [one[1] for one in ended.value] == [0, 1, 2, 9] and host.most == 4
    host = Host()
    assert host.run("x = await look(1)\ny = look(x)\ny[1][1]").value == 1 and host.most == 1


def test_which_calls_are_awaited() -> None:
    source = "é = f(1)\nawait g(2)\nt = h(3)\nawait t\n"
    encoded = source.encode()
    assert {encoded[start:end].decode() for start, end in find_awaits(source)} == {"g(2)", "h(3)"}
    assert find_awaits("x = (") == frozenset()


@pytest.mark.parametrize(
    ("source", "fault", "place", "said"),
    [
        ("x = 1\ny = x['a']", "code", (2, 5, 6), "TypeError"),
        ("def f():\n    return 1 / 0\nf()", "code", (2, 12, 5), "ZeroDivisionError: division by zero"),
        ("é = 1; nope", "code", (1, 8, 4), "NameError: name 'nope' is not defined"),
        ("x = 1\nfail(x)", "tool", (2, 1, 7), "ConnectionError: the line is dead"),
        ("x = (1 +", "dialect", (1, 5, 1), "never closed"),
        ("def f():\n    yield 1", "dialect", (2, 5, 7), ""),
        ("raise TimeoutError('feed time limit exceeded: 1s > 1s')", "code", (1, 7, 49), "TimeoutError"),
        ("raise MemoryError('memory limit exceeded: 1 bytes > 1 bytes')", "code", (1, 7, 55), "MemoryError"),
    ],
)
def test_an_error_has_its_kind_and_its_place(source: str, fault: str, place: tuple[int, int, int], said: str) -> None:
    error = failed(source)
    assert (error.fault, (error.line, error.column, error.width)) == (fault, place) and said in error.message


@pytest.mark.parametrize(
    ("source", "limits", "said"),
    [
        (
            "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
            Limits(time=0.3),
            "0.3 s of computing",
        ),
        ("try:\n  'a' * 10 ** 9\nexcept BaseException: pass", Limits(memory=20 << 20), "20MB of memory"),
        ("while True:\n  try: look(1)\n  except BaseException: pass", Limits(calls=3), "more than 3 host calls"),
        (
            "while True:\n  try: print('x' * 999)\n  except BaseException: pass",
            Limits(printed=5000),
            "5,000 bytes printed",
        ),
        ("x = 1\n" * 99, Limits(source=100), "the program is 594 bytes long, more than 100"),
        ("x = 7\nwhile True: x = x * x", Limits(time=0.3), "0.3 s of computing"),
    ],
)
def test_limits_cannot_be_caught(source: str, limits: Limits, said: str) -> None:
    error = failed(source, limits=limits)
    assert error.fault == "limit" and said in error.message


def test_a_failed_call_can_be_handled_and_what_ends_a_run_cannot() -> None:
    assert Host().run("try: fail()\nexcept Exception as e: x = str(e)\nx").value == "ConnectionError: the line is dead"
    with pytest.raises(KeyboardInterrupt):
        Host().run("try: stop()\nexcept BaseException: pass\n'went on'")


def test_the_program_never_assigned_what_is_asked_for() -> None:
    assert "never assigned b" in failed("a = 1", outputs=("a", "b")).message


def test_a_function_does_not_leave_as_a_text() -> None:
    assert Host().run("a = '<b>'", outputs=("a",)).outputs == {"a": "<b>"}
    assert "f is code, which cannot leave" in failed("a = 1\nf = lambda: 1", outputs=("a", "f")).message


@pytest.mark.parametrize("last", ["x", "look(x)", "1"])
def test_what_is_nested_too_deeply_does_not_leave(last: str) -> None:
    assert "nested too deeply" in failed(f"x = []\nfor _ in range(900): x = [x]\n{last}", outputs=("x",)).message


def test_stopping_kills_the_process_at_once() -> None:
    async def stopped() -> float:
        program = Program(source="while True: pass")
        task = asyncio.create_task(run(program, world=WORLD, call=Host().call, limits=Limits(time=60)))
        await asyncio.sleep(0.3)
        begun = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while _busy():
            await asyncio.sleep(0.01)
        return time.monotonic() - begun

    assert asyncio.run(stopped()) < 1.0


def test_a_crash_is_told_and_the_next_program_runs() -> None:
    host = Host()

    async def crashed() -> ProgramEnd:
        async def kill(call: HostCall) -> Any:
            for pid in _busy(idle=True):
                os.kill(pid, signal.SIGKILL)
            return 1

        return await run(Program(source="look()", functions=frozenset({"look"})), world=WORLD, call=kill)

    with pytest.raises(SandboxError) as raised:
        asyncio.run(crashed())
    assert raised.value.fault == "crash" and host.run("1 + 1").value == 2


def test_the_event_loop_is_never_held_up() -> None:
    async def ticks() -> float:
        longest, last, until = 0.0, time.monotonic(), time.monotonic() + 0.6
        task = asyncio.create_task(
            run(Program(source="n = 0\nwhile n < 3_000_000: n += 1"), world=WORLD, call=Host().call)
        )
        while time.monotonic() < until:
            await asyncio.sleep(0.005)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        await task
        return longest

    assert asyncio.run(ticks()) < 0.25


def test_many_at_once() -> None:
    async def together() -> list[ProgramEnd]:
        programs = [Program(source=f"look({n})[1] * 2", functions=frozenset({"look"})) for n in range(12)]
        return await asyncio.gather(*(run(program, world=WORLD, call=Host().call) for program in programs))

    assert [ended.value for ended in asyncio.run(together())] == [n * 2 for n in range(12)]


def test_statement_by_statement() -> None:
    seen: list[tuple[int, dict[str, str]]] = []

    async def pause(stop: Stop) -> None:
        seen.append((stop.statement.line, dict(stop.changed)))

    ended = Host().run(
        "x = [a]\n\nx.append(2); y = 1\ndef f():\n    return look(3)\nf()[1]", inputs={"a": 1}, pause=pause
    )
    assert ended.value == 3
    assert seen == [(1, {}), (3, {"x": "[1]"}), (4, {"x": "[1, 2]", "y": "1"}), (6, {})]
    assert [one.text for one in statements("@d\ndef f(): pass\nx = 1")] == ["@d\ndef f(): pass", "x = 1"]


def test_limits_are_read() -> None:
    assert Limits.parse("memory=64MB, time=500ms,calls=3") == Limits(memory=64 << 20, time=0.5, calls=3)
    for text in ("memory=0", "memory=256", "time=2h", "calls=-1", "speed=9", "memory", "time=0s"):
        with pytest.raises(UserError, match=r"^limits"):
            Limits.parse(text)


def _busy(*, idle: bool = False) -> list[int]:
    """The living sandbox processes of this one; those that compute, unless `idle` ones are wanted too."""
    found = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                children = file.read().split()
        except FileNotFoundError:
            # A thread that has ended meanwhile.
            continue
        for child in children:
            with open(f"/proc/{child}/stat") as file:
                name, _, rest = file.read().rpartition(")")
            if "monty" in name and rest.split()[0] in ("RSD" if idle else "R"):
                found.append(int(child))
    return found


def test_without_a_shell_the_sandbox_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(worker_pool, "_SHELL", str(tmp_path / "sh"))
    monkeypatch.setattr(worker_pool, "_pools", {})
    with pytest.raises(SandboxError, match=f"by {tmp_path}/sh, and there is none here"):
        Host().run("1 + 1")
