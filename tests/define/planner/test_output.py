"""A filled output always fits its schema, and says what the results say."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Le, Len
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter

from agentkit.define.planner.output import coverage, fill
from agentkit.define.planner.talk import Result
from agentkit.define.planner.words import Prompt

MEANS = Result(
    tool="mean",
    args={"column": "temp_max", "by": "month"},
    value={"May": 19.3, "July": 26.0, "March": 12.4},
)
ROWS = Result(
    tool="top",
    args={"column": "wind", "n": 2},
    value=[{"day": "2012-12-17", "wind": 9.5}, {"day": "2013-12-01", "wind": 8.8}],
)
COUNT = Result(tool="count_days", args={"column": "rain", "above": 20}, value=51)


class Extremes(BaseModel):
    warmest_month: str
    highest: float
    coldest_month: str
    lowest: float


class Day(BaseModel):
    day: date
    wind: float


class Report(BaseModel):
    title: str
    column: str
    days: list[Day]
    best: Day | None = None
    kind: Literal["wind", "rain"]


class Tree(BaseModel):
    value: float
    children: list[Tree] = []


def test_both_ends_of_a_table_are_told_apart() -> None:
    prompt = Prompt("Which was the warmest and which the coldest month?")
    made = Extremes.model_validate(fill(Extremes.model_json_schema(), prompt, [MEANS]))
    assert made == Extremes(warmest_month="July", highest=26.0, coldest_month="March", lowest=12.4)


def test_rows_become_nested_objects() -> None:
    made = Report.model_validate(fill(Report.model_json_schema(), Prompt("top 2 of 'wind'"), [ROWS]))
    assert [day.wind for day in made.days] == [9.5, 8.8]
    assert made.days[0].day == date(2012, 12, 17)
    assert (made.column, made.kind) == ("wind", "wind")


def test_a_number_is_the_number_that_came() -> None:
    class Days(BaseModel):
        days: int
        limit: float

    made = Days.model_validate(fill(Days.model_json_schema(), Prompt("days above 20"), [COUNT]))
    assert made == Days(days=51, limit=20)


def test_another_variant_is_another_value() -> None:
    schema = {"type": "string"}
    values = {fill(schema, Prompt("x"), [MEANS], variant=variant) for variant in range(2)}
    assert len(values) == 2


def test_recursion_ends() -> None:
    assert Tree.model_validate(fill(Tree.model_json_schema(), Prompt("x"), [COUNT])).value == 51


def test_coverage_is_the_share_of_fields_that_are_spoken_of() -> None:
    schema: dict[str, Any] = {"properties": {"month": {}, "flavour": {}}}
    assert coverage(schema, Prompt("which month"), [MEANS]) == 0.5
    assert coverage({"type": "string"}, Prompt("which month"), [MEANS]) == 0.0


TYPES: list[Any] = [
    int,
    float,
    str,
    bool,
    date,
    Literal["a", "b"],
    int | None,
    list[int],
    dict[str, float],
    Annotated[int, Ge(3), Le(9)],
    Annotated[float, Ge(0), Le(1)],
    Annotated[str, Len(3, 8)],
    Annotated[list[str], Len(2, 4)],
    Annotated[int, Field(gt=100)],
    tuple[int, str],
    Extremes,
    Report,
    list[Day],
    Tree,
]


@pytest.mark.parametrize("kind", TYPES, ids=str)
@given(data=st.data())
def test_whatever_the_results_the_output_fits(kind: Any, data: st.DataObject) -> None:
    results = data.draw(st.lists(st.sampled_from([MEANS, ROWS, COUNT]), max_size=3))
    prompt = Prompt(data.draw(st.sampled_from(["the warmest month", "2 days above 20", "", "'quoted' Paris"])))
    adapter = TypeAdapter(kind)
    made = fill(adapter.json_schema(), prompt, results, variant=data.draw(st.integers(0, 3)))
    adapter.validate_python(made) if kind is not date else adapter.validate_json(f'"{made}"')
