from __future__ import annotations

import gzip
import hashlib
import sys
from pathlib import Path

import nbformat
import pytest

from agentkit.cli.main import main
from agentkit.events import Run, Usage
from agentkit.journal.records import Intent, Outcome, Use
from agentkit.journal.store import Store


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journal of two runs in the working folder, as the first notebook would leave it."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ".agentkit" / "journal.db"
    with Store.open(path) as store:
        make_run(store, "aaaa1111", agent="analyst", label="first", at=1_700_000_000.0)
        make_run(store, "bbbb2222", agent="writer", label="second", at=1_700_100_000.0)
    return path


def make_run(store: Store, run: str, *, agent: str, label: str, at: float) -> None:
    intent = Intent(
        key=hashlib.sha256(run.encode()).digest(), n=0, kind="model", name="offline", effects="none", agent=agent,
        run=run, ord=0, request="how many trees?", model="offline",
    )  # fmt: skip
    step = store.begin(intent).result().row.id
    outcome = Outcome(
        step=step, status="done", body=b'{"text":"forty-two"}', usage=Usage(input_tokens=5, output_tokens=2, cost=0.0),
        result="forty-two", use=Use(run, 0, step, False, at, at + 1.5),
    )  # fmt: skip
    store.finish(outcome).result()
    ended = Run(
        id=run, agent=agent, status="done", label=label, prompt="how many trees?", started=at, ended=at + 2,
        output="forty-two",
    )  # fmt: skip
    store.close_run(ended, history=None, output=b'"forty-two"').result()


def damage(path: Path) -> None:
    raw = path.read_bytes()
    assert raw.count(b'{"text":"forty-two"}') == 2
    path.write_bytes(raw.replace(b'{"text":"forty-two"}', b'{"text":"forty-six"}', 1))


def test_ls_lists_the_newest_first(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journal", "ls"]) == 0
    head, newest, oldest = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "began", "took", "agent", "status", "notebook", "prompt"]
    assert newest.split()[0] == "bbbb2222"
    assert oldest.endswith("analyst  done    first     how many trees?")


@pytest.mark.parametrize("filters", [["--agent", "analyst"], ["--label", "first"], ["-n", "1", "--agent", "analyst"]])
def test_ls_can_be_narrowed(journal: Path, capsys: pytest.CaptureFixture[str], filters: list[str]) -> None:
    main(["journal", "ls", *filters])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["run", "aaaa1111"]


def test_show_draws_the_steps_of_a_run_named_by_its_beginning(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["journal", "show", "aaaa"]) == 0
    shown = capsys.readouterr().out
    assert "analyst" in shown
    assert "1 step: 1 live, 0 replayed" in shown
    assert shown.endswith("output: forty-two\n")


def test_a_run_whose_short_id_is_digits_is_shown(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store.open(journal) as store:
        make_run(store, "68570078", agent="counter", label="third", at=1_700_200_000.0)
    assert main(["journal", "show", "68570078"]) == 0
    assert "run 68570078" in capsys.readouterr().out


def test_show_gives_one_step_whole(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journal", "show", "1"]) == 0
    assert '"text": "forty-two"' in capsys.readouterr().out


@pytest.mark.parametrize(("what", "said"), [("zzzz", "no run"), ("", "2 runs"), ("99", "no step 99")])
def test_show_says_in_one_line_what_is_not_there(
    journal: Path, capsys: pytest.CaptureFixture[str], what: str, said: str
) -> None:
    assert main(["journal", "show", what]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_verify_of_a_whole_journal_says_so(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journal", "verify"]) == 0
    assert "whole; every record of 2 runs" in capsys.readouterr().out


def test_verify_names_a_changed_record_and_fails(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(journal)
    assert main(["journal", "verify"]) == 1
    assert "step" in capsys.readouterr().out


def test_reading_a_changed_record_is_an_error_that_names_the_file(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(journal)
    statuses = {main(["journal", "show", number]) for number in ("1", "2")}
    assert statuses == {0, 1}
    assert str(journal) in capsys.readouterr().err


def test_erase_really_deletes(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journal", "erase", "--run", "aaaa", "--yes"]) == 0
    assert "erased 1 step\n" in capsys.readouterr().out
    assert all(b"analyst" not in file.read_bytes() for file in journal.parent.glob("journal.db*"))
    main(["journal", "ls"])
    assert "aaaa1111" not in capsys.readouterr().out


def test_erase_asks_first(journal: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return "n"

    monkeypatch.setattr("builtins.input", answer)
    assert main(["journal", "erase", "--before", "2024-01-01"]) == 1
    assert "for good?" in asked[0]
    main(["journal", "ls"])
    assert "aaaa1111" in capsys.readouterr().out


def notebook(path: Path, *runs: str) -> Path:
    """A saved notebook with a panel of each of these runs."""
    cells = [nbformat.v4.new_code_cell("x", outputs=[panel_of(run)]) for run in runs]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def panel_of(run: str) -> nbformat.NotebookNode:
    metadata = {"agentkit": {"version": 1, "runs": [{"id": run, "agent": "analyst"}]}}
    output: nbformat.NotebookNode = nbformat.v4.new_output("display_data", {"text/plain": "panel"}, metadata=metadata)
    return output


def test_a_notebook_travels_with_what_it_shows_and_what_bears_its_name(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["journal", "export", str(notebook(tmp_path / "second.ipynb", "aaaa1111"))]) == 0
    assert "2 steps of 2 runs" in capsys.readouterr().out
    elsewhere = tmp_path / "elsewhere"
    assert main(["journal", "attach", str(tmp_path / "second.agentkit"), "--journal", str(elsewhere)]) == 0
    assert "2 steps of 2 runs added, 0 were there already" in capsys.readouterr().out
    main(["journal", "show", "aaaa", "--journal", str(elsewhere)])
    assert "output: forty-two" in capsys.readouterr().out


def test_a_notebook_beside_its_journal_takes_only_its_own_runs(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.agentkit"
    assert main(["journal", "export", str(notebook(tmp_path / "first.ipynb")), "-o", str(target)]) == 0
    assert "1 step of 1 run," in capsys.readouterr().out


def test_a_secret_of_the_environment_does_not_travel(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORTY_API_KEY", "forty-two")
    assert main(["journal", "export", str(notebook(tmp_path / "first.ipynb"))]) == 0
    unpacked = gzip.decompress((tmp_path / "first.agentkit").read_bytes())
    assert b"forty-two" not in unpacked
    assert b"<secret:FORTY_API_KEY>" in unpacked


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "is not there"), ("{", "not a notebook"), ("[]", "not a notebook"), ('{"cells": []}', "no run of")],
)
def test_what_cannot_be_exported_is_said_in_one_line(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / "third.ipynb").write_text(text)
    assert main(["journal", "export", str(tmp_path / "third.ipynb")]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_attaching_what_is_not_a_journal_is_one_line(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photo.agentkit").write_bytes(b"\x89PNG")
    assert main(["journal", "attach", str(tmp_path / "photo.agentkit")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_where_there_is_no_journal_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["journal", "ls"]) == 1
    assert "there is no journal" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_home_of_records_can_be_elsewhere(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENTKIT_HOME", str(journal.parent))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert main(["journal", "ls"]) == 0
    assert "aaaa1111" in capsys.readouterr().out


def test_lab_opens_jupyterlab_on_the_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def become(_: str, command: list[str]) -> None:
        started.append(command)
        raise SystemExit(0)

    monkeypatch.setattr("os.execv", become)
    with pytest.raises(SystemExit):
        main(["lab"])
    command = started[0]
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert (Path(command[3]) / "01_first_agent.ipynb").is_file()


@pytest.mark.parametrize(
    ("command", "package", "extra"), [("lab", "jupyterlab", "lab"), ("demo", "nbclient", "notebook")]
)
def test_a_command_without_its_extra_gives_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, package: str, extra: str
) -> None:
    monkeypatch.setattr("agentkit.cli.main.find_spec", lambda name: None if name == package else object())
    assert main([command]) == 1
    assert f"pip install 'jupyter-agentkit[{extra}]'" in capsys.readouterr().err


def test_a_date_must_be_one(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["journal", "erase", "--before", "yesterday"])
    assert "--before" in capsys.readouterr().err


def test_a_panel_of_a_run_that_is_not_recorded_is_passed_over(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = notebook(tmp_path / "second.ipynb", "gone", "bbbb2222")
    assert main(["journal", "export", str(path)]) == 0
    assert "1 step of 1 run," in capsys.readouterr().out


def test_without_a_command_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "execute the first notebook twice" in capsys.readouterr().err
