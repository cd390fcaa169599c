"""Tab on a magic line: verbs, options, and what each of them takes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from agentkit.notebook import grammar, parser
from agentkit.notebook.grammar import VERBS, Takes

_MAGIC = re.compile(r"\s*(?:[\w.]+\s*=\s*)?(%%?)agent\s(.*)$", re.DOTALL)


def register(shell: Any) -> None:
    """Add our matcher to the shell's completer."""

    def agentkit_matcher(context: CompletionContext) -> SimpleMatcherResult:
        return _matches(shell, context)

    mark: Callable[..., Any] = context_matcher()
    if shell.Completer is not None:
        shell.Completer.custom_matchers.append(mark(agentkit_matcher))


def unregister(shell: Any) -> None:
    if shell.Completer is not None:
        matchers = shell.Completer.custom_matchers
        matchers[:] = [one for one in matchers if getattr(one, "__name__", "") != "agentkit_matcher"]


def _matches(shell: Any, context: CompletionContext) -> SimpleMatcherResult:
    before = context.full_text.split("\n")[: context.cursor_line + 1]
    text = before[-1][: context.cursor_position]
    found = _MAGIC.match(text)
    if found is None or (found[1] == "%%" and context.cursor_line > 0):
        return {"completions": []}
    offered = candidates(found[2], cell=found[1] == "%%", names=shell.user_ns)
    typed = context.token
    # The front end replaces the token: what it does not count as part of it has been typed already.
    word = _word(found[2])
    skipped = word.removesuffix(typed) if word.endswith(typed) else ""
    texts = [one.removeprefix(skipped) for one in offered if one.startswith(skipped)]
    return {"completions": [SimpleCompletion(text, type="agentkit") for text in texts], "suppress": True}


def candidates(text: str, *, cell: bool, names: Mapping[str, Any]) -> list[str]:
    """What may stand in place of the last word of `text`, the part of a line after `%agent `."""
    word = _word(text)
    head = text[: len(text) - len(word)]
    name, _, rest = head.strip().partition(" ")
    if not name:
        return _with_prefix([verb for verb in VERBS if _fits(verb, cell)], word)
    if name not in VERBS:
        return []
    verb = VERBS[name]
    typed, options = parser.tokenize(rest)
    given = {key for key, _ in options}
    if word.startswith("--") or (word == "-"):
        return _with_prefix([f"--{key}" for key in verb.options if key not in given], word)
    if not options:
        return (
            _with_prefix([*verb.one_of, *_values(verb.takes, names)], word)
            if verb.most is None or len(typed.split()) < verb.most
            else []
        )
    option = verb.options.get(options[-1][0])
    if option is None or not option.value:
        return []
    return _with_prefix([*option.one_of, *_values(option.takes, names)], word)


def _fits(name: str, cell: bool) -> bool:
    return VERBS[name].where != ("line" if cell else "cell")


def _word(text: str) -> str:
    found = re.search(r"[^\s,|]*$", text)
    return found[0] if found else ""


def _with_prefix(offered: Iterable[str], word: str) -> list[str]:
    return [one for one in offered if one.startswith(word)]


def _values(takes: Takes, names: Mapping[str, Any]) -> list[str]:
    match takes:
        case "mode":
            return list(grammar.MODES)
        case "scope":
            return list(grammar.SCOPES)
        case "verb":
            return list(VERBS)
        case "name":
            return _own(names)
    # The rest needs to know what an agent or a model is: the first Tab may take a moment.
    return _engine_values(takes, names)


def _engine_values(takes: Takes, names: Mapping[str, Any]) -> list[str]:
    from agentkit.models import resolve
    from agentkit.notebook import namespace

    match takes:
        case "agent":
            return list(namespace.agents(names))
        case "tools":
            return namespace.callables(names)
        case "type":
            return namespace.types(names)
        case "model":
            return resolve.names()
        case "run":
            return _runs()
    return []


def _runs() -> list[str]:
    session = sys.modules["agentkit.runtime.session"].current() if "agentkit.runtime.session" in sys.modules else None
    return [] if session is None else [run.id for run in session.runs(label=session.label, limit=20)]


def _own(names: Mapping[str, Any]) -> list[str]:
    hidden = {"In", "Out", "exit", "quit", "get_ipython", "open"}
    return [name for name in names if not name.startswith("_") and name not in hidden]
