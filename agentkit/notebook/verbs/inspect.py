"""What the record holds of this notebook: its last run, its runs, and what they cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agentkit.agent.doctor import examine
from agentkit.errors import UserError, nearest
from agentkit.events import Event, Run
from agentkit.models.relay.client import describe_state, describe_stop
from agentkit.notebook import namespace
from agentkit.notebook.context import Reply, VerbContext
from agentkit.notebook.grammar import VERBS
from agentkit.notebook.output import say, show
from agentkit.notebook.parser import Line
from agentkit.runtime.session import Session
from agentkit.trace import format

_LIMIT = 100
_KNOWN = 50
_NOTHING = "nothing has run yet: %%agent run AGENT"
_COST_AT_A_GLANCE = (
    "run",
    "agent",
    "notebook",
    "step",
    "kind",
    "name",
    "state",
    "seconds",
    "input_tokens",
    "output_tokens",
    "spent",
    "saved",
)
_RUNS_AT_A_GLANCE = (
    "run",
    "caller",
    "agent",
    "notebook",
    "status",
    "prompt",
    "continues",
    "started",
    "seconds",
    "live",
    "replayed",
    "spent",
    "saved",
    "source",
)
"""What is shown of a frame that has everything."""


def last_run(context: VerbContext, agent: str | None = None) -> Run | None:
    """The newest run of this notebook, or of one of its agents; without a name, none that ran inside another."""
    found = context.session.runs(agent=agent, label=context.session.label, top=agent is None, limit=1)
    return found[0] if found else None


def find_run(context: VerbContext, word: str) -> Run:
    """The run a line names: its id, the last one of the agent it names, or the last of all, in this notebook."""
    session = context.session
    if word and (named := session.store.run(word)) is not None:
        return named
    if (found := last_run(context, word or None)) is not None:
        return found
    if not word:
        raise UserError(nothing(context))
    if elsewhere := session.runs(agent=word, limit=1):
        other = elsewhere[0]
        raise UserError(f"{word} has not run in this notebook; its last run is {other.id}, of notebook {other.label}")
    recent = session.runs(limit=_KNOWN)
    known = [run.id for run in recent] + [run.agent for run in recent]
    raise UserError(f"no run or agent {word} is recorded{nearest(word, known)}; %agent runs lists them")


def row_events(context: VerbContext, run: Run, text: str) -> list[Event]:
    """What is recorded of one row of a map: its run, or the step that is all of it."""
    session, row = context.session, int(text) if text.isdecimal() else -1
    if run.rows is None:
        raise UserError(f"%agent trace {run.id} {text}: {run.id} is no map, so it has no rows")
    if not 0 <= row < run.rows:
        raise UserError(f"%agent trace {run.id} {text}: a row of this map, from 0 to {run.rows - 1:,}")
    inner = session.store.rows_of(run.id, row=row)
    if inner:
        return session.trace(inner[-1].id)
    step = next((step for step in session.store.steps(run.id, place=row + 1)), None)
    if step is None:
        raise UserError(
            f"row {row} of map {run.id} was answered from the record, or not reached: the column run of its frame "
            "names the run that it was asked in"
        )
    return [session.redactor.scrub_event(event) for event in (replace(run, rows=None), step)]


def nothing(context: VerbContext) -> str:
    """That nothing has run in this notebook, and where something has."""
    others = [label for label in context.session.store.labels() if label != context.session.label]
    return f"{_NOTHING} (%agent runs --all lists those of {', '.join(others[:3])})" if others else _NOTHING


def cost(context: VerbContext, line: Line) -> Reply:
    from agentkit.trace.dataframes import cost_frame, round_for_reading

    session, label = context.session, _label(context, line)
    if line.word:
        run = find_run(context, line.word).id
        found, count, totals = [run], 1, session.totals(run=run)
    else:
        listed = reversed(session.runs(label=label, top=True, limit=_limit(line)))
        # The steps of a map may be as many as its rows: what they add up to is in the sums.
        found = [run.id for run in listed if run.rows is None]
        count, totals = session.store.count(label=label, top=True), session.totals(label=label)
    frame = cost_frame([event for run in found for event in session.trace(run)])
    if frame.empty:
        return Reply(value=frame, show=lambda: say(nothing(context)))
    twice = ["maybe_paid_twice"] if frame["maybe_paid_twice"].any() else []
    shown = frame[[*_COST_AT_A_GLANCE, *twice]]
    return Reply(
        value=frame,
        show=lambda: show(round_for_reading(shown)),
        remark="\n".join([*_cut(len(found), count, "the steps of "), _format_sum(count, format.sums(totals))]),
    )


def runs(context: VerbContext, line: Line) -> Reply:
    from agentkit.trace.dataframes import Coloured, round_for_reading, runs_frame

    session, label, agent = context.session, _label(context, line), line.word or None
    found = session.runs(agent=agent, label=label, limit=_limit(line))
    if agent and not found:
        if elsewhere := session.runs(agent=agent, limit=1):
            place = f"notebook {elsewhere[0].label}"
            raise UserError(f"{agent} has run in {place} only: %agent runs {agent} --all lists its runs")
        known = sorted({run.agent for run in session.runs(limit=_KNOWN)})
        raise UserError(f"no run of {agent} is recorded{nearest(agent, known)}")
    frame = runs_frame(found, session.store.totals_by_run(run.id for run in found))
    if frame.empty:
        return Reply(value=frame, show=lambda: say(nothing(context)))
    count = session.store.count(agent=agent, label=label)
    names = [name for name in _RUNS_AT_A_GLANCE if name in frame and (name != "source" or frame.source.notna().any())]
    seen = round_for_reading(frame[names])
    facts = format.sums(session.totals(agent=agent, label=label))
    return Reply(
        value=frame,
        show=lambda: show(Coloured(seen)),
        remark="\n".join([*_cut(len(found), count), _format_sum(count, facts)]),
    )


def _cut(listed: int, count: int, what: str = "") -> list[str]:
    """That a listing does not hold everything; the sums do."""
    return [f"{what}the newest {listed:,} of {count:,} runs; --limit {count} lists all"] if listed < count else []


def _format_sum(count: int, facts: list[str]) -> str:
    return " · ".join([*([f"all {count:,} runs"] if count > 1 else []), *facts])


def _limit(line: Line) -> int:
    given = line.options.get("limit")
    if given is None:
        return _LIMIT
    if not given.isdecimal() or not int(given):
        raise UserError(f"%agent {line.verb}: --limit {given}: how many runs to list, such as --limit 500")
    return int(given)


def _label(context: VerbContext, line: Line) -> str | None:
    """Whose runs are meant: this notebook's, those of another, or (None) those of all."""
    given = line.options.get("notebook")
    if line.has("all"):
        if given is not None:
            raise UserError(f"%agent {line.verb}: --all and --notebook {given} are two answers to one question")
        return None
    if given is None:
        return context.session.label
    label = given.removesuffix(".ipynb")
    known = context.session.store.labels()
    if label not in known:
        raise UserError(f"%agent {line.verb}: --notebook {given}: nothing has run there{nearest(label, known)}")
    return label


async def doctor(context: VerbContext, line: Line) -> Reply:
    from agentkit.trace import checkup_view as shown

    checkups = await examine({"": namespace.model(line.rest, context.names)} if line.rest else _list_models(context))
    scrub = context.session.redactor.scrub_again
    found = [replace(one, model=scrub(one.model), problem=scrub(one.problem)) for one in checkups]
    bundle = {"text/html": shown.html(found), "text/plain": shown.text(found)}
    return Reply(value=shown.frame(found), show=lambda: show(bundle, raw=True))


def _list_models(context: VerbContext) -> dict[str, Any]:
    """The session's model and that of each agent of the notebook."""
    agents = {name: getattr(agent, "model", None) for name, agent in namespace.agents(context.names).items()}
    return {
        "the session": context.session.model,
        **{name: model for name, model in agents.items() if model is not None},
    }


WORDS = VERBS["caller"].one_of


def caller(session: Session, word: str) -> str:
    """Do what the word says; the line that tells of it."""
    calling = session.calling
    match word or "status":
        case "status":
            if calling.off:
                return f"caller off: {calling.off}"
            state = calling.ask("status")
            return describe_state(state) if state else "caller on: no caller is running; the next live call starts it"
        case "stop":
            return describe_stop(calling.ask("stop"))
        case "on":
            calling.turn_on()
            if calling.off:
                return f"caller off: {calling.off}"
            return "caller on: started by the next live call; what it has begun is answered also when the kernel dies"
        case "off":
            calling.turn_off()
            return "caller off: this kernel makes its calls directly from now on"
        case _:
            raise UserError(f"%agent caller {word}: one of {', '.join(WORDS)}{nearest(word, WORDS)}")
