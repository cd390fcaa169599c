"""Front matter and instructions: what is read, what is refused and where the fault is said to be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.agent.spec import Spec
from agentkit.errors import SpecError


def problem(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        Spec.parse(text, first_line=2)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_body_without_front_matter_is_instructions() -> None:
    assert Spec.parse("\nYou answer.\n\nCheck twice.\n") == Spec(instructions="You answer.\n\nCheck twice.")


def test_front_matter_gives_the_fields_of_an_agent_spec() -> None:
    spec = Spec.parse("---\nmodel: openai:gpt-5\nmodel_settings: {temperature: 0}\nretries: 2\n---\nYou answer.\n")
    assert spec.fields == {"model": "openai:gpt-5", "model_settings": {"temperature": 0}, "retries": 2}
    assert (spec.model, spec.name, spec.instructions) == ("openai:gpt-5", None, "You answer.")


def test_instructions_in_front_matter_come_before_those_in_the_body() -> None:
    assert Spec.parse("---\ninstructions: [One., Two.]\n---\nThree.").instructions == "One.\n\nTwo.\n\nThree."
    assert Spec.parse("---\ninstructions: One.\n---\n").instructions == "One."


def test_a_date_stays_the_text_that_was_typed() -> None:
    assert Spec.parse("---\nmetadata: {since: 2024-01-01}\n---\n").fields == {"metadata": {"since": "2024-01-01"}}


def test_windows_line_ends_are_read() -> None:
    assert Spec.parse("---\r\nmodel: test\r\n---\r\nHello\r\n") == Spec(instructions="Hello", fields={"model": "test"})


def test_empty_front_matter_is_no_fields() -> None:
    assert Spec.parse("---\n---\n---\nHello") == Spec(instructions="---\nHello")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("---\nmodl: x\n---\n", "line 3: unknown field modl (did you mean model?)"),
        ("---\nmodel: x\nzzz: 1\n---\n", "line 4: unknown field zzz: one of model, name"),
        ("---\nmodel: x\ntemperature: 1\n---\n", "line 4: unknown field temperature: it is a model setting"),
        ("---\nmodel_settings: {temprature: 1}\n---\n", "line 3: unknown model setting temprature (did you mean temp"),
        ("---\nmodel: x\nmodel: y\n---\n", "line 4: model is given twice (first in line 3)"),
        ("---\nmodel: x\n\ntools: [\n---\n", "line 5: front matter is not YAML"),
        ("\n\n---\nmodel: x\n", "line 4: front matter starts with --- and is never closed"),
        ("---\n- a\n---\n", "line 3: front matter must be `field: value` lines"),
        ("---\njust words\n---\n", "line 3: front matter must be `field: value` lines"),
        ("---\nmodel: *x\n---\n", "line 3: front matter is not YAML: aliases"),
        ("---\nmodel: x\n1: y\n---\n", "line 4: a field name must be text, got '1'"),
        ("---\nmetadata:\n  a: !!binary aGk=\n---\n", "line 4: a value tagged"),
        ("---\nmetadata:\n  a: .nan\n---\n", "line 4: .nan is not a number that can be sent"),
        ("---\nmodel: x\nretries: many\n---\n", "line 4: retries: Input should be a valid integer"),
        ("---\nend_strategy: never\n---\n", "line 3: end_strategy: Input should be 'early'"),
        ("---\ncapabilities: [WebSerch]\n---\n", "line 3: unknown capability WebSerch (did you mean WebSearch?)"),
        ("---\nmodel: {{ x }}\n---\n", "line 3: a field name must be text"),
        ("---\nname: a\nmodel: \x00\n---\n", "line 4: front matter cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line_with_its_number(text: str, said: str) -> None:
    assert problem(text).startswith(said)


def test_braces_in_a_field_are_no_template_of_another_language() -> None:
    assert Spec.parse('---\ndescription: "Sales since {{ start"\n---\n').fields == {
        "description": "Sales since {{ start"
    }


PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.text(min_size=1),
        "name": st.text(min_size=1),
        "description": st.text(min_size=1),
        "model_settings": st.fixed_dictionaries({}, optional={"temperature": st.floats(0, 2), "seed": st.integers()}),
        "metadata": st.dictionaries(st.text(), PLAIN, max_size=3),
        "tool_timeout": st.floats(0, 1e6),
        "end_strategy": st.sampled_from(["early", "graceful", "exhaustive"]),
        "retries": st.integers(0, 9),
    },
)


@settings(max_examples=150, deadline=None)
@given(FIELDS, st.text() | st.sampled_from(["---", "---\nx", "--- \n---\nmodel: x\n---", "# Title\n\n- a"]))
def test_a_spec_written_as_text_is_read_back_the_same(fields: dict[str, Any], instructions: str) -> None:
    spec = Spec(fields=fields, instructions=instructions.replace("\r\n", "\n").strip())
    assert Spec.parse(spec.text()) == spec


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="-:{}[]&*!#|>%@'\"\n\t ab01.~,?\\", max_size=60))
def test_any_front_matter_is_read_or_refused_in_one_line(head: str) -> None:
    text = f"---\n{head}\n---\nHello"
    try:
        read: Spec | str = Spec.parse(text)
    except SpecError as error:
        read = str(error)
    if isinstance(read, Spec):
        assert Spec.parse(read.text()) == read
    else:
        assert read.startswith("line ") and "\n" not in read
