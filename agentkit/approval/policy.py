"""What needs a person, what a person is asked, and what may be answered."""

from __future__ import annotations

import inspect
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from agentkit.budget.budget import Budget, parse
from agentkit.errors import UserError, nearest
from agentkit.values.json_schema import mismatch

Asks: TypeAlias = Literal["approve", "ask", "doubt", "bailout", "circuit", "budget"]
Verdict: TypeAlias = Literal[
    "approve", "deny", "edit", "answer", "redo", "result", "stop", "hint", "raise", "once", "finish"
]
Headless: TypeAlias = Literal["suspend", "deny", "allow"]
Form: TypeAlias = Literal["text", "choice", "yes_no", "number", "json"]

HEADLESS: tuple[Headless, ...] = get_args(Headless)
HEADLESS_VARIABLE = "AGENTKIT_HEADLESS"
POSSIBLE: dict[Asks, tuple[Verdict, ...]] = {
    "approve": ("approve", "edit", "deny"),
    "ask": ("answer", "stop"),
    "doubt": ("redo", "result", "stop"),
    "bailout": ("answer", "hint", "raise", "stop"),
    "circuit": ("once", "raise", "hint", "stop"),
    "budget": ("raise", "finish", "stop"),
}
TYPED: dict[Asks, str] = {
    "approve": "[--deny WHY | --edit JSON]",
    "ask": "--answer TEXT",
    "doubt": "--redo | --answer JSON | --stop",
    "bailout": "--hint TEXT | --answer TEXT | --stop",
    "budget": "--raise LIMIT | --finish | --stop",
    "circuit": "--once | --raise | --hint TEXT | --stop",
}
"""How each is answered by typing, after `%agent approve ID`."""
_PATTERN = re.compile(r"[\w.:*?\[\]!-]+$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One thing a person is asked.

    `id` is that of the step it is recorded as. `schema` is the JSON schema of the tool's arguments; `check` knows more
    than the schema and says what is wrong with changed arguments, or None. `before` is what ran before, oldest first.
    `lasting`: Always may be chosen. `code` is the digest of the tool, where its code is here.
    """

    id: str = ""
    kind: Asks
    tool: str = ""
    arguments: Any = None
    text: str = ""
    form: Form = "text"
    choices: tuple[str, ...] = ()
    default: Any = None
    schema: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    before: tuple[str, ...] = ()
    agent: str = ""
    lasting: bool = False
    code: str = ""
    check: Callable[[Any], str | None] | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """What is kept of it, so that it can be answered from anywhere."""
        names = ("kind", "tool", "arguments", "text", "form", "default", "reason", "agent", "lasting", "code")
        kept = {name: getattr(self, name) for name in names}
        return {**kept, "choices": list(self.choices), "before": list(self.before), "schema": dict(self.schema)}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any], *, id: str) -> Question:
        lists = {name: tuple(kept.get(name, ())) for name in ("choices", "before")}
        return cls(id=id, **{**kept, **lists})


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What was decided: by whom (`you`, a policy, an earlier Always) and when (unix seconds)."""

    verdict: Verdict
    arguments: Any = None
    answer: Any = None
    reason: str = ""
    by: str = "you"
    at: float = field(default_factory=time.time)
    always: bool = False

    def to_json(self) -> dict[str, Any]:
        kept = {"verdict": self.verdict, "by": self.by, "at": self.at}
        rest = {"arguments": self.arguments, "answer": self.answer, "reason": self.reason, "always": self.always}
        return {**kept, **{name: value for name, value in rest.items() if value not in (None, "", False) or value == 0}}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Decision:
        return cls(**kept)

    @property
    def description(self) -> str:
        """In one line, as the trace shows it."""
        what = _SAID[self.verdict]
        if self.verdict == "raise" and self.answer:
            what += f" to {self.answer}"
        if self.verdict in ("answer", "result"):
            what += f": {json.dumps(self.answer, ensure_ascii=False)}"
        if self.verdict == "edit":
            what += f": {json.dumps(self.arguments, ensure_ascii=False)}"
        because = f" ({self.reason})" if self.reason else ""
        return f"{what}{because} by {self.by}{', always' if self.always else ''}"


_SAID: dict[Verdict, str] = {
    "approve": "approved",
    "deny": "denied",
    "edit": "approved with changes",
    "answer": "answered",
    "redo": "to be performed again",
    "result": "happened, result given",
    "stop": "stopped",
    "hint": "retried with a hint",
    "raise": "limit raised",
    "once": "continued once",
    "finish": "finished with what there is",
}


def read_click(question: Question, content: Mapping[Any, Any]) -> Decision:
    """Return the decision that a message of the page holds; UserError where a value is none of its field.

    Of choices, the page knows what is shown of them and sends a number.
    """
    match {"reason": "", "always": False, **content}:
        case {"verdict": str(verdict), "reason": str(reason), "always": bool(always)} if verdict in get_args(Verdict):
            arguments, answer = content.get("arguments"), content.get("answer")
            if "choice" in content:
                answer = _choice(question, content["choice"])
            return Decision(verdict=verdict, arguments=arguments, answer=answer, reason=reason, always=always)  # type: ignore[arg-type]
    raise UserError("this message is no decision: decide with the buttons")


def _choice(question: Question, at: object) -> str:
    if question.form == "choice" and type(at) is int and 0 <= at < len(question.choices):
        return question.choices[at]
    raise UserError("this message is no choice of this question: decide with the buttons")


def check_decision(question: Question, decision: Decision) -> Decision:
    """`decision` as it is recorded; UserError says what is wrong with it and what is possible."""
    possible = POSSIBLE[question.kind]
    if decision.verdict not in possible:
        raise UserError(f"{decision.verdict}: {_describe_choices(question)} can be answered with {', '.join(possible)}")
    if decision.always and (decision.verdict != "approve" or not question.lasting):
        raise UserError(f"always: {_describe_choices(question)} can be approved once only")
    match decision.verdict:
        case "edit":
            return _check_edit(question, decision)
        case "answer" if question.kind == "ask":
            return replace(decision, answer=_answer(question, decision.answer))
        case "answer":
            check_applies(question, decision)
        case "raise" if question.kind == "budget":
            return replace(decision, answer=_parse_raise(question, decision.answer))
        case "finish" if "finish" not in question.choices:
            raise UserError("finish: this agent owes an answer of a given form; raise the limit, or stop")
        case "raise" if not question.default:
            raise UserError("raise: no limit was reached here; answer it, give a hint, or stop")
        case "hint" if not decision.reason.strip():
            raise UserError("hint: write what the agent should do differently")
    return decision


def _check_edit(question: Question, decision: Decision) -> Decision:
    if decision.arguments == question.arguments:
        return replace(decision, verdict="approve", arguments=None)
    wrong = mismatch(question.schema, decision.arguments)
    if wrong is not None:
        raise UserError(f"these arguments do not fit {question.tool}: {wrong}")
    check_applies(question, decision)
    return decision


def check_applies(question: Question, decision: Decision) -> None:
    """Raise UserError for what only the asking process can see: a validator of the tool, or of the answer, says no.

    A decision made elsewhere has passed the schema alone.
    """
    if question.check is None:
        return
    if decision.verdict == "edit" and (wrong := question.check(decision.arguments)) is not None:
        raise UserError(f"these arguments do not fit {question.tool}: {wrong}")
    if decision.verdict == "answer" and (wrong := question.check(decision.answer)) is not None:
        raise UserError(f"this cannot be the answer: {wrong}")


def _answer(question: Question, given: Any) -> Any:
    match question.form:
        case "text":
            return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        case "choice" if question.choices:
            if given not in question.choices:
                near = nearest(given, question.choices) if isinstance(given, str) else ""
                raise UserError(f"{given!r}: choose one of {', '.join(question.choices)}{near}")
            return given
        case "yes_no":
            return _is_true(given)
        case "number":
            return _number(given)
        case _:
            return given


def _parse_raise(question: Question, given: Any) -> str:
    limits = parse(str(given or question.default), option="raise")
    wrong = None if question.check is None else question.check(limits)
    if wrong is not None:
        raise UserError(wrong)
    return Budget(limits=limits).text


_WORDS = {"yes": True, "y": True, "true": True, "no": False, "n": False, "false": False}


def _is_true(given: Any) -> bool:
    answer = given if isinstance(given, bool) else _WORDS.get(str(given).strip().lower())
    if answer is None:
        raise UserError(f"{given!r}: answer yes or no")
    return answer


def _number(given: Any) -> float | int:
    if isinstance(given, int | float) and not isinstance(given, bool):
        return given
    try:
        number = float(str(given).replace("_", ""))
    except ValueError as error:
        raise UserError(f"{given!r}: answer with a number") from error
    if number != number or number in (float("inf"), float("-inf")):
        raise UserError(f"{given!r}: answer with a number")
    return int(number) if number.is_integer() and "." not in str(given) and "e" not in str(given).lower() else number


def _describe_choices(question: Question) -> str:
    return f"question {question.id}" if question.kind != "approve" else f"the call of {question.tool} ({question.id})"


# ---- what needs a person


class Need(NamedTuple):
    """A call needs a person: `why` if somebody said so, and whether Always may be offered."""

    why: str = ""
    lasting: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Tool names that need a person, as typed (`read` is not `read_secrets`), and what happens where there is none."""

    patterns: tuple[str, ...] = ()
    headless: Headless | None = None

    def names(self, tool: str) -> str | None:
        """The pattern that names `tool`."""
        return next((pattern for pattern in self.patterns if fnmatchcase(tool, pattern)), None)


def parse_patterns(text: str, *, option: str = "approve") -> tuple[str, ...]:
    """`delete_*, send_mail` as patterns; UserError for what can match no tool."""
    patterns = tuple(filter(None, (part.strip() for part in text.split(","))))
    for pattern in patterns:
        if not _PATTERN.match(pattern):
            raise UserError(f"{option}={pattern!r}: tool names, with * for anything: delete_*,send_mail")
    if not patterns:
        raise UserError(f"{option}: which tools? For instance delete_*,send_mail, or * for all of them")
    return patterns


def parse_headless(text: str, *, option: str = "headless") -> Headless:
    if text not in HEADLESS:
        raise UserError(f"{option}={text!r}: one of {', '.join(HEADLESS)}{nearest(text, HEADLESS)}")
    return text


async def find_need(
    tool: str,
    arguments: Mapping[str, Any],
    *,
    declared: str | Callable[..., Any] | None,
    destructive: bool,
    policies: Sequence[Policy],
) -> Need | None:
    """Whether this call needs a person. Whoever runs the agent may ask for more than the tool's author did.

    `declared` is the tool's `approve=`: "ask", "always" (Always is not offered), "never", or a function of the
    arguments, async or not, that says whether, or why. A function that fails asks.
    """
    lasting = declared != "always"
    if any(policy.names(tool) for policy in policies):
        return Need(lasting=lasting)
    if callable(declared):
        return await _by_function(declared, arguments)
    if declared in ("ask", "always"):
        return Need(lasting=lasting)
    if destructive and declared != "never":
        return Need(why="the server says that it destroys something")
    return None


async def _by_function(declared: Callable[..., Any], arguments: Mapping[str, Any]) -> Need | None:
    try:
        answer = declared(**arguments)
        if inspect.isawaitable(answer):
            answer = await answer
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the check, the call must not pass unasked
        return Need(why=f"approve= raised {type(error).__name__}: {error}")
    if not answer:
        return None
    return Need(why=answer if isinstance(answer, str) else "")


def decide_unattended(question: Question, headless: Headless) -> Decision | None:
    """What the policy decides where nobody can be asked; None to leave it open."""
    if headless == "suspend" or question.kind != "approve":
        return None
    if headless == "allow":
        return Decision(verdict="approve", by="policy")
    return Decision(verdict="deny", by="policy", reason="nobody is here to approve it")
