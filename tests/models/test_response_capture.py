"""An answer is kept when its last byte is read, before anybody sees it, and given again to whoever asks the same."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx2
import pytest
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from agentkit.models.request_context import update_request
from agentkit.models.transport.http_client import client
from agentkit.models.transport.response_capture import ResponseCapture
from tests.serving import Fault, serving


@dataclass
class Kept:
    """Arrivals in memory, with the order of what happened."""

    answers: dict[bytes, bytes] = field(default_factory=dict)
    story: list[str] = field(default_factory=list)

    def find(self, request: bytes) -> bytes | None:
        return self.answers.get(request)

    def keep(self, request: bytes, answer: bytes) -> None:
        self.answers[request] = answer
        self.story.append("kept")

    def where(self, request: bytes) -> None:
        return None

    def mark_join(self) -> None:
        self.story.append("joined")

    def mark_request(self) -> None:
        self.story.append("asked")

    def leaves(self) -> None:
        self.story.append("left")

    def once(self, request: bytes) -> str:
        return "the-key"

    def mark_refusal(self) -> None:
        self.story.append("refused")

    def lose(self) -> None:
        self.story.append("lost")


@dataclass
class Wire(httpx2.AsyncBaseTransport):
    """Answers with these pieces; None breaks the connection there."""

    pieces: list[bytes | None]
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(self.status, headers=self.headers, stream=_Pieces(self.pieces))


@dataclass
class _Pieces(httpx2.AsyncByteStream):
    pieces: list[bytes | None]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            if piece is None:
                raise httpx2.ReadError("cut")
            yield piece


def read(wire: Wire, kept: Kept, *, url: str = "http://model.test/chat") -> list[bytes]:
    """What the caller reads, noting each piece in the story."""

    async def main() -> list[bytes]:
        update_request(responses=kept)
        seen = []
        asking = httpx2.AsyncClient(transport=ResponseCapture(wire))
        async with asking, asking.stream("POST", url, json={"q": 1}) as response:
            async for piece in response.aiter_bytes():
                kept.story.append("read")
                seen.append(piece)
        return seen

    return asyncio.run(main())


def test_a_counted_body_is_kept_before_its_last_piece_is_handed_on() -> None:
    kept = Kept()
    assert read(Wire([b"ab", b"cd"], {"content-length": "4"}), kept) == [b"ab", b"cd"]
    assert kept.story == ["asked", "read", "kept", "read"]


@pytest.mark.parametrize(
    "last", ["data: [DONE]", 'event: response.completed\ndata: {"a": 1}', "event: message_stop\ndata: {}"]
)
def test_a_stream_is_kept_with_its_last_event(last: str) -> None:
    kept = Kept()
    read(Wire([b'data: {"x": "data: [DONE]"}\n\n', f"{last}\n\n".encode()]), kept)
    assert kept.story == ["asked", "read", "kept", "read"]


def test_any_other_body_is_kept_at_its_end() -> None:
    kept = Kept()
    read(Wire([b"data: 1\n\n", b"data: 2\n\n"]), kept)
    assert kept.story == ["asked", "read", "read", "kept"]


def test_the_same_request_is_answered_again_without_the_wire() -> None:
    kept = Kept()
    read(Wire([gzip.compress(b"hello")], {"content-encoding": "gzip", "set-cookie": "secret=1"}), kept)
    assert b"".join(read(Wire([None]), kept)) == b"hello"
    assert kept.story.count("asked") == 1
    assert b"secret" not in b"".join(kept.answers.values())


def test_another_request_is_not() -> None:
    kept = Kept()
    read(Wire([b"one"]), kept)
    assert read(Wire([b"two"]), kept, url="http://model.test/other") == [b"two"]


def test_half_an_answer_is_not_kept_and_known_to_be_lost() -> None:
    kept = Kept()
    with pytest.raises(httpx2.ReadError):
        read(Wire([b"data: 1\n\n", None]), kept)
    assert (kept.answers, kept.story[-1]) == ({}, "lost")


def test_a_refusal_is_not_an_answer() -> None:
    kept = Kept()
    read(Wire([b"no"], {"content-length": "2"}, status=400), kept)
    assert (kept.answers, kept.story) == ({}, ["asked", "refused", "read"])


def test_an_unreachable_server_cannot_have_charged() -> None:
    kept = Kept()

    async def main() -> None:
        update_request(responses=kept)
        async with httpx2.AsyncClient(transport=ResponseCapture(httpx2.AsyncHTTPTransport())) as asking:
            await asking.post("http://127.0.0.1:9/")

    with pytest.raises(httpx2.ConnectError):
        asyncio.run(main())
    assert kept.story == ["asked", "refused"]


@pytest.mark.parametrize("streamed", [False, True])
def test_the_responses_protocol_is_kept_and_given_again(streamed: bool) -> None:
    kept = Kept()
    with serving() as server:
        provider = OpenAIProvider(
            openai_client=AsyncOpenAI(base_url=server.url, api_key="no-key", http_client=client())
        )
        agent = Agent(OpenAIResponsesModel("small", provider=provider))

        async def ask() -> str:
            update_request(responses=kept)
            if not streamed:
                return str((await agent.run("hello")).output)
            async with agent.run_stream("hello") as result:
                return str(await result.get_output())

        assert asyncio.run(ask()) == "You said: hello"
        server.script(Fault(cut="before"))
        assert asyncio.run(ask()) == "You said: hello"
        assert len(server.ledger()) == 1
