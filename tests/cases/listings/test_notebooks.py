"""Two notebooks in one folder: each means its own runs, and says how to see the other's; sums are over everything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebook.kernels import Kernel, kernel

_MODEL = """
from agentkit.testing import ScriptedModel
m = ScriptedModel.by(lambda messages: "told in {name}")
"""


def notebook(folder: Path, name: str) -> Iterator[Kernel]:
    with kernel(folder) as running:
        running.run(f"import os; os.environ['AGENTKIT_NOTEBOOK'] = '{name}.ipynb'")
        running.run("%load_ext agentkit")
        running.run(_MODEL.replace("{name}", name))
        running.run(f"%%agent build {name}_agent --model m\nBe brief.")
        yield running


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """The notebook `first`; `second` ran later in its folder, 111 runs."""
    folder = tmp_path_factory.mktemp("two")
    for running in notebook(folder, "first"):
        running.run("%%agent run first_agent\nHow are you?")
        for other in notebook(folder, "second"):
            cell = other.run("for n in range(111):\n    await second_agent.run(str(n))")
            assert cell.status == "ok", cell.traceback
        yield running


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("%agent", "last run  first_agent · done"),
        ("%agent why", "every step was replayed|live"),
        ("%agent trace", "first_agent"),
        ("%agent cost", "first_agent"),
        ("%agent runs", "first_agent"),
        ("%agent diff second_agent first_agent", "second_agent has not run in this notebook; its last run is"),
        ("%agent trace second_agent", "second_agent has not run in this notebook; its last run is"),
        ("%agent runs second_agent", "second_agent has run in notebook second only: %agent runs second_agent --all"),
        ("%agent runs --notebook secnod", "nothing has run there (did you mean second?)"),
        ("%agent runs --all --notebook first", "two answers to one question"),
        ("%agent cost --limit many", "--limit many: how many runs to list"),
    ],
)
def test_a_verb_means_this_notebook(first: Kernel, line: str, shown: str) -> None:
    cell = first.run(line)
    said = cell.text + "".join(cell.of("text/plain")) + (cell.error or "")
    assert any(one in said for one in shown.split("|")), said
    assert "second_agent" in shown or "second_agent" not in said


@pytest.mark.parametrize(
    ("line", "rows", "said"),
    [
        ("%agent runs", 1, "1 step: 1 live, 0 replayed"),
        (
            "%agent runs --all",
            100,
            "the newest 100 of 112 runs; --limit 112 lists all\nall 112 runs · 112 steps: 112 live",
        ),
        ("%agent runs --notebook second.ipynb", 100, "the newest 100 of 111 runs; --limit 111 lists all\nall 111 runs"),
        ("%agent runs --all --limit 112", 112, "all 112 runs · 112 steps"),
        ("%agent runs second_agent --all --limit 5", 5, "the newest 5 of 111 runs"),
        ("%agent cost", 1, "1 step: 1 live"),
        (
            "%agent cost --all",
            100,
            "the steps of the newest 100 of 112 runs; --limit 112 lists all\nall 112 runs · 112 steps",
        ),
        ("%agent cost --notebook second --limit 7", 7, "the steps of the newest 7 of 111 runs"),
    ],
)
def test_a_listing_that_is_cut_says_of_how_many_and_sums_are_over_all(
    first: Kernel, line: str, rows: int, said: str
) -> None:
    cell = first.run(f"frame = {line}")
    assert said in cell.text, cell.text + cell.traceback
    assert first.value("len(frame)") == str(rows)
    notebooks = "['first', 'second']" if "--all --limit 112" in line else ""
    assert notebooks in first.value("sorted(set(frame['notebook']))")


def test_a_notebook_that_ran_nothing_says_who_did(first: Kernel) -> None:
    folder = Path(first.value("str(get_ipython().agentkit.session().folder.parent)").strip("'"))
    for third in notebook(folder, "third"):
        said = "nothing has run yet: %%agent run AGENT (%agent runs --all lists those of first, second)"
        assert all(
            said in third.run(line).text for line in ("%agent why", "%agent trace", "%agent runs", "%agent cost")
        )
