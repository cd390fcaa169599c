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
import sys
import time
import uuid
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.values.typed_json import NOTHING, SANDBOX, Entered, Forged, Parcel, Unpackable, declare, pack, unpack


class Colour(enum.Enum):
    RED = "r"


@dataclasses.dataclass
class Config:
    factor: int
    when: datetime.date
    made: int = dataclasses.field(init=False, default=7)


@dataclasses.dataclass
class Order:
    parts: list[Config]
    colours: dict[str, Colour | None]
    again: Order | None = None


@dataclasses.dataclass
class Touching:
    path: str

    def __post_init__(self) -> None:
        pathlib.Path(self.path).touch()


class TouchingModel(pydantic.BaseModel):
    path: str

    def model_post_init(self, context: Any) -> None:
        pathlib.Path(self.path).touch()


@dataclasses.dataclass(init=False)
class TouchingInit:
    path: str

    def __init__(self, path: str) -> None:
        self.path = path
        pathlib.Path(path).touch()

    def __setattr__(self, name: str, value: Any) -> None:
        pathlib.Path(self.path).touch()


class Priced(pydantic.BaseModel):
    net: int
    _factor: int = pydantic.PrivateAttr(default=2)

    def with_tax(self) -> int:
        return self.net * self._factor


class Hostile:
    """Everything that could be asked of it leaves a file."""

    def __init__(self, ran: pathlib.Path) -> None:
        object.__setattr__(self, "ran", ran)

    def _touch(self, *args: Any) -> Any:
        object.__getattribute__(self, "ran").touch()
        raise AssertionError("something of it was called")

    __repr__ = __str__ = __eq__ = __reduce__ = __reduce_ex__ = __getstate__ = __iter__ = __len__ = _touch
    __getattr__ = __getattribute__ = __array__ = __format__ = __bool__ = __float__ = __index__ = _touch

    def __hash__(self) -> int:
        return 1


@dataclasses.dataclass(frozen=True)
class Keyed:
    x: int

    def __repr__(self) -> str:
        raise AssertionError("its repr was asked for")


@dataclasses.dataclass(init=False)
class Computed:
    name: str = ""


def _compute(self: Any) -> str:
    raise AssertionError("it was computed")


setattr(Computed, "name", property(_compute))  # noqa: B010 - a dataclass would take it for the default


class Reduced:
    def __reduce__(self) -> Any:
        raise AssertionError("it was reduced")

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("its state was set")


FORM = ["$", "of", "as", "module", "name", "names", "index", "columns", "values", "dtype", "data", "shape", "scalar"]
TAGS = """dict tuple set deque float complex timedelta range enum object array NA moment span series index frame
datetime decimal fraction bytes path""".split()
WAYS = ["range", "levels", "plain", "array", "category", "zoned", "items"]


def there_and_back(value: Any) -> Any:
    parcel = Parcel.of(value, where="it")
    return unpack(json.loads(json.dumps(parcel.packed, allow_nan=False)), Entered(parcel.classes))


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


def test_a_class_comes_back_only_where_it_went_in_or_was_declared() -> None:
    parcel = Parcel.of(Config(3, datetime.date(2024, 1, 2)), where="it")
    with pytest.raises(
        Forged, match=r"names 'tests.values.test_typed_json.Config', which neither went in nor was declared"
    ):
        parcel.open(NOTHING)
    assert parcel.open(Entered(declare([list[Order]]))) == Config(3, datetime.date(2024, 1, 2))


def test_what_a_field_is_declared_to_hold_is_declared_too() -> None:
    names = {name for _, name in declare([Order])}
    assert names == {"Order", "Config", "Colour"}


def test_a_parcel_opens_to_its_value() -> None:
    assert Parcel.of((1, {2}), where="it").open(NOTHING) == (1, {2})


# ---- values of the notebook that would like to run something


def test_packing_calls_nothing_of_a_value(tmp_path: pathlib.Path) -> None:
    for hostile in (Hostile(tmp_path / "ran"), [Hostile(tmp_path / "ran")], {Hostile(tmp_path / "ran"): 1}):
        with pytest.raises(Unpackable, match=r"is a .*Hostile, which cannot be handed"):
            pack(hostile, where="it")
    with pytest.raises(Unpackable, match=r"it.name is a property"):
        pack(Computed(), where="it")
    keyed = {Keyed(1): float, 2: 3}
    with pytest.raises(Unpackable, match=r"it\[Keyed\] is a type"):
        pack(keyed, where="it")
    assert list(tmp_path.iterdir()) == []


# ---- packed values that nobody packed

NAMED = [
    {"$": "object", "module": "os", "name": "system", "of": {"command": "touch ran"}},
    {"$": "object", "module": "builtins", "name": "eval", "of": {}},
    {"$": "object", "module": "builtins", "name": "object.__subclasses__", "of": {}},
    {"$": "enum", "module": "os", "name": "environ", "of": "PATH"},
    {"$": "enum", "module": "sys", "name": "modules", "of": "os"},
    {"$": "object", "module": "this", "name": "s", "of": {}},
    {"$": "object", "module": "subprocess", "name": "Popen", "of": {"args": "touch ran"}},
    {"$": "object", "module": "tests.values.test_typed_json", "name": "Config.__init__.__globals__", "of": {}},
    {"$": "object", "module": "tests.values.test_typed_json", "name": "Reduced", "of": {}},
]


@pytest.mark.parametrize("packed", NAMED, ids=lambda packed: packed["name"])
def test_a_name_that_did_not_go_in_is_neither_imported_nor_looked_up(packed: Any) -> None:
    known = Entered({**Parcel.of(Config(1, datetime.date(2024, 1, 2)), where="it").classes})
    imported = set(sys.modules)
    for hidden in (packed, [packed], {"$": "set", "of": [packed]}, {"$": "dict", "of": [[packed, 1]]}):
        with pytest.raises(Forged, match="neither went in nor was declared"):
            unpack(hidden, known)
    assert set(sys.modules) == imported


def test_no_code_of_a_class_that_went_in_runs_on_what_comes_back(tmp_path: pathlib.Path) -> None:
    ran = tmp_path / "ran"
    for kind in (Touching, TouchingModel):
        packed = {"$": "object", "module": __name__, "name": kind.__name__, "of": {"path": str(ran)}}
        with pytest.raises(Forged, match=f"holds a {kind.__name__}, whose own .*post_init.* would have to run here"):
            unpack(packed, Entered(declare([kind])))
    own = {"$": "object", "module": __name__, "name": "TouchingInit", "of": {"path": str(ran)}}
    assert unpack(own, Entered(declare([TouchingInit]))).path == str(ran)
    assert not ran.exists()


def test_a_model_comes_back_with_its_private_defaults() -> None:
    back = there_and_back(Priced(net=2))
    assert back == Priced(net=2) and back.with_tax() == 4


FALSE = {
    "other fields": {"$": "object", "module": __name__, "name": "Config", "of": {"__class__": 1}},
    "a member made": {"$": "object", "module": __name__, "name": "Colour", "of": {}},
    "no such member": {"$": "enum", "module": __name__, "name": "Colour", "of": "__class__"},
    "a list for a name": {"$": "enum", "module": [], "name": "Colour", "of": "RED"},
    "a list for a kind": {"$": [], "of": 1},
    "an unknown kind": {"$": "pickle", "of": "gASV"},
    "nothing of it": {"$": "tuple"},
    "a number for a text": {"$": "datetime", "of": 5},
    "a fraction of a billion digits": {"$": "fraction", "of": "1e999999999"},
    "a set of lists": {"$": "set", "of": [[1]]},
    "a signalling NaN in a set": {"$": "set", "of": [{"$": "decimal", "of": "sNaN"}]},
    "objects in raw bytes": {"$": "array", "dtype": "|O", "shape": [1], "scalar": False, "data": "AAAAAAAAAAA="},
    "a structured dtype": {"$": "array", "dtype": "i4,O", "shape": [1], "scalar": False, "data": "AAAAAAAAAAA="},
    "another shape": {"$": "array", "dtype": "<i8", "shape": [1 << 40], "scalar": False, "data": "AAAAAAAAAAA="},
    "a zone that is a file": {"$": "moment", "of": "2024-01-01T00:00:00+00:00", "zone": "dateutil//etc/passwd"},
    "a zone above": {"$": "moment", "of": "2024-01-01T00:00:00+00:00", "zone": "../../etc/passwd"},
    "another library's dtype": {
        "$": "series",
        "name": None,
        "index": {"$": "index", "as": "range", "of": [0, 0, 1], "names": [None]},
        "values": {"as": "items", "dtype": "geometry", "of": []},
    },
    "one value for a trillion rows": {
        "$": "frame",
        "names": {"$": "index", "as": "range", "of": [0, 1, 1], "names": [None]},
        "index": {"$": "index", "as": "range", "of": [0, 10**12, 1], "names": [None]},
        "columns": [{"as": "array", "of": {"$": "array", "dtype": "|u1", "shape": [], "scalar": True, "data": "AA=="}}],
    },
    "keys of one hash": {"$": "set", "of": [n * (2**61 - 1) for n in range(100_000)]},
    "too many frames": [{"$": "deque", "of": []}] * 60_000,
}


@pytest.mark.parametrize("packed", FALSE.values(), ids=FALSE)
def test_what_no_packing_makes_is_refused_in_its_words_and_at_once(packed: Any) -> None:
    began = time.monotonic()
    with pytest.raises(Forged, match=r"^it "):
        unpack(packed, Entered(declare([Config, Colour])))
    assert time.monotonic() - began < 2


def test_what_is_nested_without_end_is_refused() -> None:
    for wrap in (lambda deep: [deep], lambda deep: {"a": deep}, lambda deep: {"$": "tuple", "of": [deep]}):
        deep: Any = 1
        for _ in range(5_000):
            deep = wrap(deep)
        with pytest.raises(Forged, match="nested more than 100 deep"):
            unpack(deep, NOTHING)


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5) | st.sampled_from(["os", "system", "Config", "i4", "UTC"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(FORM), inner, max_size=6)
            | st.fixed_dictionaries({"$": st.sampled_from(TAGS), "of": inner, "as": st.sampled_from(WAYS)})
        ),
        max_leaves=15,
    )
)
def test_whatever_is_written_it_is_a_value_or_refused(packed: Any) -> None:
    try:
        unpack(packed, Entered(declare([Config, Colour])))
    except Forged:
        return
