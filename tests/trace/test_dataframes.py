"""The frames behind `%agent cost` and `%agent runs`: typed columns, unknown prices as NA."""

from __future__ import annotations

import pandas as pd
import pytest

from agentkit.trace.dataframes import Coloured, cost_frame, round_for_reading, runs_frame
from agentkit.trace.render_html import AMBER
from agentkit.trace.trace import Trace
from tests.trace.samples import SAMPLES, mixed, nested, run, unpriced


def test_one_row_for_each_step_with_spent_and_saved_apart() -> None:
    frame = cost_frame(mixed())
    assert list(frame["state"]) == ["replayed"] * 3 + ["live"] * 2
    assert frame["spent"].sum() == pytest.approx(0.0012) and frame["saved"].sum() == pytest.approx(0.0012)


def test_columns_are_typed_also_when_empty() -> None:
    for frame in (cost_frame([]), cost_frame(mixed())):
        types = frame.dtypes.astype(str)
        assert types["agent"] == "category" and types["input_tokens"] == "Int64" and types["spent"] == "Float64"
        assert types["started"] == "datetime64[ns, UTC]" and types["replayed"] == "boolean"
    assert list(runs_frame([]).columns) == list(runs_frame([run()]).columns)


def test_an_unknown_price_is_missing_not_zero() -> None:
    frame = cost_frame(unpriced())
    assert pd.isna(frame["spent"][0]) and pd.isna(frame["saved"][1]) and frame["spent"][2] == 0.0012
    assert list(frame["priced"]) == [False, False, True]


def test_steps_of_sub_agents_are_in_the_frame_under_their_own_agent() -> None:
    frame = cost_frame(nested())
    assert frame.groupby("agent", observed=True).size().to_dict() == {"lead": 4, "analyst": 3, "forecaster": 3}


def test_runs_with_and_without_their_traces() -> None:
    first, second = run(id="a", continues="b"), run(id="b", ended=None)
    frame = runs_frame([first, second], {"a": Trace.of(mixed()).totals})
    assert list(frame["run"]) == ["a", "b"] and frame["continues"][0] == "b"
    assert frame["live"][0] == 2 and pd.isna(frame["live"][1]) and pd.isna(frame["seconds"][1])
    assert frame["seconds"][0] == pytest.approx(1.2)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_makes_a_frame(name: str) -> None:
    trace = Trace.of(SAMPLES[name]())
    assert len(cost_frame(trace.events())) == trace.totals.steps


def test_a_status_has_the_colour_that_the_panel_gives_it_and_a_prompt_has_none() -> None:
    runs = [run(id="a", status="truncated", prompt="<b>truncated</b>"), run(id="b", status="done")]
    seen = Coloured(round_for_reading(runs_frame(runs)))
    assert f'<td><span style="color:{AMBER}">◔ truncated</span></td>' in seen._repr_html_()
    assert seen._repr_html_().count(f"color:{AMBER}") == 1 and "<b>truncated</b>" not in seen._repr_html_()
    assert repr(seen) == repr(seen.frame)
