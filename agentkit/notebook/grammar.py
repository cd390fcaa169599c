"""The verbs of `%agent` and `%%agent`, their options and what each takes: the one table parser, help and Tab read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from agentkit.events import Mode, Scope

Takes: TypeAlias = Literal["text", "agent", "model", "tools", "type", "name", "mode", "run", "scope", "file", "verb"]
Where: TypeAlias = Literal["cell", "line", "both"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """`value` is what the help calls it; an option without one is a flag; `optional`: the value may be left out.

    `one_of` is what Tab offers where only a few words are possible.
    """

    help: str
    value: str | None = None
    takes: Takes = "text"
    optional: bool = False
    one_of: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Verb:
    """`words` is what stands before the first option: how the help shows it, how few and how many (None: free text)."""

    help: str
    where: Where
    words: str = ""
    least: int = 0
    most: int | None = 0
    takes: Takes = "text"
    one_of: tuple[str, ...] = ()
    options: dict[str, Option]


_AT_LIMIT = ("ask", "wait", "fallback", "stop")
_HEADLESS = ("suspend", "deny", "allow")

_BUILD = {
    "model": Option(value="MODEL", takes="model", help="a pydantic-ai model, URL#name, or several: a | b (fallbacks)"),
    "tools": Option(value="A,B", takes="tools", help="functions, agents and toolsets of the notebook"),
    "output": Option(value="TYPE", takes="type", help="a pydantic model or type of the notebook the answer must have"),
    "deps": Option(value="NAME", takes="name", help="an object of the notebook that tools get as ctx.deps"),
    "mcp": Option(value="FILE|URL", takes="file", help="MCP servers: a URL or a JSON file, several with commas"),
    "share": Option(value="SCOPE", takes="scope", help="who else may reuse this agent's model answers: user, shared"),
    "approve": Option(value="A,B*", takes="tools", help="tools that need a person's yes: delete_*,send_mail"),
    "ask": Option(help="let the agent ask you questions (the tool ask_user)"),
    "code": Option(help="let the agent write Python that calls its tools, in the sandbox (the tool run_code)"),
    "call": Option(value="A,B*", takes="tools", help="with --code: the tools that its code may call, if not all"),
    "breaker": Option(value="THRESHOLDS", help="when the circuit breaker acts: repeats=3/5/8 usd/min=2, or off"),
    "budget": Option(value="LIMITS", help="of each run: 0.50usd, 20k tokens, 60k tpm, 30 requests, 10min, 5usd/day"),
    "at-limit": Option(value="HOW", one_of=_AT_LIMIT, help="what happens at a limit: ask, wait, fallback or stop"),
    "ttl": Option(value="TIME", help="how long a shared answer may be reused: 30m, 12h, 7d"),
}

_RUN = {
    "as": Option(value="NAME", takes="name", help="bind the output to this variable"),
    "continue": Option(value="RUN", takes="run", optional=True, help="carry on the last conversation, or that of RUN"),
    "fresh": Option(help="ask anew, even what is recorded; the newest answer is replayed after"),
    "mode": Option(value="MODE", takes="mode", help="auto, live, replay or off, for this run only"),
    "headless": Option(
        value="HOW", one_of=_HEADLESS, help="what needs a person where there is none: suspend, deny or allow"
    ),
    "walk": Option(help="take every recorded step one by one, where otherwise those that hold are passed over at once"),
    "deps": Option(value="NAME", takes="name", help="an object of the notebook that tools get as ctx.deps"),
}

_COMPARE = {
    "models": Option(value="A,B", takes="model", help="the models, with commas between; a chain is one of them: a | b"),
    "repeat": Option(value="N", help="ask each so many times"),
    "judge": Option(value="MODEL", takes="model", help="a model that grades each answer from 0 to 1"),
    "rows": Option(value="EXPRESSION", takes="name", help="a column or list of the notebook: one prompt for each row"),
    "as": Option(value="NAME", takes="name", help="bind the frame of all answers to this variable"),
    "deps": _RUN["deps"],
}

_MAP = {
    "rows": Option(value="FRAME|FILE", takes="name", help="a frame of the notebook, or a parquet, CSV or JSONL file"),
    "as": Option(value="NAME", takes="name", help="bind the frame of all answers to this variable"),
    "key": Option(value="COLUMN", help="a column that tells rows apart and must not repeat"),
    "workers": Option(value="auto|N", help="how many rows are under way at once; auto: as many as the server allows"),
    "limit": Option(value="N", help="the first N rows only"),
    "sample": Option(value="N", help="N rows by chance, and what all rows would cost and take"),
    "errors": Option(value="HOW", help="a row that fails: keep (with its error), stop, or stop at a share: 5%"),
    "budget": Option(value="LIMITS", help="of the whole map: 5usd, 2m tokens, 10000 requests"),
    "batch": Option(help="send the rows in batches: answered within a day, at half price; no tools"),
    "out": Option(value="FILE", takes="file", help="write the frame there too: .parquet, .csv or .jsonl"),
    "shards": Option(value="N", help="in an export to Flyte: N tasks, each with a part of the rows; here all is one"),
    "fresh": Option(help="ask every row anew, even what is recorded"),
    "deps": _RUN["deps"],
}

_APPROVE = {
    "edit": Option(value="JSON", help="approve the call with these arguments"),
    "deny": Option(value="WHY", optional=True, help="do not make the call; the agent is told why"),
    "always": Option(help="approve equal calls in this session too"),
    "answer": Option(value="TEXT", help="answer a question; the result (JSON) of a step in doubt"),
    "hint": Option(value="TEXT", help="let an agent that does not get any further go on with this hint"),
    "redo": Option(help="perform a step in doubt again"),
    "once": Option(help="let an open circuit breaker pass exactly one more request"),
    "raise": Option(value="LIMIT", optional=True, help="twice of the limit that was reached, or this budget"),
    "finish": Option(help="at a budget: end the run with what there is"),
    "stop": Option(help="stop the run there"),
}

_POLICY = {
    "approve": Option(value="A,B*", takes="tools", help="tools of any agent that need a person's yes; off: none"),
    "headless": Option(value="HOW", one_of=_HEADLESS, help="where there is nobody to ask: suspend, deny or allow"),
}

_STEP = {
    "at": Option(value="KIND", one_of=("model", "tool", "all"), help="what to pause before: model, tool or all"),
    "until": Option(value="WHERE", help="go on to there first: tool=NAME, turn=N or cost=USD"),
    "as": _RUN["as"],
    "continue": _RUN["continue"],
    "fresh": _RUN["fresh"],
    "mode": _RUN["mode"],
    "deps": _RUN["deps"],
}

_NEXT = {
    "in": Option(help="pause inside the agent that this step calls"),
    "out": Option(help="go on until the agent that is stepped inside has answered"),
}

_EDIT = {
    "arguments": Option(help="the body is the arguments of the tool call (JSON)"),
    "result": Option(help="the body is the tool's result (JSON, or text): it is not called"),
    "reply": Option(help='the body is the model\'s reply: text, or {"tool": NAME, "args": {…}}: it is not asked'),
    "messages": Option(help="the body is all that is sent to the model (JSON, as pending.messages_json() gives it)"),
    "hint": Option(help="the body is a remark of yours, put behind what is sent to the model"),
    "last": Option(help="edit the step taken last, not the pending one"),
    "step": Option(value="STEP", help="edit that step of this branch"),
}

_FORK = {
    "as": Option(value="NAME", help="what the new branch is called here"),
    "model": Option(value="MODEL", takes="model", help="another model from that step on"),
    "prompt": Option(value="TEXT", help="another prompt: the branch begins at the first step"),
    "hint": Option(value="TEXT", help="a remark put behind what is sent at that step"),
    "instructions": Option(value="TEXT", help="other instructions from that step on"),
    "arguments": Option(value="JSON", help="other arguments of that tool call"),
    "result": Option(value="JSON", help="another result of that tool call: it is not called"),
    "reply": Option(value="TEXT", help="another reply of the model there: it is not asked"),
    "deps": _RUN["deps"],
}

_SETTLE = {
    "redo": Option(help="perform the step again"),
    "result": Option(value="JSON", help="it happened: this is its result"),
    "stop": Option(help="leave it stopped; runs that reach it end there"),
}

_SANDBOX = {
    "in": Option(value="A,B", takes="name", help="variables that enter"),
    "out": Option(value="A,B", takes="name", help="variables of the program that leave and are bound here"),
    "call": Option(value="A,B", takes="tools", help="functions and agents of the notebook that it may call"),
    "approve": Option(value="A,B*", takes="tools", help="calls that need a person's yes"),
    "limits": Option(value="LIMITS", help="memory=256MB,time=10s,calls=200: what it may use at most"),
    "tier": Option(
        value="TIER",
        one_of=("monty", "process"),
        help="monty, or process: real Python with pandas, in a process of its own",
    ),
    "step": Option(help="pause before each statement and each call: %agent next | continue | back | stop"),
    "fresh": Option(help="run it anew, even what is recorded"),
    "mode": _RUN["mode"],
    "headless": _RUN["headless"],
}

_BUDGET = {"at-limit": _BUILD["at-limit"]}

_LISTED = {
    "limit": Option(value="N", help="how many runs are listed, 100 unless said; the sums are over all of them"),
    "notebook": Option(value="NAME", help="those of another notebook of this folder"),
    "all": Option(help="those of every notebook of this folder"),
}

_EXPORT = {
    "target": Option(
        value="TARGET", one_of=("flyte", "script"), help="flyte (default) or script, a plain asyncio program"
    ),
    "check": Option(help="prove that it is the same program (the default)"),
    "no-check": Option(help="write it without the proof"),
    "all": Option(help="keep every statement, also those that no result needs"),
    "container": Option(help="the image definition and the command that deploys it"),
    "cron": Option(value="SCHEDULE", help='run it on a schedule: "0 6 * * *"'),
    "notebook": Option(value="FILE", takes="file", help="another notebook than the one at hand"),
    "force": Option(help="write over a file that is there"),
}

VERBS: dict[str, Verb] = {
    "build": Verb(
        where="cell",
        words="NAME",
        least=1,
        most=1,
        takes="name",
        options=_BUILD,
        help="make an agent; the body is its instructions (Markdown, YAML front matter allowed)",
    ),
    "run": Verb(
        where="both",
        words="AGENT",
        least=1,
        most=None,
        takes="agent",
        options=_RUN,
        help="ask an agent; the body is the prompt, {{ expression }} is filled in from the notebook",
    ),
    "step": Verb(
        where="cell",
        words="AGENT",
        least=1,
        most=1,
        takes="agent",
        options=_STEP,
        help="run an agent step by step: it pauses before each; the body is the prompt",
    ),
    "sandbox": Verb(
        where="cell",
        options=_SANDBOX,
        help="run the body, Python that you do not trust, in a sandbox; its calls are recorded steps",
    ),
    "next": Verb(
        where="line",
        words="[N] [RUN]",
        most=2,
        takes="run",
        options=_NEXT,
        help="take the pending step, or N steps",
    ),
    "continue": Verb(
        where="line",
        words="[RUN]",
        most=1,
        takes="run",
        options={"until": _STEP["until"]},
        help="go on to the end or the next breakpoint",
    ),
    "back": Verb(
        where="line",
        words="[N] [RUN]",
        most=2,
        takes="run",
        options={},
        help="pause before the step taken last, or N earlier; costs nothing",
    ),
    "goto": Verb(
        where="line",
        words="STEP [RUN]",
        least=1,
        most=2,
        takes="run",
        options={},
        help="pause before a recorded step; costs nothing",
    ),
    "edit": Verb(
        where="cell",
        words="[RUN]",
        most=1,
        takes="run",
        options=_EDIT,
        help="put the body in the place of the pending step's arguments, result, reply or messages; begins a branch",
    ),
    "fork": Verb(
        where="line",
        words="RUN STEP",
        least=2,
        most=2,
        takes="run",
        options=_FORK,
        help="begin another branch of a recorded run at a step; what comes before is shared and free",
    ),
    "diff": Verb(
        where="line",
        words="RUN RUN",
        least=2,
        most=2,
        takes="run",
        options={},
        help="two branches step by step: same, changed (what), only in one",
    ),
    "stop": Verb(
        where="line",
        words="[RUN]",
        most=1,
        takes="run",
        options={},
        help="let go of a stepped run; what is recorded is kept",
    ),
    "break": Verb(
        where="line",
        words="[tool=NAME | when CONDITION | off]",
        most=None,
        options={},
        help='pause every run of this session there: tool=delete_rows, when "cost > 0.10"; without words: list them',
    ),
    "trace": Verb(
        where="line",
        words="[RUN [ROW]]",
        most=2,
        takes="run",
        options={},
        help="the steps of the last run, or of RUN; of one row where RUN is a map",
    ),
    "cost": Verb(
        where="line",
        words="[RUN]",
        most=1,
        takes="run",
        options=_LISTED,
        help="a DataFrame of what each step cost and saved, of this notebook's runs or of RUN, and what all add up to",
    ),
    "runs": Verb(
        where="line",
        words="[AGENT]",
        most=1,
        takes="agent",
        options=_LISTED,
        help="a DataFrame of this notebook's runs, newest first, and what all add up to",
    ),
    "why": Verb(
        where="line",
        words="[RUN]",
        most=1,
        takes="run",
        options={},
        help="why steps of the last run, or of RUN, were live and not replayed",
    ),
    "forget": Verb(
        where="line",
        words="RUN|STEP|AGENT",
        least=1,
        most=1,
        takes="run",
        options={},
        help="never replay it again; a tombstone stays (agentkit journal erase really deletes)",
    ),
    "settle": Verb(
        where="line",
        words="STEP",
        most=1,
        options=_SETTLE,
        help="decide on a step in doubt; without STEP: list them",
    ),
    "approve": Verb(
        where="line",
        words="ID",
        least=1,
        most=None,
        options=_APPROVE,
        help="decide on a call or question that waits; %agent approvals lists them",
    ),
    "approvals": Verb(
        where="line",
        words="[withdraw ID]",
        most=2,
        one_of=("withdraw",),
        options={},
        help="what waits for a person, what Always holds, what was decided",
    ),
    "policy": Verb(where="line", options=_POLICY, help="show or set what needs a person in this session"),
    "breaker": Verb(
        where="line",
        words="[THRESHOLDS]",
        most=None,
        options={},
        help="show or set when the circuit breaker acts: repeats=3/5/8 usd/min=2 window=80%, or off",
    ),
    "budget": Verb(
        where="line",
        words="[SCOPE] [LIMITS | off]",
        most=None,
        takes="agent",
        one_of=("user", "project", "notebook", "eval"),
        options=_BUDGET,
        help="what is limited and how much of it is used; limit the user, project, notebook, eval or an agent",
    ),
    "estimate": Verb(
        where="both",
        words="AGENT",
        least=1,
        most=None,
        takes="agent",
        options={},
        help="what a run would cost, from recorded runs of the agent; the body, if any, is the prompt",
    ),
    "map": Verb(
        where="cell",
        words="AGENT",
        least=1,
        most=1,
        takes="agent",
        options=_MAP,
        help="ask an agent about each row of a table; the body is the prompt, with {{ row.column }} and {{ index }}",
    ),
    "compare": Verb(
        where="cell",
        words="AGENT",
        least=1,
        most=1,
        takes="agent",
        options=_COMPARE,
        help="ask several models the same; the body is the prompt, {{ row }} stands for a row of --rows",
    ),
    "doctor": Verb(
        where="line",
        words="[MODEL]",
        most=None,
        takes="model",
        options={},
        help="whether the configured models can be used: key, server, tools, streaming, structured output, price",
    ),
    "throttle": Verb(
        where="line",
        words="[MODEL LIMITS]",
        most=None,
        takes="model",
        options={},
        help="how fast model servers are asked: what they say, or MODEL 60k tpm, 500 rpm (off: what the server says)",
    ),
    "model": Verb(
        where="line",
        words="[MODEL]",
        most=None,
        takes="model",
        options={},
        help="show or set the model of agents that name none",
    ),
    "mode": Verb(
        where="line",
        words="[MODE]",
        most=1,
        takes="mode",
        options={},
        help="show or set the mode: auto, live, replay, off",
    ),
    "journal": Verb(
        where="line",
        words="[verify | attach FILE | adopt]",
        most=2,
        one_of=("verify", "attach", "adopt"),
        options={},
        help="where the records are; verify them; replay a recording made elsewhere; take such records for your own",
    ),
    "export": Verb(
        where="line",
        words="FILE.py",
        least=1,
        most=1,
        takes="file",
        options=_EXPORT,
        help="this notebook as one Python program, proved to be the same program",
    ),
    "caller": Verb(
        where="line",
        words="[status | stop | on | off]",
        most=1,
        one_of=("status", "stop", "on", "off"),
        options={},
        help="the process that ends the model calls this kernel began, also when the kernel dies",
    ),
    "traceback": Verb(where="line", options={}, help="the last error in full"),
    "help": Verb(where="line", words="[VERB]", most=1, takes="verb", options={}, help="this list, or one verb in full"),
}

GROUPS: dict[str, tuple[str, ...]] = {
    "build and ask": ("build", "run", "map", "sandbox", "compare", "estimate"),
    "step through": ("step", "next", "continue", "back", "goto", "edit", "fork", "diff", "stop", "break"),
    "be asked": ("approvals", "approve", "policy", "settle"),
    "limit": ("budget", "breaker", "throttle"),
    "look": ("trace", "cost", "runs", "why", "doctor", "traceback", "help"),
    "keep": ("model", "mode", "journal", "forget", "export", "caller"),
}
"""The verbs as the help lists them."""

MODES: tuple[str, ...] = get_args(Mode)
SCOPES: tuple[str, ...] = get_args(Scope)


def usage(name: str) -> str:
    """One line: how a verb is typed."""
    verb = VERBS[name]
    sign = "%agent" if verb.where == "line" else "%%agent"
    options = [f"[{format_option(key, option)}]" for key, option in verb.options.items()]
    return " ".join([sign, name, *filter(None, [verb.words]), *options])


def format_option(name: str, option: Option) -> str:
    """An option as it is typed."""
    if option.value is None:
        return f"--{name}"
    return f"--{name} [{option.value}]" if option.optional else f"--{name} {option.value}"
