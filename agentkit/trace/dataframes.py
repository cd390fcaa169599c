"""Runs and what they cost as pandas frames with typed columns, for `%agent cost` and `%agent runs`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from agentkit.events import Event, Run
from agentkit.journal.totals import Totals
from agentkit.trace.format import GLYPHS
from agentkit.trace.render_html import COLOURS
from agentkit.trace.trace import Trace, has_unknown_price, price

_TIME = "datetime64[ns, UTC]"
_COST = {
    "run": "string", "agent": "category", "notebook": "category", "step": "Int64", "kind": "category",
    "name": "category",
    "state": "category", "replayed": "boolean", "started": _TIME, "seconds": "Float64", "recorded_seconds": "Float64",
    "input_tokens": "Int64", "output_tokens": "Int64", "spent": "Float64", "saved": "Float64", "priced": "boolean",
    "maybe_paid_twice": "boolean",
}  # fmt: skip
_WHOSE = {"caller": "category", "thread": "string"}
_RUNS = {
    "run": "string", "agent": "category", "notebook": "category", "status": "category", "cell": "string",
    "prompt": "string", "output": "string", "within": "string", "continues": "string", "model": "category",
    "mode": "category", "started": _TIME, "seconds": "Float64", "steps": "Int64", "live": "Int64", "replayed": "Int64",
    "input_tokens": "Int64", "output_tokens": "Int64", "spent": "Float64", "saved": "Float64", "unpriced": "Int64",
    "error": "string", "source": "category",
}  # fmt: skip


def cost_frame(events: Iterable[Event]) -> pd.DataFrame:
    """One row for each step. A price that is not known is NA in `spent` and `saved`, never 0."""
    trace = Trace.of(events)
    runs = {event.id: event for event in trace.events() if isinstance(event, Run)}
    rows = []
    for node in (node for root in trace.roots for node in root.every_step()):
        step, cost, run = node.step, price(node.step), runs.get(node.step.run)
        rows.append(
            {
                "run": step.run,
                "agent": None if run is None else run.agent,
                "notebook": None if run is None else run.label,
                "step": step.id,
                "kind": step.kind,
                "name": step.name,
                "state": node.state,
                "replayed": step.replayed,
                "started": _moment(step.started),
                "seconds": _between(step.started, step.ended),
                "recorded_seconds": step.recorded_seconds,
                "input_tokens": step.usage.input_tokens if step.usage else None,
                "output_tokens": step.usage.output_tokens if step.usage else None,
                "spent": None if step.replayed else cost,
                "saved": cost if step.replayed else None,
                "priced": not has_unknown_price(step),
                "maybe_paid_twice": step.maybe_paid_twice,
            }
        )
    return _typed_frame(rows, _COST)


def runs_frame(runs: Iterable[Run], totals: Mapping[str, Totals] | None = None) -> pd.DataFrame:
    """One row for each run in the order given; `totals` by run id fill the counts, which are NA without them.

    A run's counts include those of the runs inside it, which name it in `within`: sums are over rows without one.
    """
    known = totals or {}
    return _typed_frame([_run_row(run, known.get(run.id)) for run in runs], _RUNS)


def _run_row(run: Run, totals: Totals | None) -> dict[str, object]:
    return {
        "run": run.id,
        "agent": run.agent,
        "notebook": run.label,
        "status": run.status,
        "cell": run.cell,
        "prompt": run.prompt,
        "output": run.output,
        "within": run.parent_run,
        "continues": run.continues,
        "model": run.model,
        "mode": run.mode,
        "started": _moment(run.started),
        "seconds": _between(run.started, run.ended),
        **({} if totals is None else _counts(totals)),
        "error": run.error,
        "caller": run.caller,
        "thread": run.thread,
        **({"source": run.source} if run.source else {}),
    }


def _counts(totals: Totals) -> dict[str, object]:
    """Sums of known prices; NA when there is nothing but unknown ones."""
    return {
        "steps": totals.steps,
        "live": totals.live,
        "replayed": totals.replayed,
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        "spent": None if totals.unpriced and not totals.spent else totals.spent,
        "saved": None if totals.saved_unpriced and not totals.saved else totals.saved,
        "unpriced": totals.unpriced,
    }


def _moment(seconds: float) -> pd.Timestamp:
    return pd.Timestamp(seconds, unit="s", tz="UTC")


def _between(started: float, ended: float | None) -> float | None:
    return None if ended is None else ended - started


def _typed_frame(rows: Sequence[Mapping[str, object]], types: Mapping[str, str]) -> pd.DataFrame:
    columns = {name: pd.Series([row.get(name) for row in rows], dtype=dtype) for name, dtype in types.items()}
    return pd.DataFrame(columns)


def round_for_reading(frame: pd.DataFrame) -> pd.DataFrame:
    """For reading: moments to the second, durations to the millisecond, and nothing where there is nothing."""
    shown = frame.copy()
    for name in shown.columns:
        if isinstance(shown[name].dtype, pd.DatetimeTZDtype):
            shown[name] = shown[name].dt.tz_convert(None).dt.strftime("%Y-%m-%d %H:%M:%S UTC")
    if "seconds" in shown:
        shown["seconds"] = shown["seconds"].round(3)
    return shown.astype(object).where(shown.notna(), "")


_MARKED = re.compile("\ue000(.*?)\ue001")


@dataclass(frozen=True)
class Coloured:
    """A frame as a notebook shows it, with each `status` in the colour that the panel gives it."""

    frame: pd.DataFrame

    def _repr_html_(self) -> str:
        # Markup in a cell would be escaped like everything else: the places are marked, and coloured afterwards.
        marked = self.frame.assign(status=[f"\ue000{status}\ue001" for status in self.frame["status"]])
        return _MARKED.sub(_colour_match, str(marked._repr_html_()))

    def __repr__(self) -> str:
        return repr(self.frame)


def _colour_match(found: re.Match[str]) -> str:
    status = found[1]
    return f'<span style="color:{COLOURS.get(status, "inherit")}">{GLYPHS.get(status, "")} {status}</span>'
