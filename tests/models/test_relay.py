"""What a dead or stopped kernel had asked is answered by the caller and used by the next run."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentkit.agent.ask import ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.models.relay.client import NOTE
from agentkit.runtime.session import Session, session
from tests.models.outliving import CHILD, again, alive, answer, begun, killed, pid_of, pointer
from tests.serving import Fault, Serving, serving


@pytest.mark.parametrize("streamed", [False, True])
def test_a_call_of_a_killed_process_that_is_under_way_is_waited_for(folder: Path, streamed: bool) -> None:
    with serving(delay=2.5) as server:
        killed(begun(server, folder, streamed=streamed))
        child = [sys.executable, "-c", CHILD, server.model(), str(folder), "yes" if streamed else "no"]
        done = subprocess.run(child, capture_output=True, text=True, timeout=60)
        assert done.stdout.strip() == "You said: hello", done.stderr
        assert len(server.ledger()) == 1
        with session("a", folder=folder) as opened:
            assert opened.store.double_payments() == []


def test_a_call_of_a_killed_process_that_ended_since_is_read(folder: Path) -> None:
    with serving(delay=0.5) as server:
        killed(begun(server, folder))
        time.sleep(1.0)
        assert again(server, folder) == ("You said: hello", False)
        assert len(server.ledger()) == 1
        assert list((folder / ".agentkit" / "inbox").iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="shows what a process has loaded")
def test_a_caller_that_has_answered_has_not_loaded_what_only_the_kernel_needs(folder: Path) -> None:
    with serving() as server, session("a", folder=folder) as opened:
        assert asyncio.run(answer(opened, server)) == "You said: hello"
        loaded = Path(f"/proc/{pid_of(folder)}/maps").read_text()
        assert "/lib-dynload/" in loaded or "site-packages" in loaded
        assert "pydantic_core" not in loaded


def test_stop_during_a_call_keeps_the_answer(folder: Path) -> None:
    async def stopped(opened: Session, server: Serving) -> None:
        run = asyncio.create_task(answer(opened, server))
        while not server.ledger():
            await asyncio.sleep(0.01)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    with serving(delay=0.5) as server:
        with session("a", folder=folder) as opened:
            asyncio.run(stopped(opened, server))
        assert again(server, folder) == ("You said: hello", False)
        assert len(server.ledger()) == 1


def test_when_the_caller_is_killed_the_call_is_made_directly_and_said_and_listed(folder: Path) -> None:
    async def work(opened: Session, server: Serving) -> str:
        run = asyncio.create_task(answer(opened, server))
        while not server.ledger():
            await asyncio.sleep(0.01)
        os.kill(pid_of(folder), signal.SIGKILL)
        return await run

    with serving(delay=0.3) as server, session("a", folder=folder) as opened:
        assert asyncio.run(work(opened, server)) == "You said: hello"
        assert NOTE in opened.remarks
        assert len(opened.store.double_payments()) == 1
        assert len(server.ledger()) == 2


def test_one_that_is_stopped_under_a_call_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentkit.models.relay.http_transport._SILENT_SECONDS", 1.5)
    monkeypatch.setattr("agentkit.models.relay.client._ANSWER_SECONDS", 1.0)

    async def work(opened: Session, server: Serving) -> str:
        run = asyncio.create_task(answer(opened, server))
        await asyncio.sleep(4)
        assert not run.done() and opened.remarks == [], "one that only waits for a slow server was given up"
        os.kill(pid_of(folder), signal.SIGSTOP)
        try:
            return await asyncio.wait_for(run, 20)
        finally:
            os.kill(pid_of(folder), signal.SIGCONT)

    with serving() as server, session("a", folder=folder) as opened:
        server.script(Fault(delay=6.0))
        assert asyncio.run(work(opened, server)) == "You said: hello"
        assert NOTE in opened.remarks
        assert any("does not answer" in remark for remark in opened.remarks)
        assert len(opened.store.double_payments()) == 1
        assert len(server.ledger()) == 2


def test_both_killed_is_paid_again_and_listed(folder: Path) -> None:
    with serving(delay=0.5) as server:
        child = begun(server, folder)
        os.kill(pid_of(folder), signal.SIGKILL)
        killed(child)
        assert again(server, folder) == ("You said: hello", True)


def test_a_server_error_is_not_kept_and_is_tried_again(folder: Path) -> None:
    with serving() as server:
        server.script(Fault(status=503))
        assert again(server, folder) == ("You said: hello", False)
        assert [entry.status for entry in server.ledger()] == [503, 200]


def test_an_answer_that_is_cut_is_asked_again(folder: Path) -> None:
    with serving() as server:
        server.script(Fault(cut="middle"))
        output, _ = again(server, folder)
        assert output == "You said: hello"
        assert len(server.ledger()) == 2


def test_two_kernels_share_one_caller(folder: Path) -> None:
    with serving(delay=1.5) as server:
        one = begun(server, folder)
        first = pid_of(folder)
        with session("b", folder=folder) as opened:
            agent = build(Spec(instructions="Answer."), name="two", model=server.model())
            asyncio.run(ask(agent, "another"))
            state = opened.calling.ask("status")
            assert state is not None and state["calls"] == 2 and state["pid"] == first
        one.communicate(timeout=30)


def test_an_answer_of_ten_megabytes(folder: Path) -> None:
    from tests.wire import Answer

    text = "x" * 10_000_000
    with serving(plan=lambda asking: Answer(text=text)) as server, session("a", folder=folder) as opened:
        assert asyncio.run(answer(opened, server)) == text


def test_keys_are_in_no_file_and_on_no_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "very-secret-key-of-mine")
    with serving(delay=0.2) as server, session("a", folder=folder) as opened:
        keyed = server.model().replace("http://", "http://:very-secret-key-of-mine@")
        agent = build(Spec(instructions="Answer."), name="one", model=keyed)
        asyncio.run(ask(agent, "hello"))
        line = asyncio.run(opened.calling.line())
        assert line is not None
        pid = pid_of(folder)
        for seen in (Path(f"/proc/{pid}/cmdline"), Path(f"/proc/{pid}/environ")):
            assert b"very-secret-key" not in seen.read_bytes()
        files = [file.read_bytes() for file in (folder / ".agentkit").rglob("*") if file.is_file()]
        assert not any(b"very-secret-key" in content or line.token.encode() in content for content in files)
        assert stat.S_IMODE(os.stat(line.address).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(Path(line.address).parent).st_mode) == 0o700


def test_who_has_neither_token_nor_journal_is_sent_away(folder: Path) -> None:
    import socket

    from agentkit.models.relay.http_transport import frame

    with serving() as server, session("a", folder=folder) as opened:
        asyncio.run(answer(opened, server))
        line = asyncio.run(opened.calling.line())
        assert line is not None
        for order in (
            {"do": "status"},
            {"do": "status", "owner": f"{os.getpid()}-0000"},
            {"do": "status", "token": "x"},
        ):
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(line.address)
                stranger.sendall(frame(b"J", order))
                assert stranger.recv(1) == b""


@pytest.mark.parametrize("executable", ["/nowhere/python", "/bin/false"])
def test_where_it_cannot_start_calls_are_direct_and_that_is_said_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with serving() as server, session("a", folder=folder) as opened:
        assert asyncio.run(answer(opened, server)) == "You said: hello"
        assert [remark for remark in opened.remarks if "caller is off" in remark]
        assert len(opened.remarks) == 1


def test_it_is_seen_and_stopped_from_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from agentkit.cli.main import main

    with serving() as server, session("a", folder=folder) as opened:
        asyncio.run(answer(opened, server))
        pid = pid_of(folder)
        where = ["--journal", str(folder / ".agentkit")]
        assert main(["caller", "status", *where]) == 0
        assert f"caller {pid} since" in capsys.readouterr().out
        assert main(["caller", "stop", *where]) == 0
        deadline = time.monotonic() + 5
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(pid)
        capsys.readouterr()
        assert main(["caller", *where]) == 0
        assert "no caller is running" in capsys.readouterr().out
        # The next call starts another, without a word.
        asyncio.run(ask(build(Spec(instructions="Answer."), name="x", model=server.model()), "again"))
        assert pid_of(folder) != pid and opened.remarks == []


def test_the_verb_shows_and_steers_it(folder: Path) -> None:
    from agentkit.errors import UserError
    from agentkit.notebook.verbs.inspect import caller

    with serving() as server, session("a", folder=folder) as opened:
        assert "no caller is running" in caller(opened, "")
        asyncio.run(answer(opened, server))
        assert "1 call, 0 under way, 1 kernel" in caller(opened, "status")
        assert caller(opened, "off").startswith("caller off")
        assert caller(opened, "status") == "caller off: turned off"
        assert caller(opened, "on").startswith("caller on")
        with pytest.raises(UserError, match="did you mean"):
            caller(opened, "stpo")


def test_it_is_on_where_nothing_says_otherwise(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTKIT_CALLER")
    with serving() as server, session("a", folder=folder) as opened:
        asyncio.run(answer(opened, server))
        assert pid_of(folder)
        assert opened.remarks == []


@pytest.mark.parametrize("word", ["off", "0", "False"])
def test_the_environment_turns_it_off(folder: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("AGENTKIT_CALLER", word)
    with serving() as server, session("a", folder=folder) as opened:
        asyncio.run(answer(opened, server))
        assert pointer(folder) is None
        assert opened.remarks == []


def test_where_nothing_outlives_the_kernel_it_is_off_and_that_is_said_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as server:
        monkeypatch.setattr("agentkit.models.relay.client.os.getpid", lambda: 1)
        with session("a", folder=folder) as opened:
            opened.calling  # noqa: B018 - it looks where it is when it is made
            monkeypatch.undo()
            agent = build(Spec(instructions="Answer."), name="one", model=server.model())
            for prompt in ("hello", "again"):
                asyncio.run(ask(agent, prompt))
            assert pointer(folder) is None
            assert [remark for remark in opened.remarks if "first process of its container" in remark]
            assert len(opened.remarks) == 1
            opened.calling.turn_off()


def test_where_it_is_killed_again_and_again_with_its_kernel_that_is_said_once(folder: Path) -> None:
    with serving() as server:
        told = []
        for number in range(3):
            with session("a", folder=folder) as opened:
                for prompt in ("hello", "again"):
                    agent = build(Spec(instructions=f"Answer {number}."), name="one", model=server.model())
                    asyncio.run(ask(agent, prompt))
                os.kill(pid_of(folder), signal.SIGKILL)
                told.append([remark for remark in opened.remarks if "killed in a row" in remark])
        assert [len(remarks) for remarks in told] == [0, 0, 1]
    with serving() as server, session("a", folder=folder) as opened:
        # One that ends by itself ends the row; this one still comes after three.
        asyncio.run(ask(build(Spec(instructions="Answer 4."), name="one", model=server.model()), "hello"))
        assert len(opened.remarks) == 1
