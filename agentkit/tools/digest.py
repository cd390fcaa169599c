"""What a tool computes with: its code, the notebook code it calls, and the values both read, as one digest."""

from __future__ import annotations

import builtins
import collections
import dataclasses
import enum
import functools
import hashlib
import importlib.metadata
import inspect
import logging
import random
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentkit.tools import modules
from agentkit.tools.inputs import is_library
from agentkit.tools.source import UNSEEN_READERS, Source, source_of
from agentkit.values import hashing

VERSION = 2
_SECONDS = 0.25
_DEPTH = 200
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

# They carry no data; what state they have changes with every use.
_STATELESS_MODULES = frozenset(
    "threading _thread asyncio multiprocessing contextvars _contextvars concurrent IPython ipykernel ipywidgets".split()
)
_CONTAINERS = (list, dict, set, collections.deque, bytearray)
# What the descriptors of functools were made from.
_SAID = frozenset({"func", "dispatcher", "args", "keywords"})
_CACHED = functools.cached_property
_PLAIN = frozenset({int, float, bool, str, bytes, type(None)})
_GENERATED = ("<string>", "<attrs generated")
_OURS = ("agentkit", "pydantic_ai")
_READS_BY_ITSELF = frozenset(
    "polars duckdb pyarrow h5py tables netCDF4 rasterio fiona datafusion deltalake lance cv2 lxml zarr".split()
)
"""Libraries that open files in a language of their own, where no audit event of Python tells of it."""
_FRONT_ENDS = ("IPython", "ipykernel")
_FRONT_END = frozenset({"display", "get_ipython", "exit", "quit"})
"""Names that a notebook has and plain Python may not; what they stand for elsewhere is not part of the tool."""


@dataclass(frozen=True, slots=True)
class ToolDigest:
    """The digest of a tool, and what it does not cover.

    `unhashed` names the values it could not take in and why; `assigns` the globals the tool assigns; `reads` what it
    reads by name, each with a digest of its own, so that a change can be named. `older` is the digest that a version of
    agentkit before this one gave the very same tool, where it was another one. `files` are those behind the connections
    that it reads. `values` are the digests of all it reads at any depth, each by the names that lead there, with the
    value itself in a list where it is data.
    """

    digest: bytes
    unhashed: tuple[str, ...]
    assigns: tuple[str, ...]
    reads: dict[str, str]
    older: ToolDigest | None = None
    files: tuple[str, ...] = ()
    values: dict[str, tuple[str, list[Any] | None]] = field(default_factory=dict)


def tool_digest(function: Callable[..., Any], *, seconds: float = _SECONDS) -> ToolDigest:
    """The digest of what `function` computes with.

    Arrays, frames, and lists and dicts of numbers and texts are hashed whole. `seconds` bounds the hashing of what
    else a container holds, and of what can only be saved: of a larger one a spread sample is hashed, or its kind, and
    it is named in `unhashed`.
    """
    walk = _DigestWalk(seconds=seconds)
    digest = walk.digest(function, "")
    older = None
    if walk.moved and not walk.grown:
        before = _DigestWalk(seconds=seconds, version=1)
        older = ToolDigest(before.digest(function, ""), (), (), before.reads)
    return ToolDigest(
        digest, tuple(walk.unhashed), tuple(walk.assigns), walk.reads, older, tuple(walk.files), walk.values
    )


def value_digest(value: object, *, seconds: float = _SECONDS) -> bytes:
    """The digest of one value, such as the dependencies of a run."""
    return _DigestWalk(seconds=seconds).digest(value, "")


def _sha(tag: str, *pieces: bytes) -> bytes:
    whole = hashlib.sha256(f"{tag} {len(pieces)} ".encode("utf-8", "backslashreplace"))
    for piece in pieces:
        whole.update(hashlib.sha256(piece).digest())
    return whole.digest()


@dataclass(kw_only=True)
class _DigestWalk:
    """One walk over a function and all it reaches; `path` arguments say by which names a value was reached.

    `version` 1 walks as the first agentkit did. `moved` says that it would have digested the same content otherwise,
    `grown` that it would have left some of it out.
    """

    seconds: float
    version: int = VERSION
    moved: bool = False
    grown: bool = False
    unhashed: dict[str, None] = field(default_factory=dict)
    assigns: dict[str, None] = field(default_factory=dict)
    reads: dict[str, str] = field(default_factory=dict)
    files: dict[str, None] = field(default_factory=dict)
    values: dict[str, tuple[str, list[Any] | None]] = field(default_factory=dict)
    _open: list[int] = field(default_factory=list)
    _cells: float = 0.0

    def digest(self, value: Any, path: str) -> bytes:
        simple = hashing.scalar(value)
        if simple is not None:
            return self._with_behaviour(_sha("scalar", simple), value, path)
        if isinstance(value, types.ModuleType):
            return self._module(value, path)
        if id(value) in self._open:
            # Within a cycle a value is named by how far up it was opened: the same wherever it lies in memory.
            return _sha(f"above {len(self._open) - self._open.index(id(value))}")
        if len(self._open) >= _DEPTH:
            return self._leave_out(value, path, f"nested more than {_DEPTH} deep")
        self._open.append(id(value))
        try:
            known = hashing.data(value, lambda cells: self.digest(cells, path))
            return self._structure(value, path) if known is None else self._with_behaviour(known, value, path)
        finally:
            self._open.pop()

    def _leave_out(self, value: object, path: str, reason: str = "") -> bytes:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        self.unhashed[f"{path or 'it'} ({reason or kind})"] = None
        return _sha("unhashed", kind.encode())

    def _structure(self, value: Any, path: str) -> bytes:
        match value:
            case types.FunctionType():
                return self._function(value, path)
            case type():
                return self._class(value, path)
            case functools.partial():
                return _sha("partial", *self._each((value.func, value.args, value.keywords), path))
            case types.MethodType():
                return _sha("method", self.digest(value.__func__, path), self._owner(value, path))
            case types.BuiltinFunctionType():
                return self._builtin(value, path)
            case staticmethod() | classmethod():
                return _sha(type(value).__name__, self.digest(value.__func__, path))
            case property():
                return _sha("property", *self._each((value.fget, value.fset, value.fdel), path))
            case functools.cached_property() | functools.singledispatchmethod() | functools.partialmethod():
                held = vars(value).items()
                return _sha(
                    type(value).__name__, *(self.digest(each, path) for name, each in sorted(held) if name in _SAID)
                )
            case enum.Enum():
                member = _sha(
                    "enum", self._name_and_version(type(value)), value.name.encode(), self.digest(value.value, path)
                )
                return self._with_behaviour(member, value, path)
            case _ if hasattr(value, "__wrapped__") and callable(value):
                # functools.cache and its kind: what they have cached is not part of the question.
                return _sha("wrapper", self._name_and_version(type(value)), self.digest(value.__wrapped__, path))
            case _:
                contained = self._container(value, path)
                if contained is None:
                    return self._instance(value, path)
                return self._with_behaviour(contained, value, path)

    def _each(self, values: Iterable[Any], path: str) -> Iterator[bytes]:
        return (self.digest(value, path) for value in values)

    # -- containers

    def _container(self, value: Any, path: str) -> bytes | None:
        kind = type(value).__name__
        match value:
            case list() | tuple() if (plain := _plain(value)) is not None:
                # The same for a million numbers in a tenth of the time.
                return _sha(f"plain {kind}", plain) if len(value) <= self._plain_limit else self._large(value, path)
            case dict() | types.MappingProxyType() | collections.ChainMap():
                if not self._affordable(len(value)):
                    return self._large(value, path)
                factory = getattr(value, "default_factory", None)
                items = (piece for key, item in value.items() for piece in self._item(key, item, path))
                return _sha(f"mapping {kind}", self.digest(factory, path), *items)
            case list() | tuple() | collections.deque():
                if not self._affordable(len(value)):
                    return self._large(value, path)
                return _sha(f"sequence {kind}", *(self.digest(item, f"{path}[{i}]") for i, item in enumerate(value)))
            case set() | frozenset():
                if not self._affordable(len(value)):
                    return self._leave_out(value, path, "large: only its length is hashed")
                return _sha(f"set {kind}", *sorted(self._each(value, path)))
            case _:
                return None

    @property
    def _plain_limit(self) -> float:
        return self.seconds * hashing.CELLS_PER_SECOND

    def _item(self, key: Any, item: Any, path: str) -> tuple[bytes, bytes]:
        return self.digest(key, path), self.digest(item, f"{path}[{key!r}]" if isinstance(key, str | int) else path)

    def _affordable(self, cells: int) -> bool:
        self._cells += cells
        return self._cells <= self.seconds * hashing.CELLS_PER_SECOND / 12

    def _large(self, value: Any, path: str) -> bytes:
        self._cells -= len(value)
        whole = hashing.tree(value) if type(value) in (list, tuple, dict) else None
        if whole is not None:
            return whole
        rows = list(value.items() if isinstance(value, Mapping) else value)
        sample = rows[:: max(1, len(rows) // 1_000)] + rows[-1:]
        self._leave_out(value, path, "large: only its length and a sample are hashed")
        return _sha(f"sample {type(value).__name__} {len(rows)}", *self._each(sample, path))

    # -- code

    def _function(self, function: types.FunctionType, path: str) -> bytes:
        if is_library(function.__code__.co_filename) and not hasattr(function, "__wrapped__"):
            return self._name_and_version(function)
        source = source_of(function.__code__)
        if source.note is not None:
            self.unhashed[f"{path or function.__name__} ({source.note})"] = None
        for name in source.assigns:
            self.assigns[name] = None
        self.values[path or "the code"] = (source.digest.hex(), None)
        pieces = {f"={name}": value for name, value in self._defaults(function, path)}
        pieces |= {name: self._read(function, source, name, path) for name in source.reads}
        pieces |= {f"import {name}": self._import(function, source, name, path) for name in source.imports}
        for by in source.blind:
            self._blind(by, path)
        if hasattr(function, "__wrapped__"):
            pieces["wrapped"] = self.digest(function.__wrapped__, path)
        pieces |= self._implementations(function, path)
        if not path:
            pieces |= self._validation(function)
            self.reads |= {name: digest.hex() for name, digest in {"the code": source.digest, **pieces}.items()}
        named = (piece for name in sorted(pieces) for piece in (name.encode(), pieces[name]))
        return _sha("function", source.digest, *named)

    def _defaults(self, function: types.FunctionType, path: str) -> Iterator[tuple[str, bytes]]:
        for place, value in enumerate(function.__defaults__ or ()):
            yield str(place), self.digest(value, f"{path or function.__name__}(default)")
        for name, value in (function.__kwdefaults__ or {}).items():
            yield name, self.digest(value, f"{path or function.__name__}({name}=)")

    def _read(self, function: types.FunctionType, source: Source, name: str, path: str) -> bytes:
        found, value = lookup(function, name)
        label = f"{path} → {name}" if path else name
        if found and self.version > 1 and _put_there_by_a_front_end(name, value):
            self.moved, found = True, False
        if not found:
            known = hasattr(builtins, name) or (self.version > 1 and name in _FRONT_END)
            self.moved |= known and not hasattr(builtins, name)
            return _sha("builtin" if known else "undefined", name.encode())
        if name in source.rebound or (name in source.changed and isinstance(value, _CONTAINERS)):
            return self._leave_out(value, label, "changed by the tool itself")
        if isinstance(value, types.ModuleType):
            return self._module(value, label, _Every() if name in source.searched else source.attributes)
        digest = (
            self._constant_part(value, source, name, label) if name in source.changed else self.digest(value, label)
        )
        if not isinstance(value, types.FunctionType):
            self.values[label] = (digest.hex(), None if isinstance(value, type) else [value])
        return digest

    def _import(self, function: types.FunctionType, source: Source, name: str, path: str) -> bytes:
        """A module imported inside the function: a local one by its file, whether or not it was imported yet."""
        if self.version == 1:
            module = sys.modules.get(name)
            return _sha("import", name.encode()) if module is None else self._module(module, path, source.attributes)
        label = f"{path} → {name}" if path else name
        found = modules.local(name, function.__globals__.get("__package__"), source.attributes)
        loaded = sys.modules.get(name)
        if found is None:
            self.moved |= loaded is None
            if loaded is not None:
                return self._module(loaded, path, source.attributes)
            self._see(name, *source.attributes)
            known = modules.exists(name)
            return _sha("module", name.encode(), _version(name)) if known else _sha("import", name.encode())
        self.moved |= loaded is not None
        self.grown |= loaded is None
        for by in found.blind:
            self._blind(by, label)
        for imported in sorted({each for text in found.texts.values() for each, _ in text.imports}):
            self._see(imported)
        pieces = [found.digest]
        for each, text in found.texts.items():
            module = sys.modules.get(each)
            if module is not None and not modules.is_unmodified(module, text):
                self.unhashed[f"{label} ({each} was edited since it was imported, or changed: reload it)"] = None
                pieces += [each.encode(), self._module(module, label)]
        digest = _sha("local import", *pieces)
        self.values[label] = (digest.hex(), None)
        return digest

    def _see(self, module: str, *used: str) -> None:
        """Name a library, or a function used of one, that reads files without Python's knowing."""
        top = module.partition(".")[0]
        if top in _READS_BY_ITSELF:
            self.unhashed[f"what it reads through {top}"] = None
        for reader in UNSEEN_READERS.intersection(used):
            self.unhashed[f"what it reads through {top}.{reader}"] = None

    def _blind(self, by: str, path: str) -> None:
        self.unhashed[f"what {path or 'it'} reads through {by}"] = None

    def _implementations(self, function: types.FunctionType, path: str) -> dict[str, bytes]:
        """Of a generic function what it does with each type, besides what it does with any."""
        registry = getattr(function, "registry", None)
        if not isinstance(registry, types.MappingProxyType) or not hasattr(function, "dispatch"):
            return {}
        named = {f"for {_type_name(kind)}": (kind, each) for kind, each in registry.items() if kind is not object}
        self.grown |= bool(named)
        return {name: self.digest(each, f"{path}[{_type_name(kind)}]") for name, (kind, each) in named.items()}

    def _validation(self, function: types.FunctionType) -> dict[str, bytes]:
        """What the types of its arguments do to what a model sends: validators, methods, what makes a default."""
        if self.version == 1:
            return {}
        try:
            hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
        except Exception:  # noqa: BLE001 - annotations are code, and one that cannot be read names no type
            return {}
        found = {name: self._of_type(kind, f"{function.__name__}({name})") for name, kind in hints.items()}
        pieces = {f"type of {name}": digest for name, digest in found.items() if digest and name != "return"}
        self.grown |= bool(pieces)
        self.values |= {name: (digest.hex(), None) for name, digest in pieces.items()}
        return pieces

    def _of_type(self, kind: Any, path: str) -> bytes | None:
        """What a type does besides what its schema says; None where it is all said there."""
        if isinstance(kind, type) and typing.get_origin(kind) is None:
            pieces = [self._behaviour(kind, path)] if id(kind) not in self._open else []
            self._open.append(id(kind))
            fields = getattr(kind, "__pydantic_fields__", {}) if _is_local_class(kind) else {}
            pieces += [self._of_type(info.annotation, f"{path}.{name}") for name, info in fields.items()]
            pieces += [self._of_metadata(info.metadata, f"{path}.{name}") for name, info in fields.items()]
            self._open.pop()
        else:
            pieces = [self._of_type(inner, path) for inner in typing.get_args(kind) if inner is not kind]
            pieces += [self._of_metadata(getattr(kind, "__metadata__", ()), path)]
        kept = [piece for piece in pieces if piece]
        return _sha("type", *kept) if kept else None

    def _of_metadata(self, metadata: Iterable[Any], path: str) -> bytes | None:
        """The functions among what a type is annotated with."""
        held = [item for each in metadata for item in (each, *_attributes(each).values())]
        called = [
            self.digest(item, path) for item in held if _is_local_code(inspect.unwrap(item) if callable(item) else item)
        ]
        return _sha("metadata", *called) if called else None

    def _with_behaviour(self, digest: bytes, value: Any, path: str) -> bytes:
        """The content of a value, and what its class does where that is a local one with code of its own."""
        kind = type(value)
        if kind.__module__ == "builtins" or self.version == 1 or not _is_local_class(kind):
            return digest
        held = {} if _is_frame(value) else getattr(value, "__dict__", {})
        does = self._behaviour(kind, path)
        kept = [piece for name in sorted(held) for piece in (name.encode(), self.digest(held[name], f"{path}.{name}"))]
        if isinstance(value, enum.Enum) or not kept:
            return digest if does is None else _sha("of", digest, does)
        return _sha("of", digest, does or b"", *kept)

    def _behaviour(self, cls: type, path: str) -> bytes | None:
        """What the local classes of a class say besides fields; None for a plain record."""
        if id(cls) in self._open:
            return None
        self._open.append(id(cls))
        pieces: list[bytes] = []
        for each in filter(_is_local_class, cls.__mro__):
            for name, member in sorted(vars(each).items()):
                if _is_content(each, name, member) and name not in _fields_of(each):
                    pieces += [name.encode(), self.digest(member, f"{path}.{name}")]
            if _is_local_class(type(each)):
                pieces.append(self.digest(type(each), path))
        self._open.pop()
        self.grown |= bool(pieces)
        return _sha("behaviour", *pieces) if pieces else None

    def _builtin(self, value: types.BuiltinFunctionType, path: str) -> bytes:
        owner = value.__self__
        if owner is None or isinstance(owner, types.ModuleType | type):
            return self._name_and_version(value)
        return _sha("builtin method", value.__name__.encode(), self.digest(owner, path))

    def _module(self, module: types.ModuleType, path: str, used: frozenset[str] | None = None) -> bytes:
        """Of a module beside the notebook what is used of it: the objects themselves, for its file may be newer."""
        if not _is_local_code(module):
            self._see(module.__name__, *(used or ()))
            return _sha("module", module.__name__.encode(), _version(module.__name__))
        if id(module) in self._open:
            return _sha("module", module.__name__.encode())
        pieces = []
        self._open.append(id(module))
        for name, value in sorted(vars(module).items()):
            if name in used if used is not None else _is_local_code(value):
                label = f"{path}.{name}"
                inner = isinstance(value, types.ModuleType)
                pieces += [name.encode(), self._module(value, label, used) if inner else self.digest(value, label)]
        self._open.pop()
        return _sha("module", module.__name__.encode(), *pieces)

    def _class(self, cls: type, path: str) -> bytes:
        if not _is_local_class(cls):
            return self._name_and_version(cls)
        members = {name: member for name, member in vars(cls).items() if _is_content(cls, name, member)}
        members |= {f"field {name}": settings for name, settings in _field_defaults(cls)}
        pieces = [self.digest(base, path) for base in cls.__bases__]
        if self.version > 1 and _is_local_class(type(cls)):
            self.grown = True
            pieces.append(_sha("metaclass", self.digest(type(cls), path)))
        for name in sorted(members):
            pieces += [name.encode(), self.digest(members[name], f"{path}.{name}")]
        return _sha("class", cls.__name__.encode(), _annotations(cls).encode(), *pieces)

    def _name_and_version(self, value: Any) -> bytes:
        """By module, name and version: code that is installed."""
        if isinstance(value, types.FunctionType | types.BuiltinFunctionType):
            self._see(value.__module__ or "", value.__name__)
        module = _stable_module(getattr(value, "__module__", None) or "")
        name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
        return _sha("named", f"{module}.{name}".encode(), _version(module))

    # -- instances

    def _owner(self, method: types.MethodType, path: str) -> bytes:
        """The object a tool is bound to."""
        code = getattr(method.__func__, "__code__", None)
        if code is None or not code.co_argcount or is_library(code.co_filename):
            return self.digest(method.__self__, path)
        return self._constant_part(method.__self__, source_of(code), code.co_varnames[0], path)

    def _constant_part(self, value: Any, source: Source, name: str, path: str) -> bytes:
        """An object without the attributes that the tool itself changes, where it is one of the notebook's own."""
        if not (_is_local_class(type(value)) or isinstance(value, types.SimpleNamespace)):
            return self.digest(value, path)
        changed = {each.removeprefix(f"{name}.") for each in source.changed if each.startswith(f"{name}.")}
        for attribute in sorted(changed & set(_attributes(value))):
            self._leave_out(value, f"{path or name}.{attribute}", "changed by the tool itself")
        return self._local_instance(value, path, without=changed)

    def _instance(self, value: Any, path: str) -> bytes:
        kind = type(value)
        content = getattr(kind, "__agentkit_digest__", None)
        if content is not None:
            return _sha("declared", self._name_and_version(kind), self.digest(content(value), path))
        if _is_local_class(kind) or kind is types.SimpleNamespace:
            return self._local_instance(value, path)
        agent = _agent(value)
        if agent is not None:
            return _sha("agent", self.digest(agent, path))
        if kind.__module__.split(".")[0] in _STATELESS_MODULES or isinstance(value, logging.Logger):
            return _sha("stateless", self._name_and_version(kind))
        if _is_typing(value):
            return _sha("type", _ADDRESS.sub("", repr(value)).encode())
        if dataclasses.is_dataclass(value) and kind.__module__.split(".")[0] not in _OURS:
            return self._local_instance(value, path)
        return self._foreign(value, path)

    def _local_instance(self, value: Any, path: str, without: Iterable[str] = ()) -> bytes:
        attributes = {name: item for name, item in _attributes(value).items() if name not in without}
        pieces = [self.digest(type(value), path)]
        for name in sorted(attributes):
            pieces += [name.encode(), self.digest(attributes[name], f"{path}.{name}" if path else name)]
        plain = hashing.plain(value)
        if plain is not None:
            self.grown = True
            pieces += [b"is", plain]
        return _sha("instance", *pieces)

    def _foreign(self, value: Any, path: str) -> bytes:
        """An object of a library: a fitted model, a frame of another kind; or a connection, which has no content."""
        file = _file_behind(value)
        if file is not None and self.version > 1:
            # Whether it was read and how it stood then is kept with the step.
            self.files[file] = None
            return _sha("unhashed", f"{type(value).__module__}.{type(value).__qualname__}".encode())
        if isinstance(value, random.Random) or type(value).__name__ in ("Generator", "RandomState"):
            return self._leave_out(value, path, "a random generator: it changes with every use")
        try:
            saved = hashing.digest_pickle(value, self.seconds, lambda code: self._code_within(code, path))
            return _sha("saved", self._name_and_version(type(value)), saved)
        except hashing.TooLarge:
            return self._leave_out(value, path, f"a {type(value).__qualname__} too large to hash")
        except Exception:  # noqa: BLE001 - saving runs the object's own code, and whatever it raises means the same
            return self._leave_out(value, path)

    def _code_within(self, value: Any, path: str) -> bytes | None:
        """The digest of code of the notebook in an object of a library, which saves it as a mere name."""
        if self.version == 1 or not _is_local_code(value) or isinstance(value, types.ModuleType):
            return None
        self.grown = True
        return self.digest(value, path)


def _plain(value: list[Any] | tuple[Any, ...]) -> bytes | None:
    """The content of a list of numbers and texts only."""
    if len(value) < 2 or not _PLAIN.issuperset(map(type, value)):
        return None
    try:
        return repr(list(value)).encode("utf-8", "backslashreplace")
    except ValueError:
        # Beyond 4,300 digits `repr` of an int raises.
        return None


def lookup(function: types.FunctionType, name: str) -> tuple[bool, Any]:
    """The value `name` stands for in `function`: a closure cell, else a global."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    if name in cells:
        try:
            return True, cells[name].cell_contents
        except ValueError:
            # A cell that is not filled yet: the name of a function being defined.
            return False, None
    return name in function.__globals__, function.__globals__.get(name)


@functools.cache
def _version(module: str) -> bytes:
    """The version of the package a module belongs to; Python's own modules and ours stand for any."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in _OURS:
        return b""
    if top in sys.modules:
        return str(getattr(sys.modules[top], "__version__", "")).encode()
    try:
        return importlib.metadata.version(top).encode()
    except importlib.metadata.PackageNotFoundError:
        return b""


_FIRST_NAMES = {
    "agentkit.agent.agent": "agentkit.engine.agent",
    "agentkit.agent.ask": "agentkit.engine.run",
    "agentkit.agent.build": "agentkit.engine.build",
    "agentkit.agent.spec": "agentkit.define.spec",
    "agentkit.approval.interrupt": "agentkit.engine.asking",
    "agentkit.debugger.opening": "agentkit.engine.opening",
    "agentkit.journal.execution": "agentkit.durable.frames",
    "agentkit.notebook.template": "agentkit.notebook.prompt",
    "agentkit.pipeline.entry": "agentkit.pipeline.runtime",
    "agentkit.runtime.session": "agentkit.engine.session",
    "agentkit.sandbox.code_tool": "agentkit.engine.coding",
    "agentkit.sandbox.program": "agentkit.engine.sandboxing",
    "agentkit.tools.declaration": "agentkit.define.tools",
}
"""Our own modules with names that tools may use, as the first digests call them: a name in a record does not move."""


def _stable_module(module: str) -> str:
    """Python's own modules by their public top: what stands in which private part changes between versions."""
    top = module.partition(".")[0]
    return top.lstrip("_") if top in sys.stdlib_module_names else _FIRST_NAMES.get(module, module)


def _is_local_code(value: Any) -> bool:
    match value:
        case types.FunctionType():
            return not is_library(value.__code__.co_filename)
        case type():
            return _is_local_class(value)
        case types.ModuleType():
            return not is_library(getattr(value, "__file__", None) or "<frozen>")
        case _:
            return False


def _is_local_module(name: str) -> bool:
    if name == "__main__":
        return True
    filename = getattr(sys.modules.get(name), "__file__", None)
    return filename is not None and filename.endswith(".py") and not is_library(filename)


def _is_local_class(cls: type) -> bool:
    return _is_local_module(cls.__module__)


def _is_content(cls: type, name: str, member: Any) -> bool:
    """Whether a member of a class says what the class does, and was not generated from what it says elsewhere."""
    function = getattr(member, "__func__", member)
    if isinstance(function, types.FunctionType):
        # A generated method may be wrapped by one of the library (the `__repr__` of a dataclass is).
        written = inspect.unwrap(function)
        return not written.__code__.co_filename.startswith(_GENERATED) and not is_library(written.__code__.co_filename)
    if isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType):
        return False
    if issubclass(cls, enum.Enum) and not isinstance(member, property):
        # What else an Enum holds, and under which names, depends on the Python version.
        return False
    return not name.startswith(("__", "_abc_"))


def _fields_of(cls: type) -> tuple[str, ...]:
    """What a named tuple or a dataclass keeps of its fields, which its values have."""
    named = vars(cls).get("_fields", ()) if issubclass(cls, tuple) else ()
    return (*named, *(("_fields", "_field_defaults") if named else ()), *getattr(cls, "__dataclass_fields__", ()))


def _field_defaults(cls: type) -> Iterator[tuple[str, object]]:
    """The defaults of dataclass and pydantic fields, and the members of an Enum in their order."""
    if dataclasses.is_dataclass(cls):
        for each in dataclasses.fields(cls):
            yield each.name, [v for v in (each.default, each.default_factory) if v is not dataclasses.MISSING]
    for name, info in vars(cls).get("__pydantic_fields__", {}).items():
        default = [] if info.is_required() else [info.default]
        yield name, [*default, info.default_factory, repr(info.metadata), info.alias, info.description]
    if issubclass(cls, enum.Enum):
        yield "members", [(name, member.value) for name, member in cls.__members__.items()]


def _annotations(cls: type) -> str:
    named = inspect.get_annotations(cls)
    return ";".join(f"{name}:{kind if isinstance(kind, str) else _type_name(kind)}" for name, kind in named.items())


def _type_name(kind: Any) -> str:
    return kind.__qualname__ if isinstance(kind, type) else _ADDRESS.sub("", repr(kind))


def _attributes(value: Any) -> dict[str, Any]:
    declared = [vars(cls).get("__slots__", ()) for cls in type(value).__mro__]
    names = {name for slots in declared for name in ([slots] if isinstance(slots, str) else slots)}
    slotted = {name: getattr(value, name) for name in names - {"__dict__", "__weakref__"} if hasattr(value, name)}
    held = getattr(value, "__dict__", {})
    # What a cached property has cached is not part of the question.
    cached = {name for name in held if isinstance(inspect.getattr_static(type(value), name, None), _CACHED)}
    return slotted | {name: item for name, item in held.items() if name not in cached}


def _put_there_by_a_front_end(name: str, value: Any) -> bool:
    """Whether a notebook's name of Python's own stands for what IPython put there (its `open`, its `exit`)."""
    if name not in _FRONT_END and not hasattr(builtins, name):
        return False
    if name == "display" and value is print:
        # So an exported program calls what the notebook shows with.
        return True
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    hidden = getattr(shell, "user_ns_hidden", {})
    owner = getattr(value, "__globals__", {}).get("__name__", "") or type(value).__module__
    if isinstance(value, types.MethodType):
        owner = type(value.__self__).__module__
    return hidden.get(name) is value if name in hidden else name != "display" and owner.partition(".")[0] in _FRONT_ENDS


def _file_behind(value: Any) -> str | None:
    """The database file that a connection reads, which is one for each of its sessions."""
    kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
    if kind == "sqlite3.Connection":
        try:
            found = [file for _, name, file in value.execute("PRAGMA database_list") if name == "main"]
        except Exception:  # noqa: BLE001 - it is closed, or of another thread: nobody can say what it reads
            return None
        return found[0] or None if found else None
    if kind == "sqlalchemy.Engine" and value.dialect.name in ("sqlite", "duckdb"):
        name = value.url.database
        return name if name and name != ":memory:" else None
    return None


def _is_frame(value: Any) -> bool:
    return hasattr(value, "dtype") or hasattr(value, "dtypes")


class _Every(frozenset[str]):
    """All names but those that a module has for itself."""

    def __contains__(self, name: object) -> bool:
        return not str(name).startswith("__")


def _is_typing(value: Any) -> bool:
    return type(value).__module__ == "typing" or isinstance(value, types.GenericAlias | types.UnionType)


def _agent(value: Any) -> list[Any] | None:
    """What an agent answers with, when a tool asks it: its model, its instructions and its tools."""
    while not any(
        cls.__module__.startswith("pydantic_ai.agent") and cls.__name__ == "Agent" for cls in type(value).__mro__
    ):
        value = getattr(value, "wrapped", None)
        if value is None or not type(value).__module__.startswith(_OURS):
            return None
    held = vars(value)
    if not {"_instructions", "_function_toolset", "_user_toolsets"} <= held.keys():
        return None
    model = held.get("_model")
    texts = [getattr(each, "instruction", each) for each in (*held["_instructions"], *held.get("_system_prompts", ()))]
    toolsets = (held["_function_toolset"], *held["_user_toolsets"])
    tools = {name: each.function for toolset in toolsets for name, each in getattr(toolset, "tools", {}).items()}
    settings = held.get("model_settings")
    named = model if isinstance(model, str) else getattr(model, "model_id", None)
    return [value.name, named, texts, tools, held.get("_output_type"), settings if isinstance(settings, dict) else None]
