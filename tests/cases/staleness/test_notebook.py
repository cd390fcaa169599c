"""In real kernels: what a tool reads is followed, named, and not mistaken for what IPython put there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.notebook.kernels import Kernel, kernel
from tests.pipeline.exports import make, run_all
from tests.pipeline.notebooks import Sample

pytestmark = pytest.mark.timeout(240)

TOOL = (
    "import agentkit\nRATE = 2\n"
    '@agentkit.tool(effects="none")\n'
    "def price_of(item: str) -> str:\n"
    '    """The price of an item."""\n'
    "    from prices import label\n"
    "    with open('prices.csv') as file:\n"
    "        found = dict(line.strip().split(',') for line in file)\n"
    "    if item == 'nothing':\n        display(item); exit(); quit(); print(item)\n"
    "    return label(int(found[item]) * RATE)"
)
BUILD = "%%agent build seller --tools price_of\nYou know prices."
ASK = "%%agent run seller --as answer\nWhat is the price of the item `tea`?"
SAMPLE = Sample(cells=(TOOL, BUILD, ASK), setup=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "prices.py").write_text("def label(price):\n    return f'{price} francs'\n")
    (tmp_path / "prices.csv").write_text("tea,3\nmilk,2\n")
    return tmp_path


def perform(shell: Kernel, *, tool: str = TOOL) -> tuple[str, str]:
    """The answer, and what `why` says."""
    for source in ("%load_ext agentkit", tool, BUILD, ASK):
        done = shell.run(source)
        assert done.status == "ok", done.traceback
    return shell.value("str(answer)"), shell.run("%agent why").text


def test_a_tool_that_opens_a_file_is_replayed_by_another_kernel_and_by_its_script(folder: Path) -> None:
    with kernel(folder) as shell:
        answer, _ = perform(shell)
        assert "6 francs" in answer
        shell.restart()
        again, why = perform(shell)
        assert again == answer
        assert "every step was replayed" in why
    made = make(SAMPLE, folder, "seller", "script")
    said = run_all({("seller", "script"): made}, folder)["seller", "script"]
    assert said["error"] is None, said.get("traceback")
    assert (said["live"], said["replayed"]) == (0, 3)


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("prices.py", "francs", "pounds", "prices has changed"),
        ("prices.csv", "tea,3", "tea,33", "prices.csv was 13 bytes and is 14 bytes"),
    ],
)
def test_an_edited_file_makes_the_tool_live_and_why_names_it(
    folder: Path, file: str, old: str, new: str, told: str
) -> None:
    with kernel(folder) as shell:
        answer, _ = perform(shell)
        (folder / file).write_text((folder / file).read_text().replace(old, new))
        shell.restart()
        again, why = perform(shell)
    assert again != answer
    assert re.search(rf"tool price_of: live, .*{re.escape(told)}", why), why
    assert "1 step follows from it (3)" in why


def test_a_changed_global_is_named_with_both_values(folder: Path) -> None:
    with kernel(folder) as shell:
        perform(shell)
        _, why = perform(shell, tool=TOOL.replace("RATE = 2", "RATE = 3"))
    assert "RATE was 2 and is 3" in why
    assert "1 step follows from it (3)" in why


def test_an_edited_prompt_is_one_cause(folder: Path) -> None:
    with kernel(folder) as shell:
        perform(shell)
        assert shell.run(ASK.replace("What is", "Tell me")).status == "ok"
        why = shell.run("%agent why").text
    lines = why.strip().splitlines()
    assert "live, unlike step" in lines[0]
    assert "What is the price" in lines[0]
    assert any("share=True" in line for line in lines)
    assert len(lines) == 3, why


def test_what_cannot_be_seen_is_named_where_it_is_replayed(folder: Path) -> None:
    hidden = TOOL.replace("* RATE", "* globals()[''.join(['RA', 'TE'])]")
    with kernel(folder) as shell:
        perform(shell, tool=hidden)
        shell.restart()
        for source in ("%load_ext agentkit", hidden, BUILD):
            shell.run(source)
        (panel,) = shell.run(ASK).panels
        why = shell.run("%agent why").text
    assert "not checked: what it reads through globals()" in panel["data"]["text/html"]
    assert "not checked: what it reads through globals()" in panel["data"]["text/plain"]
    assert "answered from the record; not checked: what it reads through globals()" in why
