"""The frame of a map."""

from __future__ import annotations

from typing import Literal

import pandas
import pytest
from pydantic import BaseModel

from agentkit.errors import UserError
from agentkit.map.frame import ResultColumns
from agentkit.map.rows import open_table

TABLE = open_table(pandas.DataFrame({"n": [1, 2, 3]}, index=["a", "b", "b"]))


class Label(BaseModel):
    kind: Literal["new", "used"]
    score: int


def test_failed_rows_keep_their_place() -> None:
    columns = ResultColumns(Label, TABLE)
    columns.put(1, status="failed", error="no", cost=0.5, tokens=3, seconds=1.0, run="r")
    assert (
        columns.put_json([0], [b'{"kind":"new","score":4}'], costs=[1.0], tokens=[7], seconds=[0.1], runs=["q"]) == []
    )
    frame = columns.frame()
    assert list(frame.columns) == ["kind", "score", "status", "error", "cost", "tokens", "seconds", "run"]
    assert list(frame.index) == ["a", "b", "b"]
    assert list(frame["status"]) == ["done", "failed", "pending"]
    assert frame["score"].sum() == 4
    assert list(columns.failed["error"]) == ["no"]


def test_a_field_may_not_be_called_as_our_columns() -> None:
    class Offer(BaseModel):
        cost: float

    with pytest.raises(UserError, match="the output type Offer has a field cost"):
        ResultColumns(Offer, TABLE)
