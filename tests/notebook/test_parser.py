"""The magic line: no quotes needed, and a typo gets the nearest name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.errors import UserError
from agentkit.notebook.parser import Line, parse, tokenize


def test_a_value_runs_to_the_next_option() -> None:
    line = parse("build analyst --model openai:gpt-5 | offline --tools query, plot --ttl=7d", cell=True)
    assert line.word == "analyst"
    assert line.options == {"model": "openai:gpt-5 | offline", "tools": "query, plot", "ttl": "7d"}


def test_json_needs_no_quotes_and_may_hold_what_looks_like_an_option() -> None:
    line = parse('settle 12 --result {"note": "it -- did --stop"}', cell=False)
    assert line.options == {"result": '{"note": "it -- did --stop"}'}


def test_words_after_a_flag_belong_to_the_verb() -> None:
    assert parse("run --fresh analyst", cell=True) == Line(verb="run", rest="analyst", options={"fresh": ""})


def test_a_value_that_may_be_left_out() -> None:
    assert parse("run analyst --continue --as x", cell=True).options == {"continue": "", "as": "x"}
    assert parse("run analyst --continue r12", cell=True).options == {"continue": "r12"}


def test_free_text_keeps_apostrophes_and_question_marks() -> None:
    assert parse("run analyst What's up -- really?", cell=False).rest == "analyst What's up -- really?"


def test_nothing_is_the_glance_and_help_may_stand_anywhere() -> None:
    assert parse("", cell=False).verb == ""
    assert parse("cost --help", cell=False) == Line(verb="help", rest="cost", options={})
    assert parse("run?", cell=True) == Line(verb="help", rest="run", options={})


@pytest.mark.parametrize(
    ("text", "cell", "said"),
    [
        ("", True, "%%agent needs a verb: build, run"),
        ("bild x", True, "%%agent: unknown verb bild (did you mean build?)"),
        ("run", True, "%agent run needs AGENT: %%agent run AGENT"),
        ("build x --modl a", True, "%agent build: unknown option --modl (did you mean --model?)"),
        ("runs --x", False, "%agent runs: unknown option --x; it takes --limit, --notebook, --all"),
        ("build x --model", True, "%agent build: --model needs a value: --model MODEL"),
        ("build x --model --tools a", True, "%agent build: --model needs a value"),
        ("build x y", True, "%agent build: what is 'y'?"),
        ("build x --ttl 1h --ttl 2h", True, "%agent build: --ttl is given twice"),
        ("runs a", True, "%agent runs is a line"),
        ("build a", False, "%%agent build is a cell"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, cell: bool, said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text, cell=cell)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none(), max_size=4))
def test_any_json_object_is_read_whole(value: dict[str, Any]) -> None:
    head, options = tokenize(f"settle 1 --result {json.dumps(value)} --stop")
    assert (head, [name for name, _ in options]) == ("settle 1", ["result", "stop"])
    assert json.loads(options[0][1]) == value


@given(st.text(alphabet="-ab '\"{}[]=\n\t"))
def test_any_line_is_cut_without_losing_a_word(text: str) -> None:
    head, options = tokenize(text)
    rebuilt = " ".join([head, *(f"--{name} {value}" for name, value in options)])
    assert tokenize(rebuilt) == (head, options)
