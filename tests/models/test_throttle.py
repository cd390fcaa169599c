"""Turns at a server that enforces its limits, and servers that fail: nobody is sent away for what we did ourselves."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic_ai.exceptions import ModelConnectionError

import agentkit
from agentkit.agent.spec import Spec
from agentkit.errors import CircuitOpen, UserError
from agentkit.events import Step
from agentkit.models.transport.provider_health import Health, ProviderOpen, Rules
from agentkit.models.transport.throttle import Busy, RateLimits, Throttle, parse_limits, parse_retry_after, span
from agentkit.runtime import server_limits
from agentkit.runtime.server_limits import ServerLimiter
from tests.serving import Fault, Quota, Serving, serving

pytestmark = pytest.mark.usefixtures("either_way")

MINUTE = 1.0
"""What a minute is here, in seconds."""


@pytest.fixture
def turns(tmp_path: Path) -> Iterator[ServerLimiter]:
    throttle = Throttle(period=MINUTE, waiting=server_limits.show_wait)
    here = ServerLimiter(throttle=throttle, health=Health(tmp_path / "providers.db", rules=Rules(open_for=0.5)))
    server_limits.use(here)
    yield here
    server_limits.use(None)


def statuses(server: Serving) -> dict[int, int]:
    found = [entry.status for entry in server.ledger()]
    return {status: found.count(status) for status in found}


def gather(folder: Path, server: Serving, runs: int, *, words: int = 1000, seen: list[Step] | None = None) -> float:
    """`runs` runs at once, each of about 1.5 tokens a word; the seconds they took."""
    agent = agentkit.build(Spec.parse("You answer."), name="many", model=server.model())

    async def all_of_them() -> None:
        await asyncio.gather(*(agent.run(f"number {number} {'word ' * words}") for number in range(runs)))

    with agentkit.session(folder=folder) as session:
        if seen is not None:
            session.listen(lambda event: seen.append(event) if isinstance(event, Step) else None)
        began = time.monotonic()
        asyncio.run(all_of_them())
        return time.monotonic() - began


def test_two_hundred_gathered_runs_cause_no_429(tmp_path: Path, turns: ServerLimiter) -> None:
    turns.throttle.give("small", RateLimits(tokens=60_000, period=MINUTE, given=True))
    seen: list[Step] = []
    with serving(quota=Quota(tokens=60_000, period=MINUTE)) as server:
        took = gather(tmp_path, server, 200, seen=seen)
        assert statuses(server) == {200: 200}
    # About 1,550 tokens each: more than five of these minutes' worth.
    assert took > 4 * MINUTE
    waiting = [step for step in seen if step.waiting]
    assert any("waits for small" in step.waiting and "(60,000 tpm)" in step.waiting for step in waiting)
    last = {step.ord: step for step in seen if step.run == waiting[0].run}
    assert all(not step.waiting for step in last.values())


def test_without_turns_the_server_refuses(tmp_path: Path) -> None:
    """What the test above would not notice: this server does refuse."""
    server_limits.use(None)
    with serving(quota=Quota(tokens=20_000, period=MINUTE, told=False)) as server:
        gather(tmp_path, server, 30)
        assert statuses(server)[429] > 0
    server_limits.use(None)


def test_the_limit_is_learnt_from_the_answers(tmp_path: Path, turns: ServerLimiter) -> None:
    with serving(quota=Quota(tokens=30_000, period=MINUTE)) as server:
        gather(tmp_path, server, 60)
        assert statuses(server) == {200: 60}
    (lane,) = turns.throttle.lanes().values()
    assert lane.limits.tokens == 30_000 and not lane.limits.given
    turns.throttle.give("another", RateLimits(tokens=1, given=True))
    assert lane.limits.tokens == 30_000
    turns.throttle.give("small", RateLimits(tokens=7, given=True))
    assert lane.limits.tokens == 7


def test_after_a_429_everybody_waits_as_long_as_it_says(tmp_path: Path, turns: ServerLimiter) -> None:
    with serving() as server:
        server.script(Fault(status=429, headers={"retry-after": "1"}))
        agent = agentkit.build(Spec.parse("You answer."), name="many", model=server.model())

        async def scene() -> None:
            first = asyncio.create_task(agent.run("the first"))
            while not any(lane.blocked_until for lane in turns.throttle.lanes().values()):
                await asyncio.sleep(0.01)
            await asyncio.gather(first, *(agent.run(f"number {number}") for number in range(6)))

        with agentkit.session(folder=tmp_path):
            asyncio.run(scene())
        refused, *later = server.ledger()
        assert statuses(server) == {429: 1, 200: 7}
        assert all(entry.received - refused.received > 0.9 for entry in later)


def test_first_come_first_served() -> None:
    throttle = Throttle(period=0.1)
    throttle.give("m", RateLimits(tokens=100, period=0.1, given=True))
    order: list[int] = []

    async def one(number: int) -> None:
        passed = await throttle.enter("m @ here", 60)
        order.append(number)
        passed.record_answer(200, {})

    async def all_of_them() -> None:
        await asyncio.gather(*(one(number) for number in range(8)))

    asyncio.run(all_of_them())
    assert order == list(range(8))


def test_who_is_stopped_while_waiting_holds_nobody_up() -> None:
    throttle = Throttle(period=0.2)
    throttle.give("m", RateLimits(tokens=100, period=0.2, given=True))

    async def scene() -> float:
        (await throttle.enter("m @ here", 100)).record_answer(200, {})
        stopped = asyncio.create_task(throttle.enter("m @ here", 100))
        after = asyncio.create_task(throttle.enter("m @ here", 100))
        await asyncio.sleep(0.05)
        stopped.cancel()
        began = time.monotonic()
        (await after).give_up()
        return time.monotonic() - began

    assert asyncio.run(scene()) < 1


def test_what_servers_say() -> None:
    assert parse_retry_after({"retry-after": "7"}) == 7
    assert parse_retry_after({"retry-after-ms": "250"}) == 0.25
    assert parse_retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert parse_retry_after({}) is None
    assert (span("6m0s"), span("20ms"), span("soon")) == (360, 0.02, None)
    found = parse_limits("60k tpm, 500 rpm")
    assert (found.tokens, found.requests, str(found)) == (60_000, 500, "60,000 tpm, 500 rpm")


@pytest.mark.parametrize("text", ["", "60k", "-5 tpm", "0 tpm", "many tpm"])
def test_limits_that_cannot_be_read_are_one_line(text: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_limits(text)
    assert "60k tpm, 500 rpm" in str(refused.value) and "\n" not in str(refused.value)


# ---- servers that fail


def ask(folder: Path, model: str, prompt: str = "hello") -> str:
    agent = agentkit.build(Spec.parse("You answer."), name="steady", model=model)
    with agentkit.session(folder=folder):
        return str(asyncio.run(agentkit.ask(agent, prompt)).output)


NO = Fault(status=503, headers={"x-should-retry": "false"})


def fail(folder: Path, server: Serving, times: int) -> None:
    server.script(*[NO] * times)
    for number in range(times):
        with pytest.raises(Exception, match="503"):
            ask(folder, server.model("a"), prompt=f"try {number}")


def test_a_server_that_keeps_failing_is_left_alone_and_probed_once(tmp_path: Path, turns: ServerLimiter) -> None:
    with serving() as server:
        fail(tmp_path, server, 5)
        with pytest.raises(CircuitOpen, match=r"keeps failing .5 failures within 60 s, the last: 503"):
            ask(tmp_path, server.model("a"), "refused")
        assert len(server.ledger()) == 5
        time.sleep(0.6)
        assert ask(tmp_path, server.model("a"), "probe") == "You said: probe"
        assert turns.health.states() == {}
    with agentkit.session(folder=tmp_path) as session:
        noted = [note for run in session.runs() for note in run.notes]
    assert any("provider closed → open: a @ 127.0.0.1" in note for note in noted)
    assert any("half-open → closed" in note for note in noted)


def test_an_open_member_is_skipped(tmp_path: Path, turns: ServerLimiter) -> None:
    with serving() as server:
        fail(tmp_path, server, 5)
        assert ask(tmp_path, f"{server.model('a')} | {server.model('b')}") == "You said: hello"
        assert [entry.name for entry in server.ledger()[5:]] == ["b"]


def test_a_failed_probe_opens_for_twice_as_long(tmp_path: Path) -> None:
    now = [1000.0]
    health = Health(tmp_path / "p.db", clock=lambda: now[0])
    for _ in range(5):
        health.record_failure("m", health.admit("m"), "503")
    with pytest.raises(ProviderOpen):
        health.admit("m")
    now[0] += 31
    probe = health.admit("m")
    with pytest.raises(ProviderOpen):
        health.admit("m")
    health.record_failure("m", probe, "503")
    now[0] += 31
    with pytest.raises(ProviderOpen):
        health.admit("m")
    now[0] += 30
    health.record_success("m", health.admit("m"))
    health.admit("m")
    assert health.states() == {}


def test_a_server_is_asked_again_after_the_clock_was_set_back(tmp_path: Path) -> None:
    now = [10_000.0]
    health = Health(tmp_path / "p.db", clock=lambda: now[0])
    for _ in range(5):
        health.record_failure("m", health.admit("m"), "503")
    with pytest.raises(ProviderOpen):
        health.admit("m")
    now[0] -= 3_600
    probe = health.admit("m")
    with pytest.raises(ProviderOpen):
        health.admit("m")
    now[0] -= 3_600
    health.admit("m")
    health.record_success("m", probe)


def test_the_probe_of_a_dead_kernel_is_taken_over(tmp_path: Path) -> None:
    now = [1000.0]
    health = Health(tmp_path / "p.db", clock=lambda: now[0])
    for _ in range(5):
        health.record_failure("m", health.admit("m"), "503")
    now[0] += 31
    health.admit("m")
    now[0] += 121
    health.admit("m")


PROBE = """
import sys
from pathlib import Path
from agentkit.models.transport.provider_health import Health, ProviderOpen
health = Health(Path(sys.argv[1]))
sys.stdin.readline()
try:
    health.admit("m")
    print("probe")
except ProviderOpen:
    print("refused")
"""


def test_of_several_kernels_exactly_one_probes(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    past = Health(path, clock=lambda: time.time() - 60)
    for _ in range(5):
        past.record_failure("m", past.admit("m"), "503")
    kernels = [
        subprocess.Popen(
            [sys.executable, "-c", PROBE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for kernel in kernels:
        assert kernel.stdin is not None
        kernel.stdin.write("\n")
        kernel.stdin.flush()
    said = sorted(kernel.communicate(timeout=30)[0].strip() for kernel in kernels)
    assert said == ["probe", "refused", "refused", "refused"]


def test_what_fails_together_is_one_failure(tmp_path: Path) -> None:
    now = [1000.0]
    health = Health(tmp_path / "p.db", clock=lambda: now[0])
    together = [health.admit("m") for _ in range(50)]
    for ticket in together:
        now[0] += 0.01
        health.record_failure("m", ticket, "reset")
    health.admit("m")


def test_a_success_in_between_forgets_the_failures(tmp_path: Path) -> None:
    health = Health(tmp_path / "p.db")
    for _ in range(3):
        for _ in range(4):
            health.record_failure("m", health.admit("m"), "503")
        health.record_success("m", health.admit("m"))
    health.admit("m")


def test_a_file_that_cannot_be_used_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    health = Health(tmp_path / "file" / "p.db")
    for _ in range(9):
        health.record_failure("m", health.admit("m"), "503")
    assert health.states() == {}


def test_a_file_that_breaks_meanwhile_stops_nobody(tmp_path: Path) -> None:
    health = Health(tmp_path / "p.db")
    ticket = health.admit("m")
    health.record_failure("m", ticket, "503")
    assert health._connection is not None
    health._connection.execute("DROP TABLE provider")
    assert health.record_failure("m", health.admit("m"), "503") == health.record_success("m", ticket) == ""


def test_a_server_of_this_machine_that_is_not_started_yet_is_no_failure(tmp_path: Path, turns: ServerLimiter) -> None:
    with serving() as server:
        gone = server.model("late")
    for _ in range(3):
        with pytest.raises(ModelConnectionError):
            ask(tmp_path, gone)
    assert turns.health.states() == {}


def test_a_long_pause_ends_those_who_wait_and_not_those_who_come_later() -> None:
    throttle = Throttle(period=60)
    throttle.give("m", RateLimits(requests=1, period=60, given=True))

    async def scene() -> None:
        first = await throttle.enter("m @ here", 1)
        waiting = [asyncio.create_task(throttle.enter("m @ here", 1)) for _ in range(3)]
        await asyncio.sleep(0.05)
        first.record_answer(429, {"retry-after": "3600"})
        for task in waiting:
            with pytest.raises(Busy, match="another 3600 s"):
                await asyncio.wait_for(task, 5)
        (await asyncio.wait_for(throttle.enter("m @ here", 1), 5)).give_up()

    asyncio.run(scene())
