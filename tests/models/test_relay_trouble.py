"""Calls through the caller where something is in the way: a cut, a full disk, a fork, a Stop, a folder that is gone."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic_ai.exceptions import ModelHTTPError

import agentkit
from agentkit.agent.ask import ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.errors import JournalError
from agentkit.models.relay.client import NOTE
from agentkit.models.transport.http_client import ATTEMPTS
from agentkit.models.transport.provider_health import Health, Rules
from agentkit.models.transport.throttle import Throttle
from agentkit.runtime import server_limits
from agentkit.runtime.session import Session, session
from tests.callers import callers, gone
from tests.models.outliving import again, answer, begun, killed, pid_of, pointer
from tests.serving import Fault, Packing, Serving, serving
from tests.wire import Answer


async def streamed(server: Serving, prompt: str = "hello") -> str:
    agent = build(Spec(instructions="Answer."), name="one", model=server.model())
    return str((await ask(agent, prompt, on_text=lambda text: None)).output)


# -- what it must not write


def test_a_key_that_is_set_later_is_not_written_by_it_either(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "a-key-that-came-late"

    async def stopped(opened: Session, server: Serving) -> None:
        server.delay = 0.5
        before = len(server.ledger())
        run = asyncio.create_task(streamed(server, "what is your key?"))
        while len(server.ledger()) == before:
            await asyncio.sleep(0.01)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        await asyncio.sleep(1.0)

    with serving(plan=lambda asking: Answer(text=f"It is {key}.")) as server, session("a", folder=folder) as opened:
        asyncio.run(answer(opened, server))
        monkeypatch.setenv("LATE_API_KEY", key)
        asyncio.run(stopped(opened, server))
        files = [file.read_bytes() for file in (folder / ".agentkit" / "inbox").iterdir()]
        assert len(server.ledger()) == 2
        assert not any(key.encode() in content for content in files)
        # It keeps the answer for the next run, in its memory.
        opened.start_cell()
        assert asyncio.run(streamed(server, "what is your key?")) == f"It is {key}."
        assert len(server.ledger()) == 2


# -- what the server does


def test_a_streamed_answer_that_is_cut_is_an_error_and_asked_again_by_the_next_run(folder: Path) -> None:
    with serving() as server:
        server.script(Fault(cut="middle"))
        with session("a", folder=folder) as opened:
            with pytest.raises(Exception, match=r"(?i)connection|peer closed|incomplete"):
                asyncio.run(streamed(server))
            assert opened.calling.ask("status") is not None
        assert list((folder / ".agentkit" / "inbox").glob("*")) == []
        with session("a", folder=folder) as opened:
            assert asyncio.run(streamed(server)) == "You said: hello"
            assert len(opened.store.double_payments()) == 1
        assert len(server.ledger()) == 2


@pytest.fixture
def patience(tmp_path: Path) -> Iterator[None]:
    """A server may fail as often as it likes, and is asked again."""
    health = Health(tmp_path / "providers.db", rules=Rules(failures=10_000))
    server_limits.use(server_limits.ServerLimiter(throttle=Throttle(), health=health))
    yield
    server_limits.use(None)


COMPLAINTS = (400, 401, 403, 404, 408, 409, 413, 422, 425, 429, 451, 500, 501, 502, 503, 504, 529, 599)


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "packed",
    [(), ("gzip",), ("chunked",), ("chunked", "gzip"), ("events",), ("events", "chunked", "gzip")],
    ids=lambda packed: "+".join(packed) or "plain",
)
def test_what_a_server_complains_of_is_said_as_without_the_caller(
    folder: Path, packed: tuple[Packing, ...], streams: bool, patience: None
) -> None:
    """Also after the last attempt, which has closed the response before anybody could read it."""

    async def complaints(opened: Session, server: Serving) -> list[tuple[object, ...]]:
        agent = build(Spec(instructions="Answer."), name="one", model=server.model())
        heard: list[tuple[object, ...]] = []
        for status in COMPLAINTS:
            fault = Fault(match=f"case {status}.", status=status, packed=packed, headers={"retry-after-ms": "1"})
            server.script(*[fault] * ATTEMPTS)
            with pytest.raises(ModelHTTPError) as error:
                await ask(agent, f"case {status}.", on_text=(lambda text: None) if streams else None)
            heard.append((type(error.value), error.value.status_code, error.value.body))
            server.reset()
        return heard

    said = []
    with serving() as server:
        for turn in ("on", "off"):
            with session(turn, folder=folder / turn) as opened:
                if turn == "off":
                    opened.calling.turn_off()
                said.append(asyncio.run(complaints(opened, server)))
    assert said[0] == said[1]
    assert [status for _, status, _ in said[0]] == list(COMPLAINTS)
    assert all(f"scripted {status}" in str(body) for _, status, body in said[0])


def test_a_server_that_asks_to_wait_is_waited_for(folder: Path) -> None:
    with serving() as server:
        server.script(Fault(status=429, headers={"retry-after": "1"}))
        assert again(server, folder) == ("You said: hello", False)
        first, second = server.ledger()
        assert (first.status, second.status) == (429, 200)
        assert second.received - first.received >= 1.0


def test_a_streamed_answer_of_ten_megabytes(folder: Path) -> None:
    with serving() as server, session("a", folder=folder):
        assert asyncio.run(streamed(server, "fill 10000000")) == "x" * 10_000_000
        assert [entry.stream for entry in server.ledger()] == [True]


def test_an_answer_that_cannot_be_decoded_is_an_error_as_without_the_caller(folder: Path) -> None:
    said = []
    with serving() as server:
        for turn in ("on", "off"):
            server.script(Fault(headers={"content-encoding": "gzip"}))
            with session(turn, folder=folder / turn) as opened:
                if turn == "off":
                    opened.calling.turn_off()
                with pytest.raises(Exception) as error:  # noqa: PT011 - which one is what is compared
                    asyncio.run(asyncio.wait_for(answer(opened, server), 20))
                said.append((type(error.value), str(error.value)))
        assert said[0] == said[1]
        assert len(server.ledger()) == 2


def test_the_proxy_of_the_kernels_environment_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server, session("a", folder=folder) as opened:
        # It cannot be reached in any other way, and the caller itself has inherited nothing of it.
        monkeypatch.setenv("http_proxy", server.root)
        agent = build(Spec(instructions="Answer."), name="one", model="http://model.invalid/v1#small")
        assert str(asyncio.run(ask(agent, "hello")).output) == "You said: hello"
        state = opened.calling.ask("status")
        assert state is not None and state["calls"] == 1
        assert b"http_proxy" not in Path(f"/proc/{pid_of(folder)}/environ").read_bytes()


# -- what the disk does


def test_where_its_disk_is_full_the_answers_are_still_handed_on(folder: Path) -> None:
    with serving() as server, session("a", folder=folder) as opened:
        assert asyncio.run(streamed(server, "first")) == "You said: first"
        resource.prlimit(pid_of(folder), resource.RLIMIT_FSIZE, (10, 10))
        assert asyncio.run(answer(opened, server)) == "You said: hello"
        assert asyncio.run(streamed(server, "another")) == "You said: another"
        state = opened.calling.ask("status")
        assert state is not None and state["calls"] == 3
        assert opened.remarks == []
        assert len(server.ledger()) == 3


def test_a_project_that_is_removed_under_a_dead_kernels_call_is_not_written_back(folder: Path) -> None:
    place = folder / "project"
    place.mkdir()
    with serving() as server:
        server.script(Fault(delay=30))
        killed(begun(server, place))
        assert list(callers(under=place))
        shutil.rmtree(place)
        assert gone(under=place, within=6) == {}, "it waits for an answer that no run can ever ask for"
        assert not place.exists()


def test_a_project_that_is_removed_under_a_call_is_said_and_not_written_back(folder: Path) -> None:
    place = folder / "project"
    place.mkdir()

    async def work(opened: Session) -> None:
        run = asyncio.create_task(answer(opened, server))
        while not server.ledger():
            await asyncio.sleep(0.01)
        shutil.rmtree(place)
        with pytest.raises(JournalError):
            await run

    with serving(delay=0.5) as server:
        with session("a", folder=place) as opened:
            asyncio.run(work(opened))
            assert gone(under=place, within=6) == {}
        assert not place.exists()


def test_a_project_that_is_removed_and_made_anew_keeps_its_new_caller(folder: Path) -> None:
    with serving() as server:
        with session("a", folder=folder) as opened:
            asyncio.run(answer(opened, server))
            first = pid_of(folder)
            shutil.rmtree(folder / ".agentkit")
        with session("b", folder=folder) as opened:
            asyncio.run(answer(opened, server))
            second = pid_of(folder)
            assert second != first
            while first in callers(under=folder):
                time.sleep(0.05)
            assert pid_of(folder) == second
            state = opened.calling.ask("status")
            assert state is not None and state["pid"] == second


# -- what the kernel does


def test_what_was_asked_again_by_a_kernel_that_died_since_is_listed_by_the_one_that_gets_it(folder: Path) -> None:
    """The caller is killed under the call, which is made again through another; then the kernel is killed."""
    with serving(delay=2.0) as server:
        child = begun(server, folder)
        os.kill(pid_of(folder), signal.SIGKILL)
        while len(server.ledger()) < 2:
            time.sleep(0.01)
        killed(child)
        assert again(server, folder) == ("You said: hello", True)
        assert len(server.ledger()) == 2, "what was under way was asked a third time"
        assert list((folder / ".agentkit" / "inbox").iterdir()) == []


def test_one_whose_starter_has_died_ends_and_leaves_nothing(folder: Path) -> None:
    (folder / ".agentkit").mkdir(mode=0o700)
    command = [sys.executable, "-P", "-m", "agentkit.models.relay.server", str(folder / ".agentkit")]
    environment = {**os.environ, "PYTHONPATH": str(Path(agentkit.__file__).parents[1])}
    starting = subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/", env=environment)
    assert starting.stdout is not None
    starting.stdout.close()
    starting.wait()
    known = None
    while known is None:
        known = pointer(folder)
    assert gone(under=folder, within=6) == {}
    assert not Path(known["address"]).exists() and pointer(folder) is None


def test_one_that_is_killed_under_many_calls_has_died_once(folder: Path) -> None:
    async def work(opened: Session) -> list[str]:
        agent = build(Spec(instructions="Answer."), name="one", model=server.model())
        runs = [asyncio.create_task(agent.run(f"hello {n}")) for n in range(4)]
        while len(server.ledger()) < 4:
            await asyncio.sleep(0.01)
        os.kill(pid_of(folder), signal.SIGKILL)
        return [str((await run).output) for run in runs]

    with serving(delay=0.5) as server, session("a", folder=folder) as opened:
        assert asyncio.run(work(opened)) == [f"You said: hello {n}" for n in range(4)]
        assert opened.remarks == [NOTE] and opened.calling.off is None
        state = opened.calling.ask("status")
        assert state is not None and state["calls"] == 4, "they were not made again through another"
        assert len(opened.store.double_payments()) == 4 and len(server.ledger()) == 8


def test_a_stop_while_it_starts_leaves_one_that_works(folder: Path) -> None:
    async def stopped(opened: Session) -> None:
        run = asyncio.create_task(answer(opened, server))
        while not callers(under=folder):
            await asyncio.sleep(0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert server.ledger() == []
        opened.start_cell()
        assert await answer(opened, server) == "You said: hello"

    with serving() as server, session("a", folder=folder) as opened:
        asyncio.run(stopped(opened))
        assert list(callers(under=folder)) == [pid_of(folder)]
        assert len(server.ledger()) == 1 and opened.remarks == []


def test_the_next_caller_removes_the_socket_of_one_that_was_killed(folder: Path) -> None:
    with serving() as server, session("a", folder=folder) as opened:
        asyncio.run(answer(opened, server))
        known = pointer(folder)
        assert known is not None
        os.kill(known["pid"], signal.SIGKILL)
        assert Path(known["address"]).exists()
        opened.start_cell()
        asyncio.run(ask(build(Spec(instructions="Answer."), name="x", model=server.model()), "again"))
        assert not Path(known["address"]).exists() and pid_of(folder) != known["pid"]


def test_what_a_foreign_project_names_as_a_socket_is_not_removed(folder: Path) -> None:
    mine = folder / "mine.sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(mine))
    (folder / ".agentkit").mkdir(mode=0o700)
    (folder / ".agentkit" / "caller").write_text(json.dumps({"pid": 1, "address": str(mine)}))
    with serving() as server:
        assert again(server, folder) == ("You said: hello", False)
    assert mine.exists()


@contextmanager
def forked(work: Callable[[], str]) -> Iterator[str]:
    """What `work` said in a child of this process, which goes on living and holds what it inherited."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            said = work()
        finally:
            os.write(writes, said.encode())
            time.sleep(60)
            os._exit(0)
    try:
        yield os.read(reads, 1000).decode()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reads)
        os.close(writes)


def test_a_forked_child_does_not_hold_its_parents_caller(folder: Path) -> None:
    with serving() as server, session("a", folder=folder) as opened:
        asyncio.run(answer(opened, server))
        with forked(lambda: "there"):
            opened.calling.release()
            assert gone(under=folder, within=6) == {}


def test_a_forked_child_that_calls_is_a_kernel_of_its_own(folder: Path) -> None:
    def work() -> str:
        opened.start_cell()
        agent = build(Spec(instructions="Answer."), name="child", model=server.model())
        output = str(asyncio.run(ask(agent, "from the child")).output)
        state = opened.calling.ask("status")
        return f"{output}|{state and (state['calls'], state['kernels'])}"

    with serving() as server, session("a", folder=folder) as opened:
        asyncio.run(answer(opened, server))
        with forked(work) as said:
            assert said == "You said: from the child|(2, 2)"
        state = opened.calling.ask("status")
        assert state is not None and state["kernels"] == 1
