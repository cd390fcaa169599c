"""The digest of a tool changes with what it computes, and with nothing else."""

from __future__ import annotations

import json
import linecache
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentkit
from agentkit.tools.digest import ToolDigest, tool_digest, value_digest
from tests.tools.digested import GOLDEN, define, digests

ROOT = Path(__file__).parents[2]
INTERPRETERS = [
    sys.executable,
    *map(str, sorted(Path.home().glob(".pyenv/versions/3.1[2-9]*/bin/python"))),
]


DECORATED = """
import functools
def tool_(a): return a
def deco(f):
  @functools.wraps(f)
  def w(*a): return f(*a)
  return w
"""


def digest(source: str, before: str = "", **values: Any) -> ToolDigest:
    namespace = define(source, before)
    namespace.update(values)
    return tool_digest(namespace["tool"])


def hexed(source: str, before: str = "", **values: Any) -> str:
    return digest(source, before, **values).digest.hex()


@pytest.mark.parametrize("python", INTERPRETERS)
def test_digests_are_the_committed_ones_on_every_python(python: str) -> None:
    done = subprocess.run(
        [python, str(ROOT / "tests/tools/digested.py")],
        env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(GOLDEN.read_text())


def test_digests_are_the_committed_ones_in_a_process_that_has_done_other_things() -> None:
    assert digests() == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "def tool(a): return f(a,  1) # why",
            "\n\ndef tool( a ):\n\n    # because\n    return f(\n        a, 1,\n    )\n",
        ),
        ("def tool(a): return 'it' 's'", 'def tool(a): return ("its")'),
        (
            "def tool():\n  '''One.\n\n  Two.'''\n  return 1",
            "def tool():\n    '''One.   \n\n    Two.\n    '''\n    return 1",
        ),
        ("def tool(): return f'a{1}' 'b' f''", "def tool(): return f'a{1}b'"),
        ("def tool(): return 0x10, 1_0", "def tool(): return 16, 10"),
        (
            "import functools\n@functools.cache\ndef tool(x): return x",
            "import functools\n@functools.cache\ndef tool(x):\n  return x",
        ),
    ],
)
def test_formatting_changes_nothing(one: str, other: str) -> None:
    assert hexed(one) == hexed(other)


@pytest.mark.parametrize(
    ("source", "before", "edited_source", "edited_before"),
    [
        ("def tool(a): return a + 1", "", "def tool(a): return a - 1", ""),
        ("def tool(a): return a + 1", "", "def tool(a): return a + 1.0", ""),
        ("def tool(a): return a + 1", "", "def tool(a): return a + True", ""),
        ("def tool(a, k=1): return a", "", "def tool(a, k=2): return a", ""),
        ("def tool(a, *, k=N): return a", "N = 1", "def tool(a, *, k=N): return a", "N = 2"),
        ("def tool(a): return a * N", "N = 1", "def tool(a): return a * N", "N = 2"),
        ("def tool(a): return f(a)", "def f(x): return x", "def tool(a): return f(a)", "def f(x): return -x"),
        (
            "def tool(a): return f(a)",
            "def g(x): return x\ndef f(x): return g(x)",
            "def tool(a): return f(a)",
            "def g(x): return x + 1\ndef f(x): return g(x)",
        ),
        (
            "def tool(a): return f(a)",
            "def f(x): return x * K\nK = 1",
            "def tool(a): return f(a)",
            "def f(x): return x * K\nK = 2",
        ),
        (
            "def tool(a): return C().m()",
            "class C:\n  def m(self): return 1",
            "def tool(a): return C().m()",
            "class C:\n  def m(self): return 2",
        ),
        (
            "def tool(a): return D().m()",
            "class C:\n  k = 1\nclass D(C): pass",
            "def tool(a): return D().m()",
            "class C:\n  k = 2\nclass D(C): pass",
        ),
        ("def tool(a): return C", "class C:\n  x: int", "def tool(a): return C", "class C:\n  x: str"),
        (
            "def tool(a): return C()",
            "from dataclasses import dataclass, field\n@dataclass\nclass C:\n  x: list = field(default_factory=list)",
            "def tool(a): return C()",
            "from dataclasses import dataclass, field\n@dataclass\nclass C:\n  x: list = field(default_factory=set)",
        ),
        (
            "def tool(a): return C()",
            "from pydantic import BaseModel, Field\nclass C(BaseModel):\n  x: int = Field(1, ge=1)",
            "def tool(a): return C()",
            "from pydantic import BaseModel, Field\nclass C(BaseModel):\n  x: int = Field(1, ge=2)",
        ),
        (
            "def tool(a): return c.k",
            "class C: pass\nc = C()\nc.k = 1",
            "def tool(a): return c.k",
            "class C: pass\nc = C()\nc.k = 2",
        ),
        (
            "def outer(k):\n  def tool(a): return a * k\n  return tool\ntool = outer(1)",
            "",
            "def outer(k):\n  def tool(a): return a * k\n  return tool\ntool = outer(2)",
            "",
        ),
        (
            "import functools\ntool = functools.partial(f, k=1)",
            "def f(a, k): return a",
            "import functools\ntool = functools.partial(f, k=2)",
            "def f(a, k): return a",
        ),
        (
            "tool = deco(tool_)",
            DECORATED,
            "tool = deco(tool_)",
            DECORATED.replace("return a", "return a + 1"),
        ),
        (
            "tool = deco(tool_)",
            DECORATED,
            "tool = deco(tool_)",
            DECORATED.replace("return f(", "return -f("),
        ),
        (
            "@functools.cache\ndef tool(x): return x",
            "import functools",
            "@functools.cache\ndef tool(x): return -x",
            "import functools",
        ),
        (
            "tool = C(1).m",
            "class C:\n  def __init__(s, k): s.k = k\n  def m(s): return s.k",
            "tool = C(2).m",
            "class C:\n  def __init__(s, k): s.k = k\n  def m(s): return s.k",
        ),
        ("tool = lambda a: a + 1", "", "tool = lambda a: a + 2", ""),
        (
            "def tool(a): return p.search(a)",
            "import re\np = re.compile('a')",
            "def tool(a): return p.search(a)",
            "import re\np = re.compile('a', re.I)",
        ),
        (
            "async def tool(a): return await helper.run(a)",
            "from pydantic_ai import Agent\nhelper = Agent('test', name='h', instructions='Be kind.')",
            "async def tool(a): return await helper.run(a)",
            "from pydantic_ai import Agent\nhelper = Agent('test', name='h', instructions='Be terse.')",
        ),
    ],
)
def test_what_is_computed_changes_the_digest(source: str, before: str, edited_source: str, edited_before: str) -> None:
    assert hexed(source, before) == hexed(source, before)
    assert hexed(source, before) != hexed(edited_source, edited_before)


def frame(**changed: Any) -> pandas.DataFrame:
    columns = {
        "a": numpy.arange(5.0),
        "s": list("vwxyz"),
        "c": pandas.Categorical(list("ababa")),
        "t": pandas.date_range("2024-01-01", periods=5, tz="UTC"),
        "n": pandas.array([1, None, 3, 4, 5], dtype="Int64"),
        "v": [numpy.zeros(2_000) for _ in range(5)],
    }
    return pandas.DataFrame({**columns, **changed})


VECTORS = [numpy.zeros(2_000) for _ in range(5)]
VECTORS[3][1_000] = 1e-9


@pytest.mark.parametrize(
    "changed",
    [
        frame(a=[0.0, 1.0, 2.0, 3.0, 4.000001]),
        frame(a=numpy.arange(5)),
        frame(s=list("vwxyq")),
        frame(c=pandas.Categorical(list("ababb"))),
        frame(t=pandas.date_range("2024-01-01", periods=5, tz="Europe/Rome")),
        frame(n=pandas.array([1, 2, 3, 4, 5], dtype="Int64")),
        frame(v=VECTORS),
        frame().set_index("s"),
        frame().rename(columns={"a": "b"}),
        frame().iloc[::-1],
        frame()[["s", "a", "c", "t", "n", "v"]],
        frame().head(4),
    ],
)
def test_reloaded_data_that_differs_anywhere_is_noticed(changed: pandas.DataFrame) -> None:
    source = "def tool(): return df.a.sum()"
    assert hexed(source, df=frame()) == hexed(source, df=frame().copy(deep=True))
    assert hexed(source, df=frame()) != hexed(source, df=changed)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (numpy.arange(6), numpy.arange(6).reshape(2, 3)),
        (numpy.arange(6), numpy.arange(6.0)),
        (numpy.arange(6)[::2], numpy.arange(3)),
        (numpy.array(["a", None], dtype=object), numpy.array(["a", 0], dtype=object)),
        (numpy.float64(1), numpy.float32(1)),
        (pandas.Series([1, 2], name="a"), pandas.Series([1, 2], name="b")),
        (pandas.Series([1, 2], index=[0, 1]), pandas.Series([1, 2], index=[1, 0])),
        ([1, [2]], [[1], 2]),
        ({"a": 1}, {"a": "1"}),
        ({1: 2}, {"1": 2}),
        ((1,), [1]),
        (b"a", "a"),
        (1, True),
        (0.0, -0.0),
    ],
)
def test_values_that_differ_have_digests_that_differ(one: object, other: object) -> None:
    assert value_digest(one) != value_digest(other)


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.frozensets(st.text())
    ),
    max_leaves=15,
)


@given(nested, nested)
def test_equal_content_and_only_that_has_equal_digests(one: Any, other: Any) -> None:
    def copied(value: Any) -> Any:
        match value:
            case list():
                return [copied(item) for item in value]
            case tuple():
                return tuple(copied(item) for item in value)
            case dict():
                return {key: copied(item) for key, item in value.items()}
            case _:
                return value

    assert value_digest(one) == value_digest(copied(one))
    assert (value_digest(one) == value_digest(other)) == (repr(one) == repr(other) or _same_sets(one, other))


def _same_sets(one: Any, other: Any) -> bool:
    """Equal but for the order in which sets happen to be listed."""

    def listed(value: Any) -> str:
        match value:
            case frozenset():
                return f"set{sorted(value)}"
            case list() | tuple():
                return f"{type(value).__name__}[{','.join(map(listed, value))}]"
            case dict():
                return "{" + ",".join(f"{key!r}:{listed(item)}" for key, item in value.items()) + "}"
            case _:
                return repr(value)

    return listed(one) == listed(other)


def test_a_value_that_contains_itself_has_a_digest() -> None:
    def loop() -> list[Any]:
        items: list[Any] = [1]
        items.append({"again": items})
        return items

    assert value_digest(loop()) == value_digest(loop())


def test_functions_that_call_each_other_have_a_digest() -> None:
    before = "def odd(n): return tool(n - 1)"
    assert hexed("def tool(n): return n and odd(n)", before) != hexed(
        "def tool(n): return n and odd(n)", "def odd(n): return tool(n - 2)"
    )


def test_connections_and_clients_are_named_and_no_error() -> None:
    found = digest(
        "def tool(q): return read(q)",
        "import sqlite3\ndb = sqlite3.connect(':memory:')\ndef read(q): return db.execute(q)",
    )
    assert found.unhashed == ("read → db (sqlite3.Connection)",)


def test_what_the_tool_leaves_behind_is_not_part_of_the_question() -> None:
    source = "def tool(x):\n  calls.append(x)\n  cache[x] = 1\n  global n\n  n += 1\n  return x"
    before = digest(source, calls=[], cache={}, n=0)
    after = digest(source, calls=[1, 2], cache={1: 1}, n=2)
    assert before.digest == after.digest
    assert before.assigns == ("n",)
    assert [name.split()[0] for name in before.unhashed] == ["cache", "calls", "n"]


def test_what_another_function_reads_of_it_is() -> None:
    before = "calls = []\ndef log(x): calls.append(x)"
    source = "def tool(x):\n  log(x)\n  return len(calls)"
    assert hexed(source, before) != hexed(source, before.replace("[]", "[1]"))


def test_a_frame_that_the_tool_adds_to_is_hashed_all_the_same() -> None:
    source = "def tool():\n  df['b'] = df.a * 2\n  return df.b.sum()"
    assert hexed(source, df=pandas.DataFrame({"a": [1]})) != hexed(source, df=pandas.DataFrame({"a": [2]}))


def test_a_method_that_counts_its_calls_keeps_its_digest() -> None:
    tool = define(
        "tool = C().m", "class C:\n  def __init__(self): self.n = 0\n  def m(self, x):\n    self.n += 1\n    return x"
    )["tool"]
    before = tool_digest(tool)
    tool(1)
    assert tool_digest(tool).digest == before.digest
    assert before.unhashed == ("self.n (changed by the tool itself)",)


def test_random_generators_and_locks_are_no_data() -> None:
    source = "def tool():\n  with lock: return rng.random()"
    before = "import random, threading\nlock = threading.Lock()\nrng = random.Random(1)"
    found = digest(source, before)
    assert found.digest == digest(source, before.replace("Random(1)", "Random(2)")).digest
    assert len(found.unhashed) == 1
    assert found.unhashed[0].startswith("rng (a random generator")


def test_installed_code_is_known_by_name_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    from agentkit.tools import digest as module

    before = hexed("def tool(x): return np.sum(x)", np=numpy)
    monkeypatch.setattr(numpy, "__version__", "99.0")
    module._version.cache_clear()
    try:
        assert hexed("def tool(x): return np.sum(x)", np=numpy) != before
    finally:
        monkeypatch.undo()
        module._version.cache_clear()


def test_reads_name_what_changed() -> None:
    before, after = (digest("def tool(x): return f(x) * RATE", f"RATE = {rate}\ndef f(x): return x") for rate in (1, 2))
    changed = {name for name in before.reads if before.reads[name] != after.reads[name]}
    assert changed == {"RATE"}


LARGE: list[tuple[Callable[[], Any], Callable[[Any], None]]] = [
    (lambda: numpy.zeros(3_000_000), lambda value: value.__setitem__(1_234_567, 1)),
    (lambda: numpy.zeros((2_000, 2_000))[::2], lambda value: value.__setitem__((7, 7), 1)),
    (lambda: pandas.DataFrame(numpy.zeros((100_000, 12))), lambda value: value.isetitem(7, value[7].replace(0.0, 1.0))),
    (lambda: pandas.DataFrame(numpy.zeros((100_000, 12))), lambda value: value.iloc.__setitem__((77_777, 7), 1.0)),
    (lambda: pandas.DataFrame({"s": ["a"] * 1_100_000}), lambda value: value.iloc.__setitem__((1_000_001, 0), "b")),
    (lambda: pandas.Series(range(1_200_000)), lambda value: value.iloc.__setitem__(1_000_001, -1)),
    (lambda: dict.fromkeys(range(100_000), 1), lambda value: value.__setitem__(77_777, 2)),
    (lambda: {n: {"v": [n]} for n in range(100_000)}, lambda value: value[77_777]["v"].append(2)),
    (lambda: list(range(2_000_000)), lambda value: value.__setitem__(1_777_777, -1)),
    (lambda: [[n, str(n)] for n in range(100_000)], lambda value: value[77_777].append(2)),
]


@pytest.mark.parametrize(("make", "change"), LARGE)
def test_large_data_is_hashed_whole_and_its_change_in_place_noticed(
    make: Callable[[], Any], change: Callable[[Any], None]
) -> None:
    tool = define("def tool(): return len(a)")["tool"]
    tool.__globals__["a"] = make()
    before = tool_digest(tool)
    assert before.unhashed == ()
    tool.__globals__["a"] = make()
    assert tool_digest(tool).digest == before.digest
    change(tool.__globals__["a"])
    assert tool_digest(tool).digest != before.digest


def test_a_long_list_of_objects_is_sampled_and_named() -> None:
    namespace = define("def tool(): return a", "class C: pass")
    namespace["a"] = [namespace["C"]() for _ in range(10_000)]
    found = tool_digest(namespace["tool"], seconds=0.001)
    assert found.unhashed == ("a (large: only its length and a sample are hashed)",)


def test_code_without_source_is_compared_by_its_bytecode_and_says_so() -> None:
    found = []
    for source in ("def tool(x): return x + 1", "def tool(x): return x - 1"):
        namespace: dict[str, Any] = {"__name__": "__main__"}
        exec(source, namespace)
        found.append(tool_digest(namespace["tool"]))
    assert found[0].digest != found[1].digest
    assert "has no source" in found[0].unhashed[0]


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module beside the notebook."""
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "beside_the_notebook.py"
    path.write_text("K = 1\n\n\ndef helper(x):\n    return x * K\n")
    yield path
    sys.modules.pop("beside_the_notebook", None)
    linecache.clearcache()


BESIDE = [
    "import beside_the_notebook as b\ndef tool(x): return b.helper(x)",
    "from beside_the_notebook import helper\ndef tool(x): return helper(x)",
    "import beside_the_notebook\ndef tool(x):\n  from beside_the_notebook import helper\n  return helper(x)",
]


@pytest.mark.parametrize(
    "source",
    [
        "import pandas as pd\ndef tool(x): return pd.read_parquet(x)",
        "from pandas import read_parquet\ndef tool(x): return read_parquet(x)",
        "def tool(x):\n  import pandas\n  return pandas.read_parquet(x)",
    ],
)
def test_pandas_reads_parquet_where_nobody_sees_it(source: str) -> None:
    assert digest(source).unhashed == ("what it reads through pandas.read_parquet",)


@pytest.mark.parametrize(
    ("text", "through"),
    [
        ("import pandas\ndef helper(x): return pandas.read_parquet(x)\n", "read_parquet"),
        ("import polars\ndef helper(x): return polars.read_csv(x)\n", "polars"),
    ],
)
def test_a_module_that_is_imported_in_the_body_is_named_where_it_reads_unseen(
    beside: Path, text: str, through: str
) -> None:
    beside.write_text(text)
    found = digest("def tool(x):\n  from beside_the_notebook import helper\n  return helper(x)")
    assert [each for each in found.unhashed if each.endswith(f"reads through {through}")]


@pytest.mark.parametrize("source", BESIDE)
def test_a_module_beside_the_notebook_is_notebook_code(beside: Path, source: str) -> None:
    before = digest(source)
    assert before.unhashed == ()
    sys.modules.pop("beside_the_notebook")
    beside.write_text("K = 1\n\n\ndef helper(x):\n    return x * K + 1\n")
    linecache.clearcache()
    assert hexed(source) != before.digest.hex()


@pytest.mark.parametrize("source", BESIDE)
def test_an_edited_file_does_not_vouch_for_the_code_that_was_imported_before(beside: Path, source: str) -> None:
    namespace = define(source)
    beside.write_text("K = 1\n\n\ndef helper(x):\n    return x * K + 1\n")
    stale = tool_digest(namespace["tool"])
    assert "was edited since it was imported" in stale.unhashed[0]
    sys.modules.pop("beside_the_notebook")
    assert hexed(source) != stale.digest.hex()


def test_of_a_module_only_what_is_used_counts(beside: Path) -> None:
    source = "import beside_the_notebook as b\ndef tool(x): return b.helper(x)"
    before = hexed(source)
    module = sys.modules["beside_the_notebook"]
    vars(module)["unused"] = object()
    assert hexed(source) == before
    vars(module)["K"] = 2
    assert hexed(source) != before


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("ask", "398b0432524cd3de"),
        ("build", "c9763cb11c328a15"),
        ("idempotency_key", "1f5587045b506cf0"),
        ("sandbox", "f8ecbd80d163577c"),
        ("session", "50cefa1ee44302da"),
        ("tool", "871f2e672da36a6f"),
    ],
)
def test_a_function_of_agentkit_keeps_the_name_that_the_first_digests_gave_it(name: str, known: str) -> None:
    """Wherever its module moves: a tool that uses it would run again otherwise."""
    assert value_digest(getattr(agentkit, name)).hex().startswith(known)
