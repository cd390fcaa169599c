"""A `%%agent map` cell as a program: one call in a script, tasks with a part of the rows each on Flyte."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from agentkit.errors import UserError
from agentkit.events import Step
from agentkit.journal.store import Store
from agentkit.pipeline.settings import Target
from agentkit.pipeline.verify import read_as_code
from tests.notebook.kernels import ROOT, Kernel, kernel
from tests.pipeline.exports import TARGETS, make
from tests.pipeline.notebooks import Sample, map_sample, write

pytestmark = pytest.mark.timeout(170)
IN_LOCAL_MODE = "print(flyte.with_runcontext(mode='local', disable_run_cache=True).run(pipeline.main).outputs())"
ITEMS = tuple(f"item {number}" for number in range(10))


@pytest.fixture(autouse=True)
def ledger_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER", str(tmp_path / "ledger"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def asked(folder: Path) -> Counter[str]:
    file = folder / "ledger"
    return Counter(file.read_text().split("\n")[:-1]) if file.exists() else Counter()


def execute(shell: Kernel, sample: Sample) -> str:
    """What the cells print."""
    printed = ""
    for source in sample.every_cell:
        cell = shell.run(source)
        assert cell.status == "ok", cell.traceback
        printed += cell.text
    return printed


def run_python(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOME": str(folder), "DO_NOT_TRACK": "1", **more}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def flyte_run(folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return run_python(
        folder, str(Path(sys.executable).parent / "flyte"), "run", "--local", "pipeline.py", "main", **more
    )


def export(sample: Sample, folder: Path, target: Target) -> str:
    """The program of a notebook that was not executed, checked as code."""
    text = make(sample, folder, "shop", target).text()
    (folder / "pipeline.py").write_text(text, encoding="utf-8")
    assert read_as_code(text) == []
    return text


def seen(output: str) -> set[str]:
    return set(re.findall(r"item \d+ seen", output))


def test_a_map_cell_is_the_same_map_in_the_program(tmp_path: Path) -> None:
    """A value with `{{ row.title }}` in it is text; results are those of the kernel, which asked each row once."""
    with kernel(tmp_path) as shell:
        said = execute(shell, map_sample(" --shards 3"))
        assert said.count("note: --shards 3 is for an export to Flyte; here the map is one") == 1
        write(map_sample(" --shards 3"), tmp_path / "shop.ipynb")
        for target in TARGETS:
            cell = shell.run(f"%agent export {target}_program.py --target {target} --notebook shop.ipynb")
            assert cell.status == "ok", cell.traceback
            found = r"\d+ runs \(maps of 10 rows\), \d+ steps replayed, 0 live, every answer equal"
            assert re.search(found, cell.text), cell.text
            assert "2 results equal to the kernel's" in cell.text
            text = (tmp_path / f"{target}_program.py").read_text(encoding="utf-8")
            assert 'values={"shop": agentkit.fill("{{ shop }}", {"shop": shop}, strip=False)}' in text
            assert ("flyte.map.aio" in text) == (target == "flyte")
        # The map of another prompt is another one, and rows that are not on record are not said to be.
        changed = map_sample(" --shards 3", body="Of {{ shop }}: stare at\n{{ row.title }}")
        write(changed, tmp_path / "shop.ipynb")
        refused = shell.run("%agent export other.py --notebook shop.ipynb")
        assert "the map of clerk with" in refused.traceback and "recorded is nothing" in refused.traceback
    assert asked(tmp_path) == Counter(ITEMS)


def test_a_row_that_failed_in_the_notebook_fails_in_the_proof_and_is_asked_by_the_program(tmp_path: Path) -> None:
    sample = map_sample(" --shards 4")
    failing = sample.cells[0].replace(
        "    return f",
        "    if item == 'item 4' and not os.environ.get('MENDED'):\n        raise ValueError(item)\n    return f",
    )
    sample = Sample(cells=(failing, *sample.cells[1:]), setup=False)
    with kernel(tmp_path) as shell:
        execute(shell, sample)
        write(sample, tmp_path / "shop.ipynb")
        cell = shell.run("%agent export pipeline.py --notebook shop.ipynb")
        assert cell.status == "ok", cell.traceback
        assert ", 0 live, every answer equal" in cell.text and "2 results equal to the kernel's" in cell.text
    before = asked(tmp_path)
    run = run_python(tmp_path, "-c", f"import pipeline, flyte; {IN_LOCAL_MODE}", MENDED="1")
    assert "item 4 seen" in run.stdout, run.stdout + run.stderr
    assert asked(tmp_path) - before == Counter({"item 4": 1})


def test_names_of_the_notebook_may_be_those_of_the_program(tmp_path: Path) -> None:
    body = "Of {{ shards }} {{ shard }} {{ frames }} {{ mapped }}: look at\n{{ row.title }}"
    first, shop, *rest = map_sample(" --shards 3", body=body).cells
    names = "shards, shard, frames, mapped = 'abcd'\nfind_answers_shard = 1"
    sample = Sample(cells=(first, f"{shop}\n{names}", *rest, "again = find_answers_shard + count"), setup=False)
    export(sample, tmp_path, "flyte")
    run = run_python(tmp_path, "-c", f"import pipeline, flyte; {IN_LOCAL_MODE}")
    assert run.returncode == 0 and seen(run.stdout), run.stdout + run.stderr
    with Store.open(tmp_path / ".agentkit" / "journal.db", read_only=True) as store:
        requests = {step.request for run in store.runs() for step in store.trace(run.id) if isinstance(step, Step)}
    assert any("Of a b c d: look at\nitem 9" in request for request in requests), requests


def test_an_expression_is_one_argument(tmp_path: Path) -> None:
    cells = map_sample("", body="Of {{ shop, 2 }}: look at\n{{ row.title }}").cells
    cells = tuple(cell.replace("--rows products", "--rows products.title,products.title") for cell in cells)
    text = export(Sample(cells=cells, setup=False), tmp_path, "script")
    assert "(products.title,products.title)," in text and '{"shop, 2": (shop, 2)}' in text
    asks = (*cells[:3], "%%agent run clerk --as answers\nLook at {{ shop, 2 }}")
    assert '{"shop, 2": (shop, 2)}' in export(Sample(cells=asks, setup=False), tmp_path, "script")


def test_a_killed_shard_repeats_nothing(tmp_path: Path) -> None:
    export(map_sample(" --shards 3 --workers 1"), tmp_path, "flyte")
    command = [str(Path(sys.executable).parent / "flyte"), "run", "--local", "pipeline.py", "main"]
    environment = {**os.environ, "HOME": str(tmp_path), "DO_NOT_TRACK": "1", "SLOW": "0.3"}
    child = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    # The first shard has three rows: it is killed in the middle of the second.
    while child.poll() is None and sum(asked(tmp_path).values()) < 5:
        time.sleep(0.02)
    child.kill()
    assert child.wait() == -9
    before = asked(tmp_path)
    assert 5 <= sum(before.values()) < len(ITEMS)
    again = flyte_run(tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    after = asked(tmp_path)
    assert set(after) == set(ITEMS)
    # What was answered and not yet on record is the one row that was under way.
    assert sum(after.values()) <= len(ITEMS) + 1


def test_on_a_cluster_each_shard_has_a_record_that_outlives_its_attempt(tmp_path: Path) -> None:
    export(map_sample(" --shards 3 --workers 1"), tmp_path, "flyte")
    double = ("-m", "tests.pipeline.replay_double", "pipeline.py", "traces.db", "keys")
    killed = run_python(tmp_path, *double, AGENTKIT_STEPS="trace", AGENTKIT_CRASH_AT="record:5")
    assert killed.returncode == -9, killed.stderr
    before = asked(tmp_path)
    assert 0 < sum(before.values()) < len(ITEMS)
    again = run_python(tmp_path, *double, AGENTKIT_STEPS="trace")
    assert again.returncode == 0, again.stderr
    after = asked(tmp_path)
    assert set(after) == set(ITEMS) and sum(after.values()) <= len(ITEMS) + 1
    assert not (tmp_path / ".agentkit").exists()


def test_a_map_without_a_name_is_a_result(tmp_path: Path) -> None:
    sample = map_sample("", name="")
    made = make(sample, tmp_path, "shop", "script")
    assert made.plan.results == ("answers_5",)
    assert read_as_code(made.text()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--budget 1usd", "--budget 1usd holds for all rows together"),
        ("--sample 3", "--sample 3 holds for all rows together"),
        ("--limit 3", "--limit 3 holds for all rows together"),
        ("--errors 5%", "--errors 5% ends the map for all rows"),
    ],
)
def test_what_holds_for_all_rows_is_not_cut_in_shards(tmp_path: Path, options: str, words: str) -> None:
    sample = map_sample(f" --shards 3 {options}")
    with pytest.raises(UserError, match=f"cell 5: {re.escape(words)}"):
        make(sample, tmp_path, "shop", "flyte")
    option, value = options.removeprefix("--").split()
    written = f"{option}={value}" if value.isdecimal() else f'{option}="{value}"'
    assert written in export(sample, tmp_path, "script")


def test_options_without_a_place_in_a_program_are_listed(tmp_path: Path) -> None:
    sample = map_sample(" --shards 3 --key title --workers 4 --out all.csv --fresh")
    script = export(sample, tmp_path, "script")
    assert 'key="title",' in script and "workers=4," in script and 'out="all.csv",' in script
    assert "- cell 5: --shards 3 (a script maps all rows in one process)" in script
    assert "- cell 5: --fresh (a rerun would pay again)" in script
    cluster = export(sample, tmp_path, "flyte")
    assert 'cut(products, 3, key="title")' in cluster and "out=" not in cluster
    assert "- cell 5: --out all.csv (no file outlives a task; the frame is what it gives)" in cluster


def test_a_batch_is_not_waited_for_by_a_task_that_has_no_journal(tmp_path: Path) -> None:
    assert "batch=True," in export(map_sample(" --batch"), tmp_path, "script")
    with pytest.raises(UserError, match="cell 5: --batch is waited for by the journal"):
        make(map_sample(" --batch"), tmp_path, "shop", "flyte")


def test_a_map_is_not_cached_as_its_failed_rows_would_stay_failed(tmp_path: Path) -> None:
    assert "cache=" not in export(map_sample(""), tmp_path, "flyte")


def test_a_map_of_a_file_needs_the_folder_that_the_notebook_changed(tmp_path: Path) -> None:
    cells = ("%%agent build clerk\nYou look.", "%cd /tmp", "%%agent map clerk --rows all.csv\nSee {{ row.title }}")
    assert '"all.csv",' in export(Sample(cells=(cells[0], cells[2]), setup=False), tmp_path, "script")
    with pytest.raises(UserError, match=r"cell 3 changes the folder \(%cd /tmp\), and cell 4 works with files"):
        make(Sample(cells=cells, setup=False), tmp_path, "shop", "script")
