"""What a tool's step read from outside: kept with the step, and compared with the world before it is replayed."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from pydantic_core import from_json

from agentkit.journal.records import Row
from agentkit.journal.store import Store
from agentkit.runtime.run_state import RunState
from agentkit.tools import inputs
from agentkit.tools.declaration import Declaration
from agentkit.tools.digest import ToolDigest
from agentkit.tools.inputs import Input, Recorder

_MOST_READS = 200
_MOST_RUNS = 1_000
_SECRET = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


class InputWatch:
    """One call of a tool: what it reads while it is performed, or whether what it read is as it was."""

    def __init__(self, frame: RunState, declared: Declaration, digest: ToolDigest) -> None:
        self._frame, self._declared, self._digest = frame, declared, digest
        self._recorder: Recorder | None = None
        self._reads: dict[str, list[str | None]] = {}
        self._gone: list[str] = []

    @property
    def blind_spots(self) -> tuple[str, ...]:
        return (*self._digest.unhashed, *self._gone)

    def begin(self) -> AbstractContextManager[Recorder]:
        self._recorder = Recorder(self._declared.reads, self._digest.files)
        self._reads = dict(_tool_inputs(self._digest))
        return inputs.recording(self._recorder)

    def evidence(self) -> dict[str, Any] | None:
        """As JSON, files of this folder named from here; None where it was not performed here."""
        if self._recorder is None:
            return None
        heard = self._recorder.conclude()
        return {
            "inputs": [_from_here(one) for one in heard["inputs"]],
            "wrote": [_from_here(one) for one in heard["wrote"]],
            "unchecked": [*self._digest.unhashed, *heard["unseen"]],
            "reads": self._reads,
        }

    def find_change(self, row: Row, evidence: Mapping[str, Any]) -> str | None:
        """Which of what was read is not as it was; None where all is, or this conversation itself changed it."""
        self._gone.clear()
        if not inputs.is_report({"inputs": evidence.get("inputs", []), "wrote": [], "unseen": []}):
            return f"what step {row.id} read is not written as agentkit writes it"
        for one in evidence.get("inputs", ()):
            # A record from elsewhere may name any pattern, the whole disk among them.
            foreign = row.source and "files" in one and one["files"] not in self._declared.reads
            if foreign and not inputs.is_cheap_pattern(one["files"]):
                self._gone.append(f"the files {one['files']}, which a record from elsewhere names")
                continue
            recorded = _resolve(one)
            found = inputs.read_now(recorded)
            if inputs.is_same(recorded, found):
                continue
            if inputs.is_absent(found) and self._frame.mode == "replay":
                self._gone.append(f"{inputs.name_of(one)}, which is not here")
            elif not is_own_change(self._frame.journal.store, row, one, found):
                return f"{inputs.name_of(one)} {_describe_change(one, found)} since step {row.id} read it"
        return None


def is_own_change(store: Store, row: Row, one: Input, found: Input) -> bool:
    """Whether the conversation that read a file wrote it too: left it as it is now, or made what is there no more."""
    if "path" not in one:
        return _is_own_naming(store, row, one, found)
    for step, run in store.writers(one["path"]):
        if not _is_one_conversation(store, row.run, run):
            continue
        body = store.evidence(step)
        for wrote in [] if body is None else from_json(body).get("wrote", ()):
            if wrote["path"] != one["path"]:
                continue
            left = _resolve(wrote)
            if inputs.is_same(left, inputs.read_now(left)) or (inputs.is_absent(found) and inputs.is_same(wrote, one)):
                return True
    return False


def _is_own_naming(store: Store, row: Row, one: Input, found: Input) -> bool:
    """Whether all names that came into a folder or went were written or taken away by the conversation itself."""
    changed = None if "env" in one else inputs.compare_names(one, found)
    if changed is None:
        return False
    paths = [os.path.abspath(os.path.join(one.get("folder", ""), name)) for names in changed for name in names]
    return bool(paths) and all(
        any(_is_one_conversation(store, row.run, run) for _, run in store.writers(_from_here({"path": path})["path"]))
        for path in paths
    )


def _is_one_conversation(store: Store, run: str, other: str) -> bool:
    return run == other or run in _before(store, other) or other in _before(store, run)


def _before(store: Store, run: str) -> set[str]:
    """The runs that it continues or stands in, all the way up."""
    found: set[str] = set()
    waiting = [run]
    while waiting and len(found) < _MOST_RUNS:
        record = store.run(waiting.pop())
        for each in () if record is None else (record.continues, record.parent_run):
            if each is not None and each not in found:
                found.add(each)
                waiting.append(each)
    return found


def _from_here(one: Input) -> Input:
    """A file below this folder by its name from here, so that a record can be read elsewhere."""
    kind = next((kind for kind in ("path", "folder") if kind in one), None)
    if kind is None:
        return one
    here = os.getcwd()
    path = str(one[kind])
    return {**one, kind: "." if path == here else path.removeprefix(os.path.join(here, ""))}


def _resolve(one: Input) -> Input:
    return one | {kind: os.path.abspath(one[kind]) for kind in ("path", "folder") if kind in one}


def _describe_change(one: Input, found: Input) -> str:
    if "folder" in one and "count" in one and "count" in found:
        had = f"{one['count']} name{'s' * (one['count'] != 1)}"
        return f"had {had} and has {found['count']}{inputs.difference(one, found)}"
    if "files" in one:
        return f"stood for {one['count']} files and stands for {found['count']}{inputs.difference(one, found)}"
    if inputs.is_absent(found) or (found.get("sum") is None and "env" in found):
        return "is not there any more"
    if "size" in one and one["size"] != found.get("size"):
        return f"has changed ({one['size']:,} → {found['size']:,} bytes)"
    return "has changed"


# ---- what its code reads, for `why`


def _tool_inputs(digest: ToolDigest) -> Iterator[tuple[str, list[str | None]]]:
    """What the tool reads by name: its digest, and of data a short text."""
    for label, (hexed, value) in list(digest.values.items())[:_MOST_READS]:
        name = label.rpartition(" → ")[2]
        yield label, [hexed[:16], "(hidden)" if value and _SECRET.search(name) else _text(value)]


class _Brief(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple, self.maxset = 3, 4, 4, 4, 4
        self.maxstring, self.maxother, self.maxlong = 60, 60, 40

    def repr_instance(self, x: Any, level: int) -> str:
        """Without calling code of the person."""
        return f"<{type(x).__qualname__}>"


def _text(value: list[Any] | None) -> str | None:
    """`value` holds one value, or there is none to show."""
    if value is None:
        return None
    (one,) = value
    if isinstance(one, _PLAIN) and type(one) in _PLAIN:
        return _Brief().repr(one)
    if type(one) in (list, tuple, dict, set, frozenset):
        return f"{_Brief().repr(one)} ({len(one):,} items)" if len(one) > 4 else _Brief().repr(one)
    shape = getattr(one, "shape", None)
    if isinstance(shape, tuple):
        return f"a {type(one).__name__} of {' × '.join(f'{each:,}' for each in shape)}"
    return f"a {type(one).__qualname__}"
