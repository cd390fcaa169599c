"""What each verb does: it calls the engine with what was typed and says what to show and what to return."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from agentkit.agent.agent import DurableAgent, durable
from agentkit.agent.ask import Answer, ask
from agentkit.agent.build import build as build_agent
from agentkit.agent.build import require_tool
from agentkit.agent.live_names import Bound, Names, follow
from agentkit.agent.spec import Spec
from agentkit.approval import decisions
from agentkit.approval.policy import parse_headless
from agentkit.errors import SpecError, UserError, nearest
from agentkit.events import Mode, Scope
from agentkit.models import resolve
from agentkit.notebook import cell_transform, error_output, grammar, help, namespace, portable_journal
from agentkit.notebook import template as prompt
from agentkit.notebook.context import BODY_LINE, Reply, VerbContext, mode_of, one_of, prompt_content
from agentkit.notebook.context import mode as read_mode
from agentkit.notebook.output import AnswerOutput, CellOutput, has_viewer, say
from agentkit.notebook.parser import Line
from agentkit.notebook.verbs import approve as approving
from agentkit.notebook.verbs import compare_models, debug, inspect, run_program, set_limits
from agentkit.notebook.verbs.inspect import caller as calling
from agentkit.runtime.fallback_record import format_age
from agentkit.trace import render_html
from agentkit.trace.explain import describe_divergence, summarize
from agentkit.trace.format import needs_a_person, origins
from agentkit.trace.trace import Trace


async def perform(context: VerbContext, line: Line, body: str | None) -> Reply:
    """Do what the line says; `body` is that of a `%%agent` cell."""
    cell_transform.refuse_joined(body or "")
    if line.verb == "build":
        return build(context, line, body or "")
    if line.verb == "run":
        return await run(context, line, body)
    if line.verb == "sandbox":
        return await run_program.perform(context, line, body or "")
    if line.verb == "map":
        # It brings pandas: the first cell of a notebook without a map does not wait for it.
        from agentkit.notebook.verbs import map_rows

        return await map_rows.map_rows(context, line, body or "")
    if line.verb == "compare":
        return await compare_models.compare(context, line, body or "")
    if line.verb == "doctor":
        return await inspect.doctor(context, line)
    if line.verb == "estimate":
        return set_limits.estimate(context, line, body)
    if line.verb in debug.VERBS:
        return await debug.perform(context, line, body)
    if line.verb == "export":
        # Imported here: whoever does not export need not wait for it.
        from agentkit.notebook.verbs import export_notebook

        return await export_notebook.perform(context, line)
    return _LINES[line.verb](context, line)


def build(context: VerbContext, line: Line, body: str) -> Reply:
    if not body.strip():
        raise SpecError("the body is empty: write the agent's instructions under the %%agent build line")
    name = namespace.new_name(line.word, context.names, option="build", free=lambda old: _is_agent(old))
    spec = _fill_spec(Spec.parse(body, first_line=BODY_LINE), body, context)
    options = _build_options(context, line)
    if "model" not in options and spec.model:
        namespace.usable_model("front matter: model", spec.model, {})
    agent = build_agent(spec, name=name, **options)
    _follow(context, line, agent, options.get("tools", ()))
    if "deps" in line.options:
        context.deps[name] = line.options["deps"]
    else:
        context.deps.pop(name, None)
    context.shell.push({name: agent})
    tools = line.options.get("tools", "")
    say(f"{name}: {resolve.identity(agent.model)}{f', tools {tools}' if tools else ''}")  # type: ignore[arg-type]
    context.remark(agent.notes)
    return Reply()


def _follow(context: VerbContext, line: Line, agent: DurableAgent, tools: Sequence[Any]) -> None:
    """Let the agent see, each time it runs, what the names on its line mean then."""
    given = line.options
    made = agent._function_toolset.tools
    bound = {
        name: Bound(held=held, tool=made.get(namespace.name_of(held)))
        for name, held in zip(namespace.tool_names(given.get("tools", "")), tools, strict=True)
    }
    agent.policy.names = Names(
        agent=agent,
        tools=bound,
        output=given.get("output"),
        deps=given.get("deps"),
        find_tool=lambda name: namespace.current_value(name, context.names, namespace.tool),
        find_output=lambda text: namespace.output_now(text, context.names),
        find_deps=lambda name: namespace.current_value(name, context.names, lambda name, names: names[name]),
        make=require_tool,
    )
    follow(agent.policy.names)


def _is_agent(value: Any) -> bool:
    return value in namespace.agents({"value": value}).values()


def _build_options(context: VerbContext, line: Line) -> dict[str, Any]:
    options: dict[str, Any] = {}
    given = line.options
    if "model" in given:
        options["model"] = namespace.usable_model("--model", given["model"], context.names)
    if "tools" in given:
        options["tools"] = namespace.tools(given["tools"], context.names)
    if "output" in given:
        options["output"] = namespace.output(given["output"], context.names)
        namespace.check_output(given["output"], options["output"])
    if "deps" in given:
        options["deps"] = namespace.value("deps", given["deps"], context.names)
    options |= {name: given[name] for name in ("approve", "breaker", "budget") if name in given}
    options["ask"] = "ask" in given
    options["code"] = "code" in given
    options["call"] = given.get("call", "")
    if options["call"] and not options["code"]:
        raise UserError("--call names what the agent's code may call: add --code")
    if "mcp" in given:
        options["mcp"] = [place.strip() for place in given["mcp"].split(",")]
    if "share" in given:
        options["share"] = one_of("--share", given["share"], get_args(Scope))
    if "at-limit" in given:
        if "budget" not in given:
            raise UserError(
                f"--at-limit {given['at-limit']} says what happens at a limit, but there is none: add --budget"
            )
        options["at_limit"] = given["at-limit"]
    if "ttl" in given:
        options["ttl"] = namespace.seconds(given["ttl"])
    return options


def _fill_spec(spec: Spec, body: str, context: VerbContext) -> Spec:
    """The spec with its `{{ }}` filled in, in the instructions and in text fields."""
    above = body.count("\n", 0, max(0, body.find(spec.instructions)))
    whole = prompt.render(spec.instructions, context.names, first_line=BODY_LINE + above)
    if any(not isinstance(part, str) for part in whole.parts):
        raise SpecError("instructions are text: an image belongs in the prompt of %%agent run")
    context.remark(whole.notes)
    fields = {name: _fill_field(value, context) for name, value in spec.fields.items()}
    return Spec(instructions=whole.text, fields=fields)


def _fill_field(value: Any, context: VerbContext) -> Any:
    if isinstance(value, str):
        return prompt.render(value, context.names, first_line=BODY_LINE).text
    return value


async def run(context: VerbContext, line: Line, body: str | None) -> Reply:
    name, _, text = line.rest.partition(" ")
    agent = durable(namespace.agent(name, context.names))
    if body is not None and text:
        raise UserError(f"%%agent run {name}: what is {text!r}? The prompt goes under this line")
    bind = line.options.get("as")
    if bind is not None:
        namespace.new_name(
            bind, context.names, option="--as", free=lambda old: not _is_agent(old) and not callable(old)
        )
    if not (text if body is None else body).strip():
        raise SpecError(f"the body is empty: write the prompt under the %%agent run {name} line")
    template, first = (text, 1) if body is None else (body, BODY_LINE)
    given = prompt.render(template, context.names, first_line=first)
    context.remark(given.notes)
    answer = await _ask(context, agent, line, prompt_content(given))
    if bind is not None:
        context.shell.push({bind: answer.output})
    return Reply(value=answer.output)


async def _ask(context: VerbContext, agent: Any, line: Line, text: Any) -> Answer:
    output = AnswerOutput.here(live=has_viewer(context.shell), formatter=context.shell.display_formatter)
    answer = await ask(
        agent,
        text,
        continues=line.options.get("continue"),
        fresh=line.has("fresh"),
        mode=mode_of(line),
        headless=parse_headless(line.options["headless"]) if line.has("headless") else None,
        walk=line.has("walk"),
        deps=context.deps_of(line, agent.name),
        on_text=output.stream,
    )
    output.finish(answer.output)
    if (age := answer.stale) is not None:
        say(
            f"  note: stale: this rests on a cached reply, {format_age(age)} old, because no model of the chain "
            f"answered"
        )
    context.remark(tuple(context.session.remarks))
    if (change := describe_divergence(context.session.store, answer.run)) is not None:
        say(f"  note: {change}; %agent why says what changed")
    return answer


def glance(context: VerbContext, line: Line) -> Reply:
    session = context.session
    agents = ", ".join(namespace.agents(context.names)) or "none yet: %%agent build NAME"
    newest = inspect.last_run(context)
    last = "none yet"
    if newest is not None:
        last = render_html.text(Trace.of(session.trace(newest.id)), now=time.time()).splitlines()[0]
    mode = f"mode {session.mode}{portable_journal.explain_mode(session)}"
    rows = [
        ("session", f"{session.label} · {mode} · model {resolve.format_model_name(session.model)}"),
        ("journal", str(session.path)),
        ("agents", agents),
        ("last run", last),
    ]
    waiting = [one.id for one in decisions.everything(session.store) if one.waits]
    rows += [("waiting", f"{_count_text(len(waiting), 'decision')}: %agent approvals lists them")] if waiting else []
    open_ = [row for row in session.in_doubt() if str(row.id) not in waiting]
    doubt = [row for row in open_ if needs_a_person(row)]
    rows += [("in doubt", f"{_count_text(len(doubt), 'step')}: %agent settle lists them")] if doubt else []
    rest = len(open_) - len(doubt)
    rows += [("cut off", f"{_count_text(rest, 'step')}: run the cell again to go on")] if rest else []
    return _text_reply("\n".join(f"{key:9} {text}" for key, text in rows) + "\n%agent help lists the verbs")


def trace(context: VerbContext, line: Line) -> Reply:
    if not line.word and inspect.last_run(context) is None:
        return _text_reply(inspect.nothing(context))
    word, _, row = line.rest.partition(" ")
    found = inspect.find_run(context, word)
    if found.rows is not None and not row:
        return _text_reply(
            f"map {found.id} of {found.agent} over {found.rows:,} rows: {found.output or found.status}\n"
            f"%agent trace {found.id} ROW shows one of them (0 to {found.rows - 1:,}); the frame names its run too"
        )
    folded = Trace.of(inspect.row_events(context, found, row) if row else context.session.trace(found.id))
    bundle = render_html.bundle(folded, now=time.time(), open=True)
    return Reply(show=lambda: CellOutput(live=False).finish(bundle, metadata=render_html.metadata(folded)))


def why(context: VerbContext, line: Line) -> Reply:
    if not line.word and inspect.last_run(context) is None:
        return _text_reply(inspect.nothing(context))
    run = inspect.find_run(context, line.word).id
    reasons = summarize(context.session.store, run)
    record = context.session.store.run(run)
    if record is not None and record.walked:
        reasons.append(f"run {run} was walked step by step, though it is on record: {record.walked}")
    return _text_reply("\n".join(reasons) or f"run {run}: every step was replayed")


def forget(context: VerbContext, line: Line) -> Reply:
    session, what = context.session, line.word
    if what.isdigit():
        count = session.forget(step=int(what))
    elif session.runs(agent=what, limit=1):
        count = session.forget(agent=what)
    elif session.store.run(what) is not None:
        count = session.forget(run=what)
    else:
        known = sorted({run.agent for run in session.runs()})
        raise UserError(f"nothing recorded is called {what}{nearest(what, known)}: give a run, a step or an agent")
    return _text_reply(f"{_count_text(count, 'step')} of {what} will not be replayed again (a tombstone stays)")


def settle(context: VerbContext, line: Line) -> Reply:
    if not line.word:
        rows = context.session.in_doubt()
        told = [
            f"step {row.id} ({row.name}) of {row.agent}: started, no recorded end"
            + ("" if needs_a_person(row) else "; the next run goes on with it unasked")
            for row in rows
        ]
        return _text_reply("\n".join(told) or "nothing is in doubt")
    chosen = [action for action in ("redo", "result", "stop") if line.has(action)]
    if not line.word.isdigit() or len(chosen) != 1:
        raise UserError(f"{grammar.usage('settle')}: give one step number and one of the three")
    return _text_reply(context.session.settle(int(line.word), chosen[0], _json(line)))  # type: ignore[arg-type]


def _json(line: Line) -> Any:
    if not line.has("result"):
        return None
    try:
        return json.loads(line.options["result"])
    except ValueError as error:
        given = line.options["result"]
        raise UserError(f'--result {given}: not JSON ({error}); text needs quotes: "like this"') from error


def approve(context: VerbContext, line: Line) -> Reply:
    told = approving.approve(context.session, line)
    context.decided()
    return _text_reply(told)


def model(context: VerbContext, line: Line) -> Reply:
    if line.rest:
        chosen = namespace.usable_model("%agent model", line.rest, context.names)
        if not isinstance(chosen, str):
            raise UserError(f"%agent model takes a name; give {line.rest} to one agent with --model {line.rest}")
        context.session.model = chosen
    return _text_reply(f"agents that name no model are built with {resolve.format_model_name(context.session.model)}")


def mode(context: VerbContext, line: Line) -> Reply:
    if line.word:
        context.session.mode = read_mode(line.word)
        if context.session.mode in ("auto", "live"):
            context.session.leave_replay()
    mode = context.session.mode
    return _text_reply(f"mode {mode}{portable_journal.explain_mode(context.session)}: {_MODES[mode]}")


def journal(context: VerbContext, line: Line) -> Reply:
    store = context.session.store
    match line.words:
        case ():
            return _text_reply(f"{context.session.path} · {_count_text(store.count(), 'run')}")
        case ("verify",):
            whole = f"{context.session.path}: whole, every checksum matches"
            return _text_reply(
                "\n".join([*(store.verify() or [whole]), *origins(store.sources(), store.replay_only_reason)])
            )
        case ("adopt",):
            adopted = _count_text(store.adopt(), "step")
            context.session.mode = "auto"
            return _text_reply(f"{adopted} taken for your own; what was decided elsewhere is asked again")
        case ("attach", file):
            added = portable_journal.take(context.session, Path(file).expanduser())
            return _text_reply(
                f"{portable_journal.describe_attachment(added)}; {portable_journal.describe_mode(context.session)}"
            )
        case _:
            raise UserError(f"%agent journal: what is {line.rest!r}? {grammar.usage('journal')}")


def traceback(context: VerbContext, line: Line) -> Reply:
    return _text_reply(error_output.full())


def help_on(line: Line) -> Reply:
    if line.word and line.word not in grammar.VERBS:
        raise UserError(f"%agent help: unknown verb {line.word}{nearest(line.word, grammar.VERBS)}")
    return _text_reply(help.details(line.word) if line.word else help.overview())


def _count_text(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _text_reply(text: str) -> Reply:
    return Reply(show=lambda: say(text))


_MODES: dict[Mode, str] = {
    "auto": "what is recorded is replayed, the rest is live",
    "live": "everything is performed again and recorded",
    "replay": "nothing is performed: a step that is not recorded is an error",
    "off": "nothing is recorded or replayed",
}

_LINES: dict[str, Callable[[VerbContext, Line], Reply]] = {
    "": glance,
    "trace": trace,
    "cost": inspect.cost,
    "runs": inspect.runs,
    "why": why,
    "forget": forget,
    "settle": settle,
    "approve": approve,
    "budget": set_limits.budget,
    "approvals": lambda context, line: _text_reply(approving.approvals(context.session, line)),
    "policy": lambda context, line: _text_reply(approving.policy(context.session, line)),
    "breaker": lambda context, line: _text_reply(set_limits.breaker(context.session, line)),
    "throttle": lambda context, line: _text_reply(set_limits.throttle(line)),
    "model": model,
    "mode": mode,
    "journal": journal,
    "caller": lambda context, line: _text_reply(calling(context.session, line.word)),
    "traceback": traceback,
}
