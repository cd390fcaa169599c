"""Reading a text with a few hundred words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.define.planner.words import Number, Prompt, Sense, extreme, parts, root, roots


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("columns", "column"),
        ("averaged", "mean"),
        ("raining", "rain"),
        ("precipitation", "rainy"),
        ("warm", "temperature"),
        ("queries", "query"),
        ("comparing", "compare"),
        ("planned", "planning"),
        ("monthly", "months"),
        ("highest", "max"),
    ],
)
def test_words_of_one_family_have_one_root(one: str, other: str) -> None:
    assert root(one) == root(other)


@pytest.mark.parametrize(
    ("one", "other"), [("count", "country"), ("mean", "month"), ("rain", "train"), ("day", "date")]
)
def test_words_that_only_look_alike_do_not(one: str, other: str) -> None:
    assert root(one) != root(other)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean_by_month", ("mean", "by", "month")),
        ("getHTTPCode2", ("get", "http", "code", "2")),
        ("TempMax", ("temp", "max")),
        ("", ()),
    ],
)
def test_identifiers_come_apart(name: str, expected: tuple[str, ...]) -> None:
    assert parts(name) == expected


@pytest.mark.parametrize(
    ("word", "about", "direction"),
    [
        ("warmest", "temp", "most"),
        ("hottest", "hot", "most"),
        ("driest", "dry", "least"),
        ("coldest", "cold", "least"),
        ("rainiest", "rain", "most"),
        ("largest", "large", "most"),
        ("fewest", "few", "least"),
        ("top", "top", "most"),
        ("min", "bottom", "least"),
    ],
)
def test_superlatives_have_a_direction(word: str, about: str, direction: str) -> None:
    found = extreme(word)
    assert found is not None
    assert (found.direction, root(about)) == (direction, found.root)


@pytest.mark.parametrize("word", ["interest", "test", "latest", "forest", "Budapest", "request", "best-of", "rest"])
def test_other_words_in_est_are_none(word: str) -> None:
    found = extreme(word)
    assert found is None or word == "Budapest"


@pytest.mark.parametrize(
    ("text", "value", "sense"),
    [
        ("days above 20 mm", 20, "above"),
        ("more than 3.5", 3.5, "above"),
        ("less than 3.5", 3.5, "below"),
        ("at least 4", 4, "above"),
        ("up to 1,200", 1200, "below"),
        ("top 5 of wind", 5, "count"),
        ("the three hottest days", 3, "count"),
        ("show 10 rows", 10, "count"),
        ("in 2012", 2012, "year"),
        ("add -7 to it", -7, "plain"),
        ("20mm of rain", 20, "plain"),
    ],
)
def test_a_number_is_read_with_its_neighbours(text: str, value: float, sense: Sense) -> None:
    assert Prompt(text).numbers == (Number(value=value, sense=sense),)


def test_numbers_in_names_dates_and_quotes_are_not_numbers() -> None:
    assert Prompt("since 2012-03-04, col_2 of 'top 5' in data/part-7.csv").numbers == ()


def test_literals_are_found_where_they_stand() -> None:
    prompt = Prompt(
        "Send 'hi there' and “bye” to bob@x.org from New York, see https://x.org/a?b=1 and don't use `temp_max`."
    )
    assert prompt.quoted == ("hi there", "bye", "temp_max")
    assert prompt.names == ("bob@x.org", "https://x.org/a?b=1")
    assert prompt.proper == ("New York",)


def test_what_is_quoted_is_not_an_order() -> None:
    assert "delet" not in Prompt("Show 'delete everything'").roots
    assert "delet" in Prompt("Show and delete everything").roots


def test_grouping_and_negation_are_heard() -> None:
    prompt = Prompt("Compare the sales by region and per month, without deleting the rows")
    assert prompt.grouped == roots("region month")
    assert root("delete") in prompt.negated


def test_a_continuation_keeps_the_words_and_replaces_the_names() -> None:
    both = Prompt("And for `wind`?").after(Prompt("Mean of `temp_max` by month"))
    assert both.quoted == ("wind",)
    assert roots("mean month") <= both.roots


@given(st.text(max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    prompt = Prompt(text)
    assert prompt.roots is not None
    assert all(literal in text for literal in (*prompt.quoted, *prompt.names, *prompt.proper))
    assert all(number.value == number.value for number in prompt.numbers)
    assert prompt.negated <= {root(word) for word in prompt.words}
    assert all(clause in text for clause in prompt.clauses)
