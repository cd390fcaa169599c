"""What an import inside a function brings: the file of a module, read and not run, and the local files it imports."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import types
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from typing import NamedTuple

from agentkit.tools.inputs import is_library
from agentkit.tools.source import Text, is_current, text_of


class Local(NamedTuple):
    """A module beside the notebook: the digest of all the local files that importing it reads.

    `texts` are what they say, by the name of the module. `blind` says through what they import what has no name.
    """

    digest: bytes
    texts: dict[str, Text]
    blind: tuple[str, ...]


def full_name(name: str, package: str | None) -> str | None:
    """The name of a module as `sys.modules` knows it; None for a relative one outside any package."""
    if not name.startswith("."):
        return name
    try:
        return importlib.util.resolve_name(name, package or "")
    except ImportError:
        return None


def exists(name: str) -> bool:
    return name in sys.modules or _spec(name) is not None


def local(name: str, package: str | None = None, members: Iterable[str] = ()) -> Local | None:
    """The module `name` if it is local code, whether or not it was imported yet; None if it is not.

    `members` are what is taken from it, which may be modules of a package.
    """
    top = full_name(name, package)
    if top is None or (_file(top) is None and _folders(top) is None):
        return None
    texts: dict[str, Text] = {}
    wanted = [top, *(f"{top}.{member}" for member in members if _folders(top))]
    while wanted:
        here = wanted.pop()
        file = _file(here)
        if here in texts or file is None:
            continue
        text = _text(file)
        if text is None:
            continue
        texts[here] = text
        inside = here if _folders(here) is not None else here.rpartition(".")[0]
        for imported, members in text.imports:
            known = full_name(imported, inside)
            if known is not None and known.partition(".")[0] not in sys.stdlib_module_names:
                wanted += [*_outer(known), known, *(f"{known}.{member}" for member in members if _folders(known))]
        wanted += _outer(here)
    if not texts:
        return None
    whole = hashlib.sha256()
    for each in sorted(texts):
        whole.update(f"{each} ".encode() + texts[each].digest)
    return Local(whole.digest(), texts, tuple(sorted({by for text in texts.values() for by in text.blind})))


def is_unmodified(module: types.ModuleType, text: Text) -> bool:
    """Whether an imported module is still what its file says: neither was changed since without the other."""
    held = vars(module)
    if any(repr(held.get(name)) != repr(value) for name, value in text.constants.items()):
        return False
    file = os.path.realpath(getattr(module, "__file__", None) or "")
    return all(_is_of(held.get(name), file) for name in text.defined)


def _is_of(value: object, file: str) -> bool:
    if not isinstance(value, types.FunctionType):
        # What a decorator made of a function is not looked into.
        return True
    code = value.__code__
    if os.path.realpath(code.co_filename) != file:
        return is_library(code.co_filename) or hasattr(value, "__wrapped__")
    return is_current(code)


def _outer(name: str) -> Iterator[str]:
    """The packages around it, whose code runs too."""
    while name := name.rpartition(".")[0]:
        yield name


def _text(file: str) -> Text | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return text_of(file, found.st_mtime_ns, found.st_size)


def _file(name: str) -> str | None:
    """The Python file of a local module."""
    loaded = sys.modules.get(name)
    spec = _spec(name) if loaded is None else None
    file = getattr(loaded, "__file__", None) if loaded is not None else None if spec is None else spec.origin
    if not isinstance(file, str) or not file.endswith(".py") or name == "__main__" or is_library(file):
        return None
    return file


def _folders(name: str) -> list[str] | None:
    """The folders of a local package."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        found = getattr(loaded, "__path__", None)
    else:
        spec = _spec(name)
        found = None if spec is None else spec.submodule_search_locations
    folders = [str(folder) for folder in found or ()]
    return folders if folders and not any(map(is_library, (os.path.join(each, "x.py") for each in folders))) else None


def _spec(name: str) -> ModuleSpec | None:
    """Where an import would find it, without importing the packages around it."""
    outer, _, _ = name.rpartition(".")
    try:
        if not outer:
            return importlib.util.find_spec(name)
        loaded = sys.modules.get(outer)
        around = getattr(loaded, "__path__", None)
        if around is None and (spec := _spec(outer)) is not None:
            around = spec.submodule_search_locations
        return None if around is None else PathFinder.find_spec(name, list(around))
    except (ImportError, ValueError, AttributeError):
        return None
