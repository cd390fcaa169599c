"""Transient failures are tried again, promptly, bounded, and never longer than is sensible."""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx2
import pytest
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError

from agentkit.models.resolve import resolve
from agentkit.models.transport.http_client import ATTEMPTS, client, proxy
from tests.serving import Fault, Serving, serving


@pytest.fixture
def server() -> Iterator[Serving]:
    with serving() as running:
        yield running


def ask(server: Serving) -> str:
    return Agent(resolve(server.model())).run_sync("hello").output


def test_a_429_is_waited_for_as_long_as_it_says(server: Serving) -> None:
    server.script(Fault(status=429, headers={"retry-after": "1"}))
    assert ask(server) == "You said: hello"
    first, second = server.ledger()
    assert 1.0 <= second.received - first.received < 1.8


def test_a_wait_in_milliseconds_is_understood(server: Serving) -> None:
    server.script(Fault(status=429, headers={"retry-after-ms": "60", "retry-after": "20"}))
    begin = time.monotonic()
    assert ask(server) == "You said: hello"
    assert time.monotonic() - begin < 2


def test_a_429_that_asks_for_an_hour_is_an_error_at_once(server: Serving) -> None:
    server.script(Fault(status=429, headers={"retry-after": "3600"}))
    with pytest.raises(ModelHTTPError, match="429"):
        ask(server)
    assert len(server.ledger()) == 1


def test_a_server_that_says_not_to_retry_is_obeyed(server: Serving) -> None:
    server.script(Fault(status=500, headers={"x-should-retry": "false"}))
    with pytest.raises(ModelHTTPError, match="500"):
        ask(server)
    assert len(server.ledger()) == 1


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(status=529), Fault(cut="before")])
def test_a_failing_server_is_asked_again_soon(server: Serving, fault: Fault) -> None:
    server.script(fault)
    begin = time.monotonic()
    assert ask(server) == "You said: hello"
    assert time.monotonic() - begin < 1.5
    assert len(server.ledger()) == 2


def test_a_server_that_always_hangs_up_is_given_up(server: Serving) -> None:
    server.script(*[Fault(cut="before")] * 9)
    with pytest.raises(ModelAPIError):
        ask(server)
    assert len(server.ledger()) == ATTEMPTS


def test_an_answer_cut_in_its_middle_is_not_paid_for_again(server: Serving) -> None:
    server.script(Fault(cut="middle"))
    with pytest.raises(ModelAPIError):
        ask(server)
    assert len(server.ledger()) == 1


def test_a_stream_cut_in_its_middle_is_an_error_not_an_answer(server: Serving) -> None:
    server.script(Fault(cut="middle"))

    async def main() -> str:
        async with Agent(resolve(server.model())).run_stream("a longer text of many words") as stream:
            return await stream.get_output()

    with pytest.raises(ModelAPIError):
        asyncio.run(main())
    assert len(server.ledger()) == 1


def test_a_compressed_complaint_can_still_be_read() -> None:
    seen: list[str] = []

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            body = gzip.compress(b'{"error": "busy"}')
            self.send_response(503)
            for name, value in (("content-encoding", "gzip"), ("retry-after-ms", "1"), ("content-length", len(body))):
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Tests report for themselves."""

    async def main(port: int) -> httpx2.Response:
        async with client() as connected:
            return await connected.get(f"http://127.0.0.1:{port}/")

    with HTTPServer(("127.0.0.1", 0), Busy) as busy:
        thread = threading.Thread(target=busy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        response = asyncio.run(main(busy.server_address[1]))
        busy.shutdown()
        thread.join()
    assert response.status_code == 503
    assert response.json() == {"error": "busy"}
    assert len(seen) == ATTEMPTS


def test_the_proxy_of_the_environment_is_used_but_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    assert proxy(httpx2.URL("https://api.openai.com/v1")) == "http://proxy.example:3128"
    assert proxy(httpx2.URL("http://api.openai.com/v1")) is None
    assert proxy(httpx2.URL("https://inside.example/v1")) is None
    assert proxy(httpx2.URL("https://127.0.0.1/v1")) is None
