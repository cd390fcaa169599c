"""Approvals in a real kernel without a browser: verbs, policies, clicks as messages, decisions from another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.notebook.kernels import Cell, Kernel, kernel

VIEW = "application/vnd.jupyter.widget-view+json"
SETUP = """
%load_ext agentkit
import agentkit
from agentkit.testing import Call, ScriptedModel
from typing import Annotated
from pydantic import AfterValidator
from pydantic_ai.messages import ToolReturnPart

asked, deleted = [], []
def rule(messages):
    asked.append(1)
    parts = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
    return str(parts[-1].content) if parts else ["They are old.", Call("delete_rows", {"ids": [1, 2]})]

model = ScriptedModel.by(rule)

def counted(id):
    if id < 0:
        raise ValueError("rows are counted from 0")
    return id

@agentkit.tool(effects="once")
def delete_rows(ids: list[Annotated[int, AfterValidator(counted)]]) -> str:
    "Delete rows."
    deleted.append(ids)
    return f"{len(ids)} deleted"
"""
BUILD = "%%agent build cleaner --model model --tools delete_rows --approve delete_*\nYou clean."
RUN = "%%agent run cleaner --as said\nClean up."
NO_HANDSHAKE = "from agentkit.notebook import approval_widget; approval_widget.READY_SECONDS = 0"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Kernel]:
    with kernel(tmp_path) as running:
        setup(running)
        yield running


def setup(running: Kernel) -> None:
    assert running.run(SETUP).status == "ok"
    assert running.run(BUILD).status == "ok"


def waiting_id(cell: Cell) -> str:
    assert cell.ename == "ApprovalPending" and cell.error is not None
    return cell.error.partition("%agent approve ")[2].split()[0]


def test_where_nobody_is_the_cell_ends_and_names_what_to_do(shell: Kernel) -> None:
    cell = shell.run(RUN)
    id_ = waiting_id(cell)
    assert cell.error == (
        f"delete_rows waits for a person: %agent approve {id_} [--deny WHY | --edit JSON], in a shell "
        f"`agentkit approvals decide {id_}`, then run again"
    )
    assert len(cell.traceback.splitlines()) == 1
    assert VIEW not in str(cell.shown)
    assert shell.value("deleted") == "[]"
    assert "waiting" in shell.run("%agent").text


def test_a_decision_that_is_typed_holds_for_the_next_run_and_its_replays(shell: Kernel) -> None:
    id_ = waiting_id(shell.run(RUN))
    listed = shell.run("%agent approvals").text
    assert f'{id_}  cleaner wants to call delete_rows: {{"ids": [1, 2]}} · waiting' in listed
    assert "approved with changes" in shell.run(f'%agent approve {id_} --edit {{"ids": [7]}}').text
    for _ in range(2):
        assert shell.run(RUN).status == "ok"
        assert shell.value("said, deleted, len(asked)") == "('1 deleted', [[7]], 2)"
    assert "approved with changes" in shell.run("%agent approvals").text
    shell.restart()
    setup(shell)
    assert shell.run(RUN).status == "ok"
    assert shell.value("said, deleted, len(asked)") == "('1 deleted', [], 0)"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%agent approve 999", "no question 999: waiting are {id}"),
        ("%agent approve {id} --edit [1]", "these arguments do not fit delete_rows: [1] is not an object"),
        ('%agent approve {id} --edit {{"ids": 1}}', "these arguments do not fit delete_rows: ids: 1 is not an array"),
        ("%agent approve {id} --edit yes", "--edit yes: not JSON"),
        ("%agent approve {id} --answer yes", "can be answered with approve, edit, deny"),
        ("%agent approve {id} --deny no --stop", "--deny and --stop: one of them"),
        ("%agent approve", "approve"),
        ("%agent approvals withdraw {id}", "is no standing approval"),
        ("%agent approvals drop {id}", "what is 'drop {id}'?"),
        ("%agent policy --headless alow", "one of suspend, deny, allow (did you mean allow?)"),
        ("%agent policy --approve a b", "--approve a b: tool names"),
    ],
)
def test_bad_input_is_one_line_that_says_what_is_possible(shell: Kernel, line: str, said: str) -> None:
    id_ = waiting_id(shell.run(RUN))
    cell = shell.run(line.format(id=id_))
    assert cell.ename == "UserError" and cell.error is not None
    assert said.format(id=id_) in cell.error
    assert len(cell.traceback.splitlines()) == 1


def test_deciding_twice_says_what_was_decided(shell: Kernel) -> None:
    id_ = waiting_id(shell.run(RUN))
    shell.run(f"%agent approve {id_} --deny not now")
    cell = shell.run(f"%agent approve {id_}")
    assert cell.error is not None and f"question {id_} is decided already: denied (not now) by you" in cell.error


def test_the_policy_of_the_session_is_shown_and_set(shell: Kernel) -> None:
    assert "(suspend)" in shell.run("%agent policy").text
    shown = shell.run("%agent policy --headless deny --approve send_*").text
    assert "needs a person: send_*" in shown and "is denied (deny)" in shown
    assert shell.run(RUN).status == "ok"
    assert "denied by policy" in shell.value("said")
    assert "only what its tools" in shell.run("%agent policy --approve off").text


def test_the_policy_of_one_run_is_an_option(shell: Kernel) -> None:
    assert shell.run(RUN.replace("--as", "--headless allow --as")).status == "ok"
    assert shell.value("said, deleted") == "('2 deleted', [[1, 2]])"


def test_plain_cells_wait_too(shell: Kernel) -> None:
    cell = shell.run("await cleaner.run('Clean up.')")
    shell.run(f"%agent approve {waiting_id(cell)}")
    assert shell.value("(await cleaner.run('Clean up.')).output") == "'2 deleted'"


def test_always_is_given_listed_and_withdrawn_by_typing(shell: Kernel) -> None:
    id_ = waiting_id(shell.run(RUN))
    shell.run(f"%agent approve {id_} --always")
    assert "standing (Always)" in shell.run("%agent approvals").text
    twice = "[(await cleaner.run('Clean up.')).output for _ in range(2)]"
    assert shell.value(twice) == "['2 deleted', '2 deleted']"
    assert "is withdrawn" in shell.run(f"%agent approvals withdraw {id_}").text
    assert shell.run(twice.replace("2)", "3)")).ename == "ApprovalPending"


def test_a_session_that_a_cell_opens_itself_has_a_panel_too_and_asks_there(shell: Kernel) -> None:
    inside = "with agentkit.session('mine', journal='elsewhere'):\n    print((await cleaner.run('Clean up.')).output)"
    cell = shell.run(inside, cell="w")
    id_ = waiting_id(cell)
    assert "cleaner · waiting for you · 2 steps" in cell.headline
    assert "nobody has been asked" in shell.run("%agent approvals").text
    assert shell.run(f"with agentkit.session(journal='elsewhere'):\n    %agent approve {id_}", cell="x").status == "ok"
    for replayed in ("2 live, 2 replayed", "0 live, 4 replayed"):
        cell = shell.run(inside, cell="w")
        assert cell.status == "ok" and cell.text == "2 deleted\n"
        assert replayed in cell.headline
    # What runs outside it is the notebook's own again.
    assert "cleaner · waiting for you" in shell.run("await cleaner.run('Clean up.')").headline
    assert shell.value("deleted, len(asked)") == "([[1, 2]], 3)"


# ---- clicks, as the front end sends them


class Watched:
    """A cell that runs while somebody watches it: its widget, and clicks on it."""

    def __init__(self, shell: Kernel, code: str) -> None:
        self.shell = shell
        self.cell = Cell()
        self._found: list[Any] = []
        self._thread = threading.Thread(target=self._run, args=(code,))
        self._thread.start()

    def _run(self, code: str) -> None:
        self.cell = self.shell.run(code, watched=True, cell="c1")

    def finished(self) -> Cell:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.cell


def send(shell: Kernel, comm: str, content: object) -> None:
    message = shell.client.session.msg("comm_msg", {"comm_id": comm, "data": {"method": "custom", "content": content}})
    shell.client.shell_channel.send(message)


def widget_of(cell: Cell) -> str:
    (view,) = cell.of(VIEW)
    return str(view["model_id"])  # type: ignore[index]


def later(shell: Kernel, *, until: str, seconds: float = 15) -> list[dict[str, Any]]:
    """What is put out after the cell has ended, up to a message that holds `until`."""
    seen: list[dict[str, Any]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        message = shell.client.get_iopub_msg(timeout=seconds)
        seen.append(message)
        if until in str(message["content"]):
            return seen
    raise AssertionError(seen)


def test_where_clicks_do_not_arrive_a_later_one_goes_on_in_the_place_of_the_cell(shell: Kernel) -> None:
    shell.run(NO_HANDSHAKE)
    cell = shell.run(RUN, watched=True, cell="c1")
    id_ = waiting_id(cell)
    send(shell, widget_of(cell), {"type": "decide", "id": id_, "verdict": "approve"})
    seen = later(shell, until="2 deleted")
    updates = [message for message in seen if message["msg_type"] == "update_display_data"]
    places = {content["transient"]["display_id"] for content in cell.shown if "display_id" in content["transient"]}
    assert updates and {message["content"]["transient"]["display_id"] for message in updates} <= places
    assert _until(lambda: shell.value("globals().get('said'), deleted"), "2 deleted") == "('2 deleted', [[1, 2]])"


def test_a_click_that_cannot_be_taken_is_refused_and_the_question_stays(shell: Kernel) -> None:
    shell.run(NO_HANDSHAKE)
    cell = shell.run(RUN, watched=True, cell="c1")
    id_ = waiting_id(cell)
    for content in (
        {"type": "decide", "id": id_, "verdict": "edit", "arguments": {"ids": "x"}},
        {"type": "decide", "id": id_, "verdict": "answer", "answer": 1},
        {"type": "decide", "id": "999", "verdict": "approve"},
        {"type": "decide", "id": id_, "verdict": "edit", "arguments": {"ids": ["x"]}},
    ):
        send(shell, widget_of(cell), content)
    refused = later(shell, until="ids[0]: 'x' is not an integer")
    texts = [str(message["content"]) for message in refused if message["msg_type"] == "comm_msg"]
    assert any("ids: 'x' is not an array" in text for text in texts)
    assert any("can be answered with approve, edit, deny" in text for text in texts)
    assert shell.value("deleted") == "[]"


FORGED: list[Any] = [
    None, 1, "x", [], {}, {"type": []}, {"type": "ready"}, {"type": "decide"}, {"type": {"decide": 1}},
    *({"type": "decide", "id": id_, "verdict": "approve"} for id_ in (None, ["ID"], {"ID": 1}, 1.0, "")),
    *({"type": "decide", "id": "ID", "verdict": verdict} for verdict in (None, 1, ["approve"], "", "x" * 9999)),
    *({"type": "decide", "id": "ID", "verdict": "approve", "always": always} for always in ("no", 1, [0])),
    *({"type": "decide", "id": "ID", "verdict": "deny", "reason": reason} for reason in (None, 1, ["x"], {"a": 1})),
    *({"type": "decide", "id": "ID", "verdict": "edit", "arguments": given} for given in (None, 1, "x", {"ids": None})),
    {"type": "decide", "id": "ID", "verdict": "edit"},
    {"type": "decide", "id": "ID", "verdict": "hint", "reason": {}},
    *({"type": "decide", "id": "ID", "verdict": "approve", "choice": at} for at in (0, -1, None, "x", True)),
    {"type": "decide", "id": "ID", "verdict": "approve", "by": "somebody", "at": "never", "always": None},
]  # fmt: skip


def test_a_forged_message_is_no_decision_and_says_nothing_in_the_kernel(shell: Kernel) -> None:
    """A script of another output may send anything: values of the wrong type leave the question open."""
    shell.run(NO_HANDSHAKE)
    cell = shell.run(RUN, watched=True, cell="c1")
    id_ = waiting_id(cell)
    for content in FORGED:
        send(shell, widget_of(cell), json.loads(json.dumps(content).replace("ID", id_)))
    send(shell, widget_of(cell), {"type": "decide", "id": id_, "verdict": "redo"})
    seen = later(shell, until="redo: ")
    assert [message["content"] for message in seen if message["msg_type"] in ("stream", "error")] == []
    texts = [str(message["content"]["data"]) for message in seen if message["msg_type"] == "comm_msg"]
    addressed = [one for one in FORGED if isinstance(one, dict) and one.get("id") == "ID"]
    assert sum("refused" in text for text in texts) == len(addressed) + 1
    assert max(map(len, texts)) < 2_000
    assert shell.value("deleted") == "[]" and f"{id_}  " in shell.run("%agent approvals").text
    send(shell, widget_of(cell), {"type": "decide", "id": id_, "verdict": "approve"})
    later(shell, until="2 deleted")


def test_a_cell_that_waits_takes_a_decision_from_another_process(shell: Kernel, tmp_path: Path) -> None:
    # The front end is there, so the cell waits: as if the handshake had come.
    shell.run("from agentkit.notebook import approval_widget; approval_widget.READY_SECONDS = 60")
    watched = Watched(shell, RUN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def approvals(*arguments: str) -> str:
        program = "import sys; from agentkit.cli.main import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", program, "approvals", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    listed = _until(lambda: approvals("ls"), "· waiting")
    id_ = next(line.split()[0] for line in listed.splitlines() if "waiting" in line and line.startswith("  "))
    # Only the asking kernel knows the tool's validator: it refuses there, and waits on.
    assert "approved with changes" in approvals("decide", id_, "--edit", '{"ids": [-1]}')
    _until(lambda: approvals("ls"), "· waiting")
    assert "approved by you on the command line" in approvals("decide", id_)
    cell = watched.finished()
    assert cell.status == "ok", cell.traceback
    assert any("on the command line" in str(content["data"]) for content in cell.updates)
    assert shell.value("said") == "'2 deleted'"


def _until(look: Any, wanted: str, seconds: float = 30) -> str:
    end = time.monotonic() + seconds
    while wanted not in (text := str(look())):
        assert time.monotonic() < end, text
        time.sleep(0.3)
    return text


def test_stop_while_it_waits_leaves_the_question_open(shell: Kernel) -> None:
    shell.run("from agentkit.notebook import approval_widget; approval_widget.READY_SECONDS = 60")
    cell = shell.run(RUN, watched=True, cell="c1", stop_after=3)
    assert cell.ename == "Interrupted"
    assert cell.seconds < 5
    waiting = shell.run("%agent approvals").text
    assert "waiting for a decision" in waiting
    shell.run(f"%agent approve {waiting.splitlines()[1].split()[0]}")
    assert shell.run(RUN).status == "ok"
    assert shell.value("deleted, len(asked)") == "([[1, 2]], 2)"


def test_an_agent_that_may_ask_is_built_with_ask(shell: Kernel) -> None:
    shell.run(
        """model = ScriptedModel([Call("ask_user", {"question": "Which year?", "kind": "number"}), "2024 it is"])"""
    )
    shell.run("%%agent build asker --model model --ask\nYou ask.")
    id_ = waiting_id(shell.run("%%agent run asker\nGo."))
    refused = shell.run(f"%agent approve {id_} --answer soon")
    assert refused.error is not None and "'soon': answer with a number" in refused.error
    assert "answered: 2024 by you" in shell.run(f"%agent approve {id_} --answer 2024").text
    assert shell.run("%%agent run asker --as year\nGo.").status == "ok"
    assert shell.value("year") == "'2024 it is'"
