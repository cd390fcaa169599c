"""What a notebook function returns crosses as JSON or is refused by name."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import socket
import time
import uuid
from typing import Any

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic_ai.durable_exec import CallToolResult

from agentkit.errors import UserError
from agentkit.journal.codec import RESULT_CODEC, encode_tool_result
from agentkit.values.registry import ROWS, Unconvertible, to_json


class Colour(enum.Enum):
    RED = "red"


class Point(BaseModel):
    x: int
    at: datetime.date


@dataclasses.dataclass
class Pair:
    left: Any
    right: Any


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (numpy.int64(3), 3),
        (numpy.float32(0.5), 0.5),
        (numpy.bool_(True), True),
        (numpy.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (numpy.array(7), 7),
        (numpy.datetime64("2024-01-02"), "2024-01-02"),
        (numpy.datetime64("NaT", "ns"), None),
        (numpy.timedelta64(90, "s"), 90.0),
        (math.nan, None),
        (math.inf, "Infinity"),
        (pandas.NA, None),
        (pandas.NaT, None),
        (pandas.Timestamp("2024-01-02 03:04"), "2024-01-02T03:04:00"),
        (pandas.Timedelta(seconds=5), 5.0),
        (pandas.Series([1, 2]), [1, 2]),
        (pandas.Series({"a": 1.5, "b": math.nan}), {"a": 1.5, "b": None}),
        (pandas.Series([1, 2], index=["a", "a"]), [1, 2]),
        (pandas.DataFrame({"a": [1, 2], "b": ["x", None]}), [{"a": 1, "b": "x"}, {"a": 2, "b": None}]),
        (pandas.DataFrame({"a": [1]}, index=pandas.Index(["k"], name="key")), [{"key": "k", "a": 1}]),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (datetime.timedelta(minutes=1), 60.0),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (pathlib.PurePosixPath("a/b"), "a/b"),
        (Colour.RED, "red"),
        (Point(x=1, at=datetime.date(2024, 1, 2)), {"x": 1, "at": "2024-01-02"}),
        (Pair(1, (2, {3})), {"left": 1, "right": [2, [3]]}),
        ({1: "a", (1, "b"): "c", Colour.RED: None}, {"1": "a", "1, b": "c", "red": None}),
        (b"\x00\x01", "AAE="),
    ],
)
def test_what_data_scientists_return_has_a_json_form(value: object, expected: object) -> None:
    answer = to_json(value, where="the result of f")
    assert answer == expected
    json.dumps(answer, allow_nan=False)


def test_a_long_frame_is_bounded_and_says_so() -> None:
    answer = to_json(pandas.DataFrame({"a": range(ROWS + 5)}), where="f")
    assert len(answer) == ROWS + 1
    assert answer[-1] == f"… 5 more of {ROWS + 5}"


def test_what_has_no_form_is_refused_by_name() -> None:
    with socket.socket() as opened, pytest.raises(Unconvertible, match=r"the result of f is of type .*socket"):
        to_json([opened], where="the result of f")


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(Exception, match="contains itself"):
        to_json(loop, where="f")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_json_values_are_themselves(value: object) -> None:
    assert to_json(value, where="f") == value


@pytest.mark.parametrize(
    "value",
    [
        {1: "a", "1": "b"},
        [{"k": {None: 1, "None": 2}}],
        pandas.DataFrame([[1, 2]], columns=["a", "a"]),
        pandas.DataFrame([[1, 2]], columns=[1, "1"]),
        pandas.Series([1, 2], index=[1, "1"]),
    ],
)
def test_two_keys_of_one_name_are_refused_and_neither_is_lost(value: object) -> None:
    with pytest.raises(UserError, match=r"it has .* and .* as keys or columns, which are both '.*' in JSON"):
        to_json(value, where="it")


@pytest.mark.parametrize(
    ("value", "said"),
    [(float("nan"), "NaN"), (numpy.float32("nan"), "NaN"), (pandas.NaT, "NaT"), (pandas.NA, "<NA>"), (None, None)],
)
def test_a_result_that_is_only_missing_says_so(value: object, said: str | None) -> None:
    assert encode_tool_result(value)["result"] == said


def test_a_result_that_would_lose_an_entry_is_refused() -> None:
    with pytest.raises(UserError, match="1 and '1'"):
        encode_tool_result({"rows": [{1: "a", "1": "b"}]}, name="rates")


@pytest.mark.parametrize(
    "long", [range(1_200_000), [0.5] * 1_200_000, ["word"] * 1_200_000], ids=["ints", "floats", "texts"]
)
def test_a_long_list_takes_about_as_long_as_its_text(long: Any) -> None:
    items = list(long)
    before = time.process_time()
    payload = encode_tool_result(items)
    assert RESULT_CODEC.load(CallToolResult, payload).result == items
    assert payload == {**encode_tool_result([]), "result": items}
    assert time.process_time() - before < 1.5


@pytest.mark.parametrize(
    "mixed", [[1, "ä", None], [float("nan")], [2**70], [True, 1, 0.5], [None, True], ["\udcff"], [[1]]]
)
def test_short_ways_for_long_lists_say_the_same(mixed: list[Any]) -> None:
    assert encode_tool_result(mixed)["result"] == [encode_tool_result({"x": item})["result"]["x"] for item in mixed]
