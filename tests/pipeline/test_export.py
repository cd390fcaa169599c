"""`%agent export` in a real kernel, `agentkit export` in a shell: what is written, refused and left behind."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentkit.cli import main, run_notebook
from agentkit.notebook.verbs.export_notebook import LANGUAGE
from agentkit.pipeline import wire
from agentkit.pipeline.export import program
from agentkit.pipeline.proof import load
from agentkit.pipeline.reader import Cell, Notebook
from agentkit.pipeline.settings import Settings
from agentkit.pipeline.task_version import closure
from tests.notebook.kernels import ROOT, Kernel, kernel
from tests.pipeline.notebooks import SAMPLES, Sample, write

pytestmark = pytest.mark.timeout(170)
HEAVY = Sample(
    cells=(
        '@agentkit.tool(effects="none", memory=["128MiB", "512MiB", "2GiB"], timeout="30s")\n'
        'def weigh(megabytes: int) -> int:\n    """The weight."""\n    return len(bytearray(megabytes * 2**20)) >> 20',
        "%%agent build scales --tools weigh --model openai:gpt-5\nYou weigh.",
        "%%agent run scales --as answer\nWhat is the weight of 700 megabytes?",
        "import os\n\nsigned = os.environ['SIGNING_SECRET'] + answer + os.getenv('REGION', '')",
    )
)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A notebook that was executed, and its journal beside it."""
    with kernel(tmp_path) as shell:
        execute(shell, SAMPLES["one_after_the_other"])
    write(SAMPLES["one_after_the_other"], tmp_path / "shop.ipynb")
    return tmp_path / "shop.ipynb"


def execute(shell: Kernel, sample: Sample) -> None:
    for source in sample.every_cell:
        cell = shell.run(source)
        assert cell.status == "ok", cell.traceback


def export(*arguments: str) -> int:
    return main.main(["export", *arguments])


def made(sample: Sample, **settings: object) -> str:
    cells = tuple(Cell(number=n, source=source) for n, source in enumerate(sample.every_cell, 1))
    given = Settings(**{"target": "flyte", **settings})  # type: ignore[arg-type]
    return program(Notebook(name="shop", cells=cells), LANGUAGE, given).text()


def test_the_command_writes_a_checked_program(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shop.parent / "pipeline.py"
    assert export(str(shop), "-o", str(out)) == 0
    said = capsys.readouterr().out
    assert re.search(r"2 runs, \d+ steps replayed, 0 live, every answer equal to the notebook's", said)
    assert "wire form: 3 tasks serialised" in said
    text = out.read_text(encoding="utf-8")
    assert "Checked:" in text and "sha256 of what follows" in text
    first = out.read_bytes()
    assert export(str(shop), "-o", str(out)) == 1
    assert "is there already: --force" in capsys.readouterr().err
    assert export(str(shop), "-o", str(out), "--force") == 0
    assert out.read_bytes() == first


def test_a_program_that_is_another_one_is_not_left_as_the_pipeline(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.write_text(shop.read_text(encoding="utf-8").replace("cheaper than", "dearer than"), encoding="utf-8")
    out = shop.parent / "pipeline.py"
    assert export(str(shop), "-o", str(out), "--target", "script") == 1
    said = capsys.readouterr().err
    assert "ReplayMiss" in said and "pipeline.failed.py" in said and "history" in said
    assert not out.exists()
    left = (shop.parent / "pipeline.failed.py").read_text(encoding="utf-8")
    assert "dearer than" in left and "- replay: FAILED after" in left and "-   replayed: model offline" in left
    assert export(str(shop), "-o", str(out), "--target", "script", "--no-check") == 0
    assert "not checked" in out.read_text(encoding="utf-8")


def test_the_magic_exports_what_ran_in_the_kernel(tmp_path: Path) -> None:
    with kernel(tmp_path) as shell:
        execute(shell, SAMPLES["typed_answer"])
        done = shell.run("%agent export pipeline.py --target script")
        assert done.status == "ok", done.traceback
        assert "2 results equal to the kernel's" in done.text
        assert "exported is what ran in this kernel" in done.text
        assert "-> tuple[Offer, float]:" in (tmp_path / "pipeline.py").read_text(encoding="utf-8")
        again = shell.run("%agent export pipeline.py")
        assert again.ename == "UserError" and "--force" in (again.error or "")


def test_what_is_only_in_the_kernel_is_refused(tmp_path: Path) -> None:
    with kernel(tmp_path) as shell:
        execute(shell, SAMPLES["one_run"])
        shell.run("get_ipython().user_ns['hidden'] = 5")
        shell.run("%%agent run clerk --as more\nPrice of `tea`, {{ hidden }}?")
        refused = shell.run("%agent export pipeline.py")
        assert refused.ename == "UserError" and "hidden state" in (refused.error or "")


def test_the_magic_compares_results_with_the_kernel(tmp_path: Path) -> None:
    with kernel(tmp_path) as shell:
        execute(shell, SAMPLES["typed_answer"])
        shell.run("get_ipython().user_ns['total'] = 1.0")
        done = shell.run("%agent export pipeline.py --target script")
        assert done.ename == "UserError"
        assert "the result total is not what it is in the kernel" in (done.error or "")


# ---- what a cluster is told


def test_a_tool_with_declared_memory_gets_machines_of_its_own_and_a_ladder(tmp_path: Path) -> None:
    text = made(HEAVY)
    (tmp_path / "pipeline.py").write_text(text, encoding="utf-8")
    tasks = wire.serialise(load(tmp_path / "pipeline.py").__dict__, tmp_path)
    heavy, asked = tasks["shop_weigh.weigh_task"], tasks["shop.find_answer"]
    assert "128Mi" in heavy["resources"].values()
    assert heavy["retries"] == 0 and asked["retries"] == 3
    assert asked["cached"] and len(asked["version"]) == 64
    assert asked["secrets"] == ["openai_api_key", "signing_secret"]
    assert "except flyte.errors.OOMError" in text
    assert 'with_more_memory(weigh_task, ("128Mi", "512Mi", "2Gi"), megabytes=megabytes)' in text
    assert "Reads from the environment: REGION" in text


LADDER = """
import asyncio, multiprocessing, resource, sys
import flyte, flyte.errors

def body(connection, limit, megabytes):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + limit * 2**20,) * 2)
    try:
        connection.send(len(bytearray(megabytes * 2**20)) >> 20)
    except MemoryError:
        connection.send(None)

class Machine:
    '''The task on a machine of the declared size: a child process that has no more memory than that.'''
    tried = []
    def override(self, resources):
        self.size = {"128Mi": 128, "512Mi": 512, "2Gi": 2048}[resources.memory]
        return self.run
    async def run(self, megabytes):
        self.tried.append(self.size)
        here, there = multiprocessing.get_context("fork").Pipe()
        child = multiprocessing.get_context("fork").Process(target=body, args=(there, self.size, megabytes))
        child.start()
        answer = here.recv()
        child.join()
        if answer is None:
            raise flyte.errors.OOMError("OOMKilled", f"over {self.size} MiB")
        return answer

sys.path.insert(0, ".")
import pipeline
pipeline.weigh_task = Machine()
print(asyncio.run(pipeline.weigh_elsewhere(700)), Machine.tried)
"""


def test_the_ladder_climbs_on_a_real_out_of_memory(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text(made(HEAVY), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", LADDER],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split("\n")[-2] == "700 [128, 512, 2048]", done.stderr


def test_a_schedule_and_a_container_are_flytes_own(tmp_path: Path) -> None:
    text = made(HEAVY, cron="0 6 * * *", container=True)
    assert 'automation=flyte.Cron("0 6 * * *")' in text
    assert "@env.task(triggers=schedule)" in text
    assert "flyte deploy --version" in text
    (tmp_path / "pipeline.py").write_text(text, encoding="utf-8")
    assert load(tmp_path / "pipeline.py").__dict__["schedule"].automation.expression == "0 6 * * *"


def test_no_package_is_named_without_what_pins_it() -> None:
    text = made(SAMPLES["one_run"])
    block = text[: text.index('"""')]
    listed = [line.strip('#", ') for line in block.splitlines() if line.startswith("#     ")]
    assert listed
    assert [one for one in listed if "==" not in one and " @ " not in one and one != "flyte>=2.12"] == []
    assert not [one for one in listed if one.startswith("jupyter-agentkit==")]


# ---- the version of a task


def test_an_edited_prompt_tool_or_constant_is_never_a_stale_hit(tmp_path: Path) -> None:
    text = made(SAMPLES["two_side_by_side"])
    file = tmp_path / "pipeline.py"

    def version(task: str, old: str = "", new: str = "") -> str:
        assert old in text
        file.write_text(text.replace(old, new) if old else text, encoding="utf-8")
        return closure(str(file), task)

    same = version("find_one")
    assert version("find_one", "\n\n\n", "\n\n\n# a remark\n\n") == same
    assert version("find_one", '"tea": 3.0', '"tea": 4.0') != same
    assert version("find_one", "return prices[item]", "return prices[item] + 1") != same
    assert version("find_one", "You answer with prices", "You answer with costs") != same
    assert version("find_one", "`tea`", "`bread`") != same
    assert version("find_one", "`milk`", "`bread`") == same
    assert version("find_one", "retries=3", "retries=4") == same


# ---- without Jupyter

BARE = """
import sys

class Refuse:
    names = {"IPython", "ipykernel", "ipywidgets", "anywidget", "traitlets", "nbclient", "nbformat", "jupyter_client"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
sys.argv = ["pipeline.py", "--item", "milk"]
import runpy
runpy.run_path("pipeline.py", run_name="__main__")
print("loaded", sorted(Refuse.names & {name.partition(".")[0] for name in sys.modules}))
"""


def test_a_program_runs_where_jupyter_is_not_installed(tmp_path: Path) -> None:
    sample = SAMPLES["parameters"]
    write(sample, tmp_path / "shop.ipynb")
    assert (
        export(str(tmp_path / "shop.ipynb"), "-o", str(tmp_path / "pipeline.py"), "--target", "script", "--no-check")
        == 0
    )
    done = subprocess.run(
        [sys.executable, "-c", BARE],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1.5" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded []"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read as a notebook"),
        ('{"worksheets": []}', "format 4"),
        ('{"cells": [{"source": "x"}]}', "has a cell that cannot be read"),
        ('{"cells": [], "metadata": {"kernelspec": {"language": "R"}}}', "a notebook in R"),
        ('{"cells": [], "metadata": {}}', "runs no agent"),
    ],
)
def test_a_file_that_is_no_notebook_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, words: str
) -> None:
    (tmp_path / "bad.ipynb").write_text(content, encoding="utf-8")
    assert export(str(tmp_path / "bad.ipynb"), "-o", str(tmp_path / "p.py")) == 1
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert export(str(tmp_path / "nowhere.ipynb"), "-o", str(tmp_path / "p.py")) == 1
    assert export(str(tmp_path / "bad.ipynb"), "-o", str(tmp_path / "p.txt")) == 1


@pytest.mark.parametrize("name", ["01_first_agent", "03_plain_python", "05_ask_me_first"])
def test_the_notebooks_of_this_repository_are_programs_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    notebook = Path(shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", tmp_path))
    assert run_notebook.run(notebook, [], None) == run_notebook.DONE
    assert export(str(notebook), "-o", str(tmp_path / "pipeline.py"), "--target", "script") == 0
    assert "0 live, every answer equal to the notebook's" in capsys.readouterr().out
