"""What the installed Monty has: its modules, their names and the builtins, asked of itself once per process."""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pydantic_monty

from agentkit.sandbox.monty import shim_loader

_ASK = 20.0
_NEVER = ("antigravity", "this", "idlelib", "turtle", "tkinter", "lib2to3")
"""Importing these does something."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Modules with the names of CPython's that they lack, and builtins that there are not."""

    lacking: Mapping[str, frozenset[str]]
    builtins_lacking: frozenset[str]

    @property
    def modules(self) -> tuple[str, ...]:
        return tuple(sorted({*self.lacking, *shim_loader.MODULES}))

    def lacks(self, module: str, name: str) -> bool:
        """Whether CPython's `module` has `name` and the sandbox's has not."""
        if module in shim_loader.MODULES:
            return name not in shim_loader.names(module)
        return name in self.lacking.get(module, ())


def modules() -> tuple[str, ...]:
    """The modules of the standard library that a program may import, those that are shims among them."""
    return detect().modules


@functools.cache
def detect() -> Runtime:
    """What the installed Monty has."""
    limits: Any = {"max_feed_duration_secs": _ASK, "max_memory": 256 << 20}
    with pydantic_monty.Monty(max_processes=1) as pool, pool.checkout(limits=limits) as session:
        found = session.feed_run(_ask_for_modules())
        lacking = session.feed_run(_ask_for_names(found))
        without = session.feed_run(_ask_for_builtins())
    return Runtime(lacking={name: frozenset(lacking[name]) for name in found}, builtins_lacking=frozenset(without))


def _ask_for_modules() -> str:
    candidates = sorted(name for name in sys.stdlib_module_names if name.isidentifier() and name not in _NEVER)
    asked = [
        f"try:\n    import {name}\n    found.append({name!r})\nexcept ImportError:\n    pass" for name in candidates
    ]
    return "\n".join(["found = []", *asked, "found"])


def _ask_for_names(modules: list[str]) -> str:
    lines = ["lacking = {}"]
    for module in modules:
        lines += [f"import {module}", f"lacking[{module!r}] = []"]
        for name in _names_of(module):
            # One access each: Monty's hasattr fails for some of what it has.
            lines += [
                "try:",
                f"    {module}.{name}",
                "except (AttributeError, RuntimeError):",
                f"    lacking[{module!r}].append({name!r})",
            ]
    return "\n".join([*lines, "lacking"])


def _names_of(module: str) -> list[str]:
    with contextlib.suppress(ImportError):
        return sorted(name for name in dir(importlib.import_module(module)) if not name.startswith("_"))
    return []


def _ask_for_builtins() -> str:
    names = sorted(name for name in dir(builtins) if name.isidentifier() and name not in ("None", "True", "False"))
    asked = [f"try:\n    {name}\nexcept NameError:\n    without.append({name!r})" for name in names]
    return "\n".join(["without = []", *asked, "without"])
