"""`{{ expression }}`: filled in from the notebook, bounded and honest about it."""

from __future__ import annotations

from collections.abc import Callable

import IPython.display
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.errors import SpecError
from agentkit.notebook.template import ImagePart, render
from agentkit.values.expressions import CHARACTERS

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d4944415478da63fcffff3f030005fe02fea7"
    "35c3f10000000049454e44ae426082"
)


def test_an_expression_is_evaluated_in_the_notebook() -> None:
    assert render("Since {{ year + 1 }}, {{ [n for n in 'ab'] }}", {"year": 2020}).text == "Since 2021, ['a', 'b']"


def test_an_expression_may_hold_braces_and_four_braces_are_two() -> None:
    assert render("{{ {'a': {'b': x}} }} and {{{{ x }}", {"x": 1}).text == "{'a': {'b': 1}} and {{ x }}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("one\n{{ strat }}", "line 3: {{ strat }}: strat is not defined in the notebook (did you mean start?)"),
        ("{{ start.x }}", "line 2: {{ start.x }}: AttributeError: 'int' object has no attribute 'x'"),
        ("{{ 1 / 0 }}", "line 2: {{ 1 / 0 }}: ZeroDivisionError: division by zero"),
        ("{{ a b }}", "line 2: {{ a b }} is not a Python expression"),
        ("{{ }}", "line 2: {{  }} is empty"),
        ("x\n\n{{ start", "line 4: {{ start is never closed with }}"),
    ],
)
def test_what_cannot_be_filled_in_is_one_line_that_shows_it(template: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        render(template, {"start": 1}, first_line=2)
    assert str(caught.value).startswith(said)


def test_a_frame_is_bounded_and_says_so() -> None:
    frame = pd.DataFrame({"n": range(1000)})
    rendered = render("{{ frame }}", {"frame": frame})
    assert "[the first 20 of 1,000 rows; digest " in rendered.text
    assert rendered.notes == ("{{ frame }}: only the first 20 of 1,000 rows are sent",)


def test_a_row_that_is_not_sent_still_makes_another_prompt() -> None:
    frame, changed = pd.DataFrame({"n": range(1000)}), pd.DataFrame({"n": range(1000)})
    changed.loc[900, "n"] = -1
    texts = {render("{{ frame }}", {"frame": one}).text for one in (frame, changed, frame.copy())}
    assert len(texts) == 2


def test_a_small_frame_is_sent_whole() -> None:
    rendered = render("{{ frame }}", {"frame": pd.DataFrame({"a": [1], "b": ["x"]})})
    assert (rendered.text, rendered.notes) == (",a,b\n0,1,x", ())


def test_long_text_is_bounded_and_says_so() -> None:
    rendered = render("{{ text }}", {"text": "x" * (CHARACTERS + 1)})
    assert rendered.text.startswith("x" * CHARACTERS + "\n[the first 20,000 of 20,001 characters; digest ")
    assert rendered.notes == ("{{ text }}: only the first 20,000 of 20,001 characters are sent",)


def test_an_object_that_differs_in_every_kernel_is_remarked() -> None:
    assert "will not replay" in render("{{ thing }}", {"thing": object()}).notes[0]


def test_an_image_becomes_an_image_part_between_the_text() -> None:
    picture: Callable[..., object] = IPython.display.Image
    rendered = render("What is {{ picture }}?", {"picture": picture(data=PIXEL)})
    assert rendered.parts == ("What is ", ImagePart(PIXEL, "image/png"), "?")


@given(st.text().filter(lambda text: "{{" not in text))
def test_text_without_braces_is_sent_as_it_is(text: str) -> None:
    assert render(text, {}).text == text


@given(st.text(alphabet="{} ax1+'\n\"():"))
def test_any_template_is_filled_in_or_refused_in_one_line(template: str) -> None:
    try:
        render(template, {"a": 1, "x": "2"})
    except SpecError as error:
        told = str(error).removeprefix("line ")
        if told == str(error) or "\n" in told:
            pytest.fail(f"not one line with its number: {error}")
