"""A notebook without a kernel: cells whose definitions are `__main__`'s own, with their source at hand."""

from __future__ import annotations

import linecache
import sys
import types
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def notebook(*cells: str) -> Iterator[Any]:
    """The names that the cells define, while they are the main module's."""
    module, before = types.ModuleType("__main__"), sys.modules["__main__"]
    sys.modules["__main__"] = module
    try:
        for cell in cells:
            run_cell(module, cell)
        yield module
    finally:
        sys.modules["__main__"] = before


def run_cell(module: Any, cell: str) -> None:
    """One more cell."""
    name = f"<cell {uuid.uuid4().hex}>"
    linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)
    exec(compile(cell, name, "exec"), vars(module))
