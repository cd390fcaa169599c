"""What an import costs and brings: a promise to everybody who types `%load_ext agentkit`."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent

import agentkit
import agentkit.pipeline
from agentkit import errors
from agentkit.agent.agent import AdoptedAgent

HEAVY = {"pydantic_ai", "pydantic", "pandas", "numpy", "openai", "diskcache", "opentelemetry", "ipywidgets", "httpx"}


def child(code: str) -> dict[str, Any]:
    """Run `code` in a fresh interpreter and read back what it printed as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


IMPORT = """
import json, sys, time
before = time.perf_counter()
import agentkit
seconds = time.perf_counter() - before
print(json.dumps({"seconds": seconds, "modules": sorted({m.partition(".")[0] for m in sys.modules})}))
"""

LOAD = """
import json, sys, time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
before = time.perf_counter()
shell.run_line_magic("load_ext", "agentkit")
seconds = time.perf_counter() - before
print(json.dumps({
    "seconds": seconds,
    "loaded": "agent" in shell.magics_manager.magics["cell"],
    "modules": sorted({m.partition(".")[0] for m in sys.modules}),
}))
"""


LIBRARY = """
import json, time
before = time.perf_counter()
import pydantic_ai
print(json.dumps({"seconds": time.perf_counter() - before}))
"""


def packages(report: dict[str, Any]) -> set[str]:
    return set(report["modules"])


def beside_the_library(code: str) -> float:
    """How long it takes beside `import pydantic_ai` (0.7 s on the machine of the README), each the fastest of three."""
    taken = [(float(child(code)["seconds"]), float(child(LIBRARY)["seconds"])) for _ in range(3)]
    ours, theirs = zip(*taken, strict=True)
    return float(min(ours) / min(theirs))


def test_import_agentkit_is_instant() -> None:
    assert beside_the_library(IMPORT) < 0.05


def test_import_agentkit_brings_nothing_heavy() -> None:
    assert packages(child(IMPORT)) & HEAVY == set()


def test_load_ext_waits_for_nothing_heavy() -> None:
    assert beside_the_library(LOAD) < 0.15


def test_load_ext_registers_the_magic_and_brings_nothing_heavy() -> None:
    loaded = child(LOAD)
    assert loaded["loaded"] is True
    assert packages(loaded) & HEAVY == set()


@pytest.mark.parametrize("name", agentkit.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(agentkit, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        agentkit.nope  # noqa: B018


def test_the_version_is_that_of_the_distribution() -> None:
    assert agentkit.__version__.count(".") == 2


def test_durable_is_a_function_of_one_agent() -> None:
    assert list(inspect.signature(agentkit.durable).parameters) == ["agent"]
    adopted = agentkit.durable(Agent(None, name="own"))
    assert isinstance(adopted, AdoptedAgent) and adopted.name == "own"


def test_every_error_is_a_public_name() -> None:
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert kinds <= set(agentkit.__all__)


# Those that programs of before `agentkit.pipeline` call; what came later has its place there only.
@pytest.mark.parametrize("name", ["closure", "elsewhere", "start", "task", "walled"])
def test_programs_of_older_exports_find_their_names(name: str) -> None:
    assert getattr(agentkit, name) is getattr(agentkit.pipeline, name)
    assert name not in agentkit.__all__ and name not in dir(agentkit)


def test_what_an_exported_program_calls_is_imported_at_its_first_use() -> None:
    code = IMPORT.replace("import agentkit", "import agentkit.pipeline")
    assert packages(child(code)) & HEAVY == set()


JOURNAL = """
import json, pathlib, sys
from agentkit.cli.main import main
from agentkit.journal.store import Store
from agentkit.events import Run
with Store.open(pathlib.Path(".agentkit/journal.db")) as store:
    store.open_run(Run(id="abc", agent="guide", status="done", started=1.0, ended=2.0)).result()
for verb in (["ls"], ["show", "abc"], ["verify"], ["leave"], ["erase", "--run", "abc", "--yes"]):
    assert main(["journal", *verb]) == 0, verb
print(json.dumps({"modules": sorted({m.partition(".")[0] for m in sys.modules})}))
"""


def test_what_is_done_to_a_journal_waits_for_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Erasing one small run took 10 s on a busy machine: all of it was the import of pydantic_ai."""
    monkeypatch.chdir(tmp_path)
    assert packages(child(JOURNAL)).isdisjoint(HEAVY)
