"""The moment the engine is imported, by whatever cell or library: then this kernel's session must exist.

Loading the extension may not import the engine (it takes a second), and no agent may ever run unjournaled because of
that: so the import itself opens the session.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

ENGINE = "agentkit.engine.session"


class _Watch(MetaPathFinder):
    def __init__(self, then: Callable[[], object]) -> None:
        self._then = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != ENGINE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Announcing(spec.loader, self._then)
        return spec


class _Announcing(Loader):
    def __init__(self, loader: Loader, then: Callable[[], object]) -> None:
        self._loader = loader
        self._then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._then()


def when_engine_arrives(then: Callable[[], object]) -> None:
    """Call `then` once, as soon as the engine is imported; at once if it is."""
    forget()
    if ENGINE in sys.modules:
        then()
    else:
        sys.meta_path.insert(0, _Watch(then))


def forget() -> None:
    """Wait no longer; found by name, because a reloaded extension may have a new class."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != __name__]
