"""Budgets in a real kernel: the verbs, a run that is stopped and resumed, and what cannot be a budget."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebook.kernels import Kernel, kernel

SETUP = """
%load_ext agentkit
import agentkit
from agentkit.testing import Call, ScriptedModel
from pydantic_ai.messages import ToolReturnPart

asked = []
def rule(messages):
    asked.append(1)
    seen = sum(isinstance(part, ToolReturnPart) for message in messages for part in message.parts)
    return [f"Looking at {seen}.", Call("lookup", {"place": str(seen)})] if seen < 3 else "all seen"

model = ScriptedModel.by(rule, cost=0.1)

@agentkit.tool(effects="none")
def lookup(place: str) -> str:
    "Look a place up."
    return f"{place} is known"
"""
BUILD = "%%agent build guide --model model --tools lookup --budget {limits}\nYou look places up."
RUN = "%%agent run guide --as said\nWhere?"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    monkeypatch.setenv("AGENTKIT_BUDGETS", str(tmp_path / "budgets.db"))
    with kernel(tmp_path) as running:
        setup(running)
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """One kernel for what changes nothing in it."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTKIT_BUDGETS", str(folder / "budgets.db"))
        with kernel(folder) as running:
            setup(running)
            yield running


def setup(running: Kernel, limits: str = "0.25usd, 20k tokens") -> None:
    assert running.run(SETUP).status == "ok"
    built = running.run(BUILD.format(limits=limits))
    assert built.status == "ok", built.traceback


def test_a_stopped_run_resumes_when_the_limit_is_raised_and_pays_only_what_is_left(shell: Kernel) -> None:
    for requests in (2, 2):
        cell = shell.run(RUN)
        assert cell.ename == "BudgetExceeded"
        assert cell.error == (
            "guide stopped at its budget, 0.25usd per run: 0.20usd used, the next request may take 0.10usd; raise it "
            "with %agent budget guide 0.50usd/run and run again, only what is left is paid"
        )
        assert len(cell.traceback.splitlines()) == 1
        assert shell.value("len(asked)") == str(requests)
        assert "budget of guide ▰▰▰▰▰▰▰▰▱▱ 0.20usd of 0.25usd per run" in str(cell.panels[0]["data"]["text/plain"])
    # A restart in between loses nothing; the limit that is typed holds after the build.
    shell.restart()
    setup(shell)
    told = shell.run("%agent budget guide 0.50usd/run").text
    assert told.strip() == "guide: 0.50usd per run, 20k tokens per run (was 0.25usd per run, 20k tokens per run)"
    cell = shell.run(RUN)
    assert cell.status == "ok", cell.traceback
    assert "3 live, 4 replayed" in cell.headline
    assert shell.value("said, len(asked)") == "('all seen', 2)"
    (panel,) = cell.panels
    assert "0.40usd of 0.50usd per run" in str(panel["data"]["text/html"])


def test_the_tree_is_shown_and_each_scope_can_be_limited(shell: Kernel) -> None:
    assert (
        "the user: 10.00usd per day; at the limit: stop"
        in shell.run("%agent budget user 10usd/day --at-limit stop").text
    )
    assert "the project: 5.00usd in total" in shell.run("%agent budget project 5usd").text
    assert "the notebook: 100k tokens in total" in shell.run("%agent budget 100k tokens").text
    assert "eval: 1.00usd per day" in shell.run("%agent budget eval 1usd/day").text
    shell.run(RUN)
    (tree,) = shell.run("%agent budget").of("text/plain")
    names = [line.split("  ▱")[0].split("  ▰")[0].strip() for line in str(tree).splitlines()]
    assert names[0] == "user" and names[1].startswith("project") and "agent guide" in names
    assert "0.20usd of 10.00usd per day" in str(tree)
    (html,) = shell.run("%agent budget guide").of("text/html")
    assert "0.20usd of 0.25usd per run" in html and "user" not in html
    assert "guide: no limit (was 0.25usd per run, 20k tokens per run)" in shell.run("%agent budget guide off").text
    assert shell.run(RUN).status == "ok"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%agent budget gide 1usd", "no scope or agent gide (did you mean guide?)"),
        ("%agent budget guide lots", "'lots' cannot be read"),
        ("%agent budget guide -1usd", "a limit is more than 0"),
        ("%agent budget guide 1usd, 2usd", "contradict each other"),
        ("%agent budget guide 5 monkeys", "what is 'monkeys'?"),
        ("%agent budget notebook 0.10usd", "0.10usd in total is less than guide was given (0.25usd per run)"),
        ("%agent budget guide --at-limit never", "--at-limit never: one of ask, wait, fallback, stop"),
        ("%agent budget user --at-limit stop", "the user has none"),
        (BUILD.format(limits="lots"), "--budget 'lots' cannot be read"),
        (BUILD.format(limits="1usd/dya"), "(did you mean day?)"),
        ("%%agent build guide --model model --at-limit stop\nx", "there is none: add --budget"),
        ("%agent estimate", "%agent estimate needs AGENT"),
        ("%agent estimate gide", "gide"),
    ],
)
def test_bad_input_is_one_line(shared: Kernel, line: str, said: str) -> None:
    cell = shared.run(line)
    assert cell.ename in ("UserError", "SpecError") and cell.error is not None, cell
    assert said in cell.error
    assert len(cell.traceback.splitlines()) == 1


def test_estimates_say_how_they_were_reached(shell: Kernel) -> None:
    assert "no finished run of guide is recorded yet" in shell.run("%agent estimate guide").text
    shell.run("%agent budget guide off")
    assert shell.run(RUN).status == "ok"
    told = shell.run("%%agent estimate guide\nWhere are we, and where do we go from here, please?").text
    assert "guide: about $0.40" in told and "from 1 recorded run of guide" in told
    assert "longer than theirs" in told
    assert "replays and costs nothing" in shell.run("%%agent estimate guide\nWhere?").text


def test_a_plain_cell_stops_too_and_tab_knows_the_verb(shell: Kernel) -> None:
    assert shell.run("await guide.run('Where?')").ename == "BudgetExceeded"
    assert "guide" in shell.complete("%agent budget gu")
    assert "--budget" in shell.complete("%%agent build x --bud")


def test_two_kernels_at_once_spend_one_allowance(shell: Kernel, tmp_path: Path) -> None:
    many = (
        "import asyncio\n"
        "quick = ScriptedModel.by(lambda messages: (asked.append(1), 'yes')[1], cost=0.1, delay=0.05)\n"
        "crowd = agentkit.build(agentkit.Spec(instructions='Answer.'), name='crowd', model=quick)"
    )
    ask = "done = await asyncio.gather(*(crowd.run(f'{KERNEL} {n}') for n in range(10)), return_exceptions=True)"
    (tmp_path / "other").mkdir()
    with kernel(tmp_path / "other") as other:
        setup(other)
        assert shell.run("%agent budget user 1.25usd/day").status == "ok"
        cells: list[str] = []

        def spend(one: Kernel, name: str) -> None:
            cells.append(one.run(f"KERNEL = {name!r}\n{many}").status)
            cells.append(one.run(ask).status)

        threads = [threading.Thread(target=spend, args=pair) for pair in ((shell, "a"), (other, "b"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert cells == ["ok"] * 4
        requests = [int(one.value("len(asked)")) for one in (shell, other)]
        assert sum(requests) == 12
        assert "1.20usd of 1.25usd per day" in str(other.run("%agent budget user").of("text/plain"))
        refused = "sum(type(one).__name__ == 'BudgetExceeded' for one in done)"
        assert int(shell.value(refused)) + int(other.value(refused)) == 8
