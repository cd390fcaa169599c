"""Sample tools whose digests are committed: equal on every supported Python. Run as a script, it prints them as JSON.

Imports the standard library and `agentkit.tools.digest` only, so that a bare interpreter can run it.
"""

from __future__ import annotations

import functools
import json
import linecache
import sys
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

SAMPLES: dict[str, tuple[str, str]] = {
    "plain": ("def tool(a: int, b: int = 2) -> int:\n    return a * b + 1\n", ""),
    "docstring": ('def tool(q: str) -> str:\n    """Say it.\n\n    Twice.\n    """\n    return q + q\n', ""),
    "f-string": (
        "def tool(x: float, unit: str) -> str:\n"
        "    return f'{x:>{len(unit)}.2f}' f' {unit!r} {x=}' 'and' f'{x:}' f\"{'a' + unit}\"\n",
        "",
    ),
    "async": ("async def tool(n: int):\n    async for i in n:\n        yield [j async for j in i if await j]\n", ""),
    "match": (
        "def tool(x):\n    match x:\n        case {'a': [1, *rest], **other} if rest:\n            return other\n"
        "        case Point(x=0) | None:\n            return 1\n        case _:\n            return ...\n",
        "class Point: pass",
    ),
    "handlers": (
        "def tool(x):\n    try:\n        with open(x) as f, f as g:\n"
        "            return 1_000, 0x10, 1e3, 2j, b'\\x00', g\n"
        "    except* (ValueError, OSError) as e:\n        raise RuntimeError from e\n    finally:\n        del x\n",
        "",
    ),
    "nested": (
        "def tool(rows: list[dict], key='k'):\n"
        "    def pick(row, *, default=None):\n        return row.get(key, default)\n"
        "    class Local:\n        size: int = 3\n"
        "    return sorted({pick(r) for r in rows}, key=lambda v: (v is None, v))[: Local.size]\n",
        "",
    ),
    "globals": (
        "def tool(x: int) -> float:\n    return x * RATE + len(TABLE['rows']) + helper(x)\n",
        "RATE = 1.19\nTABLE = {'rows': [1, 2.5, None, True, 'é', b'\\xff'], ('a', 1): {3, 1, 2}}\n"
        "def helper(y):\n    return y - OFFSET\nOFFSET = 10**30\n",
    ),
    "recursion": (
        "def tool(n):\n    return n if n < 2 else odd(n - 1) + tool(n - 2)\n",
        "def odd(n):\n    return tool(n) + 1\n",
    ),
    "classes": (
        "def tool(x):\n    return Model(x).value()\n",
        "class Root:\n    scale = 3\n    def base(self):\n        return self.scale\n"
        "class Model(Root):\n    '''A model.'''\n    def __init__(self, x):\n        self.x = x\n"
        "    @property\n    def twice(self):\n        return self.x * 2\n"
        "    @staticmethod\n    def one():\n        return 1\n"
        "    @classmethod\n    def make(cls):\n        return cls(0)\n"
        "    def value(self):\n        return self.twice + self.base() + self.one()\n",
    ),
    "dataclass": (
        "def tool(x):\n    return CONFIG.low + x + Level.HIGH.value\n",
        "from dataclasses import dataclass, field\nfrom enum import Enum\n"
        "@dataclass(frozen=True)\nclass Config:\n    low: int\n    tags: tuple = ()\n"
        "class Level(Enum):\n    HIGH = 9\n    LOW = 1\nCONFIG = Config(3, ('a', 'b'))\n",
    ),
    "library": (
        "def tool(x):\n    import math\n    return math.floor(x) + json.dumps(x) + Path('a').name + sys.maxsize\n",
        "import json, sys\nfrom pathlib import Path\n",
    ),
}

GOLDEN = Path(__file__).with_name("golden_digests.json")


def define(source: str, before: str = "", cell: str = "<cell>") -> dict[str, Any]:
    """Run `before` and then `source` as two notebook cells in a namespace of their own."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for name, text in ((f"{cell} before", before), (cell, source)):
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        exec(compile(text, name, "exec", dont_inherit=True), namespace)
    return namespace


def sample(name: str) -> FunctionType:
    source, before = SAMPLES[name]
    tool = define(source, before, f"<cell {name}>")["tool"]
    assert isinstance(tool, FunctionType)
    return tool


def digests() -> dict[str, str]:
    from agentkit.tools.digest import tool_digest

    found = {name: tool_digest(sample(name)) for name in SAMPLES}
    assert not any(digest.unhashed for digest in found.values()), found
    bound = functools.partial(sample("plain"), b=SimpleNamespace(a=1).a)
    return {name: digest.digest.hex() for name, digest in found.items()} | {"partial": tool_digest(bound).digest.hex()}


if __name__ == "__main__":
    json.dump(digests(), sys.stdout, indent=1)
