"""Every error agentkit raises, one tree.

```
AgentKitError
├── UserError              a wrong cell, option, name or tool: shown as one line
│   ├── SpecError          broken front matter or body (has a line number)
│   ├── MissingExtra       an optional package is not installed (gives the pip line)
│   └── SecretMissing      a live step would receive a redacted secret that is not in the environment
├── SandboxError           a sandbox program ended early; `fault` says by what, `line` and `column` where
├── ChildFailed            a tool's own process ended without a result: out of memory or time, or crashed
├── Stopped                a run ended on purpose or was interrupted; re-running continues
│   ├── RunFailed          a step raised what agentkit does not know: a tool, a provider (the cause is kept)
│   ├── Interrupted        the Stop button, or a cancelled task
│   ├── ApprovalPending    a person has to decide first; decided, re-running continues
│   ├── CircuitOpen        the circuit breaker stopped a run, with the evidence
│   │   └── CircuitPending  … that gets nowhere (an ApprovalPending too): a decision lets it go on
│   ├── BudgetExceeded     a budget leaves no room for the next step; raised, re-running pays only what is left
│   │   └── BudgetAsks     the same, and a person was asked (also an ApprovalPending)
│   ├── RunPaused          a breakpoint was met where nobody can click
│   ├── InDoubt            a step was started, has no recorded end, and must not be repeated unasked
│   └── ReplayMiss         `replay` mode met a step that is not in the journal
└── JournalError           the record cannot be used as it is; names the file and what to do
    ├── JournalCorrupt     a row or the file does not match its checksum or format
    ├── JournalFormat      written by a newer agentkit
    ├── JournalReadOnly    the folder or file cannot be written
    ├── JournalFull        the disk or the file-size limit is reached: the call was not made
    └── JournalBusy        another process holds the journal exclusively
```
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean x?)` for a message about an unknown name, or nothing when no known name is near."""
    offered = sorted(set(known), key=lambda one: (_typos(name.lower(), one.lower()), one))
    begun = [one for one in offered if len(name) >= 3 and one.startswith(name)]
    close = [one for one in offered[:1] if _typos(name.lower(), one.lower()) <= max(1, len(name) // 3)]
    return next((f" (did you mean {one}?)" for one in [*begun, *close]), "")


def _typos(typed: str, meant: str) -> int:
    """How many letters were added, lost, mistaken or swapped with their neighbour."""
    # difflib rates a swapped pair (dya for day: 0.67) below another word (clear for caller: 0.73).
    older: list[int] = []
    before = list(range(len(meant) + 1))
    for i, letter in enumerate(typed, start=1):
        row = [i]
        for j, other in enumerate(meant, start=1):
            least = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == meant[j - 2] and typed[i - 2] == other:
                least = min(least, older[j - 2] + 1)
            row.append(least)
        older, before = before, row
    return before[-1]


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors that a group of errors is made of, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def reason(error: BaseException) -> str:
    """What an error says. One that only says that there was no connection says why, as far as its causes know it."""
    text = str(error)
    if text != "Connection error.":
        return text
    cause = error
    while (behind := cause.__cause__ or cause.__context__) is not None:
        cause = behind
    model = getattr(error, "model_name", None) or "the model"
    return text if cause is error else f"no connection to {model}: {str(cause) or type(cause).__name__}"


def describe_error(error: BaseException) -> str:
    """Kind and text of an error on record; a group of errors tells each of its members."""
    return "; then ".join(f"{type(one).__name__}: {reason(one)}" for one in leaves(error))


class AgentKitError(Exception):
    """The root of all errors raised by agentkit. In a notebook it is shown as one line."""

    def _render_traceback_(self) -> list[str]:
        return [f"\x1b[31m{type(self).__name__}\x1b[0m: {self}"]


class UserError(AgentKitError):
    """Something typed is wrong; the message says what, where and what to do."""


class SpecError(UserError):
    """Front matter, a `{{ }}` expression or a body cannot be read."""


class MissingExtra(UserError):
    """An optional package is needed."""

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(f"{package} is not installed: pip install 'jupyter-agentkit[{extra}]'")


class SecretMissing(UserError):
    """A recorded value holds a redacted secret and the live secret is not in the environment."""

    def __init__(self, name: str, step: str) -> None:
        self.name = name
        # A variable's name has no hyphen; what was known by its form only was never anywhere but in a text.
        found = "it was in a text and is not recorded: ask anew with fresh=True"
        what = found if "-" in name else f"set the environment variable {name}"
        super().__init__(f"{step} would receive the placeholder of secret {name}: {what}")


class SandboxError(AgentKitError):
    """A sandbox program ended early: `fault` is dialect, code, tool, limit or crash.

    `line` and `column` (from 1, with the `source` of that line) say where; `hint` is what to write instead; `calls`
    says in one line each which host calls were made before.
    """

    def __init__(
        self,
        fault: str,
        message: str,
        *,
        line: int | None = None,
        column: int = 1,
        width: int = 1,
        source: str = "",
        hint: str = "",
        calls: Sequence[str] = (),
    ) -> None:
        self.fault = fault
        self.message = message
        self.line = line
        self.column = column
        self.width = width
        self.source = source
        self.hint = hint
        self.calls = tuple(calls)
        super().__init__(self._describe())

    def after(self, calls: Sequence[str], *, hint: str = "") -> SandboxError:
        """The same error, with the host calls made before it and what to write instead."""
        return SandboxError(
            self.fault, self.message, line=self.line, column=self.column, width=self.width, source=self.source,
            hint=hint or self.hint, calls=calls or self.calls,
        )  # fmt: skip

    @property
    def headline(self) -> str:
        """The error in one line."""
        return f"{self.fault}: {self.message}" + (f" (line {self.line})" if self.line is not None else "")

    def _describe(self) -> str:
        told = [self.headline]
        if self.line is not None and self.source:
            number = str(self.line)
            told += [
                f"  {number} | {self.source}",
                f"  {' ' * len(number)} | {' ' * (self.column - 1)}{'^' * self.width}",
            ]
        told += [f"  {self.hint}"] if self.hint else []
        calls = [f"{call} ({count} times)" if count > 1 else call for call, count in Counter(self.calls).items()]
        told += [f"  calls made before: {'; '.join(calls)}"] if calls else []
        return "\n".join(told)


class ChildFailed(AgentKitError):
    """The process of an isolated call ended without a result; the message says what was asked and used."""


class ServerUnreachable(AgentKitError):
    """An MCP server could not be reached, and what the run needs of it is not on record."""

    def __init__(self, server: str, why: str) -> None:
        self.server = server
        super().__init__(
            f"MCP server {server} cannot be reached: {why}; see that it runs there, or build the agent without it"
        )


class Stopped(AgentKitError):
    """A run ended before its result; nothing recorded is lost and re-running continues."""


class RunFailed(Stopped):
    """A tool, a provider or other code outside agentkit raised inside a run; `cause` is that error."""

    def __init__(self, message: str, *, cause: BaseException) -> None:
        self.cause = cause
        super().__init__(message)


class Interrupted(Stopped):
    """The run was stopped by the person or its task was cancelled."""


class RunPaused(Stopped):
    """A run paused before a step; it goes on from there when somebody says so."""

    def __init__(self, *, run: str, agent: str, step: str, cause: str) -> None:
        self.run = run
        self.agent = agent
        self.step = step
        self.cause = cause
        super().__init__(
            f"{agent} is paused before {step} ({cause}): it goes on where a person steps it, and is then run again"
        )


class InDoubt(Stopped):
    """A step was started and has no recorded end; it is not repeated without a yes."""

    def __init__(self, *, step: int, name: str, reason: str) -> None:
        self.step = step
        self.name = name
        self.reason = reason
        super().__init__(
            f'step {step} ({name}) {reason}: settle it with session.settle({step}, "redo"), '
            'or "result" and result=…, or "stop", then run again'
        )


class ApprovalPending(Stopped):
    """A call or question waits for a person, and nobody can answer it here and now.

    `how` is what may be typed after the ids of `steps`, in a shell and in a cell.
    """

    def __init__(self, *, steps: Sequence[str], asked: str, how: str = "") -> None:
        self.steps = tuple(steps)
        self.asked = asked
        self.how = how
        super().__init__(
            f"{asked} waits for a person: `agentkit approvals decide {' '.join(self.steps)}` in a shell, then run again"
        )


class CircuitOpen(Stopped):
    """The circuit breaker opened; `evidence` is what it saw."""

    def __init__(self, message: str, *, evidence: str) -> None:
        self.evidence = evidence
        super().__init__(message)


class CircuitPending(ApprovalPending, CircuitOpen):
    """The circuit breaker opened in a run that gets nowhere, and nobody can be asked here."""

    def __init__(self, *, steps: Sequence[str], agent: str, evidence: str, how: str) -> None:
        self.evidence = evidence
        self.steps = tuple(steps)
        self.asked = f"{agent}: the circuit breaker opened: {evidence}"
        self.how = how
        AgentKitError.__init__(
            self,
            f"{self.asked}. What ran is kept: `agentkit approvals decide {' '.join(self.steps)} {how}` in a shell, "
            "then run again",
        )


class BudgetExceeded(Stopped):
    """A limit leaves no room for the next live step; raise it and run again: only what is left is paid."""

    def __init__(self, message: str, *, finish: bool = False) -> None:
        self.finish = finish
        super().__init__(message)


class BudgetAsks(BudgetExceeded, ApprovalPending):
    """A limit was reached and a person was asked who cannot answer here and now; decided, re-running continues."""

    def __init__(self, *, steps: Sequence[str], asked: str, how: str) -> None:
        ApprovalPending.__init__(self, steps=steps, asked=asked, how=how)
        self.finish = False


class ReplayMiss(Stopped):
    """`replay` mode met a step that is not recorded."""

    def __init__(self, *, name: str, detail: str) -> None:
        self.name = name
        self.detail = detail
        super().__init__(f"{name} is not in the journal and the mode is replay: {detail}")


class JournalError(AgentKitError):
    """The record on disk cannot be used as it is."""

    def __init__(self, path: object, problem: str, remedy: str) -> None:
        self.path = str(path)
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{path}: {problem}; {remedy}")


class JournalCorrupt(JournalError):
    """A row or the file does not match its checksum or its format."""


class JournalFormat(JournalError):
    """The journal was written by a newer agentkit."""


class JournalReadOnly(JournalError):
    """The journal cannot be written, so no live call is made."""


class JournalFull(JournalError):
    """No space or file-size limit reached, so no live call is made."""


class JournalBusy(JournalError):
    """Another process holds the journal."""
