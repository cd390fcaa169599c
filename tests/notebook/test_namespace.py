"""Names on a magic line are found in the notebook, or the nearest is offered."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from agentkit.errors import UserError
from agentkit.notebook import namespace


class City(BaseModel):
    name: str


class Box:
    def lift(self, n: int) -> int:
        return n


def query(sql: str) -> str:
    return sql


MODEL = TestModel()
NAMES: dict[str, Any] = {
    "analyst": Agent(MODEL),
    "query": query,
    "box": Box(),
    "City": City,
    "table": [1],
    "my_model": MODEL,
    "_hidden": query,
}


def test_agents_tools_types_and_models_are_found() -> None:
    assert namespace.agent("analyst", NAMES) is NAMES["analyst"]
    assert namespace.tools("query, analyst box.lift", NAMES) == [query, NAMES["analyst"], NAMES["box"].lift]
    assert namespace.output("list[City] | None", NAMES) == list[City] | None
    assert namespace.model("my_model", NAMES) is MODEL
    assert namespace.model("openai:gpt-5", NAMES) == "openai:gpt-5"
    assert namespace.callables(NAMES) == ["analyst", "query"]
    assert namespace.types(NAMES) == ["City"]


@pytest.mark.parametrize(
    ("find", "said"),
    [
        (lambda: namespace.agent("analist", NAMES), "no agent is called analist (did you mean analyst?)"),
        (lambda: namespace.agent("zzz", NAMES), "no agent is called zzz; make it with %%agent build zzz"),
        (lambda: namespace.agent("table", NAMES), "table is a list, not an agent; agents here: analyst"),
        (lambda: namespace.tools("qery", NAMES), "--tools: no tool is called qery (did you mean query?)"),
        (lambda: namespace.tools("box.lft", NAMES), "--tools: box has no lft (did you mean lift?)"),
        (lambda: namespace.tools("table", NAMES), "--tools: table is a list; tools are functions, agents and toolsets"),
        (lambda: namespace.output("Citty", NAMES), "--output Citty: Citty is not defined (did you mean City?)"),
        (lambda: namespace.output("3", NAMES), "--output 3: 3 is not a type"),
        (lambda: namespace.output("list[", NAMES), "--output list[: not a type (SyntaxError"),
        (lambda: namespace.check_output("box", NAMES["box"]), "--output box: no schema can be made of it"),
        (
            lambda: namespace.value("deps", "tabel", NAMES),
            "--deps: tabel is not defined in the notebook (did you mean table?)",
        ),
        (lambda: namespace.seconds("soon"), "--ttl soon: write a time such as 90s, 30m, 12h, 7d"),
        (lambda: namespace.new_name("a b", NAMES, option="--as", free=bool), "--as: 'a b' cannot be a variable"),
        (lambda: namespace.new_name("class", NAMES, option="--as", free=bool), "--as: 'class' cannot be a variable"),
        (lambda: namespace.new_name("sum", NAMES, option="--as", free=bool), "--as: sum is a Python built-in"),
        (
            lambda: namespace.new_name("table", NAMES, option="build", free=lambda old: False),
            "build: table is already a list",
        ),
    ],
)
def test_what_is_not_found_is_said_in_one_line(find: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        find()
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("7d", 604800), ("5", 5)])
def test_times_are_read(text: str, seconds: float) -> None:
    assert namespace.seconds(text) == seconds
