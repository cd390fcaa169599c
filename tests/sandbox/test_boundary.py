"""What crosses the sandbox's border: the same kind of value on both sides and in the record, or a refusal by name."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import uuid
from typing import Any

import numpy
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from agentkit.sandbox.boundary import ROWS, Uncrossable, enter, from_record, to_record
from agentkit.sandbox.dataframe_handle import FrameHandle
from agentkit.sandbox.monty.driver import CallFailed, Clock, Program, run

WORLD = Clock(now=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    tags: list[str]


class Sale(BaseModel):
    day: datetime.date
    sum: decimal.Decimal


DAY, MOMENT = datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
ENTERS: list[tuple[Any, Any]] = [
    (1, 1), (True, True),
    (2**100, 2**100), (-(2**99_999), -(2**99_999)), (1.5, 1.5), (math.inf, math.inf), (math.nan, None),
    ("é", "é"), (b"x", b"x"),
    ((1, 2), (1, 2)), ({1, 2}, {1, 2}), (frozenset({1}), frozenset({1})), (range(3), [0, 1, 2]),
    ({1: 2, "a": [None]}, {1: 2, "a": [None]}), ({"$": 1, "v": 2}, {"$": 1, "v": 2}), (1 + 2j, 1 + 2j),
    (DAY, DAY), (MOMENT, MOMENT), (datetime.time(1, 2), datetime.time(1, 2)),
    (datetime.timedelta(1, 2, 3), datetime.timedelta(1, 2, 3)), (decimal.Decimal("1.10"), decimal.Decimal("1.10")),
    (uuid.UUID(int=1), str(uuid.UUID(int=1))), (pathlib.Path("a/b"), "a/b"), (Colour.RED, "red"),
    (Point(1, ["t"]), {"x": 1, "tags": ["t"]}),
    (Sale(day=DAY, sum=decimal.Decimal("2.50")), {"day": DAY, "sum": decimal.Decimal("2.50")}),
    (numpy.int64(3), 3), (numpy.float32(2.5), 2.5), (numpy.bool_(True), True),
    (numpy.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    (numpy.datetime64("2026-01-02T03:00"), datetime.datetime(2026, 1, 2, 3)), (numpy.datetime64("NaT"), None),
    (pandas.NaT, None), (pandas.NA, None), (pandas.Timestamp(MOMENT), MOMENT),
    (pandas.Timedelta(hours=1), datetime.timedelta(hours=1)), (pandas.Series([1.0, math.nan]), [1.0, None]),
    (
        pandas.DataFrame({"a": [1, 2], "t": [pandas.Timestamp("2026-01-02"), pandas.NaT]}, index=["x", "y"]),
        [{"index": "x", "a": 1, "t": datetime.datetime(2026, 1, 2)}, {"index": "y", "a": 2, "t": None}],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("value", "inside"), ENTERS, ids=lambda value: type(value).__name__)
def test_a_value_enters_and_leaves_and_is_recorded_as_it_is(value: Any, inside: Any) -> None:
    entered = enter(value, where="value")
    left = _through(entered)
    kept = from_record(json.loads(json.dumps(to_record(left, where="value"))))
    for one in (entered, left, kept):
        assert (one, type(one)) == (inside, type(inside))


def _through(value: Any, source: str = "out = value") -> Any:
    async def nobody(call: Any) -> Any:
        raise AssertionError(call)

    program = Program(source=source, inputs={"value": value}, outputs=("out",))
    return asyncio.run(run(program, world=WORLD, call=nobody)).outputs["out"]


_KEYS = st.one_of(st.text(max_size=4), st.integers(), st.booleans(), st.dates(), st.tuples(st.integers()))
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(), st.dates(),
    st.datetimes().map(lambda when: when.replace(fold=0)), st.times().map(lambda when: when.replace(fold=0)),
    st.timedeltas(), st.decimals(allow_nan=False), st.complex_numbers(allow_nan=False, allow_infinity=False),
)  # fmt: skip
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(_KEYS, inner, max_size=4),
        st.frozensets(st.integers(), max_size=1),
        st.fixed_dictionaries({"$": inner, "v": inner}),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(_VALUES)
def test_the_record_gives_back_what_was_put_in(value: Any) -> None:
    entered = enter(value, where="value")
    assert repr(from_record(json.loads(json.dumps(to_record(entered, where="value"))))) == repr(entered)


@pytest.mark.parametrize("value", [print, Colour, json, lambda: 1, iter([]), object(), {"a": [print]}, [[Colour]]])
def test_what_cannot_cross_is_refused_by_name(value: Any) -> None:
    with pytest.raises(Uncrossable, match=r"^rows.* is a [\w.]+, which cannot cross"):
        enter(value, where="rows")


def test_half_a_character_is_refused() -> None:
    assert enter("é😀", where="text") == "é😀"
    with pytest.raises(Uncrossable, match="half a surrogate pair"):
        enter({"a\ud800": 1}, where="text")


def test_too_deep_and_too_long_is_refused() -> None:
    deep: list[Any] = []
    deep.append(deep)
    with pytest.raises(Uncrossable, match="contains itself"):
        enter(deep, where="deep")
    with pytest.raises(Uncrossable, match=r"10,001 .*10,000 can cross"):
        enter(numpy.zeros(ROWS + 1), where="zeros")
    with pytest.raises(Uncrossable, match="pass it as a frame"):
        enter(pandas.Series(range(ROWS + 1)), where="many")


# ---- frames


def sales() -> pandas.DataFrame:
    rows = ROWS + 10_000
    return pandas.DataFrame(
        {
            "shop": ["a", "b"] * (rows // 2),
            "sold": range(rows),
            "day": pandas.date_range("2020", periods=rows, freq="h"),
        }
    )


@pytest.fixture(scope="module")
def handle() -> FrameHandle:
    entered = enter(sales(), where="sales")
    assert isinstance(entered, FrameHandle)
    return entered


def test_a_long_frame_is_a_handle_that_answers_questions(handle: FrameHandle) -> None:
    source = """
few = value.filter("shop", "==", "a").filter("sold", "<", 10)
out = [
    value.columns, value.rows, value.head(1), few.rows, few.agg("sold", "sum"), value.agg("day", "max"),
    value.agg("sold", "mean", by="shop"), value.filter("shop", "in", ["b"]).rows,
    value.filter("shop", "contains", "A").rows, value.filter("day", "is null").rows,
]
"""
    first = {"shop": "a", "sold": 0, "day": datetime.datetime(2020, 1, 1)}
    frame = sales()
    assert _through(handle, source) == [
        ["shop", "sold", "day"], len(frame), [first], 5, 20, frame["day"].max().to_pydatetime(),
        [{"shop": "a", "sold": 9999.0}, {"shop": "b", "sold": 10000.0}], 10_000, 0, 0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "question",
    [
        "value.query('sold > 1')", "value.eval('1')", "value.to_csv('x')", "value.agg('sold', '__class__')",
        "value.agg('sold', 'apply')", "value.filter('sold', 'query', '1')", "value.filter('sold', '==', value)",
        "value.filter('none', '==', 1)", "value.head(10_001)", "value.head('all')", "value._frame", "value.frame",
        "value.call('head')", "value['sold']", "value.filter('sold', 'in', [[1]])",
        "value.agg('shop', 'mean')", "value.filter('sold', '<', 'many')", "value.filter('sold', 'contains', 1)",
    ],
)  # fmt: skip
def test_nothing_else_can_be_asked(handle: FrameHandle, question: str) -> None:
    source = f"try:\n    out = ('answered', {question})\nexcept Exception as error:\n    out = type(error).__name__"
    assert _through(handle, source) in ("AttributeError", "ValueError", "TypeError", "KeyError", "RuntimeError")


def test_a_frame_that_leaves_is_a_frame_again_and_so_on_replay(handle: FrameHandle) -> None:
    left = _through(handle, "out = value.filter('shop', '==', 'b').filter('sold', 'in', [1, 3])")
    assert list(left.frame["sold"]) == [1, 3]
    kept = json.loads(json.dumps(to_record(left, where="out")))
    again = from_record(kept, frames={"sales": handle})
    assert again.equals(left.frame) and "sold" not in json.dumps(kept).replace('"sold", "in"', "")


def test_its_class_does_not_leave(handle: FrameHandle) -> None:
    with pytest.raises(Uncrossable, match="cannot leave the sandbox"):
        to_record(_through(handle, "out = value.__class__"), where="out")


def test_a_handle_refuses_in_words() -> None:
    with pytest.raises(CallFailed, match="a frame has agg, filter, head, not apply"):
        FrameHandle(frame=sales(), root="sales", enter=lambda answer: answer).call("apply", (), {})
