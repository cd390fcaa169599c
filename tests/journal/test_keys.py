"""Equal requests have equal keys, whatever run, process or library release they are made in."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai.messages import (
    BinaryContent,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters

from agentkit.journal.canonical import canonical
from agentkit.journal.keys import (
    ROOT,
    Key,
    MessageChain,
    RequestParts,
    digest,
    model_key,
    operation_key,
    restore,
    tool_key,
)
from agentkit.journal.redaction import Redactor
from tests.journal.conversations import (
    arguments,
    conversation,
    conversations,
    json_values,
    messages,
    parameters,
    requests,
    responses,
)

GOLDEN = Path(__file__).with_name("golden_keys.json")


def full(history: list[ModelMessage]) -> bytes:
    return MessageChain().head(history, trusted=False).digest


def asked(
    model: str = "openai:gpt-5",
    settings: dict[str, Any] | None = None,
    params: ModelRequestParameters | None = None,
    memo: RequestParts | None = None,
) -> Key:
    return model_key(
        model=model,
        history=full(conversation()),
        settings=settings,
        params=params or parameters(),
        memo=memo or RequestParts(),
    )


def called(**changed: Any) -> Key:
    given_: dict[str, Any] = {"name": "t:look", "args": {"q": 1}, "digest": b"d" * 32, "history": b"h" * 32}
    return tool_key(**{**given_, **changed})


def golden() -> dict[str, str]:
    keys = {
        "model": asked(settings={"temperature": 0.2, "timeout": 3}),
        "tool": called(call="t00000001", deps=b"x"),
        "shared tool": called(history=None),
        "operation": operation_key(name="discovery:files", payload={"prompt": "é"}, history=b"h" * 32),
    }
    found = {name: key.key.hex() for name, key in keys.items()}
    found |= {f"{name} slot": key.slot.hex() for name, key in keys.items()}
    nodes = MessageChain().head(conversation()).nodes
    return found | {f"message {i}": node.digest.hex() for i, node in enumerate(nodes)}


def test_keys_are_the_committed_ones_under_every_library_release() -> None:
    assert golden() == json.loads(GOLDEN.read_text())


# -- the conversation


def test_clocks_ids_usage_and_bookkeeping_change_nothing() -> None:
    assert full(conversation(run=0)) == full(conversation(run=1)) == full(conversation(run=2))


def test_a_replayed_response_continues_the_conversation_it_was_recorded_in() -> None:
    live = conversation()
    replayed = [replace(m, metadata={"agentkit": {"usage": 1}}) if isinstance(m, ModelResponse) else m for m in live]
    assert full(live) == full(replayed)


def said(content: Any) -> bytes:
    return full([ModelRequest(parts=[UserPromptPart(content)])])


def returned(content: Any) -> bytes:
    return full([ModelRequest(parts=[ToolReturnPart("t", content, tool_call_id="1")])])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (said("a"), said("b")),
        (said(["a"]), said(["a", "a"])),
        (said([BinaryContent(b"1", media_type="image/png")]), said([BinaryContent(b"2", media_type="image/png")])),
        (said([BinaryContent(b"1", media_type="image/png")]), said([BinaryContent(b"1", media_type="image/gif")])),
        (said([ImageUrl("http://x/a.png")]), said([ImageUrl("http://x/b.png")])),
        (said([ImageUrl("http://x/a")]), said([ImageUrl("http://x/a", media_type="image/png")])),
        (returned({"timestamp": 1}), returned({"timestamp": 2})),
        (returned({"run_id": "a"}), returned({})),
        (returned(1), returned(True)),
        (returned(1), returned(1.0)),
        (returned("1"), returned(1)),
        (returned(None), returned("")),
    ],
)
def test_what_is_said_changes_the_key(one: bytes, other: bytes) -> None:
    assert one != other


def test_an_identifier_made_from_the_data_is_not_content() -> None:
    one = BinaryContent(b"1", media_type="image/png")
    other = BinaryContent(b"1", media_type="image/png", identifier="mine")
    assert said([one]) == said([other])


def test_parallel_calls_are_told_apart_by_their_order_only() -> None:
    def history(first: str, second: str, answered: str) -> list[ModelMessage]:
        calls = [ToolCallPart("t", {}, tool_call_id=first), ToolCallPart("t", {}, tool_call_id=second)]
        answer = ToolReturnPart("t", "x", tool_call_id=answered)
        return [ModelResponse(parts=calls), ModelRequest(parts=[answer])]

    assert full(history("a", "b", "a")) == full(history("b", "a", "b"))
    assert full(history("a", "b", "a")) != full(history("a", "b", "b"))


@given(arguments)
def test_arguments_as_text_and_as_a_dict_are_the_same(args: dict[str, Any]) -> None:
    def call(given_: str | dict[str, Any]) -> bytes:
        return full([ModelResponse(parts=[ToolCallPart("t", given_, tool_call_id="1")])])

    assert call(args) == call(json.dumps(args)) == call(json.dumps(args, indent=2, ensure_ascii=False))


@dataclass(repr=False)
class NewerTextPart(TextPart):
    """What a later release may make of TextPart."""

    shiny: str | None = None
    marks: list[str] | None = None


def test_a_field_that_a_later_release_adds_keeps_old_keys_until_it_says_something() -> None:
    old, new = (full([ModelResponse(parts=[part])]) for part in (TextPart("a"), NewerTextPart("a")))
    assert old == new
    assert full([ModelResponse(parts=[NewerTextPart("a", shiny="x")])]) != old


@given(conversations)
def test_a_restored_conversation_is_the_one_that_was_kept(history: list[ModelMessage]) -> None:
    nodes = MessageChain().head(history).nodes
    restored = restore([node.body for node in nodes])
    assert full(restored) == full(history)
    again = MessageChain().head(restored).nodes
    assert [json.loads(node.body) for node in again] == [json.loads(node.body) for node in nodes]


@given(conversations)
def test_what_is_not_written_of_a_message_was_none_and_comes_back_as_none(history: list[ModelMessage]) -> None:
    bodies = [node.body for node in MessageChain().head(history).nodes]
    for message, restored, body in zip(history, restore(bodies), bodies, strict=True):
        written = json.loads(body)
        pairs = zip(message.parts, restored.parts, written["parts"], strict=True)
        for one, other, document in [(message, restored, written), *pairs]:
            unwritten = {f.name for f in fields(one)} - document.keys() - {"usage"}
            assert all(getattr(one, name) is None and getattr(other, name) is None for name in unwritten)


@given(conversations)
def test_nodes_are_linked_to_their_parents(history: list[ModelMessage]) -> None:
    head = MessageChain().head(history)
    assert len(head.nodes) == len(history)
    assert [node.parent for node in head.nodes] == [None, *(node.digest for node in head.nodes[:-1])][: len(history)]
    assert head.digest == (head.nodes[-1].digest if history else ROOT)


def test_two_runs_of_one_conversation_keep_equal_ids_in_their_bodies() -> None:
    ids = [
        [
            part["tool_call_id"]
            for node in MessageChain().head(conversation(run=run)).nodes
            for part in json.loads(node.body)["parts"]
            if "tool_call_id" in part
        ]
        for run in (0, 1)
    ]
    assert ids[0] == ids[1] == ["t00000000", "t00000001"] * 2


def test_a_body_holds_the_whole_message_but_for_what_belongs_to_its_step() -> None:
    body = json.loads(MessageChain().head(conversation(run=1)).nodes[1].body)
    assert body["model_name"] == "model 1"
    assert body["provider_response_id"] == "resp_1"
    assert "usage" not in body
    assert body["metadata"] is None


@given(st.data())
def test_the_chained_digest_is_the_full_one(data: st.DataObject) -> None:
    """Histories that grow, shrink, are edited in place or have messages replaced, merged or removed."""
    chain = MessageChain()
    history: list[ModelMessage] = []
    seen: dict[bytes, bytes] = {}
    for _ in range(data.draw(st.integers(1, 6))):
        change = data.draw(st.sampled_from(CHANGES))
        trusted = change(history, data)
        head = chain.head(history, trusted=trusted)
        assert head.digest == full(history)
        seen |= {node.digest: node.body for node in head.nodes}
        # Whatever was handed out so far is enough to restore where the conversation stands now.
        digests = [node.digest for node in MessageChain().head(history).nodes]
        assert all(digest in seen for digest in digests)
        assert full(restore([seen[digest] for digest in digests])) == head.digest


def grow(history: list[ModelMessage], data: st.DataObject) -> bool:
    history.extend(data.draw(st.lists(messages, max_size=3)))
    return True


def shrink(history: list[ModelMessage], data: st.DataObject) -> bool:
    del history[data.draw(st.integers(0, len(history))) :]
    return True


def edit_in_place(history: list[ModelMessage], data: st.DataObject) -> bool:
    match history:
        case [*_, ModelRequest() as request]:
            request.parts = data.draw(requests).parts
        case [*_, ModelResponse() as response]:
            response.parts = data.draw(responses).parts
    return False


def replace_the_last(history: list[ModelMessage], data: st.DataObject) -> bool:
    if history:
        history[-1] = data.draw(messages)
    return True


def replace_the_first(history: list[ModelMessage], data: st.DataObject) -> bool:
    if history:
        history[0] = data.draw(messages)
    return True


def drop_one(history: list[ModelMessage], data: st.DataObject) -> bool:
    if history:
        del history[data.draw(st.integers(0, len(history) - 1))]
    return False


def copy_all(history: list[ModelMessage], data: st.DataObject) -> bool:
    history[:] = copy.deepcopy(history)
    return True


CHANGES: list[Callable[[list[ModelMessage], st.DataObject], bool]] = [
    grow,
    grow,
    grow,
    shrink,
    edit_in_place,
    replace_the_last,
    replace_the_first,
    drop_one,
    copy_all,
]


@given(conversations, messages, messages)
def test_a_reply_is_the_node_it_would_be_and_leaves_the_chain_where_it_is(
    history: list[ModelMessage], reply: ModelMessage, other: ModelMessage
) -> None:
    chain = MessageChain()
    chain.head(history)
    assert chain.reply(reply).digest == full([*history, reply])
    assert chain.head(history).digest == full(history)
    assert chain.head([*history, other]).digest == full([*history, other])


# -- the request


def test_the_key_of_a_request_is_the_same_in_every_run() -> None:
    assert asked(params=parameters(run=0)).key == asked(params=parameters(run=1)).key


@pytest.mark.parametrize(
    "other",
    [
        {"model": "openai:gpt-5-mini"},
        {"settings": {"temperature": 1}},
        {"settings": {"extra_body": {"timeout": 3}}},
        {"params": parameters(description="Look elsewhere.")},
        {"params": replace(parameters(), output_mode="text")},
        {"params": replace(parameters(), function_tools=[])},
        {"params": replace(parameters(), instruction_parts=None)},
        {"params": replace(parameters(), thinking="high")},
        {
            "params": replace(
                parameters(), function_tools=[replace(parameters().function_tools[0], include_return_schema=True)]
            )
        },
    ],
)
def test_whatever_reaches_the_model_changes_the_key(other: dict[str, Any]) -> None:
    assert asked().key != asked(**other).key
    assert (asked().slot == asked(**other).slot) == ("model" in other)


def test_a_longer_timeout_does_not_pay_again() -> None:
    assert asked(settings={"timeout": 1}).key == asked(settings={"timeout": 60}).key == asked(settings={}).key


def test_the_part_that_changed_can_be_named_and_shown() -> None:
    before, after = asked(), asked(params=parameters(description="Look elsewhere."))
    assert {name for name in before.parts if before.parts[name] != after.parts[name]} == {"tools"}
    bodies = {part.digest.hex(): part.body for part in after.bodies}
    assert b"Look elsewhere." in bodies[after.parts["tools"]]
    assert set(bodies) == {digest_ for name, digest_ in after.parts.items() if name != "history"}
    assert all(digest(json.loads(part.body)) == part.digest for part in after.bodies)


def test_the_memo_answers_as_if_there_were_none() -> None:
    memo = RequestParts()
    edited = parameters()
    cases: list[tuple[dict[str, Any] | None, ModelRequestParameters]] = [
        (None, parameters()),
        ({"temperature": 1}, parameters()),
        ({"temperature": 1.0}, parameters()),
        ({"temperature": True}, parameters()),
        ({"temperature": 1}, edited),
    ]
    for settings, params in cases * 2:
        assert asked(settings=settings, params=params, memo=memo) == asked(settings=settings, params=params)
    edited.function_tools[0].parameters_json_schema = {"type": "object", "properties": {}}
    assert asked(params=edited, memo=memo) == asked(params=edited)


@given(st.dictionaries(st.text(), json_values), st.randoms(use_true_random=False))
def test_the_order_of_dicts_does_not_matter(settings: dict[str, Any], random: Any) -> None:
    items = list(settings.items())
    random.shuffle(items)
    assert digest(canonical(settings, {})) == digest(canonical(dict(items), {}))
    assert called(args=settings).key == called(args=dict(items)).key


@given(json_values)
def test_a_trip_through_json_changes_no_key(value: Any) -> None:
    assert digest(canonical(value, {})) == digest(canonical(json.loads(json.dumps(value)), {}))


# -- tools and the rest


@pytest.mark.parametrize(
    "changed",
    [{"name": "t:find"}, {"args": {"q": 2}}, {"history": b"i" * 32}, {"history": None}, {"call": "t1"}, {"deps": b"1"}],
)
def test_what_a_tool_is_called_with_changes_key_and_slot(changed: dict[str, Any]) -> None:
    assert called().key != called(**changed).key
    assert called().slot != called(**changed).slot


def test_an_edited_tool_keeps_its_slot() -> None:
    assert called().key != called(digest=b"e" * 32).key
    assert called().slot == called(digest=b"e" * 32).slot


def test_no_key_of_one_kind_is_one_of_another() -> None:
    keys = [
        asked(),
        called(),
        called(history=None),
        operation_key(name="t:look", payload={"q": 1}, history=b"h" * 32),
        operation_key(name="t:look", payload={"q": 1}, history=None),
    ]
    assert len({key.key for key in keys}) == len(keys)


def test_objects_without_a_json_form_are_known_without_their_address() -> None:
    class Thing:
        pass

    assert called(args={"x": Thing()}).key == called(args={"x": Thing()}).key


# -- secrets

SECRET = 'sk-é"very\\secret/+=0'


def test_a_secret_is_in_no_key_and_no_body_and_comes_back() -> None:
    redactor = Redactor({"OPENAI_API_KEY": SECRET})
    history: list[ModelMessage] = [
        ModelRequest(parts=[UserPromptPart(f"use {SECRET}")]),
        ModelResponse(parts=[ToolCallPart("t", json.dumps({"key": SECRET}), tool_call_id="1")]),
    ]
    nodes = MessageChain(redactor).head(history).nodes
    assert all("very" not in node.body.decode() for node in nodes)
    assert restore([node.body for node in nodes], redactor)[0].parts[0].content == f"use {SECRET}"  # type: ignore[union-attr]
    rotated = Redactor({"OPENAI_API_KEY": "another-secret"})
    other = json.loads(json.dumps(SECRET).replace(json.dumps(SECRET)[1:-1], "another-secret"))
    changed: list[ModelMessage] = [ModelRequest(parts=[UserPromptPart(f"use {other}")])]
    assert MessageChain(rotated).head(changed).digest == nodes[0].digest
    key = model_key(
        model="m",
        history=ROOT,
        settings={"extra_headers": {"authorization": f"Bearer {SECRET}"}},
        params=ModelRequestParameters(),
        memo=RequestParts(redactor),
    )
    assert all(b"very" not in part.body for part in key.bodies)
