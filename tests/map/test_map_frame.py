"""The frame of a map: its dtypes follow from the output type alone, and it is on disk whole or not at all."""

from __future__ import annotations

import datetime
import decimal
import enum
import os
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel, TypeAdapter, computed_field
from pydantic_ai import (
    DeferredToolRequests,
    NativeOutput,
    PromptedOutput,
    StructuredDict,
    TextOutput,
    ToolOutput,
)
from typing_extensions import TypedDict

from agentkit.errors import MissingExtra, UserError
from agentkit.map.frame import OWN, ResultColumns
from agentkit.map.frame_file import check_out, write
from agentkit.map.rows import open_table

TABLE = open_table(pandas.DataFrame({"n": [1, 2, 3]}, index=["a", "b", "b"]))
OURS = {
    "status": "category", "error": "string", "cost": "Float64", "tokens": "Int64", "seconds": "Float64", "run": "string"
}  # fmt: skip


class Label(BaseModel):
    kind: Literal["new", "used"]
    score: int


class Grade(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Level(enum.IntEnum):
    ONE = 1


Sku = NewType("Sku", str)


class Everything(BaseModel):
    number: int
    maybe: int | None = None
    ratio: Annotated[float, Field(ge=0)]
    price: decimal.Decimal
    either: int | float
    mixed: int | str
    flag: bool
    text: str
    sku: Sku
    kind: Literal["new", "used"]
    rank: Literal[1, 2]
    grade: Grade
    level: Level
    when: datetime.datetime
    day: datetime.date
    span: datetime.timedelta
    tags: list[str]
    nested: Label
    table: dict[str, int]
    anything: Any = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.number


EVERYTHING = Everything(
    number=1, ratio=0.5, price=decimal.Decimal("1.5"), either=1, mixed="x", flag=True, text="ü", sku=Sku("s"),
    kind="new", rank=2, grade=Grade.BAD, level=Level.ONE, when=datetime.datetime(1500, 1, 1, tzinfo=datetime.UTC),
    day=datetime.date(2026, 1, 2), span=datetime.timedelta(minutes=1), tags=["a", "ü"],
    nested=Label(kind="used", score=1), table={"a": 1}, anything=[1, None],
)  # fmt: skip

DTYPES = {
    "number": "Int64", "maybe": "Int64", "ratio": "Float64", "price": "Float64", "either": "Float64",
    "mixed": "string", "flag": "boolean", "text": "string", "sku": "string", "kind": "category", "rank": "Int64",
    "grade": "category", "level": "Int64", "when": "datetime64[us]", "day": "datetime64[us]",
    "span": "timedelta64[us]", "tags": "string", "nested": "string", "table": "string", "anything": "string",
    "double": "Int64",
}  # fmt: skip


def dtypes(frame: pandas.DataFrame) -> dict[str, str]:
    return {name: str(dtype) for name, dtype in frame.dtypes.items()}


def put(columns: ResultColumns, ordinal: int, answer: object) -> None:
    columns.put(ordinal, status="done", answer=answer, cost=0.1, tokens=3, seconds=0.5, run="r")


def put_json(columns: ResultColumns, ordinals: list[int], answers: list[bytes | str]) -> list[int]:
    count = len(ordinals)
    return columns.put_json(
        ordinals, answers, costs=[0.1] * count, tokens=[3] * count, seconds=[0.5] * count, runs=["r"] * count
    )


def test_the_dtypes_follow_from_the_annotations_whichever_rows_failed() -> None:
    nothing, one, recorded = (ResultColumns(Everything, TABLE) for _ in range(3))
    put(one, 1, EVERYTHING)
    assert put_json(recorded, [1], [EVERYTHING.model_dump_json()]) == []
    for columns in (nothing, one, recorded):
        assert dtypes(columns.frame()) == DTYPES | OURS
    pandas.testing.assert_frame_equal(one.frame(), recorded.frame())
    row = one.frame().iloc[1]
    assert row["when"] == pandas.Timestamp("1500-01-01")
    assert (row["tags"], row["nested"]) == ('["a","ü"]', '{"kind":"used","score":1}')
    assert (row["anything"], row["double"], row["grade"], row["mixed"]) == ("[1,null]", 2, "bad", "x")
    assert one.frame().iloc[[0, 2]].drop(columns="status").isna().all(axis=None)


@dataclass
class Point:
    x: int
    y: float


class Pair(NamedTuple):
    x: int
    y: float


class Fields(TypedDict):
    x: int
    y: float


class Wrapped(RootModel[list[int]]):
    pass


def shout(text: str) -> int:
    return len(text)


SCHEMA = {
    "type": "object",
    "properties": {
        "x": {"type": "integer"},
        "y": {"type": ["number", "null"]},
        "kind": {"enum": ["a", "b"]},
        "more": {"type": "array"},
    },
}
XY = {"x": "Int64", "y": "Float64"}
OUTPUTS: dict[str, tuple[Any, Any, dict[str, str], list[Any]]] = {
    "text": (str, "hi", {"answer": "string"}, ["hi"]),
    "number": (int, 3, {"answer": "Int64"}, [3]),
    "yes or no": (bool, True, {"answer": "boolean"}, [True]),
    "list": (list[int], [1, 2], {"answer": "string"}, ["[1,2]"]),
    "union": (Label | str, Label(kind="new", score=1), {"answer": "string"}, ['{"kind":"new","score":1}']),
    "dataclass": (Point, Point(1, 2), XY, [1, 2.0]),
    "named tuple": (Pair, Pair(1, 2.0), XY, [1, 2.0]),
    "typed dict": (Fields, {"x": 1, "y": 2.0}, XY, [1, 2.0]),
    "root model": (Wrapped, Wrapped([1]), {"answer": "string"}, ["[1]"]),
    "schema": (
        StructuredDict(SCHEMA),
        {"x": 1, "y": None, "kind": "b", "more": [1]},
        XY | {"kind": "category", "more": "string"},
        [1, pandas.NA, "b", "[1]"],
    ),
    "optional": (Point | None, Point(1, 2), XY, [1, 2.0]),
    "list of types": ([Label, DeferredToolRequests], Label(kind="new", score=1), {"kind": "category", "score": "Int64"},
                      ["new", 1]),
    "tool output": (ToolOutput(Point), Point(1, 2), XY, [1, 2.0]),
    "native output": (NativeOutput([Point]), Point(1, 2), XY, [1, 2.0]),
    "prompted output": (PromptedOutput(Point), Point(1, 2), XY, [1, 2.0]),
    "text output": (TextOutput(shout), 3, {"answer": "Int64"}, [3]),
    "function": (shout, 3, {"answer": "Int64"}, [3]),
    "literal": (Literal["a", "b"], "b", {"answer": "category"}, ["b"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", OUTPUTS)
def test_every_output_type_has_columns(kind: str) -> None:
    output, answer, expected, cells = OUTPUTS[kind]
    given_one, recorded = ResultColumns(output, TABLE), ResultColumns(output, TABLE)
    put(given_one, 0, answer)
    assert put_json(recorded, [0], [TypeAdapter(type(answer)).dump_json(answer)]) == []
    for columns in (given_one, recorded):
        frame = columns.frame()
        assert dtypes(frame) == expected | OURS
        found = [frame[name].iloc[0] for name in expected]
        assert [cell is pandas.NA for cell in found] == [cell is pandas.NA for cell in cells]
        assert [cell for cell in found if cell is not pandas.NA] == [cell for cell in cells if cell is not pandas.NA]


def test_no_answer_where_one_may_be_missing_is_missing() -> None:
    columns = ResultColumns(Point | None, TABLE)
    put(columns, 0, None)
    assert put_json(columns, [1, 2], [b"null", b'{"x": 1, "y": 2}']) == []
    assert columns.frame()["x"].isna().tolist() == [True, True, False]
    assert columns.count("done") == 3


def test_failed_rows_keep_their_place_and_can_be_done_later() -> None:
    columns = ResultColumns(Label, TABLE)
    columns.put(1, status="failed", error="no", cost=0.5, tokens=3, seconds=1.0, run="r")
    columns.put(2, status="waiting", cost=None, tokens=0, seconds=None, run="s")
    assert put_json(columns, [0], [b'{"kind":"new","score":4}']) == []
    frame = columns.frame()
    assert list(frame.columns) == ["kind", "score", *OWN]
    assert list(frame.index) == ["a", "b", "b"]
    assert list(frame["status"]) == ["done", "failed", "waiting"]
    assert list(columns.failed.index) == ["b"]
    assert list(columns.failed["error"]) == ["no"]
    assert dtypes(columns.failed) == dtypes(frame)
    assert (columns.ordinals("failed"), columns.count("pending")) == ([1], 0)
    put(columns, 1, Label(kind="used", score=2))
    assert columns.failed.empty
    assert columns.frame()["error"].isna().all()
    assert columns.frame()["score"].tolist() == [4, 2, pandas.NA]
    columns.put(0, status="failed", error="now", cost=None, tokens=0, seconds=None, run="r")
    assert columns.frame()["score"].isna().tolist() == [True, False, True]
    assert put_json(columns, [0], [b'{"kind":"new","score":5}']) == []
    assert columns.frame()["error"].isna().all()


def test_a_recorded_answer_that_fits_no_longer_is_named_and_left_out() -> None:
    columns = ResultColumns(Label, TABLE)
    answers: list[bytes | str] = ['{"kind":"new","score":1}', '{"kind":"old","score":2}', b"{", '{"kind":"used"}']
    assert put_json(columns, [2, 0, 1, 1], answers) == [0, 1, 1]
    assert columns.frame()["status"].tolist() == ["pending", "pending", "done"]
    assert columns.frame()["score"].tolist()[2] == 1


def test_a_number_of_more_than_64_bits_is_kept() -> None:
    columns = ResultColumns(int, TABLE)
    put(columns, 0, 2**70)
    assert columns.frame()["answer"].tolist() == [2**70, None, None]


def test_a_field_may_not_be_called_as_our_columns() -> None:
    class Offer(BaseModel):
        cost: float

    with pytest.raises(UserError, match=r"^the output type Offer has a field cost, as a column of the map's own"):
        ResultColumns(Offer, TABLE)
    with pytest.raises(UserError, match="has a field status"):
        ResultColumns(StructuredDict({"type": "object", "properties": {"status": {"type": "string"}}}), TABLE)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["put", "json", "failed"]), st.integers()), max_size=12))
def test_what_was_put_last_holds(moves: list[tuple[int, str, int]]) -> None:
    columns = ResultColumns(int, open_table(range(6)))
    expected: dict[int, int | None] = {}
    for ordinal, move, value in moves:
        expected[ordinal] = None if move == "failed" else value
        if move == "put":
            put(columns, ordinal, value)
        elif move == "json":
            assert put_json(columns, [ordinal], [str(value)]) == []
        else:
            columns.put(ordinal, status="failed", error="x", cost=None, tokens=0, seconds=None, run="r")
    frame = columns.frame()
    assert [None if cell is None or cell is pandas.NA else cell for cell in frame["answer"]] == [
        expected.get(ordinal) for ordinal in range(6)
    ]
    assert columns.ordinals("failed") == sorted(o for o, value in expected.items() if value is None)


@pytest.mark.alone
def test_recorded_answers_take_little_more_than_their_parsing() -> None:
    count = 100_000
    answers: list[bytes | str] = [b'{"kind":"new","score":%d}' % n for n in range(count)]
    adapter = TypeAdapter(Label)
    ratios = []
    for _ in range(3):
        begun = time.process_time()
        for answer in answers:
            adapter.validate_json(answer)
        parsed = time.process_time() - begun
        columns = ResultColumns(Label, open_table(range(count)))
        begun = time.process_time()
        assert put_json(columns, list(range(count)), answers) == []
        frame = columns.frame()
        ratios.append((time.process_time() - begun) / parsed)
        assert frame["score"].sum() == count * (count - 1) // 2
    assert min(ratios) < 2.5, ratios


# -- on disk


def result_frame(index: Any = None) -> pandas.DataFrame:
    columns = ResultColumns(Everything, open_table(pandas.DataFrame({"n": [1, 2, 3]}, index=index)))
    put(columns, 1, EVERYTHING)
    columns.put(2, status="failed", error='no,\n"never"', cost=None, tokens=1, seconds=None, run="r")
    return columns.frame()


INDEXES: dict[str, Any] = {
    "none": None,
    "texts": pandas.Index(["a", "b", "b"], name="sku"),
    "named as a column": pandas.Index(["a", "b", "c"], name="text"),
    "levels": pandas.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["x", None]),
    "mixed": pandas.Index(["a", 1, ("b", 2)], dtype=object, tupleize_cols=False),
    "intervals": pandas.interval_range(0, 3),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_a_frame_is_written_and_read_again(kind: str, tmp_path: Path) -> None:
    frame = result_frame(INDEXES[kind])
    for end in ("parquet", "csv", "jsonl"):
        path = write(frame, str(tmp_path / f"out.{end}"))
        read = {"parquet": pandas.read_parquet, "csv": pandas.read_csv, "jsonl": pandas.read_json}[end]
        back = read(path, **({"lines": True} if end == "jsonl" else {}))
        assert len(back) == 3
        assert set(frame.columns) <= set(back.columns)
        assert back["status"].tolist() == ["pending", "done", "failed"]
        assert back["error"].tolist()[2] == 'no,\n"never"'
        if end == "parquet" and kind not in ("mixed", "named as a column"):
            assert back.index.equals(frame.index) or list(back.index) == list(frame.index)
            assert dtypes(back) == dtypes(frame)
        if end != "parquet":
            assert (len(back.columns) > len(frame.columns)) == (kind != "none")
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "out.jsonl", "out.parquet"]
    mode = stat.S_IMODE((tmp_path / "out.csv").stat().st_mode)
    (tmp_path / "plain").touch()
    assert mode == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_every_date_of_a_csv_file_is_in_one_form(tmp_path: Path) -> None:
    """pandas writes chunks of 100,000 cells, and a chunk whose dates are all at midnight without the time."""
    midnight, noon = pandas.Timestamp("2026-01-02"), pandas.Timestamp("2026-01-02 12:00:00.5")
    frame = pandas.DataFrame({"when": [midnight] * 120_000 + [noon, None], "day": [midnight] * 120_002})
    lines = write(frame, tmp_path / "out.csv").read_text().splitlines()
    assert lines[1] == lines[120_000] == "2026-01-02T00:00:00.000000,2026-01-02"
    assert lines[-2:] == ["2026-01-02T12:00:00.500000,2026-01-02", ",2026-01-02"]
    back = pandas.read_csv(tmp_path / "out.csv", parse_dates=["when", "day"])
    assert back["when"].equals(frame["when"].astype(back["when"].dtype))


def test_json_keeps_microseconds(tmp_path: Path) -> None:
    when = pandas.Series(pandas.to_datetime(["2026-01-02T03:04:05.000006"]))
    out = write(pandas.DataFrame({"when": when}), tmp_path / "out.jsonl")
    assert "2026-01-02T03:04:05.000006" in out.read_text()


def test_what_cannot_be_written_is_refused_before_anything_is_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.csv").mkdir()
    pandas.DataFrame({"a": [1]}).to_csv(tmp_path / "in.csv")
    refused = {
        "out.xlsx": r"ends in none of \.parquet, \.csv, \.jsonl: give one of them",
        "out": "ends in none of",
        "gone/out.csv": "there is no folder .*gone: make it first",
        "folder.csv": "is a folder: give a file in it",
        "in.csv": "is the file that rows is read from: give another name",
    }
    table = open_table(tmp_path / "in.csv")
    for name, message in refused.items():
        with pytest.raises(UserError, match=message):
            check_out(tmp_path / name, table)
    assert check_out(tmp_path / "out.csv", table) == (tmp_path / "out.csv").resolve()
    assert sorted(os.listdir(tmp_path)) == ["folder.csv", "in.csv"]
    with pytest.raises(UserError, match="cannot be written: /proc"):
        check_out("/proc/out.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match="pyarrow"):
        check_out(tmp_path / "out.parquet")


FULL = """
import resource, sys
import pandas
from agentkit.errors import UserError
from agentkit.map.frame_file import write
frame = pandas.DataFrame({"a": [str(n) * 20 for n in range(20_000)]})
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
try:
    write(frame, sys.argv[1])
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("end", ["parquet", "csv", "jsonl"])
def test_a_file_that_cannot_grow_leaves_the_old_one_and_says_so(end: str, tmp_path: Path) -> None:
    out = tmp_path / f"out.{end}"
    out.write_bytes(b"old")
    ran = subprocess.run([sys.executable, "-c", FULL, out], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith(f"out={out} was not written: ")
    assert "the frame is still in hand" in ran.stdout
    assert ran.stdout.count("\n") == 1
    assert out.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [out.name]
