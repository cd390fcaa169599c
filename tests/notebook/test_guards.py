"""The verbs of guards in a real kernel: breaker, throttle, doctor, compare, and a circuit that opens and is decided."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.notebook.kernels import Kernel, kernel

SETUP = """
%load_ext agentkit
import agentkit
import pandas as pd
from agentkit.testing import Call, Output, ScriptedModel

def rule(messages):
    told = [part.content for message in messages for part in message.parts if part.part_kind == "user-prompt"]
    return "I used the index." if "index" in str(told) else Call("search", {"q": "x"})

model = ScriptedModel.by(rule)
north = ScriptedModel.by(lambda messages: "North.", model_name="north", cost=0.01)
south = ScriptedModel.by(lambda messages: "South.", model_name="south", cost=0.02)
judge = ScriptedModel.by(lambda messages: Output({"reason": "fine", "score": 0.5}), model_name="judge")
questions = pd.DataFrame({"text": ["Where to?", "And then?"]})

@agentkit.tool(effects="none")
def search(q: str) -> str:
    "Search."
    return "nothing"
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("guards")
    with pytest.MonkeyPatch.context() as patch:
        # What servers did to earlier tests of this run is known to every kernel of the user.
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        with kernel(folder) as running:
            yield _built(running)


def _built(running: Kernel) -> Kernel:
    assert running.run(SETUP).status == "ok"
    for build in ("seeker --model model --tools search", "plain --model offline"):
        built = running.run(f"%%agent build {build}\nYou answer.")
        assert built.status == "ok", built.traceback
    return running


def test_a_circuit_opens_is_decided_by_typing_and_goes_on(shell: Kernel) -> None:
    opened = shell.run("%%agent run seeker\nFind x.")
    assert opened.ename == "CircuitPending"
    assert "gave the same result 8 times in a row" in (opened.error or "")
    number = re.search(r"%agent approve (\d+) --once \| --raise", opened.error or "")
    assert number is not None, opened.error
    assert "retried with a hint" in shell.run(f"%agent approve {number[1]} --hint Use the index.").text
    again = shell.run("%%agent run seeker\nFind x.")
    assert again.status == "ok" and "1 live" in again.headline


def test_the_breaker_is_shown_and_set(shell: Kernel) -> None:
    assert "breaker repeats=3/5/8" in shell.run("%agent breaker").text
    assert "repeats=4/6/9" in shell.run("%agent breaker repeats=4/6/9").text
    assert shell.run("%agent breaker off").text.strip() == "breaker off"
    assert "repeats=3/5/8" in shell.run("%agent breaker repeats=3/5/8").text


def test_limits_of_a_server_are_shown_and_set(shell: Kernel) -> None:
    assert "no model server was asked" in shell.run("%agent throttle").text
    assert "gpt-5: 60k tpm" in shell.run("%agent throttle openai:gpt-5 60k tpm").text


def test_doctor_examines_what_is_configured(shell: Kernel) -> None:
    table = "".join(shell.run("%agent doctor").of("text/plain"))
    assert "offline" in table and "scripted:scripted" in table
    assert shell.run("report = %agent doctor").status == "ok"
    assert shell.run("list(report['reachable'])").result == "['not needed', 'not needed']"


def test_compare_shows_models_side_by_side(shell: Kernel) -> None:
    compare = "%%agent compare plain --models north,south --repeat 2 --rows questions.text --judge judge --as answers"
    found = shell.run(f"{compare}\n{{{{ row }}}} In one word.")
    assert found.status == "ok", found.traceback
    table = next(text for text in found.of("text/html") if "cost of one" in text)
    assert ">north<" in table and "$0.0100" in table and "$0.0200" in table and ">0.50<" in table
    assert shell.run("(len(answers), set(answers['model']))").result == "(8, {'north', 'south'})"
    assert shell.run("answers['asked'][0]").result == "'Where to? In one word.'"
    again = shell.run(f"{compare}\n{{{{ row }}}} In one word.")
    assert "0 live" in again.headline


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("%agent breaker repeats=5/3/8", "must rise"),
        ("%agent breaker wrong=1", "one of repeats, poll"),
        ("%agent throttle gpt-5", "which limits?"),
        ("%agent throttle gpt-5 many", "60k tpm, 500 rpm"),
        ("%%agent compare plain\nWhich?", "which models?"),
        ("%%agent compare plain --models north,north\nWhich?", "each model once"),
        ("%%agent compare plain --models ofline\nWhich?", "did you mean 'offline'"),
        ("%%agent compare plain --models north --repeat 0\nWhich?", "from 1 to 20"),
        ("%%agent compare plain --models north --rows nothing.here\nWhich?", "NameError"),
        ("%%agent compare plain --models north\n", "the body is empty"),
        ("%%agent build x --model offline | ofline\nHi.", "did you mean 'offline'"),
        ("%%agent build x --model cached(7d)\nHi.", "write it last"),
        ("%%agent build x --breaker repeats=3\nHi.", "write it as in"),
    ],
)
def test_bad_input_is_one_line(shell: Kernel, cell: str, said: str) -> None:
    refused = shell.run(cell)
    assert refused.status == "error" and said in (refused.error or ""), refused.error
    assert "\n" not in (refused.error or "")
