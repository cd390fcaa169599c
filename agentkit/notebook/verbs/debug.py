"""The verbs that step: each moves a run and shows the step it is paused before, or what it came to."""

from __future__ import annotations

import asyncio
import html as markup
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, cast, get_args

from pydantic_ai.messages import ModelMessage, ModelRequest

from agentkit.agent.agent import durable
from agentkit.budget import estimate, forecast
from agentkit.budget.forecast import Forecast
from agentkit.debugger import opening, overrides, stepper
from agentkit.debugger.breakpoints import Breakpoint
from agentkit.debugger.command_log import Command
from agentkit.debugger.gate import At, Gate, Order, Pending, arguments_json
from agentkit.debugger.run_spec import Changes
from agentkit.debugger.stepper import DebugRun
from agentkit.errors import SpecError, UserError, nearest
from agentkit.events import Event
from agentkit.notebook import cell_transform, grammar, namespace, template
from agentkit.notebook.context import BODY_LINE, Reply, VerbContext, mode_of, prompt_content
from agentkit.notebook.output import CellOutput, answer_bundle, has_viewer, say, show
from agentkit.notebook.parser import Line
from agentkit.notebook.verbs import inspect
from agentkit.sandbox.program import SandboxResult
from agentkit.trace import format, pending_step, render_html
from agentkit.trace.diff import Diff
from agentkit.trace.pending_step import Block, PendingView
from agentkit.trace.trace import Trace


async def perform(context: VerbContext, line: Line, body: str | None) -> Reply:
    """Do what a stepping verb says: its value, and what draws it under the cell."""
    if line.verb in ("break", "diff"):
        return (breakpoint_ if line.verb == "break" else diff)(context, line)
    if cell_transform.is_other_loop(asyncio.get_running_loop()):
        raise UserError(
            f"%agent {line.verb} needs a cell of its own: it cannot move a run under another magic or inside a function"
        )
    return await _MOVES[line.verb](context, line, body)


# -- opening


async def step(context: VerbContext, line: Line, body: str | None) -> Reply:
    agent = namespace.agent(line.word, context.names)
    if not (body or "").strip():
        raise SpecError(f"the body is empty: write the prompt under the %%agent step {line.word} line")
    given = template.render(body or "", context.names, first_line=BODY_LINE)
    context.remark(given.notes)
    if "as" in line.options:
        context.binds[line.word] = namespace.new_name(
            line.options["as"], context.names, option="--as", free=lambda old: not callable(old)
        )
    else:
        context.binds.pop(line.word, None)
    return await show_outcome(
        context,
        None,
        opening.step(
            durable(agent),
            prompt_content(given),
            at=_at(line.options.get("at", "all")),
            until=line.options.get("until", ""),
            continues=line.options.get("continue"),
            mode=mode_of(line),
            fresh=line.has("fresh"),
            deps=context.deps_of(line, line.word),
        ),
    )


def _at(text: str) -> At:
    if text not in get_args(At):
        raise UserError(f"--at {text}: one of {', '.join(get_args(At))}{nearest(text, get_args(At))}")
    return cast(At, text)


# -- moving


async def next_(context: VerbContext, line: Line, body: str | None) -> Reply:
    count, word = _count(line)
    return await _move(context, word, Command(verb="next", n=count, into=line.has("in"), out=line.has("out")))


async def continue_(context: VerbContext, line: Line, body: str | None) -> Reply:
    return await _move(context, line.word, Command(verb="continue", until=line.options.get("until", "")))


async def back(context: VerbContext, line: Line, body: str | None) -> Reply:
    count, word = _count(line)
    return await _move(context, word, Command(verb="back", n=count))


async def goto(context: VerbContext, line: Line, body: str | None) -> Reply:
    return await _move(
        context,
        " ".join(line.words[1:]),
        Command(verb="goto", to=overrides.format_path(overrides.read_path(line.word))),
    )


async def edit(context: VerbContext, line: Line, body: str | None) -> Reply:
    run = await _find_run(context, line.word)
    place = run.editable(line.options.get("step"), last=line.has("last"))
    what = _what(line, run.find_step(place), last=place != (run.pending.at if run.pending else None))
    filled = template.render(body or "", context.names, first_line=BODY_LINE).text
    value, _ = context.session.redactor.restore(overrides.parse_value(what, filled))
    if what == "model":
        namespace.usable_model("--model", value, {})
    made = overrides.Override(at=place, what=what, value=value)
    return await _move(context, line.word, Command(verb="edit", edit=made.as_json()))


def _what(line: Line, met: Pending, *, last: bool) -> overrides.What:
    """What the body of an edit is: as the options say, else what is most often meant at such a step."""
    named = [what for what in overrides.WHATS if line.has(what)]
    if len(named) > 1:
        raise UserError(f"%%agent edit: --{named[0]} and --{named[1]}: give one of them")
    if named:
        return cast(overrides.What, named[0])
    if met.kind == "tool":
        return "result" if last else "arguments"
    return "reply" if last else "hint"


async def stop(context: VerbContext, line: Line, body: str | None) -> Reply:
    run = context.session.bench.pick(line.word)
    where = f"before {run.pending}" if run.pending else run.state
    await run.stop()
    return Reply(show=lambda: say(f"{run.name}: no longer stepped ({where}); what is recorded is kept, run {run.run}"))


async def fork(context: VerbContext, line: Line, body: str | None) -> Reply:
    *named, place = line.words
    word = " ".join(named)
    options = {key: line.options[key] for key in ("model", "hint", "instructions") if line.has(key)}
    if line.has("model"):
        namespace.usable_model("--model", line.options["model"], {})
    changes = Changes(
        prompt=line.options.get("prompt"),
        name=line.options.get("as", ""),
        edits=tuple(
            (cast(overrides.What, what), overrides.parse_value(cast(overrides.What, what), text))
            for what, text in (*options.items(), *_json_edits(line))
        ),
    )
    source = _find_recorded_run(context, word)
    agent = durable(namespace.agent(source.agent, context.names))
    deps = context.deps_of(line, source.agent)
    opening = stepper.fork(context.session, source, place, agent=agent, changes=changes, deps=deps)
    return await show_outcome(context, None, opening)


def _json_edits(line: Line) -> list[tuple[str, str]]:
    return [(key, line.options[key]) for key in ("arguments", "result", "reply") if line.has(key)]


async def _find_run(context: VerbContext, word: str) -> DebugRun:
    """The stepped run that is meant; a plain run that paused at a breakpoint is opened at its step."""
    bench = context.session.bench
    found = bench.find(word)
    waiting = bench.find_paused(word)
    if waiting is not None and (found is None or waiting.since > found.moved):
        return await opening.take_up(context.session, waiting)
    return cast(DebugRun, bench.pick(word))


async def _move(context: VerbContext, word: str, move: Command) -> Reply:
    run = await _find_run(context, word)

    async def move_run() -> DebugRun:
        await run.act(move, by="cell", cell=context.session.execution.cell)
        return run

    return await show_outcome(context, run, move_run())


def _count(line: Line) -> tuple[int, str]:
    """`[N] [RUN]`"""
    if line.word.isdigit():
        return int(line.word), " ".join(line.words[1:])
    return 1, line.rest


# -- showing


async def show_outcome(context: VerbContext, run: DebugRun | None, work: Awaitable[DebugRun]) -> Reply:
    """Do the work, and say meanwhile what is being done where somebody watches; then show where the run stands."""
    output = CellOutput(live=has_viewer(context.shell))
    if run is not None and run.pending is not None:
        said = f"{run.name} · taking {run.pending} …"
        output.draw({"text/plain": said, "text/html": f"<i>{markup.escape(said)}</i>"})
    moved = await work
    context.remark(tuple(context.session.remarks))
    value = None if moved.answer is None else moved.answer.output
    return Reply(value=value, show=lambda: _show(context, moved, output))


def _show(context: VerbContext, run: DebugRun, output: CellOutput) -> None:
    """The pause, with buttons where somebody can click; or the answer and the trace that led to it."""
    if (old := context.buttons.pop(run.name, None)) is not None:
        old.close()
    answer = _draw(context, run, output)
    if answer is not None:
        show(answer, raw=True)
    elif output.live and run.pending is not None:
        # Widgets take a moment to import, and a cell that nobody watches does without them.
        from agentkit.notebook.debug_widget import DebugButtons

        context.buttons[run.name] = DebugButtons(run, lambda: _draw(context, run, output))


def _draw(context: VerbContext, run: DebugRun, output: CellOutput) -> dict[str, Any] | None:
    """Draw where the run stands; its answer, once there is one, is for the place below."""
    if run.answer is None:
        view = view_of(run)
        output.finish(pending_step.bundle(view), metadata=pending_step.metadata(view))
        return None
    if isinstance(run.answer, SandboxResult):
        context.shell.push(dict(run.answer.outputs))
        sys.stdout.write(run.answer.printed)
    elif (name := context.binds.get(run.name)) is not None:
        context.shell.push({name: run.answer.output})
    trace = Trace.of(run.events())
    output.finish(render_html.bundle(trace, now=time.time(), open=True), metadata=render_html.metadata(trace))
    return answer_bundle(run.answer.output, context.shell.display_formatter)


def view_of(run: DebugRun) -> PendingView:
    """What is shown of a paused run."""
    step = run.pending
    if step is None:
        return PendingView(
            agent=run.name, run=run.run, at="?", kind="run", name=run.state, free=run.state, note=run.note, moves=()
        )
    view = view_of_step(
        step,
        name=run.name,
        run=run.run,
        events=run.events(),
        expected=run.forecast,
        clean=run.session.redactor.scrub,
    )
    return replace(view, note=run.note)


def view_of_step(
    step: Pending,
    *,
    name: str,
    run: str,
    events: Sequence[Event],
    expected: Forecast | None,
    clean: Callable[[str], str],
) -> PendingView:
    """What is shown of a step that waits, and of what led to it; `clean` takes the secrets out of what stays shown."""
    calls = step.beside
    return PendingView(
        agent=name if len(step.at) == 1 or step.agent == name else f"{name} › {step.agent}",
        run=run,
        at=overrides.format_path(step.at),
        kind=step.kind,
        name=step.name.split(" @ ")[0],
        free=_free(step),
        price=_price(expected),
        cause=step.cause,
        blocks=tuple(replace(block, text=clean(block.text)) for block in _blocks(step)),
        beside=tuple(clean(f"{call.tool_name}({_short(call.args)})") for call in calls),
        now=next((place for place, call in enumerate(calls) if call.tool_call_id == step.step_request.call_id), -1),
        moves=_moves(step),
        done=Trace.of(events),
    )


async def attend(context: VerbContext, gate: Gate, step: Pending) -> Order | None:
    """Ask under the cell how a plain run that met a breakpoint goes on; None where clicks do not arrive."""
    # Widgets take a moment to import, and most runs do without them.
    from agentkit.notebook.debug_widget import ask_move

    events = context.session.trace(gate.root)
    expected = forecast.of_step(step, events, earlier=lambda: estimate.read_history(context.session, step.agent))
    view = view_of_step(
        step,
        name=step.agent,
        run=gate.root,
        events=events,
        expected=expected,
        clean=context.session.redactor.scrub,
    )
    output = CellOutput(live=True)
    output.draw(pending_step.bundle(view), metadata=pending_step.metadata(view))
    move = await ask_move(step, run=gate.root)
    if move is None or move.verb not in ("next", "continue"):
        return None
    output.draw({"text/plain": f"{step}: {move.verb}", "text/html": f"<i>{markup.escape(f'{step}: {move.verb}')}</i>"})
    return Order(live=True, left=0 if move.verb == "next" else None, depth=max(1, len(step.at) + move.into - move.out))


def _free(step: Pending) -> str:
    if step.kind == "line":
        return "a statement of the program"
    if step.given is not None:
        return f"{step.given.what} given by you, free"
    return "recorded: free (replayed)" if step.row is not None else ""


def _price(expected: Forecast | None) -> str:
    if expected is None:
        return "a call, would be performed"
    tokens = f"{expected.input_tokens:,} tokens in"
    known = expected.output_tokens is not None
    tokens += f", about {expected.output_tokens:,} out" if known else ", out not known yet"
    cost = "unpriced" if expected.cost is None else f"about {format.money(expected.cost)}"
    least, most = expected.least, expected.most
    if least is not None and most is not None and format.money(least) != format.money(most):
        cost += f", {format.money(least)} to {format.money(most)}"
    return f"would be live: {cost} ({', '.join(filter(None, [tokens, expected.how]))})"


def _blocks(step: Pending) -> list[Block]:
    shown = [Block(title="your edit", text=str(one)) for one in step.edits]
    shown += [Block(title=title, text=text) for title, text in step.step_request.shown]
    if step.kind == "line":
        return shown
    if step.kind == "tool":
        return [*shown, Block(title="arguments", text=arguments_json(step.arguments))]
    told = [Block(title=_author_of(message), text=_format_message(message)) for message in step.messages]
    return [*_constant_blocks(step), *shown, *told]


def _constant_blocks(step: Pending) -> list[Block]:
    """What goes along with every request: the instructions and the tools."""
    sent_along = step.step_request.parameters
    if sent_along is None:
        return []
    instructions = "\n\n".join(part.content for part in sent_along.instruction_parts or ())
    tools = ", ".join(tool.name for tool in (*sent_along.function_tools, *sent_along.output_tools))
    blocks = [Block(title="instructions", text=instructions), Block(title="tools offered", text=tools)]
    return [block for block in blocks if block.text]


def _author_of(message: ModelMessage) -> str:
    return "to the model" if isinstance(message, ModelRequest) else "the model said"


def _format_message(message: ModelMessage) -> str:
    return "\n".join(_part(part) for part in message.parts)


def _part(part: Any) -> str:
    if part.part_kind == "tool-call":
        return f"→ {part.tool_name}({_short(part.args)})"
    content = getattr(part, "content", "")
    said = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, default=repr)
    return f"{part.tool_name} → {said}" if part.part_kind == "tool-return" else said


def _short(args: Any) -> str:
    given = args if isinstance(args, dict) else json.loads(args or "{}") if _is_json(args) else {"args": args}
    return ", ".join(f"{name}={value!r}" for name, value in given.items())


def _is_json(text: Any) -> bool:
    try:
        return isinstance(json.loads(text or "{}"), dict)
    except (TypeError, ValueError):
        return False


def _moves(step: Pending) -> tuple[str, ...]:
    if step.kind == "line":
        return ("%agent next", "%agent continue", "%agent back", "%agent stop")
    edited = "--result" if step.kind == "tool" else "--reply"
    return ("%agent next", "%agent continue", "%agent back", f"%%agent edit [{edited}]", "%agent stop")


# -- breakpoints and branches


def breakpoint_(context: VerbContext, line: Line) -> Reply:
    points = context.session.bench.breakpoints
    if line.rest == "off":
        points.clear()
    elif line.rest:
        point = Breakpoint.parse(line.rest)
        points[:] = [one for one in points if one.text != point.text] + [point]
    told = "\n".join(f"pauses before a step where {point.text}" for point in points) or "no breakpoints"
    return Reply(show=lambda: say(told))


def diff(context: VerbContext, line: Line) -> Reply:
    one, other = (_find_recorded_run(context, word) for word in line.words)
    if one.id == other.id:
        raise UserError(f"%agent diff: {line.words[0]} and {line.words[1]} are one run, {one.id}: name two")
    compared = Diff.of(context.session.trace(one.id), context.session.trace(other.id))

    def draw() -> None:
        show(compared.bundle(), raw=True)

    return Reply(value=compared.frame(), show=draw)


def _find_recorded_run(context: VerbContext, word: str) -> Any:
    """A recorded run, by its id, the name of a stepped run, or an agent whose last run is meant."""
    session = context.session
    stepped = session.bench.find(word) if word else None
    if stepped is not None and word == stepped.name and session.store.run(stepped.furthest) is not None:
        return session.store.run(stepped.furthest)
    return inspect.find_run(context, word)


_MOVES: dict[str, Callable[[Any, Line, str | None], Awaitable[Reply]]] = {
    "step": step,
    "next": next_,
    "continue": continue_,
    "back": back,
    "goto": goto,
    "edit": edit,
    "stop": stop,
    "fork": fork,
}

VERBS = frozenset({*_MOVES, "break", "diff"})
assert set(grammar.VERBS) >= VERBS
