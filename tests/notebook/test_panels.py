"""Which panel an event belongs to, and when it is drawn."""

from __future__ import annotations

from typing import Any

import pytest

from agentkit.events import Run, Step
from agentkit.notebook import output
from agentkit.notebook.panel import Panels


def run(name: str, *, cell: str | None = "a", status: Any = "running", parent: str | None = None) -> Run:
    return Run(id=name, agent="x", status=status, cell=cell, started=1.0, ended=2.0, parent_run=parent)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first lines of what is drawn; the display of IPython itself needs a kernel."""
    lines: list[str] = []

    class Handle:
        def update(self, bundle: dict[str, str], **_: Any) -> None:
            lines.append("update " + bundle["text/plain"].splitlines()[0])

    def show(bundle: dict[str, str], **_: Any) -> Handle:
        lines.append("show " + bundle["text/plain"].splitlines()[0])
        return Handle()

    monkeypatch.setattr(output, "show", show)
    return lines


def test_an_unwatched_cell_is_drawn_once_at_its_end(drawn: list[str]) -> None:
    panels = Panels()
    panels.begin("a", live=False)
    panels.take(run("r"))
    panels.redraw()
    panels.take(run("r", status="done"))
    panels.end()
    panels.end()
    assert len(drawn) == 1 and drawn[0].startswith("show x · done")


def test_a_cell_that_ran_nothing_has_no_panel(drawn: list[str]) -> None:
    panels = Panels()
    panels.begin("a", live=True)
    panels.redraw()
    panels.end()
    assert drawn == []


def test_a_run_that_goes_on_stays_in_the_panel_of_its_cell(drawn: list[str]) -> None:
    panels = Panels()
    panels.begin("a", live=True)
    panels.take(run("early"))
    panels.end()
    panels.begin("b", live=True)
    panels.take(
        Step(run="early", ord=1, id=1, kind="tool", name="t", status="done", replayed=False, started=1, ended=2)
    )
    panels.take(run("inner", cell="b", parent="early"))
    panels.redraw()
    assert len(drawn) == 1 and "running" in drawn[0]
    panels.take(run("late", cell="b", status="done"))
    panels.redraw()
    assert len(drawn) == 3 and drawn[2].startswith("show x · done")


def test_what_no_cell_knows_is_nobodys(drawn: list[str]) -> None:
    panels = Panels()
    panels.take(run("before any cell"))
    panels.begin("a", live=True)
    panels.take(run("elsewhere", cell="z"))
    panels.redraw()
    assert drawn == []
