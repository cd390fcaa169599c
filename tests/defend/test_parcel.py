"""What goes to another process comes back as the same, or is refused by name; nothing is ever pickled."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import uuid
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.defend.parcel import SANDBOX, NotDefined, Parcel, Unpackable, pack, unpack


class Colour(enum.Enum):
    RED = "r"


@dataclasses.dataclass
class Config:
    factor: int
    when: datetime.date
    made: int = dataclasses.field(init=False, default=7)


def there_and_back(value: Any, space: dict[str, Any] | None = None) -> Any:
    return unpack(json.loads(json.dumps(pack(value, where="it"), allow_nan=False)), space or {})


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.decimals(allow_nan=False),
    st.dates(),
    st.datetimes(),
    st.timedeltas(),
    st.uuids(),
    st.complex_numbers(allow_nan=False),
)
KEYS = st.text() | st.integers() | st.dates() | st.just("$") | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner) | st.dictionaries(KEYS, inner) | st.tuples(inner, inner) | st.frozensets(st.integers())
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_plain_values_keep_their_types(value: Any) -> None:
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        {"$": "tuple", "of": [1]},
        collections.deque([1, 2]),
        range(2, 10, 3),
        pathlib.PosixPath("/a/b"),
        uuid.UUID(int=5),
        decimal.Decimal("1.10"),
        Colour.RED,
        Config(3, datetime.date(2024, 1, 2)),
        [float("inf"), -math.inf],
    ],
)
def test_the_others_too(value: Any) -> None:
    assert there_and_back(value) == value


def test_not_a_number_stays_that() -> None:
    assert math.isnan(there_and_back(float("nan")))
    assert there_and_back(pd.NaT) is pd.NaT
    assert there_and_back(pd.NA) is pd.NA


def test_a_frame_comes_back_as_it_was() -> None:
    moments = pd.date_range("2024-03-30", periods=3, freq="D", tz="Europe/Berlin")
    frame = pd.DataFrame(
        {
            "whole": [1, 2, 3],
            "part": [1.5, np.nan, -np.inf],
            "text": ["a", None, "ü"],
            "kind": pd.Categorical(["u", "v", "u"], categories=["v", "u"], ordered=True),
            "maybe": pd.array([1, None, 3], dtype="Int64"),
            "moment": moments,
            "naive": pd.date_range("2024", periods=3),
            "span": pd.to_timedelta([1, 2, 3], unit="s"),
            "mixed": [1, "x", decimal.Decimal("2")],
            "small": np.array([1, 2, 3], dtype=np.int8),
        },
        index=pd.MultiIndex.from_tuples([("n", 1), ("n", 2), ("s", 1)], names=["region", None]),
    )
    pd.testing.assert_frame_equal(there_and_back(frame), frame)
    pd.testing.assert_frame_equal(there_and_back(frame.reset_index(drop=True)), frame.reset_index(drop=True))
    for name in frame:
        pd.testing.assert_series_equal(there_and_back(frame[name]), frame[name])


def test_two_columns_of_one_name() -> None:
    frame = pd.DataFrame([[1, "a"]], columns=["x", "x"])
    pd.testing.assert_frame_equal(there_and_back(frame), frame)


@pytest.mark.parametrize(
    "array",
    [np.arange(12.0).reshape(3, 4)[:, ::2], np.array(["a", "bc"]), np.array([{"a": (1, 2)}, None]), np.zeros((0, 3))],
)
def test_arrays(array: Any) -> None:
    back = there_and_back(array)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert (back == array).all()
    back[:0] = 0  # it can be written to


def test_numpy_scalars_keep_their_dtype() -> None:
    assert there_and_back(np.float32(1.5)).dtype == np.float32
    assert there_and_back(np.datetime64("2024-01-01")) == np.datetime64("2024-01-01")


@pytest.mark.parametrize(
    "value", [open, lambda: 1, object(), iter([]), np.array([(1, 2)], dtype=[("a", "i4"), ("b", "i4")])]
)
def test_what_lives_in_one_process_is_refused_by_name(value: Any) -> None:
    with pytest.raises(Unpackable, match=r"it\[0\] is a .*, which cannot be handed to another process"):
        pack([value], where="it")


def test_what_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(Exception, match="contains itself"):
        pack(value, where="it")


def test_classes_of_a_sandbox_program_do_not_leave_it() -> None:
    made = dataclasses.make_dataclass("Made", ["x"])
    made.__module__ = SANDBOX
    with pytest.raises(Unpackable, match="it is a Made"):
        pack(made(1), where="it")


def test_a_class_that_is_not_defined_there_is_named() -> None:
    made = dataclasses.make_dataclass("Made", ["x"])
    made.__module__ = "__main__"
    packed = pack(made(1), where="it")
    assert unpack(packed, {"Made": made}) == made(1)
    with pytest.raises(NotDefined, match="Made"):
        unpack(packed, {})


def test_a_parcel_opens_to_its_value() -> None:
    assert Parcel.of((1, {2}), where="it").open() == (1, {2})
