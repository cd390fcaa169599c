"""What cannot be seen from a tool's code: its declared effects, probe, sharing and needs."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any, Literal, TypeVar, cast, get_args, overload

from agentkit.errors import UserError
from agentkit.events import Effects, Scope
from agentkit.values.durations import parse_duration

F = TypeVar("F", bound=Callable[..., Any])
Declared = Literal["none", "idempotent", "once", "kernel"]

_ATTRIBUTE = "__agentkit__"
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*(B|[KMGT]i?B?)$", re.IGNORECASE)
_LEAST_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Declaration:
    """What a tool declares. `ttl` and `timeout` are seconds, `memory` sizes such as "2GiB", the smallest first.

    `effects`: "none" only reads; "idempotent" may be repeated with the same `agentkit.idempotency_key()`; "once" must
    never be repeated unasked; "kernel" changes the kernel's own state. `verify(**arguments)` looks whether an
    interrupted call happened and gives its result, or None when it did not. `share` lets equal calls reuse the result
    beyond their own history: in the `project`, by the `user` everywhere, or from a folder `shared` by a team.
    `isolate`: each call runs in a process of its own, with at most `memory` (the next size is tried when it runs out)
    and, where `network` is False, without network and without writing to files. `poll` tools are expected to be called
    again and again with one result; `loop_key` says which calls the circuit breaker takes for the same: the names of
    the arguments that count, or a function of the arguments. `reads` are files ("data/*.csv") and variables
    ("env:REGION") that it reads in ways that cannot be seen. `outer`: it is an agent, whose own steps are recorded.
    """

    effects: Effects = "undeclared"
    verify: Callable[..., Any] | None = None
    approve: str | Callable[..., Any] | None = None
    share: Scope | None = None
    ttl: float | None = None
    memory: tuple[str, ...] = ()
    timeout: float | None = None
    network: bool | None = None
    isolate: bool = False
    poll: bool = False
    loop_key: str | Callable[..., Any] | None = None
    reads: tuple[str, ...] = ()
    outer: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """`memory` in bytes."""
        return tuple(map(_bytes, self.memory))


_PLAIN = Declaration()
_STANDS_FOR = "__agentkit_stands_for__"


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(
    *,
    effects: Declared | None = None,
    verify: Callable[..., Any] | None = None,
    approve: Literal["ask", "always", "never"] | Callable[..., Any] | None = None,
    share: Scope | bool | None = None,
    ttl: float | str | None = None,
    memory: int | str | Sequence[int | str] | None = None,
    timeout: float | str | None = None,
    network: bool | None = None,
    isolate: bool | None = None,
    poll: bool = False,
    loop_key: str | Callable[..., Any] | None = None,
    reads: str | Sequence[str] = (),
) -> Callable[[F], F]: ...
def tool(function: F | None = None, /, **options: Any) -> F | Callable[[F], F]:
    """Declare what a tool does to the world and needs from it; the function itself stays as it is.

    Durations are seconds or texts such as "90s", "2h", "7d"; sizes are bytes or texts such as "512MB" (units of 1024).
    `memory` may be several sizes in rising order: after a call ran out of one the next is tried. `memory` and
    `network=False` need a process of its own, so they mean `isolate=True`. Raises UserError for an option that makes no
    sense. What a tool reads with Python's own means is seen; `reads` names the files ("data/*.csv") and variables
    ("env:REGION") that it reads otherwise, through a database of its own or a program: when one of them changes, the
    tool runs again instead of being answered from the record.
    """
    declared = _declaration(**options)

    def declare(target: F) -> F:
        setattr(target, _ATTRIBUTE, declared)
        return target

    return declare if function is None else declare(function)


def declaration(function: Callable[..., Any]) -> Declaration:
    """What `function` declares; nothing for a plain function."""
    found = getattr(inspect.unwrap(function), _ATTRIBUTE, None) or getattr(function, _ATTRIBUTE, None)
    return _as_now(found, function) if isinstance(found, Declaration) else _PLAIN


def _as_now(declared: Declaration, function: Callable[..., Any]) -> Declaration:
    """With those of its functions that the notebook has defined anew since."""
    changed: dict[str, Any] = {}
    for option in ("verify", "approve", "loop_key"):
        held = getattr(declared, option)
        if isinstance(held, FunctionType) and (now := _of_notebook(held)) is not held:
            if not callable(now):
                name, kind = held.__name__, type(now).__name__
                raise UserError(
                    f"{function.__name__}: its {option}={name} is now a {kind}, no function: define it again"
                )
            changed[option] = now
    return replace(declared, **changed) if changed else declared


def _of_notebook(held: FunctionType) -> Any:
    """What the name of a notebook's function means now; a function from anywhere else stays what it is."""
    names = held.__globals__
    if held.__qualname__ != held.__name__ or names.get("__name__") != "__main__" or "get_ipython" not in names:
        return held
    return names.get(held.__name__, held)


def elsewhere(function: F, performed: Callable[..., Any]) -> F:
    """`function` as a tool that is performed by `performed`, on another machine: to the agent and the record it is the
    same tool, with its name, its types, its declaration and its digest.
    """

    async def stand_in(*args: Any, **kwargs: Any) -> Any:
        return await performed(*args, **kwargs)

    functools.update_wrapper(stand_in, function)
    setattr(stand_in, _STANDS_FOR, function)
    return cast(F, stand_in)


def performs_more(function: Callable[..., Any]) -> bool:
    """Whether a call of it is made of steps or tasks of its own: a stand-in, or an agent as a tool."""
    return hasattr(function, _STANDS_FOR) or declaration(function).outer


def original_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that a stand-in stands for, else the function itself."""
    found: Callable[..., Any] = getattr(function, _STANDS_FOR, function)
    return found


def _declaration(
    *,
    effects: str | None = None,
    verify: Callable[..., Any] | None = None,
    approve: Any = None,
    share: Scope | bool | None = None,
    ttl: float | str | None = None,
    memory: int | str | Sequence[int | str] | None = None,
    timeout: float | str | None = None,
    network: bool | None = None,
    isolate: bool | None = None,
    poll: bool = False,
    loop_key: str | Callable[..., Any] | None = None,
    reads: str | Sequence[str] = (),
) -> Declaration:
    known = _require_known("effects", "undeclared" if effects is None else effects, get_args(Effects))
    scope = (
        None
        if share in (None, False)
        else _require_known("share", "project" if share is True else share, get_args(Scope))
    )
    if scope is not None and known not in ("none", "undeclared"):
        raise UserError(f'share={scope!r} reuses a result elsewhere, so it needs effects="none", not {known!r}')
    if verify is not None and not callable(verify):
        raise UserError(f"verify= takes a function of the tool's arguments, not {type(verify).__name__}")
    if approve is not None and not callable(approve):
        _require_known("approve", approve, ("ask", "always", "never"))
    sizes = _memory_steps(memory)
    if len(sizes) > 1 and known == "once":
        raise UserError('effects="once" is not tried again with more memory: give memory= one size')
    apart = _needs_isolation(isolate, limited=bool(sizes) or network is False, effects=known)
    if loop_key is not None and not callable(loop_key) and not isinstance(loop_key, str):
        raise UserError(f'loop_key={loop_key!r}: names of arguments, as in "path, mode", or a function of them')
    return Declaration(
        effects=known,
        verify=verify,
        approve=approve,
        share=scope,
        ttl=seconds(ttl, given="@agentkit.tool(ttl={!r})"),
        memory=sizes,
        timeout=seconds(timeout, given="@agentkit.tool(timeout={!r})"),
        network=network,
        isolate=apart,
        poll=poll,
        loop_key=loop_key,
        reads=_reads(reads),
    )


def _reads(given: str | Sequence[str]) -> tuple[str, ...]:
    found = (given,) if isinstance(given, str) else tuple(given)
    for each in found:
        if each in ("", "env:"):
            raise UserError(
                f'@agentkit.tool(reads={each!r}): name files as in "data/*.csv", or a variable as in "env:REGION"'
            )
    return found


def loop_identity(declared: Declaration, name: str, arguments: dict[str, Any]) -> str:
    """What the circuit breaker takes a call for, as its tool says; empty where it says nothing."""
    key = declared.loop_key
    if key is None:
        return ""
    if callable(key):
        return f"{name} {key(**arguments)!r}"
    wanted = [part.strip() for part in key.split(",")]
    return f"{name} {[(part, arguments.get(part)) for part in wanted]!r}"


def _require_known(option: str, value: Any, allowed: Sequence[str]) -> Any:
    if value not in allowed:
        raise UserError(f"@agentkit.tool({option}={value!r}): choose one of {', '.join(map(repr, allowed))}")
    return value


def seconds(value: float | str | None, *, given: str) -> float | None:
    """Return a duration in seconds, None for none. Raise UserError, which names what was `given`, for what is none."""
    if value is None:
        return None
    duration = parse_duration(value) if isinstance(value, str) else value
    if duration is None or not duration > 0:
        raise UserError(f'{given.format(value)}: write seconds, or "90s", "10m", "2h", "7d"')
    return float(duration)


def _memory_steps(memory: int | str | Sequence[int | str] | None) -> tuple[str, ...]:
    given = () if memory is None else (memory,) if isinstance(memory, int | str) else tuple(memory)
    texts = tuple(f"{size}B" if isinstance(size, int) else str(size).strip() for size in given)
    for text in texts:
        if not _SIZE.match(text):
            raise UserError(f'memory={text!r} is not a size: write "512MB", "2GiB", or a list of sizes')
        if _bytes(text) < _LEAST_BYTES:
            raise UserError(f'memory={text!r} is less than Python itself needs: write "32MB" or more')
    sizes = list(map(_bytes, texts))
    if sizes != sorted(set(sizes)):
        raise UserError(f"memory={list(texts)!r} is a ladder that is climbed: write the sizes in rising order")
    return texts


def _bytes(text: str) -> int:
    found = _SIZE.match(text)
    assert found is not None
    return int(float(found[1]) * 1024 ** "BKMGT".index(found[2][0].upper()))


def _needs_isolation(isolate: bool | None, *, limited: bool, effects: Effects) -> bool:
    if isolate is False and limited:
        raise UserError("isolate=False: memory= and network=False can only be enforced in a process of its own")
    apart = limited if isolate is None else isolate
    if apart and effects == "kernel":
        raise UserError('effects="kernel" changes the kernel\'s own state, which a process of its own cannot')
    return apart


def check(functions: Sequence[Callable[..., Any]]) -> None:
    """Raise UserError for what cannot be a tool: no name, no annotations, or two of one name."""
    names: dict[str, Callable[..., Any]] = {}
    for function in functions:
        name = getattr(function, "__name__", None)
        if name is None or name == "<lambda>":
            raise UserError("a tool needs a name: write it as a `def` with types and a docstring, not as a lambda")
        if name in names and names[name] is not function:
            raise UserError(f"two tools are named {name}: rename one, agents call tools by name")
        names[name] = function
        _check_annotations(name, function)


def _check_annotations(name: str, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} cannot be a tool: its parameters cannot be read; wrap it in a `def`") from error
    bare = [parameter.name for parameter in signature.parameters.values() if parameter.annotation is parameter.empty]
    if bare:
        example = f"def {name}({bare[0]}: str, …)"
        raise UserError(f"tool {name} has no type for {', '.join(bare)}: the model needs them, write {example}")
