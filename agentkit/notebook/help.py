"""What `%agent help` says: every verb in groups, or one with its options, in lines that a notebook does not wrap."""

from __future__ import annotations

from textwrap import fill

from agentkit.notebook.grammar import GROUPS, VERBS, format_option, usage

WIDTH = 108
"""Letters in a line under a cell of JupyterLab in a window of 1280 pixels, with its side bar open."""


def overview() -> str:
    """Every verb with its help."""
    width = max(map(len, VERBS))
    lines = [f"%agent {'':{width}}   the session at a glance"]
    for group, names in GROUPS.items():
        lines.append(f"\n{group}")
        for name in names:
            sign = " %" if VERBS[name].where == "line" else "%%"
            lines.append(_hang(f"{sign}agent {name:{width}}  ", VERBS[name].help))
    return "\n".join([*lines, "\n%agent help VERB shows the options of one; what begins with %% is a cell."])


def details(name: str) -> str:
    """One verb with its options."""
    verb = VERBS[name]
    shown = {format_option(key, option): option.help for key, option in verb.options.items()}
    width = max(map(len, shown), default=0)
    lines = [_hang(f"  {option:{width}}  ", text) for option, text in shown.items()]
    return "\n".join([_format_usage(name), _hang("  ", verb.help), *lines])


def _format_usage(name: str) -> str:
    """How the verb is typed; an option and its value stay on one line."""
    parts = [part.replace(" ", "\0") for part in usage(name).replace(" [--", "\n[--").split("\n")]
    return fill(" ".join(parts), WIDTH, subsequent_indent="    ", break_on_hyphens=False).replace("\0", " ")


def _hang(left: str, text: str) -> str:
    """`text` beside `left`, its further lines below its first."""
    return fill(text, WIDTH, initial_indent=left, subsequent_indent=" " * len(left), break_on_hyphens=False)
