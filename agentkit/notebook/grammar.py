"""The verbs of `%agent` and `%%agent`, their options and what each takes: the one table parser, help and Tab read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from agentkit.events import Mode, Scope

Takes: TypeAlias = Literal["text", "agent", "model", "tools", "type", "name", "mode", "run", "scope", "file", "verb"]
Where: TypeAlias = Literal["cell", "line", "both"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """`value` is what the help calls it; an option without one is a flag; `optional`: the value may be left out."""

    help: str
    value: str | None = None
    takes: Takes = "text"
    optional: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Verb:
    """`words` is what stands before the first option: how the help shows it, how few and how many (None: free text)."""

    help: str
    where: Where
    words: str = ""
    least: int = 0
    most: int | None = 0
    takes: Takes = "text"
    options: dict[str, Option]


_BUILD = {
    "model": Option(value="MODEL", takes="model", help="a pydantic-ai model, URL#name, or several: a | b (fallbacks)"),
    "tools": Option(value="A,B", takes="tools", help="functions, agents and toolsets of the notebook"),
    "output": Option(value="TYPE", takes="type", help="a pydantic model or type of the notebook the answer must have"),
    "deps": Option(value="NAME", takes="name", help="an object of the notebook that tools get as ctx.deps"),
    "mcp": Option(value="FILE|URL", takes="file", help="MCP servers: a URL or a JSON file, several with commas"),
    "share": Option(value="SCOPE", takes="scope", help="who else may reuse this agent's model answers: user, shared"),
    "ttl": Option(value="TIME", help="how long a shared answer may be reused: 30m, 12h, 7d"),
}

_RUN = {
    "as": Option(value="NAME", takes="name", help="bind the output to this variable"),
    "continue": Option(value="RUN", takes="run", optional=True, help="carry on the last conversation, or that of RUN"),
    "fresh": Option(help="ask anew, even what is recorded; the newest answer is replayed after"),
    "mode": Option(value="MODE", takes="mode", help="auto, live, replay or off, for this run only"),
    "deps": Option(value="NAME", takes="name", help="an object of the notebook that tools get as ctx.deps"),
}

_SETTLE = {
    "redo": Option(help="perform the step again"),
    "result": Option(value="JSON", help="it happened: this is its result"),
    "stop": Option(help="leave it stopped; runs that reach it end there"),
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
    "trace": Verb(
        where="line",
        words="[RUN]",
        most=1,
        takes="run",
        options={},
        help="the steps of the last run, or of RUN",
    ),
    "cost": Verb(
        where="line",
        words="[RUN]",
        most=1,
        takes="run",
        options={},
        help="a DataFrame of what each step cost and saved, of this notebook's runs or of RUN",
    ),
    "runs": Verb(
        where="line",
        words="[AGENT]",
        most=1,
        takes="agent",
        options={},
        help="a DataFrame of the runs in the journal, newest first",
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
        words="[verify | attach FILE]",
        most=2,
        takes="file",
        options={},
        help="where the records are; verify them; read a recording made elsewhere",
    ),
    "traceback": Verb(where="line", options={}, help="the last error in full"),
    "help": Verb(where="line", words="[VERB]", most=1, takes="verb", options={}, help="this list, or one verb in full"),
}

MODES: tuple[str, ...] = get_args(Mode)
SCOPES: tuple[str, ...] = get_args(Scope)


def usage(name: str) -> str:
    """One line: how a verb is typed."""
    verb = VERBS[name]
    sign = "%agent" if verb.where == "line" else "%%agent"
    return " ".join([sign, name, *filter(None, [verb.words]), *map(_shown, verb.options.items())])


def overview() -> str:
    """Every verb with one line of help."""
    width = max(len(name) for name in VERBS)
    rows = [
        f"  {'%' if verb.where == 'line' else '%%'}agent {name:{width}}  {verb.help}" for name, verb in VERBS.items()
    ]
    return "\n".join(["%agent           the session at a glance", *rows, "%agent help VERB shows the options of one."])


def details(name: str) -> str:
    """One verb with its options."""
    verb = VERBS[name]
    shown = {
        f"--{key}{f' {option.value}' if option.value else ''}": option.help for key, option in verb.options.items()
    }
    width = max(map(len, shown), default=0)
    lines = [f"  {key:{width}}  {text}" for key, text in shown.items()]
    return "\n".join([usage(name), f"  {verb.help}", *lines])


def _shown(item: tuple[str, Option]) -> str:
    name, option = item
    if option.value is None:
        return f"[--{name}]"
    return f"[--{name} [{option.value}]]" if option.optional else f"[--{name} {option.value}]"
