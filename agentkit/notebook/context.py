"""What every verb works with: the shell and its session, what is remembered in this kernel, and what options mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic_ai import BinaryContent

from agentkit.errors import UserError, nearest
from agentkit.events import Mode
from agentkit.notebook import namespace, template
from agentkit.notebook.output import say
from agentkit.notebook.parser import Line
from agentkit.runtime.session import Session

BODY_LINE = 2
"""The number of the body's first line, as the front end counts: the magic line is line 1."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """`value` is what `x = %agent …` gets and `_` holds; `show` draws it under the cell.

    `remark` is said in both cases.
    """

    value: Any = None
    show: Callable[[], object] = field(default=lambda: None)
    remark: str = ""


@dataclass(kw_only=True)
class VerbContext:
    """The shell, its session, and what was remarked or remembered in this kernel.

    `deps` and `binds` are the names of notebook objects by agent: what its tools get, and where its answer goes;
    `buttons` are those on show, by the run they move.
    """

    shell: Any
    session: Session
    deps: dict[str, str] = field(default_factory=dict)
    binds: dict[str, str] = field(default_factory=dict)
    remarked: set[str] = field(default_factory=set)
    buttons: dict[str, Any] = field(default_factory=dict)
    decided: Callable[[], None] = lambda: None

    @property
    def names(self) -> dict[str, Any]:
        names: dict[str, Any] = self.shell.user_ns
        return names

    def remark(self, notes: tuple[str, ...]) -> None:
        """Print what was not said before in this kernel."""
        for note in notes:
            if note not in self.remarked:
                self.remarked.add(note)
                say(f"  note: {note}")

    def deps_of(self, line: Line, name: str | None) -> Any:
        """The object that this agent's tools get: of the line, else as it was built."""
        given = line.options.get("deps") or self.deps.get(name or "")
        return None if given is None else namespace.value("deps", given, self.names)


def prompt_content(given: template.Rendered) -> str | list[Any]:
    """Text alone as text, else text and images in their order."""
    if all(isinstance(part, str) for part in given.parts):
        return given.text.strip()
    return [
        part if isinstance(part, str) else BinaryContent(data=part.data, media_type=part.media_type)
        for part in given.parts
    ]


def mode_of(line: Line) -> Mode | None:
    return mode(line.options["mode"]) if line.has("mode") else None


def mode(text: str) -> Mode:
    return one_of("mode", text, get_args(Mode))  # type: ignore[no-any-return]


def one_of(what: str, text: str, known: tuple[str, ...]) -> Any:
    if text not in known:
        raise UserError(f"{what} {text}: one of {', '.join(known)}{nearest(text, known)}")
    return text
