"""What guards a run in a notebook guards it in the program: sandbox, budgets, breakers, chains, tools in a process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentkit.cli import main, run_notebook
from agentkit.errors import UserError
from agentkit.journal.store import Store
from agentkit.pipeline.settings import Target
from agentkit.pipeline.verify import read_as_code
from tests.notebook.kernels import ROOT
from tests.pipeline.exports import TARGETS, Exported, exported_of, make
from tests.pipeline.joints import JOINTS, REFUSED

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("joints")


@pytest.fixture(scope="module")
def exported(folder: Path) -> dict[tuple[str, Target], Exported]:
    return exported_of(JOINTS, folder)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", JOINTS)
def test_the_program_replays_the_notebook(
    exported: dict[tuple[str, Target], Exported], folder: Path, name: str, target: Target
) -> None:
    sample, one = JOINTS[name], exported[name, target]
    assert one.said["error"] is None, one.said.get("traceback", one.said["error"])
    assert one.said["live"] == 0
    assert one.said["replayed"] > 0
    assert one.said["shown"] == exported[name, "script"].said["shown"]
    body = " ".join(one.program.body.split())
    assert [piece for piece in sample.has if piece not in body] == []
    assert [piece for piece in sample.has_not if piece in body] == []
    assert one.program.plan.results == sample.results
    assert read_as_code(one.program.text()) == []


@pytest.mark.parametrize("target", TARGETS)
def test_a_sandbox_cell_passes_the_check(
    exported: dict[tuple[str, Target], Exported], folder: Path, capsys: pytest.CaptureFixture[str], target: Target
) -> None:
    out = folder / f"checked_{target}.py"
    assert main.main(["export", str(folder / "sandbox.ipynb"), "-o", str(out), "--target", target]) == 0
    assert "1 runs, 1 steps replayed, 0 live, every answer equal to the notebook's" in capsys.readouterr().out


def test_what_a_notebook_says_of_its_guards_is_carried_over_or_listed(
    exported: dict[tuple[str, Target], Exported],
) -> None:
    said = [str(each) for each in exported["guards", "script"].program.plan.left_out]
    for line, why in (
        ("%agent policy --headless allow --approve delete_*", "carried over"),
        ("%agent breaker repeats=4/6/9", "carried over"),
        ("%agent budget keeper 2usd --at-limit wait", "carried over"),
        ("%agent budget notebook 5usd/day", "holds for this user on this machine, also for the program; on no other"),
        ("%agent throttle gpt-5 60k tpm", "paces this kernel; a pipeline keeps to what the server says"),
        ("%agent breaker", "shows or steers the notebook"),
    ):
        assert [each for each in said if each.endswith(f": {line} ({why})")], said


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_is_refused_with_its_cells(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as refused:
        make(REFUSED[name], tmp_path, name, "flyte")
    said = str(refused.value)
    assert "\n" not in said
    assert [words for words in REFUSED[name].refused if words not in said] == [], said


# ---- live, on no record


def flyte_run(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from flyte.cli.main import main; sys.argv[0] = 'flyte'; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "run", "--local", "pipeline.py", "main"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "1", "HOME": str(folder), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("name", ["ladder", "tools_in_their_own_process", "sandbox"])
def test_a_live_local_run_keeps_what_the_tools_declare(
    exported: dict[tuple[str, Target], Exported], tmp_path: Path, name: str
) -> None:
    one = exported[name, "flyte"]
    (tmp_path / "pipeline.py").write_text(one.program.text(), encoding="utf-8")
    done = flyte_run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    with Store.open(tmp_path / ".agentkit" / "journal.db", read_only=True) as store:
        steps = [step for run in store.runs() for step in store.steps(run.id)]
    tries = [(step.request, step.status) for step in steps if step.name.startswith("try ")]
    expected = {
        "ladder": [("128MB", "failed"), ("512MB", "done")],
        "tools_in_their_own_process": [
            ("256MB, no network", "done"),
            ("a process of its own", "done"),
            ("no network", "done"),
        ],
        "sandbox": [],
    }[name]
    assert sorted(tries) == sorted(expected)


def test_on_a_cluster_the_machine_says_how_much_memory_there_is_and_the_walls_stand(
    exported: dict[tuple[str, Target], Exported], tmp_path: Path
) -> None:
    text = exported["tools_in_their_own_process", "flyte"].program.text()
    assert "return await agentkit.pipeline.walled(count, n=n)" in text
    (tmp_path / "pipeline.py").write_text(text, encoding="utf-8")
    done = flyte_run(tmp_path, AGENTKIT_STEPS="trace")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "count(n=3)" in done.stdout


# ---- the notebooks of this repository


def tagged(name: str, folder: Path, *cells: int) -> Path:
    """A copy in which these code cells are tagged `skip`."""
    notebook = Path(shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", folder))
    content = json.loads(notebook.read_text(encoding="utf-8"))
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    for number in cells:
        code[number - 1]["metadata"].setdefault("tags", []).append("skip")
    notebook.write_text(json.dumps(content), encoding="utf-8")
    return notebook


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("06_sandbox", "cell 11 steps through a program (--step)"),
        ("07_out_of_memory", "cell 5 looks at the agent analyst"),
        ("09_guards", "cell 18 reads unlucky, and cell 17, where it may come from, is left out"),
    ],
)
def test_a_notebook_of_this_repository_that_is_no_program_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    assert main.main(["export", str(tagged(name, tmp_path)), "-o", str(tmp_path / "pipeline.py")]) == 1
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "skipped"), [("06_sandbox", (4, 11, 14)), ("07_out_of_memory", (5, 10, 11, 12, 13, 14))]
)
def test_without_the_cells_it_names_it_is_a_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, skipped: tuple[int, ...]
) -> None:
    notebook = tagged(name, tmp_path, *skipped)
    assert run_notebook.run(notebook, [], None) == run_notebook.DONE
    assert main.main(["export", str(notebook), "-o", str(tmp_path / "pipeline.py"), "--target", "script"]) == 0
    assert "0 live, every answer equal to the notebook's" in capsys.readouterr().out
