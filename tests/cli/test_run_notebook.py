"""`agentkit run`: a notebook with parameters in a real kernel, its exit status, and going on where it stopped."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentkit.cli import run_notebook
from agentkit.errors import UserError
from agentkit.journal.store import Store
from tests.journal.tokens import HIDDEN, WITHIN
from tests.pipeline.notebooks import Sample, write

SAMPLE = Sample(
    cells=(
        "item = 'tea'\ntimes: int = 1",
        "%%agent run clerk --as answer\nWhat is the price of `{{ item }}`?",
        "(item, times)",
    ),
    tags={0: "parameters"},
)
WAITS = Sample(
    cells=(
        '@agentkit.tool(effects="once", approve="ask")\ndef order(item: str) -> str:\n'
        '    """Order an item."""\n    return "ordered " + item',
        "%%agent build buyer --tools order\nYou buy.",
        "%%agent run buyer --as answer\nOrder the item `tea`.",
        "answer[:30]",
    )
)


def outputs(file: Path) -> list[str]:
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    shown = [output for cell in cells for output in cell.get("outputs", ())]
    return ["".join(output["data"].get("text/plain", "")) for output in shown if "data" in output]


def test_parameters_reach_the_notebook_and_a_rerun_replays(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    notebook = tmp_path / "shop.ipynb"
    write(SAMPLE, notebook)
    out = tmp_path / "out.ipynb"
    assert run_notebook.run(notebook, ["item=milk", "times=3"], out) == run_notebook.DONE
    assert "('milk', 3)" in outputs(out)
    assert "7/7 cells" in capfd.readouterr().err
    assert run_notebook.run(notebook, ["item=milk"], out) == run_notebook.DONE
    (panel,) = [text for text in outputs(out) if text.startswith("clerk")]
    assert "3 replayed" in panel and "0 live" in panel


def test_a_question_that_waits_is_status_3_and_a_decision_lets_it_go_on(tmp_path: Path) -> None:
    notebook = tmp_path / "buy.ipynb"
    write(WAITS, notebook)
    code = "import sys; from agentkit.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code]
    waits = subprocess.run([*command, "run", str(notebook)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert waits.returncode == run_notebook.WAITS, waits.stderr
    assert "order waits for a person" in waits.stderr
    waiting = subprocess.Popen(
        [*command, "run", str(notebook), "--wait"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert waiting.stderr is not None
    said = ""
    while (found := re.search(r"waits for (\d+):", said)) is None:
        line = waiting.stderr.readline()
        assert line, said
        said += line
    subprocess.run([*command, "approvals", "decide", found[1]], cwd=tmp_path, check=True, capture_output=True)
    assert waiting.wait(timeout=90) == run_notebook.DONE
    assert any("ordered tea" in text for text in outputs(tmp_path / "buy.out.ipynb"))


def test_a_cell_that_fails_is_status_1(tmp_path: Path) -> None:
    notebook = tmp_path / "fails.ipynb"
    write(Sample(cells=("1 / 0",), setup=False), notebook)
    assert run_notebook.run(notebook, [], None) == run_notebook.FAILED
    assert "ZeroDivisionError" in (tmp_path / "fails.out.ipynb").read_text(encoding="utf-8")


SPENDS = Sample(
    cells=(
        "from agentkit.testing import Call, ScriptedModel\n\n"
        "dear = ScriptedModel.by(lambda messages: Call('price', {'item': 'tea'}), model_name='dear', cost=0.5)",
        "%%agent build buyer --model dear --tools price --budget 0.60usd --at-limit stop\nYou buy.",
        "%%agent run buyer\nWhat is the price of `tea`?",
    )
)


def test_a_spent_budget_is_status_4_and_stays_so_for_nothing(tmp_path: Path) -> None:
    notebook = tmp_path / "spends.ipynb"
    write(SPENDS, notebook)
    for _ in range(2):
        assert run_notebook.run(notebook, [], None) == run_notebook.BUDGET
    assert "BudgetExceeded" in (tmp_path / "spends.out.ipynb").read_text(encoding="utf-8")
    with Store.open(tmp_path / ".agentkit" / "journal.db", read_only=True) as store:
        performed = {step.id for run in store.runs() for step in store.steps(run.id) if step.kind == "model"}
    assert len(performed) == 1


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        (["itme=milk"], ("no such parameter", "did you mean item?")),
        (["item"], ("NAME=VALUE",)),
        (["3=4"], ("NAME=VALUE",)),
    ],
)
def test_a_wrong_parameter_is_one_line(tmp_path: Path, parameters: list[str], words: tuple[str, ...]) -> None:
    notebook = tmp_path / "shop.ipynb"
    write(SAMPLE, notebook)
    with pytest.raises(UserError) as refused:
        run_notebook.run(notebook, parameters, None)
    assert all(word in str(refused.value) for word in words)


def test_it_does_not_write_over_the_notebook(tmp_path: Path) -> None:
    notebook = tmp_path / "shop.ipynb"
    write(SAMPLE, notebook)
    with pytest.raises(UserError, match="is the notebook itself"):
        run_notebook.run(notebook, [], notebook)
    with pytest.raises(UserError, match="is not there"):
        run_notebook.run(tmp_path / "nowhere.ipynb", [], None)


def test_an_error_of_a_plain_cell_is_told_without_keys_and_escapes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "sk-0123456789abcdef")
    notebook = tmp_path / "fails.ipynb"
    write(Sample(cells=("import os\nraise RuntimeError(os.environ['SHOP_API_KEY'] + '\\x1b[2J')",)), notebook)
    out = tmp_path / "out.ipynb"
    assert run_notebook.run(notebook, [], out) == run_notebook.FAILED
    assert "RuntimeError: <secret:SHOP_API_KEY>\u241b[2J" in capfd.readouterr().err
    assert "<secret:SHOP_API_KEY>" in out.read_text() and "sk-0123456789abcdef" not in out.read_text()


@pytest.mark.parametrize(
    "content", ["{}", '{"cells": 3, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}', "[]", "7"]
)
def test_what_is_no_notebook_is_one_line(tmp_path: Path, content: str) -> None:
    notebook = tmp_path / "no.ipynb"
    notebook.write_text(content)
    with pytest.raises(UserError, match="cannot be read as a notebook") as told:
        run_notebook.run(notebook, [], tmp_path / "out.ipynb")
    assert "\n" not in str(told.value)


SECRET = Sample(
    cells=(
        "api_key = 'none'\nwhere = 'none'\nitem = 'tea'\npin_token = 0",
        "%%agent build asker\nYou help.",
        "%%agent run asker --as answer\nsay {{ api_key }} and {{ where }}",
        "print(api_key, where)\n(item, pin_token + 1, api_key[::-1])",
        "raise RuntimeError(api_key)",
    ),
    tags={0: "parameters"},
)


def test_a_parameter_that_is_a_secret_is_in_no_output_and_no_record(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    notebook, out, key = tmp_path / "shop.ipynb", tmp_path / "out.ipynb", "my-own-key-0123456789"
    write(SECRET, notebook)
    given = [f"api_key={key}", f"where={WITHIN['url-password']}", "item=milk", "pin_token=12345678"]
    assert run_notebook.run(notebook, given, out) == run_notebook.FAILED
    said = capfd.readouterr().err
    assert "api_key is taken for a secret" in said and "where is taken for a secret" in said
    assert "item is taken" not in said
    assert key not in said
    assert f"('milk', 12345679, '{key[::-1]}')" in outputs(out)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert key.encode() not in content and HIDDEN.encode() not in content and b"12345678\n" not in content, file
    assert run_notebook.run(notebook, given, out) == run_notebook.FAILED
    (panel,) = [text for text in outputs(out) if text.startswith("asker")]
    assert "0 live" in panel
