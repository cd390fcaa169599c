"""Text from outside steers no screen, and what hides in it or passes for something else is seen."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import agentkit
from agentkit.approval.policy import Question
from agentkit.text import reveal, visible
from agentkit.trace import approval_cards

STEERS = "\x1b[2J\x1b]0;title\x07\x1b]8;;http://x\x07link\x9b31m\r\x08\u202etxt.exe\u2066"


def test_what_steers_a_screen_is_made_visible_and_lines_stay() -> None:
    shown = visible(f"a\n\tb{STEERS}")
    assert shown.startswith("a\n\tb␛[2J␛]0;title␇") and set(shown).isdisjoint("\x1b\x07\x9b\r\x08\u202e\u2066")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("delete_r\u043ews", "delete_r\\u043ews"),
        ("/home/\u0430dmin", "/home/\\u0430dmin"),
        ("\u0430\u0441\u0441\u0435\u0455\u0455", "\\u0430\\u0441\\u0441\\u0435\\u0455\\u0455"),
        ("\uff50aypal.com", "\\uff50aypal.com"),
        ("pay\u200bpal", "pay\\u200bpal"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\U000e0041b", "a\\udb40\\udc41b"),
        ("\u0391pple", "\\u0391pple"),
    ],
)
def test_what_hides_or_passes_for_something_else_is_an_escape(text: str, shown: str) -> None:
    assert reveal(text) == shown
    assert json.loads(f'"{reveal(text)}"') == text


@pytest.mark.parametrize(
    "text",
    [
        "Цена чая и кофе в городе Москва",
        "Ελληνικά κείμενα",
        "größer als naïve Ärzte",
        "5 μm, Δt = 3 s, π",
        "价格 10 元",
        "❤\ufe0f ok",
    ],
)
def test_text_in_its_own_alphabet_stays_as_it_is(text: str) -> None:
    assert reveal(text) == text


def test_a_question_shows_what_its_tool_and_arguments_really_are() -> None:
    arguments = {"p\u0430th": "/home/\u0430dmin", "note": "a\u200bb", "о": "Москва"}
    question = Question(
        id="q1", kind="approve", agent="clerk\u202e", tool="delete_r\u043ews", arguments=arguments, text="", reason=""
    )
    card = approval_cards.card(question)
    assert card["title"] == "clerk\\u202e wants to call delete_r\\u043ews"
    assert "p\\u0430th" in card["arguments"] and "/home/\\u0430dmin" in card["arguments"]
    assert "a\\u200bb" in card["arguments"] and "Москва" in card["arguments"]
    # It is edited as JSON: what is not touched stays what it is.
    assert json.loads(card["arguments"]) == arguments
    for shown in approval_cards.open_bundle([question]).values():
        assert "delete_r\\u043ews" in shown and "\\u0430dmin" in shown


def test_everything_the_command_line_prints_goes_through_one_function() -> None:
    package = Path(agentkit.__file__).parent
    for name in ("cli/main.py", "cli/run_notebook.py"):
        tree = ast.parse((package / name).read_text(encoding="utf-8"))
        printing = [
            function.name
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for node in ast.walk(function)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write")
        ]
        assert set(printing) <= {"_say"}
