"""`%%agent sandbox` in a real kernel: values in and out, replay, errors with a caret, Stop, approvals, a kill."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebook.kernels import Kernel, kernel

SETUP = """
import agentkit, os, time
from pathlib import Path

def made(what):
    with open("made.txt", "a") as file:
        file.write(f"{what}\\n")

@agentkit.tool(effects="none")
def search(query: str) -> list[dict]:
    "Look something up."
    made(query)
    return [{"query": query, "hits": len(query)}]

@agentkit.tool(effects="none")
def slow(number: int) -> int:
    "Takes a moment."
    made(number)
    time.sleep(0.3)
    return number * 2

@agentkit.tool(effects="once", approve="ask")
def delete(rows: list[int]) -> str:
    "Delete rows."
    made(f"delete {rows}")
    return f"deleted {len(rows)}"

words = ["one", "three"]
"""


def made(kernel: Kernel) -> list[str]:
    kernel_made: list[str] = eval(
        kernel.value("Path('made.txt').read_text().split() if Path('made.txt').exists() else []")
    )
    return kernel_made


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with kernel(tmp_path_factory.mktemp("sandbox")) as running:
        assert running.run("%load_ext agentkit").status == "ok"
        assert running.run(SETUP).status == "ok"
        yield running


@pytest.fixture(autouse=True)
def fresh_list(request: pytest.FixtureRequest) -> None:
    if "notebook" in request.fixturenames:
        request.getfixturevalue("notebook").run("Path('made.txt').unlink(missing_ok=True)")


COUNT = """%%agent sandbox --in words --out total, found --call search
found = [search(word)[0] for word in words]
total = sum(one["hits"] for one in found)
print("looked up", len(found))
total
"""


def test_named_variables_enter_and_leave_and_a_rerun_replays(notebook: Kernel) -> None:
    first = notebook.run(COUNT, cell="count")
    assert (first.status, first.text) == ("ok", "looked up 2\n"), first.traceback
    assert (notebook.value("total"), notebook.value("_")) == ("8", "8")
    assert "3 steps" in first.headline and "3 live" in first.headline
    again = notebook.run(COUNT, cell="count")
    assert (again.status, again.text, notebook.value("total")) == ("ok", "looked up 2\n", "8")
    assert "0 live" in again.headline or "1 replayed" in again.headline
    assert made(notebook) == ["one", "three"]


def test_an_edited_cell_makes_only_the_calls_that_are_new(notebook: Kernel) -> None:
    notebook.run(COUNT, cell="edited")
    edited = notebook.run(COUNT + "search('four')\n", cell="edited")
    assert edited.status == "ok", edited.traceback
    assert made(notebook) == ["one", "three", "four"]


def test_nothing_else_enters(notebook: Kernel) -> None:
    cell = notebook.run("%%agent sandbox\nsearch('x')")
    assert cell.ename == "SandboxError" and "name 'search' is not defined" in str(cell.error)
    for program in ("words", "open('made.txt')", "import os\nos.environ['HOME']", "import subprocess", "import socket"):
        assert notebook.run(f"%%agent sandbox\n{program}").ename == "SandboxError", program


def test_errors_carry_line_and_caret_and_the_calls_already_made(notebook: Kernel) -> None:
    cell = notebook.run("%%agent sandbox --call search\nx = search('aa')\n\ny = x[0]['no'] + 1\n", cell="caret")
    assert cell.traceback == (
        "SandboxError: code: KeyError: 'no' (line 3)\n"
        "  3 | y = x[0]['no'] + 1\n"
        "    |     ^^^^^^^^^^\n"
        '  calls made before: search(query=\'aa\') → [{"query": "aa", "hits": 2}]'
    )


@pytest.mark.parametrize(
    ("line", "body", "said"),
    [
        ("--in nothing", "1", "--in: nothing is not defined in the notebook"),
        ("--in wordz", "1", "did you mean words?"),
        ("--call serch", "1", "--call: no function is called serch (did you mean search?)"),
        ("--call words", "1", "--call: words is a list; a program calls functions and agents"),
        ("--in os", "1", "os is a module, which cannot cross"),
        ("--out search", "search = 1", "--out: search is already a function"),
        ("--out missing", "x = 1", "the program never assigned missing"),
        ("--limits memory=lots", "1", "--limits memory=lots: write a size"),
        ("--limits speed=1", "1", "unknown limit speed"),
        ("--call search --approve delete", "1", "--approve delete names none of the calls"),
        ("", "x = (1 +", "dialect: "),
        ("", "x = 1\n" * 20_000, "the program is 120,000 bytes long, more than 65,536"),
        ("", "", "the body is empty"),
        ("--what", "1", "unknown option --what"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_nothing_runs(notebook: Kernel, line: str, body: str, said: str) -> None:
    cell = notebook.run(f"%%agent sandbox {line}\n{body}")
    assert cell.status == "error" and said in cell.traceback, cell.traceback
    assert made(notebook) == []


def test_limits_end_a_program_and_the_next_one_runs(notebook: Kernel) -> None:
    cell = notebook.run("%%agent sandbox --limits time=300ms\nwhile True: pass")
    assert "limit: more than 0.3 s of computing" in str(cell.error) and cell.seconds < 3
    cell = notebook.run("%%agent sandbox --limits memory=20MB\nx = 'a' * 10 ** 9")
    assert "limit: more than 20MB of memory" in str(cell.error)
    cell = notebook.run(
        "%%agent sandbox --call search --limits calls=2\nfor i in range(9): search(str(i))", cell="calls"
    )
    assert "limit: more than 2 host calls (line 1)" in str(cell.error) and made(notebook) == ["0", "1"]
    assert notebook.run("%%agent sandbox\n1 + 1").status == "ok"


def test_stop_ends_a_busy_program_within_a_second_and_leaves_others_alone(notebook: Kernel) -> None:
    notebook.run(
        "import asyncio\n"
        "other = asyncio.create_task(agentkit.sandbox('n = 0\\nwhile n < 12_000_000: n += 1\\nn', limits='time=60s'))\n"
        "await asyncio.sleep(0.3)"
    )
    begun = time.monotonic()
    cell = notebook.run("%%agent sandbox --limits time=60s\nwhile True: pass", stop_after=1.0)
    assert cell.ename == "Interrupted" and time.monotonic() - begun < 2.2
    assert notebook.value("(await other).value") == "12000000"
    assert notebook.run("%%agent sandbox\n2 + 2").status == "ok"


def test_a_call_that_needs_approval_parks_the_program(notebook: Kernel) -> None:
    program = (
        "%%agent sandbox --call search, delete --out said\n"
        "search('before')\n"
        "try:\n"
        "    said = delete([1, 2])\n"
        "except BaseException:\n"
        "    said = 'swallowed'\n"
    )
    parked = notebook.run(program, cell="parked")
    assert parked.ename == "ApprovalPending" and made(notebook) == ["before"]
    step = notebook.value("get_ipython().agentkit.session().store.questions(limit=1)[0].id")
    assert "sandbox wants to call delete: " in notebook.run("%agent approvals").text
    assert notebook.run(f"%agent approve {step}").status == "ok"
    done = notebook.run(program, cell="parked")
    assert done.status == "ok" and notebook.value("said") == "'deleted 2'"
    assert made(notebook) == ["before", "delete", "[1,", "2]"]
    assert notebook.run(program, cell="parked").status == "ok" and len(made(notebook)) == 4


def test_a_denied_call_ends_the_program(notebook: Kernel) -> None:
    program = "try:\n    delete([3])\nexcept BaseException:\n    print('swallowed')"
    cell = notebook.run(f"%%agent sandbox --call delete --headless deny\n{program}", cell="denied")
    assert "delete was denied by policy" in str(cell.error) and cell.text == "" and made(notebook) == []


def test_a_killed_kernel_repeats_no_call_and_leaves_no_orphan(tmp_path: Path) -> None:
    program = (
        "%%agent sandbox --call slow --out got --limits time=2s\n"
        "got = [slow(number) for number in range(4)]\n"
        "if got: pass\n"
    )
    with kernel(tmp_path) as running:
        running.run("%load_ext agentkit")
        running.run(SETUP)
        pid = int(running.value("os.getpid()"))
        message = running.client.session.msg(
            "execute_request", {"code": program, "silent": False}, metadata={"cellId": "k"}
        )
        running.client.shell_channel.send(message)
        made_so_far = tmp_path / "made.txt"
        while not made_so_far.exists() or len(made_so_far.read_text().split()) < 3:
            time.sleep(0.02)
        workers = _workers(pid)
        assert workers
        os.kill(pid, signal.SIGKILL)
        begun = time.monotonic()
        while any(_alive(worker) for worker in workers) and time.monotonic() - begun < 5:
            time.sleep(0.05)
        assert not any(_alive(worker) for worker in workers)
    with kernel(tmp_path) as running:
        running.run("%load_ext agentkit")
        running.run(SETUP)
        again = running.run(program, cell="k")
        assert again.status == "ok", again.traceback
        assert running.value("got") == "[0, 2, 4, 6]"
    done = made_so_far.read_text().split()
    assert [done.count(str(number)) for number in range(4)] in ([1, 1, 2, 1], [1, 1, 1, 1])


def test_a_busy_orphan_ends_at_its_time_limit(tmp_path: Path) -> None:
    with kernel(tmp_path) as running:
        running.run("%load_ext agentkit")
        pid = int(running.value("__import__('os').getpid()"))
        message = running.client.session.msg(
            "execute_request", {"code": "%%agent sandbox --limits time=1s\nwhile True: pass", "silent": False}
        )
        running.client.shell_channel.send(message)
        begun = time.monotonic()
        while not (workers := _workers(pid)):
            assert time.monotonic() - begun < 20
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        while any(_alive(worker) for worker in workers):
            assert time.monotonic() - killed < 5
            time.sleep(0.05)


def _workers(pid: int) -> list[int]:
    """The sandbox processes of a kernel."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(child) for child in (task / "children").read_text().split()]
    for child in children:
        if _alive(child) and b"monty" in Path(f"/proc/{child}/cmdline").read_bytes():
            found.append(child)
    return found


def _alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


STEPPED = (
    "%%agent sandbox --step --in words --out total --call search\n"
    "total = 0\n"
    "for word in words:\n"
    "    total += search(word)[0]['hits']\n"
    "print('sum', total)\n"
)


def paused(kernel: Kernel, move: str, cell: str) -> str:
    done = kernel.run(move, cell=cell)
    assert done.status == "ok", done.traceback
    return str(done.shown[0]["data"]["text/plain"])


def test_a_program_is_gone_through_statement_by_statement_and_back(notebook: Kernel) -> None:
    assert "paused before step 1 · line 1" in paused(notebook, STEPPED, "stepped")
    second = paused(notebook, "%agent next", "n1")
    assert "paused before step 2 · line 2" in second and "changed: total = 0" in second
    call = paused(notebook, "%agent next", "n2")
    assert "paused before step 2.1 · tool search" in call and '"query": "one"' in call and made(notebook) == []
    assert "step 2.2" in paused(notebook, "%agent next", "n3") and made(notebook) == ["one"]
    assert "total = 8" in paused(notebook, "%agent next", "n4")
    assert "step 2.2" in paused(notebook, "%agent back", "n5")
    done = notebook.run("%agent continue", cell="n6")
    assert (done.status, done.text) == ("ok", "sum 8\n") and notebook.value("total") == "8"
    assert made(notebook) == ["one", "three"]
    notebook.run("del total")
    plain = notebook.run(STEPPED.replace(" --step", ""), cell="stepped")
    assert plain.status == "ok" and notebook.value("total") == "8" and made(notebook) == ["one", "three"]
    paused(notebook, "%agent back", "n7")
    refused = notebook.run("%%agent edit\nanything")
    assert refused.ename == "UserError" and "edit the cell and run it again" in str(refused.error)
    notebook.run("%agent stop")


def test_a_breakpoint_pauses_a_plain_program(notebook: Kernel) -> None:
    program = STEPPED.replace(" --step", "").replace("search(word)", "search(word + '!')")
    notebook.run("%agent break tool=search")
    stopped = notebook.run(program, cell="broken")
    assert stopped.ename == "RunPaused" and made(notebook) == []
    notebook.run("%agent break off")
    assert "paused before step 2.1 · tool search" in paused(notebook, "%agent next 2", "b1")
    notebook.run("%agent stop")
    assert notebook.run(program, cell="broken").status == "ok" and notebook.value("total") == "10"


WRITER = '''
from agentkit.testing import Call, ScriptedModel

CODE = """
hits = search(query="old")[0]["hits"]
try:
    said = delete(rows=[hits])
except BaseException:
    said = "swallowed"
said
"""

def write_code(messages):
    last = messages[-1].parts[-1]
    return f"It said: {last.content}" if last.part_kind == "tool-return" else Call("run_code", {"code": CODE})

writer = ScriptedModel.by(write_code)
'''


def test_an_agent_s_code_is_parked_and_goes_on_in_another_kernel(tmp_path: Path) -> None:
    with kernel(tmp_path) as running:
        for _ in range(2):
            for source in ("%load_ext agentkit", SETUP, WRITER):
                assert running.run(source).status == "ok"
            built = running.run("%%agent build cleaner --model writer --tools search,delete --code\nYou clean.")
            assert built.status == "ok", built.traceback
            ran = running.run("%%agent run cleaner --as said\nClean up.", cell="run")
            if ran.ename == "ApprovalPending":
                assert made(running) == ["old"]
                running.run("%agent approve " + str(_waiting(running)))
                running.restart()
        assert ran.status == "ok", ran.traceback
        assert running.value("said") == "'It said: deleted 1'" and made(running) == ["old", "delete", "[3]"]


def _waiting(running: Kernel) -> int:
    return int(running.value("get_ipython().agentkit.session().store.questions(limit=1)[0].id"))


def test_what_the_sandbox_does_earlier_than_python_is_told_once(notebook: Kernel) -> None:
    cell = "%%agent sandbox\nlog = []\nkept = (x for x in [1, 2])\nlist(kept)"
    said = "note: line 2: the sandbox works out (x for x in [1, 2]) whole, where it stands"
    assert said in notebook.run(cell).text
    assert said not in notebook.run(cell).text
