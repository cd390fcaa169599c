"""The offline model under real pydantic-ai agents: what a newcomer meets in the first five minutes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from annotated_types import Ge, Gt, Le, Len, Lt, MultipleOf
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter
from pydantic_ai import Agent, ModelRetry, NativeOutput, PromptedOutput, TextOutput, Tool
from pydantic_ai.messages import BinaryContent, ModelMessage, ModelResponse, TextPart, ToolCallPart

from agentkit.models.offline import SIGNATURE, OfflineModel

MONTHS = {"January": 4.5, "May": 17.25, "July": 26.0, "December": 3.75}

Measure = Literal["precipitation", "temp_max", "wind"]
Calls = list[tuple[str, dict[str, Any]]]


def monthly_mean(measure: Measure, year: int | None = None) -> dict[str, float]:
    """Mean of a measure for each month, of one year or of all."""
    return MONTHS


def count_days(kind: Literal["rain", "snow"], year: int) -> int:
    """How many days of a year had this kind of weather."""
    return 191 if kind == "rain" else 21


def warmest_day(year: int) -> str:
    """The warmest day of a year."""
    return "2014-08-11"


def top(column: str, n: int = 5) -> list[dict[str, Any]]:
    """The n days with the highest values of a column."""
    return [{"day": f"2012-12-{n}", column: 9.5}, {"day": "2012-12-01", column: 8.8}]


def columns() -> list[str]:
    """The names of the columns."""
    return ["date", "temp_max", "wind"]


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


def save_report(title: str, text: str) -> str:
    """Write a report to disk."""
    return f"saved {title}"


def send_mail(to: str, body: str) -> str:
    """Send a mail."""
    return "sent"


def delete_rows(column: str) -> int:
    """Delete rows."""
    return 1


def harmless(function: Callable[..., Any]) -> Tool[Any]:
    return Tool(function, metadata={"agentkit": {"effects": "none"}})


LOOKS = [harmless(each) for each in (monthly_mean, count_days, warmest_day, top, columns)]
ACTS = (save_report, send_mail, delete_rows)


@dataclass(frozen=True)
class Talked:
    calls: Calls
    output: Any
    messages: list[ModelMessage]


def calls_in(messages: Sequence[ModelMessage]) -> Calls:
    parts = [part for message in messages for part in message.parts if isinstance(part, ToolCallPart)]
    return [(part.tool_name, part.args_as_dict()) for part in parts]


def talk(prompt: Any, tools: Sequence[Any] = LOOKS, *, output: Any = str, history: Any = None) -> Talked:
    agent = Agent(OfflineModel(), tools=list(tools), output_type=output, retries=0)
    result = agent.run_sync(prompt, message_history=history)
    return Talked(calls=calls_in(result.new_messages()), output=result.output, messages=result.all_messages())


WARMEST = "Which was the warmest month by monthly mean of `temp_max` in 2014, and which the coldest?"


def test_it_calls_the_tool_that_is_named_and_answers_from_its_result() -> None:
    talked = talk(WARMEST)
    assert talked.calls == [("monthly_mean", {"measure": "temp_max", "year": 2014})]
    assert (
        "**July** is the warmest: **26**. **December** is the coldest: **3.75**. From `monthly_mean(" in talked.output
    )
    assert "|  | monthly_mean |\n| --- | ---: |\n| January | 4.5 |" in talked.output
    assert talked.output.endswith(f"*{SIGNATURE}*")


@pytest.mark.parametrize(
    ("prompt", "calls"),
    [
        ("Which month had the highest monthly mean of `wind`?", [("monthly_mean", {"measure": "wind"})]),
        (
            "How many days of rain and of snow were there in 2012?",
            [("count_days", {"kind": "rain", "year": 2012}), ("count_days", {"kind": "snow", "year": 2012})],
        ),
        ("How many rainless days?", []),
        ("Which was the warmest day of 2014?", [("warmest_day", {"year": 2014})]),
        ("The top 3 of `wind`, please", [("top", {"column": "wind", "n": 3})]),
        ("The top of `wind` in 2012", [("top", {"column": "wind"})]),
        ("Which columns are there?", [("columns", {})]),
        ("call `columns`", [("columns", {})]),
        ("hello", []),
    ],
)
def test_it_picks_the_tools_and_takes_their_arguments_from_the_prompt(prompt: str, calls: Calls) -> None:
    assert talk(prompt).calls == calls


@pytest.mark.parametrize(
    ("prompt", "tools", "calls"),
    [
        ("What is the weather in Paris?", [get_weather], [("get_weather", {"city": "Paris"})]),
        ("how is the weather in paris?", [get_weather], [("get_weather", {"city": "paris"})]),
        (
            "Compare the weather in New York and London",
            [get_weather],
            [("get_weather", {"city": "New York"}), ("get_weather", {"city": "London"})],
        ),
        ("What is 12 times 12?", [add, multiply], [("multiply", {"a": 12, "b": 12})]),
        ("What is 2 plus 3.5?", [add, multiply], [("add", {"a": 2, "b": 3.5})]),
        (
            "Ask the researcher: 'What is a journal?'",
            [researcher],
            [("researcher", {"question": "What is a journal?"})],
        ),
        (
            "Book a double room with breakfast in Oslo for 3 nights",
            [book],
            [("book", {"city": "Oslo", "nights": 3, "breakfast": True, "room": "double"})],
        ),
        ("Which hotel would you book?", [book], []),
        ("Cancel order 17", [orders, cancel_order], [("cancel_order", {"order_id": 17})]),
        ("Show the paid orders", [orders, cancel_order], [("orders", {"status": "paid"})]),
        ("Send mail to bob@x.org: 'Hi!'", [send_mail], [("send_mail", {"to": "bob@x.org", "body": "Hi!"})]),
    ],
)
def test_the_usual_first_tools_work(prompt: str, tools: list[Any], calls: Calls) -> None:
    assert talk(prompt, tools).calls == calls


class Colour(Enum):
    red = "red"
    blue = "blue"


class Point(BaseModel):
    x: int
    label: str = ""


def take_colour(colour: Colour) -> None: ...
def take_flags(city: str, verbose: bool, detailed: bool = True) -> None: ...
def take_flight(origin: str, destination: str) -> None: ...
def take_days(start: date, end: date | None = None) -> None: ...
def take_url(url: str) -> None: ...
def take_path(path: str, day: int, size: int) -> None: ...
def take_point(point: Point, quick: bool = False) -> None: ...
def take_numbers(numbers: list[float]) -> None: ...
def take_columns(columns: list[str]) -> None: ...
def take_kinds(kinds: list[Literal["rain", "snow", "sun"]]) -> None: ...
def take_share(share: Annotated[float, Le(1)]) -> None: ...


@pytest.mark.parametrize(
    ("tool", "prompt", "args"),
    [
        (take_colour, "make it blue", {"colour": "blue"}),
        (take_flags, "in Oslo, verbose and not detailed", {"city": "Oslo", "verbose": True, "detailed": False}),
        (take_flags, "in Oslo", {"city": "Oslo", "verbose": False}),
        (take_flight, "fly from Oslo to New York", {"origin": "Oslo", "destination": "New York"}),
        (take_days, "from 2012-03-04 on", {"start": "2012-03-04"}),
        (take_days, "`2012-03-04` to 2013-01-02", {"start": "2012-03-04", "end": "2013-01-02"}),
        (take_url, "get https://example.org/a.json now", {"url": "https://example.org/a.json"}),
        (take_path, "open ./data/rain.csv of size 4 on day 7", {"path": "./data/rain.csv", "day": 7, "size": 4}),
        (take_point, "put it at 7", {"point": {"x": 7}}),
        (take_numbers, "add 1, 2 and 3.5", {"numbers": [1, 2, 3.5]}),
        (take_columns, "compare `wind` and temp_max", {"columns": ["wind", "temp_max"]}),
        (take_kinds, "days of rain or sun", {"kinds": ["rain", "sun"]}),
        (take_share, "with 1,200 or with 0.5", {"share": 0.5}),
    ],
)
def test_a_literal_goes_where_the_schema_has_room_for_it(tool: Callable[..., Any], prompt: str, args: Any) -> None:
    assert talk(f"`{tool.__name__}`: {prompt}", [tool]).calls == [(tool.__name__, args)]


def test_a_schema_from_elsewhere_is_filled_as_well() -> None:
    schema: dict[str, Any] = {
        "definitions": {"city": {"type": ["string", "null"]}},
        "properties": {"city": {"$ref": "#/definitions/city"}, "mode": {"const": "fast"}, "rest": {}},
        "required": ["city"],
    }
    schema["type"] = "object"
    tool = Tool.from_schema(lambda **args: str(args), name="trip", description="", json_schema=schema)
    assert talk("A trip to Bern, fast", [tool]).calls == [("trip", {"city": "Bern", "mode": "fast"})]


def test_a_follow_up_takes_new_literals_or_answers_from_what_is_there() -> None:
    first = talk("How many days of rain and of snow were there in 2012?")
    second = talk("And for 2013?", history=first.messages)
    assert second.calls == [
        ("count_days", {"kind": "rain", "year": 2013}),
        ("count_days", {"kind": "snow", "year": 2013}),
    ]
    weather = talk("What is the weather in `Oslo`?", [get_weather])
    assert talk("And in `Bern`?", [get_weather], history=weather.messages).calls == [("get_weather", {"city": "Bern"})]
    coldest = talk("And the coldest?", history=talk(WARMEST).messages)
    assert coldest.calls == []
    assert "From an earlier result:\n\n**December** is the coldest: **3.75**" in coldest.output


@pytest.mark.parametrize(
    "prompt",
    [
        WARMEST,
        "Monthly mean of temp_max, do not delete rows and don't send mail",
        "Which report was the best?",
        "What is in my mail to `bob`?",
        "The top of `wind` without a save of a report 'Wind'",
        "hello",
    ],
)
def test_tools_that_may_change_something_are_not_called_unasked(prompt: str) -> None:
    assert not {name for name, _ in talk(prompt, [*LOOKS, *ACTS]).calls} & {"save_report", "send_mail", "delete_rows"}


def test_declared_effects_and_a_servers_hint_say_what_is_harmless() -> None:
    agent = Agent(OfflineModel())
    done: list[str] = []

    @agent.tool_plain(metadata={"agentkit": {"effects": "once"}})
    def alarm_of_wind(city: str) -> str:
        """Alarm of the wind in a city."""
        done.append(city)
        return "rung"

    @agent.tool_plain(metadata={"annotations": {"readOnlyHint": True}})
    def latest_update(city: str) -> str:
        """The latest update of the wind in a city."""
        return "sunny"

    result = agent.run_sync("What is the update of the wind in Paris?")
    assert calls_in(result.new_messages()) == [("latest_update", {"city": "Paris"})]
    assert done == []


def test_without_a_matching_tool_it_says_what_it_is_and_what_it_can_do() -> None:
    output = talk("hello").output
    assert "The offline model knows nothing itself" in output
    assert "`monthly_mean`, `count_days`" in output and "%agent model" in output
    assert "tools: none" in talk("What is a journal?", []).output


def test_what_a_tool_refuses_is_reported_not_repeated() -> None:
    agent = Agent(OfflineModel(), retries=5)

    @agent.tool_plain
    def average(field: str) -> float:
        """Average of a field."""
        raise ModelRetry("the table is locked")

    result = agent.run_sync("What is the average of `wind`?")
    assert calls_in(result.new_messages()) == [("average", {"field": "wind"})]
    assert '`average(field="wind")` failed: the table is locked' in result.output


def test_files_are_said_to_be_unseen() -> None:
    talked = talk(["The top of `wind`", BinaryContent(b"\x89PNG", media_type="image/png")])
    assert "Attached files were not looked at" in talked.output
    assert talked.calls == [("top", {"column": "wind"})]


def reply_to(value: Any, prompt: str = "a report on `it`") -> str:
    def report(what: str) -> Any:
        return value

    output: str = talk(prompt, [report]).output
    return output


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "**true**"),
        (2012, "**2012**"),
        (12345, "**12,345**"),
        (0.00123, "**0.00123**"),
        (1234.5, "**1,234.5**"),
        (26.0, "**26**"),
        ([{"name|x": "a|b\nc", "n": 1}], "| name\\|x | n |\n| --- | ---: |\n| a\\|b c | 1 |"),
        ([{f"c{n}": row for n in range(9)} for row in range(40)], "… of 40 rows and 9 columns"),
        ("Long text. " * 200, "> Long text."),
    ],
)
def test_results_are_short_enough_to_read(value: Any, text: str) -> None:
    output = reply_to(value)
    assert text in output
    assert len(output) < 1200


def test_the_figures_of_a_summary_are_not_compared_with_each_other() -> None:
    assert "is the highest" not in reply_to({"count": 731, "mean": 3.0, "max": 9.5}, "a report on `it`, the highest")


def test_what_another_offline_agent_said_is_signed_once_and_code_marks_hold() -> None:
    def report(what: str) -> int:
        return 3

    async def ask(what: str) -> str:
        return (await Agent(OfflineModel(), tools=[report]).run(f"A report {what}")).output

    output = talk("ask 'for `it`'", [ask]).output
    assert output.count(SIGNATURE) == 1
    assert '`` ask(what="for `it`") `` gave:' in output
    assert "> `report(" in output


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(_JSON, st.sampled_from(["a report on `it`", "a report on `it`: the warmest, the least and the max"]))
def test_any_result_becomes_a_signed_and_bounded_answer(value: Any, prompt: str) -> None:
    text = reply_to(value, prompt)
    assert text.endswith(f"*{SIGNATURE}*")
    assert len(text) < 20_000


class Warm(BaseModel):
    month: str
    mean: float
    monthly: dict[str, float]
    measure: Measure
    comment: str
    flavour: str | None = None


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
    children: list[Tree]


@pytest.mark.parametrize("output", [Warm, NativeOutput(Warm), PromptedOutput(Warm)])
def test_a_structured_output_is_filled_from_the_results_in_every_mode(output: Any) -> None:
    warm = talk("Which was the warmest month by monthly mean of `temp_max`?", output=output).output
    assert warm == Warm(
        month="July", mean=26.0, monthly=MONTHS, measure="temp_max", comment="July is the warmest: 26. (offline model)"
    )


def test_plain_listed_and_nested_outputs_are_filled() -> None:
    assert talk(WARMEST, output=Extremes).output == Extremes(
        warmest_month="July", highest=26.0, coldest_month="December", lowest=3.75
    )
    report = talk("The top 12 of `wind`", output=Report).output
    assert report.days == [Day(day=date(2012, 12, 12), wind=9.5), Day(day=date(2012, 12, 1), wind=8.8)]
    assert (report.column, report.kind) == ("wind", "wind")
    assert talk("How many days of rain in 2012?", output=int).output == 191
    assert talk("What is 12 times 7?", [multiply], output=float).output == 84
    assert talk("Which columns are there?", output=list[str]).output == columns()
    assert talk("hello", output=bool).output is False


class Strict(BaseModel):
    share: float = Field(ge=0, le=1)
    code: str = Field(min_length=3, max_length=5)
    when: Literal["now", "later"]
    tags: set[Literal["a", "b", "c"]] = Field(min_length=2)
    note: str | None


TYPES: list[Any] = [
    int,
    float,
    str,
    bool,
    date,
    datetime,
    UUID,
    Literal["a", "b"],
    int | None,
    int | str,
    list[int],
    dict[str, float],
    dict[str, Day],
    Annotated[int, Ge(3), Le(9)],
    Annotated[int, Gt(100), MultipleOf(7)],
    Annotated[float, Gt(0), Lt(1)],
    Annotated[str, Len(3, 8)],
    Annotated[list[str], Len(2, 4)],
    Annotated[set[int], Len(3)],
    tuple[int, str],
    Extremes,
    Report,
    Day | Extremes,
    list[Day],
    Tree,
    Strict,
]


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("prompt", [WARMEST, "The top 2 of `wind` on 2012-01-01", "hello", "'quoted' Paris 0.5 and 7"])
def test_whatever_is_known_an_output_fits_its_schema(kind: Any, prompt: str) -> None:
    TypeAdapter(kind).validate_python(talk(prompt, output=kind).output)


def test_another_output_is_tried_when_one_is_refused() -> None:
    tried: list[float] = []
    agent = Agent(OfflineModel(), tools=[monthly_mean], output_type=float, retries=3)

    @agent.output_validator
    def only_new(value: float) -> float:
        tried.append(value)
        if len(tried) < 3:
            raise ModelRetry("another one, please")
        return value

    messages = agent.run_sync(WARMEST).new_messages()
    assert len(set(tried)) == 3
    assert [name for name, _ in calls_in(messages)] == ["monthly_mean", *["final_result"] * 3]


def test_a_text_is_given_where_one_is_allowed() -> None:
    both: Any = [str, Warm]
    assert isinstance(talk("hello", output=both).output, str)

    def length(text: str) -> int:
        return len(text)

    assert talk("hello", output=TextOutput(length)).output > 10


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


_WORDS = st.sampled_from(
    "columns monthly mean top days rain snow temp_max `wind` 'rain' 3 20.5 2012 above highest least and , . ? "
    "not save report delete rows send mail to bob@x.org How many Paris compare all of the average".split()
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_WORDS, max_size=14).map(" ".join) | st.text(max_size=80))
def test_whatever_is_asked_ends_with_an_answer_and_no_call_twice(prompt: str) -> None:
    talked = talk(prompt, [*LOOKS, *ACTS])
    made = [json.dumps(call, sort_keys=True) for call in talked.calls]
    assert len(made) == len(set(made))
    assert sum(isinstance(message, ModelResponse) for message in talked.messages) <= 2
    last = talked.messages[-1]
    assert isinstance(last, ModelResponse)
    assert isinstance(last.parts[-1], TextPart)
    assert talked.output.endswith(f"*{SIGNATURE}*")
