"""A notebook and its program are the same program: same requests, same answers, nothing performed again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agentkit.errors import UserError
from agentkit.journal.store import Store
from agentkit.pipeline.settings import Target
from agentkit.pipeline.verify import read_as_code
from tests.pipeline.exports import TARGETS, Exported, exported_of, make
from tests.pipeline.notebooks import KEPT, REFUSED

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(scope="module")
def exported(folder: Path) -> dict[tuple[str, Target], Exported]:
    return exported_of(KEPT, folder)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", KEPT)
def test_the_program_replays_the_notebook(
    exported: dict[tuple[str, Target], Exported], folder: Path, name: str, target: Target
) -> None:
    one = exported[name, target]
    assert one.said["error"] is None, one.said.get("traceback", one.said["error"])
    assert one.said["live"] == 0
    assert one.said["replayed"] > 0
    with Store.open(folder / ".agentkit" / "journal.db", read_only=True) as store:
        recorded = {(run.agent, run.prompt, run.output) for run in store.runs(limit=10_000)}
    assert {(run["agent"], run["prompt"], run["output"]) for run in one.said["runs"]} <= recorded
    assert len(one.said["results"]) == len(one.program.plan.results)


@pytest.mark.parametrize("name", KEPT)
def test_both_targets_give_the_same_results(exported: dict[tuple[str, Target], Exported], name: str) -> None:
    assert exported[name, "script"].said["shown"] == exported[name, "flyte"].said["shown"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", KEPT)
def test_the_program_says_what_was_meant(
    exported: dict[tuple[str, Target], Exported], name: str, target: Target
) -> None:
    sample, made = KEPT[name], exported[name, target].program
    assert [piece for piece in sample.has if piece not in made.body] == []
    assert [piece for piece in sample.has_not if piece in made.body] == []
    if sample.results is not None:
        assert made.plan.results == sample.results
    assert read_as_code(made.text()) == []


@pytest.mark.parametrize("name", KEPT)
def test_two_exports_are_byte_identical(
    exported: dict[tuple[str, Target], Exported], tmp_path: Path, name: str
) -> None:
    for target in TARGETS:
        again = make(KEPT[name], tmp_path, name, target)
        assert again.text(("a", "b")) == exported[name, target].program.text(("a", "b"))


def test_every_program_passes_the_linter(exported: dict[tuple[str, Target], Exported], tmp_path: Path) -> None:
    for (name, target), one in exported.items():
        (tmp_path / f"{name}_{target}.py").write_text(one.program.text(), encoding="utf-8")
    checked = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--select",
        "E9,F",
        "--ignore",
        "F841",
        str(tmp_path),
    ]
    done = subprocess.run(checked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", REFUSED)
def test_a_notebook_that_cannot_be_exported_is_refused_with_its_cells(tmp_path: Path, name: str) -> None:
    sample = REFUSED[name]
    with pytest.raises(UserError) as refused:
        make(sample, tmp_path, name, "script")
    said = str(refused.value)
    assert "\n" not in said
    assert [words for words in sample.refused if words not in said] == [], said
