from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agentkit.cli import demo
from agentkit.cli.demo import Pass
from agentkit.events import Run, Step, Usage
from agentkit.trace.trace import Trace


def made(name: str, *, replayed: bool, answer: bytes = b'"42"') -> Pass:
    run = Run(id=name, agent="analyst", status="done", prompt="how many?", started=10.0, ended=11.0, output="42")
    step = Step(
        run=name, ord=0, id=1, kind="model", name="offline", status="done", replayed=replayed, started=10.0,
        ended=10.5, recorded_seconds=0.5, usage=Usage(input_tokens=900, output_tokens=100, cost=0.0),
    )  # fmt: skip
    trace = Trace.of([run, step])
    return Pass(name=name, seconds=3.0, trace=trace, answers=(("analyst", "how many?", answer),))


def passes(monkeypatch: pytest.MonkeyPatch, first: Pass, second: Pass) -> None:
    given = {"first": first, "second": second}
    monkeypatch.setattr(demo, "_execute", lambda folder, name, known: given[name])


def test_a_replayed_second_time_is_a_success_and_says_what_it_was_worth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passes(monkeypatch, made("first", replayed=False), made("second", replayed=True))
    assert demo.demo() == 0
    said = capsys.readouterr().out
    assert "0 live steps, equal answers. 1,000 tokens" in said
    assert "at the list price of openai:gpt-5 that is $0.0021" in said


def test_a_live_step_in_the_second_time_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passes(monkeypatch, made("first", replayed=False), made("second", replayed=False))
    assert demo.demo() == 1
    assert "FAILED: the second execution performed 1 live step" in capsys.readouterr().out


def test_another_answer_in_the_second_time_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passes(monkeypatch, made("first", replayed=False), made("second", replayed=True, answer=b'"43"'))
    assert demo.demo() == 1
    assert "other answers" in capsys.readouterr().out


def test_a_first_time_that_did_nothing_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = replace(made("first", replayed=False), trace=Trace(), answers=())
    passes(monkeypatch, nothing, replace(nothing, name="second"))
    assert demo.demo() == 1
    assert "performed no step" in capsys.readouterr().out


def test_the_table_has_a_line_for_each_run_and_one_that_adds_up() -> None:
    lines = demo.table([made("first", replayed=False), made("second", replayed=True)]).splitlines()
    assert lines[0].split() == ["agent", "asked", "steps", "live", "replayed", "time", "tokens", "spent", "saved"]
    assert lines[1] == lines[4]
    assert set(lines[1]) == {"─"}
    assert lines[2].split() == "analyst how many? 1 1 0 1.0 s 1,000 $0 (offline) –".split()
    assert lines[5].split() == "analyst how many? 1 0 1 1.0 s 0 $0 1,000 tokens".split()
    assert [line.split()[0] for line in (lines[3], lines[6])] == ["first", "second"]
    assert len(lines) == 7


def test_the_demo_in_a_real_kernel_is_replayed_the_second_time(capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name for path in demo.notebooks().iterdir()}
    assert demo.demo() == 0
    said = capsys.readouterr().out
    assert "The second time: 0 live steps, equal answers." in said
    assert {path.name for path in demo.notebooks().iterdir()} == before


def test_the_persons_own_settings_do_not_reach_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKIT_HOME", "/somewhere")
    monkeypatch.setenv("AGENTKIT_MODEL", "openai:gpt-5")
    ours = {name: value for name, value in demo._environment().items() if name.startswith("AGENTKIT_")}
    assert ours == {"AGENTKIT_NOTEBOOK": "01_first_agent.ipynb"}


def test_the_notebooks_are_those_of_the_clone() -> None:
    assert demo.notebooks() == Path(__file__).parents[2] / "notebooks"
