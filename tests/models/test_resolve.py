"""What model strings mean, what models are called, what replies cost, and what failures say."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import RequestUsage

from agentkit.errors import MissingExtra, UserError
from agentkit.models import resolve as models
from agentkit.models.offline import OfflineModel
from agentkit.models.resolve import explain, identity, members, names, price, resolve
from agentkit.models.transport import http_client
from agentkit.testing import ScriptedModel
from tests.serving import Fault, Serving, serving

ORDERS = """Please work.
do double {"n": 1} & double {"n": 2}
say doubled"""


class Pair(BaseModel):
    a: int
    b: str


@pytest.fixture
def server() -> Iterator[Serving]:
    with serving() as running:
        yield running


@pytest.fixture
def openai(server: Serving, monkeypatch: pytest.MonkeyPatch) -> Serving:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    return server


def doubling(model: str) -> Agent:
    agent = Agent(resolve(model))

    @agent.tool_plain
    def double(n: int) -> int:
        return 2 * n

    return agent


def test_nothing_means_offline_and_the_environment_may_say_otherwise() -> None:
    assert isinstance(resolve(None, environ={}), OfflineModel)
    assert isinstance(resolve("", environ={}), OfflineModel)
    assert isinstance(resolve(None, environ={"AGENTKIT_MODEL": "test"}), TestModel)
    assert isinstance(resolve("offline", environ={"AGENTKIT_MODEL": "test"}), OfflineModel)


def test_a_model_object_is_itself() -> None:
    model = ScriptedModel()
    assert resolve(model) is model


def test_a_bar_makes_a_fallback_chain() -> None:
    chain = resolve("test | offline")
    assert isinstance(chain, FallbackModel)
    assert [type(member) for member in members(chain)] == [TestModel, OfflineModel]
    assert identity(chain) == "test:test | offline"
    assert members(OfflineModel())[0].model_name == "offline"
    assert [type(member) for member in members(WrapperModel(chain))] == [TestModel, OfflineModel]


def test_a_fallback_answers_when_the_first_server_is_gone(server: Serving) -> None:
    model = resolve(f"{server.model('broken')} | {server.model('whole')}")
    server.script(*[Fault(status=503)] * http_client.ATTEMPTS)
    assert Agent(model).run_sync("hello").output == "You said: hello"
    assert [entry.name for entry in server.ledger()] == ["broken"] * http_client.ATTEMPTS + ["whole"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ofline", "unknown model 'ofline': did you mean 'offline'?"),
        ("opnai:gpt-5", "unknown model 'opnai:gpt-5': did you mean 'openai:gpt-5'?"),
        ("gpt-5", "unknown model 'gpt-5': did you mean 'openai:gpt-5'?"),
        ("claude-sonnet-4-5", "did you mean 'anthropic:claude-sonnet-4-5'?"),
        ("xyzzy", "try 'offline', 'openai:gpt-5' or 'http://127.0.0.1:8000/v1#name'"),
        ("openai:gpt-5", "set the environment variable OPENAI_API_KEY, or use the model 'offline'"),
        ("offline | openai:gpt-5", "set the environment variable OPENAI_API_KEY"),
        ("ollama:qwen3", "set the environment variable OLLAMA_BASE_URL"),
        ("gateway/openai:gpt-5", "set the environment variable PYDANTIC_AI_GATEWAY_API_KEY"),
        ("offline | ", "a name is missing beside '|'"),
        ("http://127.0.0.1:8000/v1", "name the model after a '#'"),
    ],
)
def test_a_wrong_name_or_a_missing_key_is_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> None:
        raise ImportError("Please install the package")

    monkeypatch.setattr(models, "infer_provider_class", gone)
    with pytest.raises(MissingExtra, match=re.escape("pip install 'jupyter-agentkit[anthropic]'")):
        resolve("anthropic:claude-sonnet-4-5")
    with pytest.raises(UserError, match=re.escape("pip install 'pydantic-ai-slim[groq]'")):
        resolve("groq:llama")


def test_identity_names_the_server_but_never_the_key(openai: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    assert identity(resolve("http://ann:s3cret@127.0.0.1:9/v1/?token=s3cret#qwen")) == (
        "openai-chat:qwen @ http://127.0.0.1:9/v1"
    )
    assert identity(resolve("https://[::1]:9/v1#qwen")) == "openai-chat:qwen @ https://[::1]:9/v1"
    assert identity(resolve("openai:gpt-5")) == f"openai:gpt-5 @ {openai.url}"
    assert identity(resolve("openai-chat:gpt-5")) == f"openai-chat:gpt-5 @ {openai.url}"
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert identity(resolve("openai:gpt-5")) == "openai:gpt-5"
    assert identity(WrapperModel(resolve("openai-chat:gpt-5"))) == "openai-chat:gpt-5"
    assert identity(OfflineModel()) == "offline"


def test_the_key_in_a_server_url_is_sent_and_nothing_else_is(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-this-server")
    local: object = resolve(server.model()).provider
    assert getattr(local, "client").api_key == "no-key"  # noqa: B009
    keyed: object = resolve(server.model().replace("http://", "http://:k123@")).provider
    assert getattr(keyed, "client").api_key == "k123"  # noqa: B009


def test_names_for_completion_start_with_ours() -> None:
    assert names()[0] == "offline"
    assert any(name.startswith("openai:") for name in names())
    assert names()[-1].startswith("gateway/") or ":" in names()[-1]


@pytest.mark.parametrize("kind", ["http", "openai", "openai-chat"])
def test_a_server_answers_in_both_protocols_with_tools(openai: Serving, kind: str) -> None:
    name = openai.model() if kind == "http" else f"{kind}:small"
    result = doubling(name).run_sync(ORDERS)
    assert result.output == "doubled"
    assert {entry.kind for entry in openai.ledger()} == {"responses" if kind == "openai" else "chat"}


@pytest.mark.parametrize("kind", ["http", "openai"])
def test_a_server_streams(openai: Serving, kind: str) -> None:
    async def main() -> list[str]:
        async with doubling(openai.model() if kind == "http" else "openai:small").run_stream(ORDERS + " all") as stream:
            return [text async for text in stream.stream_text(delta=True, debounce_by=None)]

    assert asyncio.run(main()) == ["doubled ", "all"]


def test_a_server_fills_a_structured_output(server: Serving) -> None:
    agent = Agent(resolve(server.model()), output_type=Pair)
    assert agent.run_sync('go\nsay {"a": 1, "b": "x"}').output == Pair(a=1, b="x")


def test_one_model_serves_many_event_loops(server: Serving) -> None:
    agent = Agent(resolve(server.model()))

    async def three() -> list[str]:
        results = await asyncio.gather(*(agent.run(str(n)) for n in range(3)))
        return [result.output for result in results]

    for _ in range(3):
        assert asyncio.run(three()) == ["You said: 0", "You said: 1", "You said: 2"]


def test_prices_are_list_prices_zero_for_offline_and_none_if_unknown() -> None:
    usage = RequestUsage(input_tokens=1_000_000)
    known = ModelResponse(parts=[TextPart("x")], usage=usage, model_name="gpt-4o", provider_name="openai")
    assert price(known) == pytest.approx(2.5)
    assert price(ModelResponse(parts=[], usage=usage, model_name="qwen3", provider_name="nobody")) is None
    assert price(ModelResponse(parts=[], usage=usage)) is None
    offline = Agent(OfflineModel()).run_sync("hello").all_messages()[-1]
    assert isinstance(offline, ModelResponse)
    assert price(offline) == 0.0
    scripted = Agent(ScriptedModel(["x"])).run_sync("hello").all_messages()[-1]
    assert isinstance(scripted, ModelResponse)
    assert price(scripted) is None


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(status=401), "/chat/completions answered 401: the key is missing or refused"),
        (Fault(status=404), "/chat/completions answered 404: no such model or path"),
        (Fault(status=418), "/chat/completions answered 418: scripted 418"),
        (Fault(cut="middle"), "cut the connection"),
    ],
)
def test_a_failure_is_explained_in_one_line_and_asked_for_once(server: Serving, fault: Fault, said: str) -> None:
    server.script(fault)
    with pytest.raises(ModelAPIError) as caught:
        Agent(resolve(server.model())).run_sync("hello")
    assert said in explain(caught.value)
    assert "\n" not in explain(caught.value)
    assert len(server.ledger()) == 1


def test_an_unreachable_server_is_named(server: Serving) -> None:
    server.close()
    with pytest.raises(ModelAPIError) as caught:
        Agent(resolve(server.model())).run_sync("hello")
    assert f"cannot reach {server.url}" in explain(caught.value)
    assert "is the server running" in explain(caught.value)


@pytest.mark.parametrize("status", [429, 503])
def test_what_still_fails_after_all_tries_keeps_its_status_and_its_words(server: Serving, status: int) -> None:
    server.script(*[Fault(status=status)] * 9)
    with pytest.raises(ModelHTTPError) as caught:
        Agent(resolve(server.model())).run_sync("hello")
    assert caught.value.status_code == status
    assert f"scripted {status}" in explain(caught.value)
    assert len(server.ledger()) == http_client.ATTEMPTS


def test_only_what_leaves_through_our_client_tells_when() -> None:
    ours = models.resolve("http://127.0.0.1:9/v1#small")
    own = OpenAIChatModel("small", provider=OpenAIProvider(base_url="http://127.0.0.1:9/v1", api_key="no-key"))
    assert models.tells_when_it_sends(ours)
    assert models.tells_when_it_sends(models.resolve("http://127.0.0.1:9/v1#a | http://127.0.0.1:9/v1#b | offline"))
    assert not models.tells_when_it_sends(own)
    assert not models.tells_when_it_sends(FallbackModel(ours, own))


@pytest.mark.parametrize("port", ["off", "99999", "-1"])
def test_an_address_with_a_wrong_port_is_one_line(port: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve(f"http://:sk-secret@127.0.0.1:{port}/v1#m")
    said = str(refused.value)
    assert "its port is no number from 0 to 65535" in said and "\n" not in said and "sk-secret" not in said
