"""The offline model under real pydantic-ai agents: what a newcomer meets in the first five minutes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from pydantic_ai import Agent, ModelRetry, NativeOutput, PromptedOutput, TextOutput, Tool
from pydantic_ai.messages import BinaryContent, ModelMessage, ModelResponse, TextPart, ToolCallPart

from agentkit.define.offline import OfflineModel
from agentkit.define.planner.answer import SIGNATURE

DAYS = pd.date_range("2012-01-01", periods=731)
WEATHER = pd.DataFrame(
    {
        "date": DAYS,
        "precipitation": [float((7 * n) % 31) for n in range(731)],
        "temp_max": [10 + 12 * (1 - abs(day.month - 7) / 6) + day.day / 100 for day in DAYS],
        "temp_min": [4 + 8 * (1 - abs(day.month - 7) / 6) for day in DAYS],
        "wind": [1 + (n % 9) / 2 for n in range(731)],
        "weather": [("rain", "sun", "fog")[n % 3] for n in range(731)],
    }
)

WARMEST = "Which month was the warmest on average? Compare `temp_max` by month."


def columns() -> list[str]:
    """The names of the columns of the weather table."""
    return list(WEATHER.columns)


def numbers(column: str) -> pd.Series:
    if column not in WEATHER or not pd.api.types.is_numeric_dtype(WEATHER[column]):
        raise ModelRetry(f"column {column!r} holds no numbers")
    return WEATHER[column]


def describe(column: str) -> dict[str, float]:
    """Summary statistics of one column."""
    return dict(numbers(column).describe())


def mean(column: str, by: Literal["month", "weather", "year"]) -> dict[str, float]:
    """Mean of a column by month, weather or year."""
    key = {"month": WEATHER.date.dt.month_name(), "year": WEATHER.date.dt.year, "weather": WEATHER.weather}[by]
    means = numbers(column).groupby(key, sort=False).mean()
    return {str(name): round(float(value), 2) for name, value in means.items()}


def top(column: str, n: int = 5) -> list[dict[str, Any]]:
    """The n days with the highest values of a column."""
    best = numbers(column).nlargest(n)
    return [{"day": str(DAYS[place].date()), column: value} for place, value in best.items()]


def count_days(column: str, above: float) -> int:
    """How many days had a value above a bound."""
    return int((numbers(column) > above).sum())


def save_report(title: str, text: str) -> str:
    """Write a report to disk."""
    return f"saved {title}"


def send_mail(to: str, body: str) -> str:
    """Send a mail."""
    return "sent"


def delete_rows(column: str) -> int:
    """Delete rows."""
    return 1


LOOKS = (columns, describe, mean, top)
ALL = (*LOOKS, count_days, save_report, send_mail, delete_rows)
Calls = list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Talked:
    calls: Calls
    output: Any
    messages: list[ModelMessage]


def calls_in(messages: Sequence[ModelMessage]) -> Calls:
    parts = [part for message in messages for part in message.parts if isinstance(part, ToolCallPart)]
    return [(part.tool_name, part.args_as_dict()) for part in parts]


def talk(prompt: Any, tools: Sequence[Callable[..., Any]] = LOOKS, *, output: Any = str, history: Any = None) -> Talked:
    agent = Agent(OfflineModel(), tools=list(tools), output_type=output, retries=9)
    result = agent.run_sync(prompt, message_history=history)
    return Talked(calls=calls_in(result.new_messages()), output=result.output, messages=result.all_messages())


def test_it_looks_at_the_columns_first_and_then_asks_for_the_means() -> None:
    talked = talk(WARMEST)
    assert talked.calls == [("columns", {}), ("mean", {"column": "temp_max", "by": "month"})]
    assert "**July** is the warmest month: **22.16**" in talked.output
    assert "| month | mean of temp_max |" in talked.output
    assert "| January | 10.16 |" in talked.output
    assert talked.output.endswith(f"*{SIGNATURE}*")


@pytest.mark.parametrize(
    ("prompt", "call"),
    [
        ("Which month was the warmest?", ("mean", {"column": "temp_max", "by": "month"})),
        ("What is the average rain by weather?", ("mean", {"column": "precipitation", "by": "weather"})),
        ("Show the yearly mean of `wind`", ("mean", {"column": "wind", "by": "year"})),
        ("What were the 3 hottest days?", ("top", {"column": "temp_max", "n": 3})),
        ("top five values of precipitation", ("top", {"column": "precipitation", "n": 5})),
        ("Describe the wind", ("describe", {"column": "wind"})),
        ("Summarise precipitation", ("describe", {"column": "precipitation"})),
        ("How many rainy days above 20 mm?", ("count_days", {"column": "precipitation", "above": 20})),
        ("How many days had a wind of more than 3.5?", ("count_days", {"column": "wind", "above": 3.5})),
        ("count_days for `temp_min` over 8", ("count_days", {"column": "temp_min", "above": 8})),
    ],
)
def test_it_picks_the_tool_and_takes_its_arguments_from_the_prompt(prompt: str, call: tuple[str, Any]) -> None:
    assert talk(prompt, ALL).calls == [("columns", {}), call]


def test_a_bound_is_not_taken_for_a_number_of_rows() -> None:
    talked = talk("How many rainy days above 20 mm?")
    assert not any("n" in args for _, args in talked.calls)
    assert "No tool here answers this directly" in talked.output


def test_a_question_about_the_columns_needs_no_more() -> None:
    talked = talk("Which columns are there?")
    assert talked.calls == [("columns", {})]
    assert "`temp_max`" in talked.output


def test_two_columns_are_two_calls_at_once() -> None:
    talked = talk("Compare temp_max and temp_min by year")
    assert talked.calls[1:] == [
        ("mean", {"column": "temp_max", "by": "year"}),
        ("mean", {"column": "temp_min", "by": "year"}),
    ]
    assert sum(isinstance(message, ModelResponse) for message in talked.messages) == 3


def test_two_requests_in_one_sentence_each_get_their_own_arguments() -> None:
    talked = talk("Describe the wind and show the 3 highest values of `precipitation`")
    assert talked.calls[1:] == [("describe", {"column": "wind"}), ("top", {"column": "precipitation", "n": 3})]


def test_columns_are_not_asked_for_again_in_a_conversation() -> None:
    first = talk(WARMEST)
    second = talk("And for `wind`?", history=first.messages)
    assert second.calls == [("mean", {"column": "wind", "by": "month"})]


def test_a_follow_up_is_answered_from_what_is_there() -> None:
    first = talk(WARMEST)
    second = talk("And the coldest?", history=first.messages)
    assert second.calls == []
    assert "**January** is the coldest month: **10.16**" in second.output
    assert "From an earlier result" in second.output


@pytest.mark.parametrize(
    "prompt",
    [
        WARMEST,
        "Mean temp_max by month, do not delete rows and don't send mail",
        "Which report was the best?",
        "What is in my mail?",
        "Describe `wind` without saving a report",
        "hello",
    ],
)
def test_tools_that_change_something_are_not_called_unasked(prompt: str) -> None:
    assert not {name for name, _ in talk(prompt, ALL).calls} & {"save_report", "send_mail", "delete_rows"}


def test_a_tool_that_changes_something_comes_last_with_what_was_found() -> None:
    talked = talk("Which year was the windiest? Save a report titled 'Wind'.", ALL)
    assert [name for name, _ in talked.calls] == ["columns", "mean", "save_report"]
    args = talked.calls[-1][1]
    assert args["title"] == "Wind"
    assert "is the windiest year" in args["text"]


def test_a_mail_goes_to_the_address_in_the_prompt() -> None:
    talked = talk("Mean temp_max by year, and mail it to bob@example.org", ALL)
    name, args = talked.calls[-1]
    assert (name, args["to"]) == ("send_mail", "bob@example.org")
    assert "2012" in args["body"]


def test_declared_effects_count_more_than_names() -> None:
    agent = Agent(OfflineModel())
    done: list[str] = []

    @agent.tool_plain(metadata={"agentkit": {"effects": "once"}})
    def weather_alarm(city: str) -> str:
        """Weather alarm for a city."""
        done.append(city)
        return "rung"

    @agent.tool_plain(metadata={"annotations": {"readOnlyHint": True}})
    def update_of(city: str) -> str:
        """The latest update of the weather in a city."""
        return "sunny"

    result = agent.run_sync("What is the update of the wind in Paris?")
    assert calls_in(result.new_messages()) == [("update_of", {"city": "Paris"})]
    assert done == []


def test_without_a_matching_tool_it_says_what_it_can_do() -> None:
    talked = talk("hello")
    assert talked.calls == []
    assert "`columns`, `describe`, `mean`, `top`" in talked.output
    assert "%agent model" in talked.output
    assert SIGNATURE in talk("What is a journal?", []).output


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return f"sunny in {city}"


def add(a: float, b: float) -> float:
    return a + b


def multiply(a: float, b: float) -> float:
    return a * b


async def researcher(question: str) -> str:
    """Ask the research agent a question."""
    return "Long text. " * 200


def book(city: str, nights: int, breakfast: bool = False, room: Literal["single", "double"] = "single") -> str:
    """Book a hotel."""
    return "booked"


def orders(status: Literal["open", "paid"] = "open") -> list[dict[str, Any]]:
    """List orders."""
    return [{"id": 17, "status": status}]


def cancel_order(order_id: int) -> str:
    """Cancel an order."""
    return "cancelled"


@pytest.mark.parametrize(
    ("prompt", "tools", "calls"),
    [
        ("What is the weather in Paris?", [get_weather], [("get_weather", {"city": "Paris"})]),
        ("is it raining in paris?", [get_weather], [("get_weather", {"city": "paris"})]),
        (
            "Compare the weather in New York and London",
            [get_weather],
            [("get_weather", {"city": "New York"}), ("get_weather", {"city": "London"})],
        ),
        ("What is 12 times 7?", [add, multiply], [("multiply", {"a": 12, "b": 7})]),
        ("What is 2 plus 3.5?", [add, multiply], [("add", {"a": 2, "b": 3.5})]),
        (
            "What is 12 * 7 and 3 plus 4?",
            [add, multiply],
            [("multiply", {"a": 12, "b": 7}), ("add", {"a": 3, "b": 4})],
        ),
        ("What is a journal?", [researcher], [("researcher", {"question": "What is a journal?"})]),
        (
            "Book a double room with breakfast in Oslo for 3 nights",
            [book],
            [("book", {"city": "Oslo", "nights": 3, "breakfast": True, "room": "double"})],
        ),
        ("Which hotel would you book?", [book], []),
        ("Cancel order 17", [orders, cancel_order], [("cancel_order", {"order_id": 17})]),
        ("Show the paid orders", [orders, cancel_order], [("orders", {"status": "paid"})]),
    ],
)
def test_the_usual_first_tools_work(prompt: str, tools: list[Any], calls: Calls) -> None:
    assert talk(prompt, tools).calls == calls


def test_a_long_text_result_is_quoted_and_bounded() -> None:
    output = talk("What is a journal?", [researcher]).output
    assert "> Long text." in output
    assert "(2,200 characters)" in output
    assert len(output) < 1000


class Warm(BaseModel):
    month: str
    mean_temp_max: float
    by_month: dict[str, float]
    comment: str


@pytest.mark.parametrize("output", [Warm, NativeOutput(Warm), PromptedOutput(Warm)])
def test_a_structured_output_is_filled_from_the_results_in_every_mode(output: Any) -> None:
    warm = talk(WARMEST, output=output).output
    assert (warm.month, warm.mean_temp_max, warm.by_month["January"]) == ("July", 22.16, 10.16)
    assert warm.comment == "July is the warmest month: 22.16. (offline model)"


class Row(BaseModel):
    name: str
    value: float


def test_plain_and_listed_outputs_are_filled() -> None:
    assert talk("Mean wind by year", output=list[Row]).output[0].name == "2012"
    assert talk("How many rainy days above 20 mm?", ALL, output=int).output == count_days("precipitation", 20)
    assert talk("What is 12 times 7?", [multiply], output=float).output == 84
    assert talk("Which columns are there?", output=list[str]).output == columns()
    assert talk("hello", output=bool).output is False


class Strict(BaseModel):
    share: float = Field(ge=0, le=1)
    code: str = Field(min_length=3, max_length=5)
    when: Literal["now", "later"]
    tags: list[str] = Field(min_length=1)
    note: str | None = None


def test_a_schema_is_kept_when_nothing_is_known() -> None:
    assert isinstance(talk("hello", output=Strict).output, Strict)


def test_another_output_is_tried_when_one_is_refused() -> None:
    tried: list[float] = []
    agent = Agent(OfflineModel(), tools=[mean, columns], output_type=Row, retries=3)

    @agent.output_validator
    def only_cold(row: Row) -> Row:
        tried.append(row.value)
        if len(tried) < 3:
            raise ModelRetry("another one, please")
        return row

    agent.run_sync(WARMEST)
    assert len(tried) == 3
    agent_calls = calls_in(agent.run_sync(WARMEST).new_messages())
    assert [name for name, _ in agent_calls] == ["columns", "mean", "final_result"]


def test_the_result_type_that_fits_is_chosen_and_text_otherwise() -> None:
    both: Any = [str, Row]
    assert isinstance(talk("hello", output=both).output, str)
    assert isinstance(talk("Mean of `temp_max` by month: which name has the highest value?", output=both).output, Row)


def test_text_output_functions_get_the_text() -> None:
    def length(text: str) -> int:
        return len(text)

    assert talk("hello", output=TextOutput(length)).output > 10


def test_a_complaint_that_offers_names_is_followed() -> None:
    agent = Agent(OfflineModel(), retries=2)

    @agent.tool_plain
    def average(field: str) -> float:
        """Average of a field."""
        if field != "temp_max":
            raise ModelRetry(f"no field {field!r}: choose one of 'wind', 'temp_max'")
        return 12.5

    result = agent.run_sync("What is the average temperature?")
    assert calls_in(result.new_messages())[-1] == ("average", {"field": "temp_max"})
    assert "**12.5**" in result.output


def test_a_tool_that_keeps_refusing_is_reported_not_repeated() -> None:
    agent = Agent(OfflineModel(), retries=5)

    @agent.tool_plain
    def average(field: str) -> float:
        """Average of a field."""
        raise ModelRetry("the table is locked")

    result = agent.run_sync("What is the average of `wind`?")
    assert calls_in(result.new_messages()) == [("average", {"field": "wind"})]
    assert "failed: the table is locked" in result.output


def test_images_are_said_to_be_unseen() -> None:
    talked = talk(["Describe the wind", BinaryContent(b"\x89PNG", media_type="image/png")])
    assert "1 attached file(s) were not looked at" in talked.output
    assert talked.calls[-1] == ("describe", {"column": "wind"})


def test_it_streams_word_by_word_what_it_would_say_whole() -> None:
    agent = Agent(OfflineModel(), tools=list(LOOKS))

    async def main() -> list[str]:
        async with agent.run_stream(WARMEST) as stream:
            return [text async for text in stream.stream_text(delta=True, debounce_by=None)]

    pieces = asyncio.run(main())
    assert "".join(pieces) == talk(WARMEST).output
    assert len(pieces) > 20


def test_equal_messages_give_equal_replies_and_calls_cost_nothing() -> None:
    first, second = talk(WARMEST), talk(WARMEST)
    assert first.output == second.output
    replies = [message for message in first.messages if isinstance(message, ModelResponse)]
    again = [message for message in second.messages if isinstance(message, ModelResponse)]
    assert [reply.parts for reply in replies] == [reply.parts for reply in again]
    assert all(reply.usage.cost == 0 and reply.usage.output_tokens > 0 for reply in replies)
    assert replies[1].usage.input_tokens > replies[0].usage.input_tokens


def test_instructions_and_tools_are_counted_as_what_they_take() -> None:
    bare = Agent(OfflineModel()).run_sync("hello").usage.input_tokens
    told = Agent(OfflineModel(), instructions="word " * 80).run_sync("hello").usage.input_tokens
    armed = Agent(OfflineModel(), tools=list(LOOKS)).run_sync("hello").usage.input_tokens
    assert told - bare == 100
    assert armed - bare > 100


@pytest.mark.parametrize("name", ["delete_row", "add_user", "charge", "submit_order"])
def test_a_number_as_the_only_argument_makes_no_act_harmless(name: str) -> None:
    def act(number: int) -> str:
        return "done"

    agent = Agent(OfflineModel(), tools=[Tool(act, name=name, description="row user order 7")])
    assert calls_in(agent.run_sync("What is the user, row and order 7?").new_messages()) == []


_WORDS = st.sampled_from(
    "columns describe mean top by month weather year temp_max `wind` 'rain' 3 20.5 above below highest least and , . ? "
    "not save send mail to bob@x.org report How many Paris compare all of the average".split()
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_WORDS, max_size=14).map(" ".join))
def test_whatever_is_asked_ends_with_an_answer_and_no_call_twice(prompt: str) -> None:
    talked = talk(prompt, ALL)
    made = [json.dumps(call, sort_keys=True) for call in talked.calls]
    assert len(made) == len(set(made))
    assert len(talked.calls) < 25
    last = talked.messages[-1]
    assert isinstance(last, ModelResponse)
    assert isinstance(last.parts[-1], TextPart)
    assert talked.output.endswith(f"*{SIGNATURE}*")
