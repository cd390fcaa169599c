from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from agentkit.values.json_schema import mismatch


class Row(BaseModel):
    id: int
    name: str = Field(min_length=1, max_length=5)
    tags: list[str] = []
    parent: Row | None = None


ARGUMENTS = {
    "type": "object",
    "properties": {
        "ids": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
        "how": {"enum": ["soft", "hard"]},
        "share": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
        "when": {"anyOf": [{"type": "string", "pattern": "^[0-9-]+$"}, {"type": "null"}]},
    },
    "required": ["ids"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "value",
    [
        {"ids": [1]},
        {"ids": [1, 2], "how": "soft", "share": 0.5, "when": None},
        {"ids": [3.0], "share": 0, "when": "2026-11-21"},
    ],
)
def test_what_fits_has_nothing_wrong(value: Any) -> None:
    assert mismatch(ARGUMENTS, value) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "ids is missing"),
        ([], "[] is not an object"),
        ({"ids": "all"}, "ids: 'all' is not an array"),
        ({"ids": [1, "2"]}, "ids[1]: '2' is not an integer"),
        ({"ids": [True]}, "ids[0]: True is not an integer"),
        ({"ids": []}, "ids: [] has fewer items than 1"),
        ({"ids": [1], "how": "maybe"}, "how: 'maybe' is none of 'soft', 'hard'"),
        ({"ids": [1], "share": 1}, "share: 1 is not below 1"),
        ({"ids": [1], "share": -0.1}, "share: -0.1 is below 0"),
        ({"ids": [1], "when": "now"}, "when: 'now' does not match ^[0-9-]+$"),
        ({"ids": [1], "force": True}, "force is not one of its arguments (ids, how, share, when)"),
    ],
)
def test_what_does_not_fit_is_said_with_its_place(value: Any, said: str) -> None:
    assert mismatch(ARGUMENTS, value) == said


def test_definitions_are_followed_and_a_schema_that_contains_itself_ends() -> None:
    schema = Row.model_json_schema()
    assert mismatch(schema, {"id": 1, "name": "a", "parent": {"id": 2, "name": "b"}}) is None
    assert mismatch(schema, {"id": 1, "name": "a", "parent": {"id": "x", "name": "b"}}) == (
        "parent.id: 'x' is not an integer"
    )
    assert mismatch({"$ref": "#"}, 1) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("id name tags parent".split()), inner),
    max_leaves=8,
)


@given(value=json_values)
def test_nothing_that_pydantic_takes_as_it_is_is_refused(value: Any) -> None:
    try:
        TypeAdapter(Row).validate_python(value, strict=True)
    except ValidationError:
        return
    if isinstance(value, dict) and not set(value) - set(Row.model_fields):
        assert mismatch(Row.model_json_schema(), value) is None
