"""What a tool reaches and reads, one line each: a program, what is edited in it or beside it, what `why` must name.

A program defines `tool`. Files stand beside it; `M` and `M2` in names and texts stand for names of the case's own.
`M.sql` is run as a new database `M.db`, and `M.env` holds the variable `M`.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Case:
    """`edited` replaces `old` by `new` in the program and its files."""

    name: str
    program: str
    old: str
    new: str
    files: dict[str, str] = field(default_factory=dict)
    names: str = ""


def _case(name: str, program: str, old: str, new: str, names: str = "", **files: str) -> Case:
    return Case(
        name=name,
        program=program,
        old=old,
        new=new,
        names=names,
        files={name if "." in name else f"{name}.py": text for name, text in files.items()},
    )


_F = "def f(): return 1\n"
_PKG = {
    "M/__init__.py": "",
    "M/sub.py": "from .deep import g\ndef f(): return g()\n",
    "M/deep.py": "def g(): return 1\n",
}

CODE = [
    _case("from import in the body", "def tool() -> int:\n  from M import f\n  return f()", "1\n", "2\n", "M", M=_F),
    _case("import in the body", "def tool() -> int:\n  import M\n  return M.f()", "1\n", "2\n", "M", M=_F),
    _case("import as", "def tool() -> int:\n  import M as h\n  return h.f()", "1\n", "2\n", "M", M=_F),
    _case("a constant", "def tool() -> int:\n  from M import K\n  return K", "K = 1", "K = 2", "M", M="K = 1\n"),
    _case(
        "an import two functions down",
        "def tool() -> int:\n  def inner():\n    def deeper():\n      from M import f\n      return f()\n    return deeper()\n"
        "  return inner()",
        "1\n", "2\n", "M", M=_F,
    ),
    _case("an import in a function it calls", "def g():\n  import M\n  return M.f()\ndef tool() -> int: return g()",
          "1\n", "2\n", "g", M=_F),
    _case("a module that the module imports", "def tool() -> int:\n  from M import f\n  return f()", "return 1", "return 2",
          "M", M="import M2\ndef f(): return M2.g()\n", M2="def g(): return 1\n"),
    _case("a module that a function of the module imports", "def tool() -> int:\n  from M import f\n  return f()",
          "return 1", "return 2", "M", M="def f():\n  from M2 import g\n  return g()\n", M2="def g(): return 1\n"),
    _case("a package", "def tool() -> int:\n  from M.sub import f\n  return f()", "1\n", "2\n", "M.sub", **_PKG),
    _case("a module of a package", "def tool() -> int:\n  from M import sub\n  return sub.f()", "1\n", "2\n", "M", **_PKG),
    _case("import_module", "import importlib\ndef tool() -> int:\n  return importlib.import_module('M').f()", "1\n", "2\n",
          "M", M=_F),
    _case("__import__", "def tool() -> int: return __import__('M').f()", "1\n", "2\n", "M", M=_F),
    _case("sys.modules", "import sys, M\ndef tool() -> int: return sys.modules['M'].f()", "1\n", "2\n", "M", M=_F),
    _case("getattr of a module", "import M\ndef tool() -> int: return getattr(M, 'f')()", "1\n", "2\n", "M", M=_F),
    _case("getattr by a name that is computed", "import M\ndef tool() -> int: return getattr(M, 'KF'[-1].lower())()",
          "return 1", "return 2", "M", M=_F),
    _case("vars of a module", "import M\ndef tool() -> int: return vars(M)['f']()", "1\n", "2\n", "M", M=_F),
    _case("globals()", "RATE = 1\ndef tool() -> int: return globals()['RATE']", "RATE = 1", "RATE = 2", "RATE"),
    _case("globals().get", "RATE = 1\ndef tool() -> int: return globals().get('RATE')", "RATE = 1", "RATE = 2", "RATE"),
    _case("a float with methods", "class X(float):\n  def up(self): return self + 1\nx = X(1)\ndef tool() -> float: return x.up()",
          "+ 1", "+ 2", "x"),
    _case("a float's content", "class X(float): pass\nx = X(1)\ndef tool() -> float: return x + 1", "X(1)", "X(2)", "x"),
    _case("an int's content", "class X(int): pass\nx = X(1)\ndef tool() -> int: return x + 1", "X(1)", "X(2)", "x"),
    _case("a str's content", "class X(str): pass\nx = X('a')\ndef tool() -> str: return x + '!'", "'a'", "'b'", "x"),
    _case("a str with methods", "class X(str):\n  def up(self): return self + '1'\nx = X('a')\ndef tool() -> str: return x.up()",
          "'1'", "'2'", "x"),
    _case("a date's content", "import datetime\nclass X(datetime.date): pass\nx = X(2026, 1, 1)\n"
          "def tool() -> int: return x.day", "1, 1)", "1, 2)", "x"),
    _case("a path with methods", "import pathlib\nclass X(type(pathlib.Path())):\n  def n(self): return 1\nx = X('a')\n"
          "def tool() -> int: return x.n()", "return 1", "return 2", "x"),
    _case("a dict with methods", "class X(dict):\n  def up(self): return self['a'] + 1\nx = X(a=1)\n"
          "def tool() -> int: return x.up()", "+ 1", "+ 2", "x"),
    _case("a dict's attribute", "class X(dict): pass\nx = X(a=1)\nx.k = 1\ndef tool() -> int: return x.k", "k = 1", "k = 2", "x"),
    _case("a list with __missing__ of a kind", "class X(list):\n  def __getitem__(self, i): return 1\nx = X([5])\n"
          "def tool() -> int: return x[0]", "return 1", "return 2", "x"),
    _case("a NamedTuple's methods", "from typing import NamedTuple\nclass X(NamedTuple):\n  a: int\n  def up(self): return self.a + 1\n"
          "x = X(1)\ndef tool() -> int: return x.up()", "+ 1", "+ 2", "x"),
    _case("an enum member's methods", "from enum import Enum\nclass X(Enum):\n  A = 1\n  def up(self): return 1\nx = X.A\n"
          "def tool() -> int: return x.up()", "return 1", "return 2", "x"),
    _case("singledispatch", "import functools\n@functools.singledispatch\ndef f(x): return 0\n@f.register\ndef _(x: int): return 1\n"
          "def tool() -> int: return f(3)", "return 1", "return 2", "f"),
    _case("singledispatchmethod", "import functools\nclass X:\n  @functools.singledispatchmethod\n  def f(self, x): return 0\n"
          "  @f.register\n  def _(self, x: int): return 1\nx = X()\ndef tool() -> int: return x.f(3)", "return 1", "return 2", "x"),
    _case("np.vectorize", "import numpy as np\ndef f(x): return x + 1\nv = np.vectorize(f)\ndef tool() -> int: return int(v([1])[0])",
          "+ 1", "+ 2", "v"),
    _case("a function in an object of a library", "import functools, collections\ndef f(): return 1\n"
          "d = collections.UserDict(g=f)\ndef tool() -> int: return d['g']()", "return 1", "return 2", "d"),
    _case("a metaclass", "class M(type):\n  def n(cls): return 1\nclass X(metaclass=M): pass\ndef tool() -> int: return X.n()",
          "return 1", "return 2", "X"),
    _case("cached_property", "import functools\nclass X:\n  @functools.cached_property\n  def n(self): return 1\nx = X()\n"
          "def tool() -> int: return x.n", "return 1", "return 2", "x"),
    _case("a validator of an argument", "from pydantic import BaseModel, field_validator\nclass X(BaseModel):\n  a: int = 0\n"
          "  @field_validator('a', mode='after')\n  def up(cls, a): return a + 1\n"
          "def tool(x: X = X()) -> int: return X(a=0).a and x.a", "+ 1", "+ 2"),
    _case("a validator behind Annotated", "from typing import Annotated\nfrom pydantic import AfterValidator\ndef up(a): return a + 1\n"
          "def tool(a: Annotated[int, AfterValidator(up)] = 0) -> int: return a", "+ 1", "+ 2", "type of a"),
    _case("a validator in a field", "from typing import Annotated\nfrom pydantic import AfterValidator, BaseModel\ndef up(a): return a + 1\n"
          "class X(BaseModel):\n  a: Annotated[int, AfterValidator(up)] = 0\ndef tool(x: X | None = None) -> int: return 0",
          "+ 1", "+ 2", "type of x"),
    _case("a method of an argument", "from pydantic import BaseModel\nclass X(BaseModel):\n  a: int = 0\n  def up(self): return 1\n"
          "def tool(x: X | None = None) -> int: return 0", "return 1", "return 2", "type of x"),
    _case("a name that a local one shadows", "rows = [1]\ndef tool() -> int:\n  def other():\n    rows = []\n    rows.append(1)\n    return rows\n"
          "  other()\n  return len(rows)", "rows = [1]", "rows = [1, 2]", "rows"),
]  # fmt: skip

_CSV = {"M.csv": "a,b\n1,2\n"}
_FOLDER = {"M/one.csv": "one"}
_SQL = {"M.sql": "create table t (n); insert into t values (1);"}

OUTSIDE = [
    _case("open", "def tool() -> str:\n  with open('M.csv') as f: return f.read()", "1,2", "1,3", ".csv", **_CSV),
    _case("open of another length", "def tool() -> str:\n  with open('M.csv') as f: return f.read()", "1,2", "1,22", ".csv", **_CSV),
    _case("open in a function it calls", "def g():\n  with open('M.csv') as f: return f.read()\ndef tool() -> str: return g()", "1,2", "1,3",
          ".csv", **_CSV),
    _case("Path.read_text", "from pathlib import Path\ndef tool() -> str: return Path('M.csv').read_text()", "1,2", "1,3", ".csv", **_CSV),
    _case("os.open", "import os\ndef tool() -> str:\n  f = os.open('M.csv', os.O_RDONLY)\n  try: return os.read(f, 99).decode()\n"
          "  finally: os.close(f)", "1,2", "1,3", ".csv", **_CSV),
    _case("pandas.read_csv", "import pandas\ndef tool() -> int: return int(pandas.read_csv('M.csv').b.sum())", "1,2", "1,3", ".csv", **_CSV),
    _case("numpy.loadtxt", "import numpy\ndef tool() -> float: return float(numpy.loadtxt('M.csv', delimiter=',', skiprows=1).sum())",
          "1,2", "1,3", ".csv", **_CSV),
    _case("json.load", "import json\ndef tool() -> int:\n  with open('M.json') as f: return json.load(f)['k']", "1", "2", ".json",
          **{"M.json": '{"k": 1}'}),
    _case("an async tool", "async def tool() -> str:\n  with open('M.csv') as f: return f.read()", "1,2", "1,3", ".csv", **_CSV),
    _case("asyncio.to_thread", "import asyncio, pathlib\nasync def tool() -> str:\n"
          "  return await asyncio.to_thread(pathlib.Path('M.csv').read_text)", "1,2", "1,3", ".csv", **_CSV),
    _case("a thread of the tool", "import threading\ndef tool() -> str:\n  found = []\n  def read():\n    with open('M.csv') as f: found.append(f.read())\n"
          "  t = threading.Thread(target=read)\n  t.start()\n  t.join()\n  return found[0]", "1,2", "1,3", ".csv", **_CSV),
    _case("a pool of the tool", "from concurrent.futures import ThreadPoolExecutor\nfrom pathlib import Path\ndef tool() -> str:\n"
          "  with ThreadPoolExecutor(2) as pool: return list(pool.map(Path.read_text, [Path('M.csv')]))[0]", "1,2", "1,3", ".csv", **_CSV),
    _case("sqlite3 in the body", "import sqlite3\ndef tool() -> int:\n  db = sqlite3.connect('M.db')\n  try: return db.execute('select n from t').fetchone()[0]\n"
          "  finally: db.close()", "(1)", "(2)", ".db", **_SQL),
    _case("a sqlite3 connection", "import sqlite3\ndb = sqlite3.connect('M.db', check_same_thread=False)\n"
          "def tool() -> int: return db.execute('select n from t').fetchone()[0]", "(1)", "(2)", ".db", **_SQL),
    _case("os.environ", "import os\ndef tool() -> str: return os.environ['M']", "north", "south", "env:", **{"M.env": "north"}),
    _case("os.getenv", "import os\ndef tool() -> str: return os.getenv('M', '')", "north", "south", "env:", **{"M.env": "north"}),
    *(
        _case(name, f"import glob, os, shutil\nfrom pathlib import Path\ndef tool() -> list[str]:\n  return sorted(map(str, {source}))",
              "a.csv", "b.csv", names, **{"M/a.csv": "1"})
        for name, source, names in (
            ("os.listdir", "os.listdir('M')", "M/"),
            ("os.scandir", "[each.name for each in os.scandir('M')]", "M/"),
            ("os.walk", "[name for _, _, names in os.walk('M') for name in names]", "M/"),
            ("os.fwalk", "[name for _, _, names, _ in os.fwalk('M') for name in names]", "M/"),
            ("Path.iterdir", "Path('M').iterdir()", "M/"),
            ("glob.glob", "glob.glob('M/*.csv')", "M/*.csv"),
            ("glob.iglob", "glob.iglob('*.csv', root_dir='M')", "M/*.csv"),
            ("a glob at any depth", "glob.glob('M/**/*.csv', recursive=True)", "M/**/*.csv"),
            ("Path.glob", "Path('M').glob('*.csv')", "M/*.csv"),
            ("Path.rglob", "Path('M').rglob('*.csv')", "M/**/*.csv"),
        )
    ),
    *(
        _case(name, f"import os\nfrom pathlib import Path\ndef tool() -> str: return '{name}: ' + str({source})", "a.csv", "b.csv", "M/b.csv", **{"M/a.csv": "1"})
        for name, source in (
            ("os.path.exists", "os.path.exists('M/b.csv')"),
            ("os.path.isfile", "os.path.isfile(os.path.abspath('M/b.csv'))"),
            ("Path.exists", "Path('M/b.csv').exists()"),
            ("Path.is_file", "(Path('M') / 'b.csv').is_file()"),
        )
    ),
    *(
        _case(name, f"import os\nfrom pathlib import Path\ndef tool() -> str: return '{name}: ' + str({source})", "1,2", "1,22", ".csv", **_CSV)
        for name, source in (("os.path.getsize", "os.path.getsize('M.csv')"), ("Path.stat", "Path('M.csv').stat().st_size"))
    ),
    _case("a question in a process of its own", "import agentkit\n@agentkit.tool(effects='none', isolate=True)\ndef tool() -> str:\n"
          "  import os\n  return f\"isolated: {os.path.exists('M/b.csv')}\"", "a.csv", "b.csv", "M/b.csv", **{"M/a.csv": "1"}),
    _case("a folder in a process of its own", "import agentkit\n@agentkit.tool(effects='none', isolate=True)\ndef tool() -> list[str]:\n"
          "  import os\n  return os.listdir('M')", "a.csv", "b.csv", "M/", **{"M/a.csv": "1"}),
    _case("a pattern in a process of its own", "import agentkit\n@agentkit.tool(effects='none', isolate=True)\ndef tool() -> list[str]:\n"
          "  import glob\n  return glob.glob('M/*.csv')", "a.csv", "b.csv", "M/*.csv", **{"M/a.csv": "1"}),
    _case("declared files", "import agentkit, subprocess\n@agentkit.tool(effects='none', reads='M*.csv')\ndef tool() -> str:\n"
          "  return subprocess.run(['cat', 'M.csv'], capture_output=True, text=True).stdout", "1,2", "1,3", ".csv", **_CSV),
    _case("a declared variable", "import agentkit, subprocess\n@agentkit.tool(effects='none', reads=['env:M'])\ndef tool() -> str:\n"
          "  return subprocess.run(['printenv', 'M'], capture_output=True, text=True).stdout", "north", "south", "env:", **{"M.env": "north"}),
    _case("a process of its own", "import agentkit\n@agentkit.tool(effects='none', isolate=True)\ndef tool() -> str:\n"
          "  with open('M.csv') as f: return f.read()", "1,2", "1,3", ".csv", **_CSV),
    _case("open to read and write", "def tool() -> str:\n  with open('M.csv', 'r+') as f: return f.read()", "1,2", "1,3", ".csv", **_CSV),
    _case("open to read and append", "def tool() -> str:\n  with open('M.csv', 'a+') as f:\n    f.seek(0)\n    return f.read()",
          "1,2", "1,3", ".csv", **_CSV),
    _case("os.path.expandvars", "import os\ndef tool() -> str: return os.path.expandvars('$M')", "north", "south", "env:", **{"M.env": "north"}),
]  # fmt: skip

INNOCENT = [
    _case("what is in a file that is there", "import os\ndef tool() -> str: return f\"there: {os.path.exists('M.csv')}\"", "1,2", "1,22", **_CSV),
    _case("a file that it makes where there is none", "import os\nfrom pathlib import Path\ndef tool() -> str:\n  if not Path('M/out').exists():\n"
          "    os.makedirs('M/out')\n    Path('M/out/x').write_text('x')\n  return 'one'", "one.csv", "two.csv", **{"M/one.csv": "1"}),
    _case("the environment handed on", "import os, subprocess\ndef tool() -> int: return subprocess.run(['true'], env={**os.environ}).returncode",
          "north", "south", **{"M.env": "north"}),
    _case("what an editor leaves", "import os\ndef tool() -> list: return [n for n in os.listdir('M') if n[0] != '.']", "one", "two",
          **{"M/a.csv": "1", "M/.one.swp": "one"}),
    _case("a folder that it fills", "import os, uuid\ndef tool() -> bool:\n  open(f'M/{uuid.uuid4().hex}', 'w').close()\n  return bool(os.listdir('M'))",
          "one", "two", **{"M/a.csv": "one"}),
    _case("a folder that it makes and removes", "import os, shutil\ndef tool() -> int:\n  os.makedirs('M/s/t', exist_ok=True)\n"
          "  open('M/s/t/x', 'w').close()\n  shutil.rmtree('M/s')\n  return 1", "one", "two", **_FOLDER),
    _case("the version of a library", "import importlib.metadata\ndef tool() -> str: return importlib.metadata.version('pydantic')",
          "one", "two", **{"M_one.txt": "one"}),
    _case("a file named from an open folder", "import os\ndef tool() -> str:\n  d = os.open('M', os.O_RDONLY)\n  f = os.open('f.txt', os.O_RDONLY, dir_fd=d)\n"
          "  try: return os.read(f, 9).decode()\n  finally: os.close(f); os.close(d)", "one", "f", **{"M/f.txt": "1", "one.txt": "one"}),
]  # fmt: skip
