"""Keys and hostile text in a real kernel: nowhere on disk, in an error or a panel; nothing steers a screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebook.kernels import Cell, Kernel, kernel
from tests.serving import Fault, Serving, serving

EARLY = "sk-early-0123456789/abcdef+KEY"
LATE = "sk-late-9876543210/fedcba+KEY"
TYPED = "typed-key-0011223344556677"
STEERS = "\x1b[2J\x1b]0;title\x07\u202etxt.exe\x08\x08"

SETUP = f"""
%load_ext agentkit
import agentkit, os
from agentkit.testing import Call, ScriptedModel

@agentkit.tool(effects="none")
def tell(name: str) -> str:
    "Tell a key."
    return f"it is {{os.environ[name]}}"

@agentkit.tool(effects="none")
def fail(name: str) -> str:
    "Fail with a key."
    raise RuntimeError(f"no access with {{os.environ[name]}}")

STEERS = {STEERS!r}

@agentkit.tool(effects="none")
def steer(name: str) -> str:
    "Fail with what a server said."
    raise RuntimeError(STEERS)

hostile = ScriptedModel([Call("steer", {{"name": STEERS}})])
speaking = ScriptedModel([f"all done{{STEERS}}"])
"""


class Page:
    """A notebook with a server that speaks OpenAI's protocol, in a folder of its own."""

    def __init__(self, shell: Kernel, server: Serving, folder: Path) -> None:
        self.shell = shell
        self.server = server
        self.folder = folder

    def holds(self, secret: str) -> list[str]:
        files = [file for file in self.folder.rglob("*") if file.is_file()]
        return [str(file.relative_to(self.folder)) for file in files if secret.encode() in file.read_bytes()]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("secrets")
    with pytest.MonkeyPatch.context() as patch, serving() as server:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("EARLY_API_KEY", EARLY)
        with kernel(folder) as shell:
            assert shell.run(SETUP).status == "ok"
            built = shell.run(f"%%agent build clerk --model {server.url}#m --tools tell,fail --code\nYou help.")
            assert built.status == "ok", built.traceback
            assert shell.run("%%agent run clerk\nhello").status == "ok"
            yield Page(shell, server, folder)


def everything(cell: Cell) -> str:
    drawn = [str(value) for panel in cell.panels for value in panel["data"].values()]
    return "\n".join([cell.text, cell.error or "", cell.traceback, *drawn])


def test_a_key_that_is_set_after_the_first_run_is_in_no_record(page: Page) -> None:
    page.shell.run(f'os.environ["LATE_API_KEY"] = "{LATE}"')
    told = page.shell.run('%%agent run clerk\ndo tell {"name": "LATE_API_KEY"}\nsay done')
    assert told.status == "ok" and "it is <secret:LATE_API_KEY>" in everything(told)
    page.shell.run("%%agent sandbox --call tell\ntell(name='LATE_API_KEY')")
    assert page.holds(LATE) == []


@pytest.mark.parametrize("name", ["EARLY", "LATE"])
def test_an_error_shows_no_key_and_its_traceback_none(page: Page, name: str) -> None:
    page.shell.run(f'os.environ["LATE_API_KEY"] = "{LATE}"')
    key = {"EARLY": EARLY, "LATE": LATE}[name]
    failed = page.shell.run(f'%%agent run clerk\ndo fail {{"name": "{name}_API_KEY"}}')
    assert failed.ename == "RunFailed" and f"no access with <secret:{name}_API_KEY>" in str(failed.error)
    full = page.shell.run("%agent traceback")
    assert "RuntimeError: no access with <secret:" in full.text
    program = page.shell.run(f"%%agent sandbox --call tell\nraise ValueError(tell(name='{name}_API_KEY'))")
    assert program.ename == "SandboxError"
    page.server.script(Fault(status=401, code=f"bad key {key}"))
    refused = page.shell.run("%%agent run clerk\nonce more")
    assert refused.ename == "RunFailed"
    assert key not in "".join(map(everything, (failed, full, program, refused)))


def test_the_key_in_the_address_of_a_model_is_shown_and_kept_nowhere(page: Page) -> None:
    address = page.server.url.replace("http://", f"http://:{TYPED}@")
    assert page.shell.run(f"%%agent build other --model {address}#m\nYou help.").status == "ok"
    said = [page.shell.run(f"%%agent run other\nsay the key is {TYPED}")]
    page.server.script(Fault(status=401, code=f"bad key {TYPED}"))
    said.append(page.shell.run("%%agent run other\nonce more"))
    said.append(page.shell.run(f"%%agent build third --model {address}\nYou help."))
    said.append(page.shell.run(f"%agent model {address}#m"))
    said.append(page.shell.run("%agent"))
    page.shell.run("%agent model offline")
    assert [cell.ename for cell in said] == [None, "RunFailed", "UserError", None, None]
    assert TYPED not in "".join(map(everything, said))
    assert page.holds(TYPED) == []


def test_what_a_server_says_does_not_steer_the_screen(page: Page) -> None:
    page.shell.run("%%agent build victim --model hostile --tools steer\nYou help.")
    page.shell.run("%%agent build talker --model speaking\nYou help.")
    failed = page.shell.run("%%agent run victim\ngo")
    assert failed.ename == "RunFailed" and "␛[2J" in str(failed.error)
    full = page.shell.run("%agent traceback").text
    (answer, _) = page.shell.run("%%agent run talker\ngo").of("text/plain")
    for text in (everything(failed).replace("\x1b[31mRunFailed\x1b[0m", ""), full, answer):
        assert not {"\x1b", "\x07", "\x08", "\u202e"} & set(text)
    assert answer.startswith("all done␛[2J")


def test_half_a_character_in_a_stream_or_a_prompt_stops_nothing(page: Page) -> None:
    page.shell.run("cut = ScriptedModel(['half of \\ud83d and ' * 20] * 2, delay=0.01)\nname = 'caf\\udce9.txt'\n")
    page.shell.run("%%agent build cutter --model cut\nYou help.")
    streamed = page.shell.run("%%agent run cutter --as said\nstream", watched=True)
    assert streamed.status == "ok", streamed.traceback
    assert page.shell.value("said[:17]") == repr("half of \\ud83d and"[:17])
    asked = page.shell.run("%%agent run cutter\nRead {{ name }}", watched=True)
    assert asked.status == "ok" and "caf\\udce9.txt" in everything(asked), asked.traceback


def test_doctor_shows_neither_a_key_nor_what_steers_the_screen(page: Page) -> None:
    address = page.server.url.replace("http://", f"http://:{TYPED}@")
    listed, page.server.listed = page.server.listed, (f"{STEERS}{TYPED}{'x' * 10_000}",)
    try:
        table = page.shell.run(f"report = %agent doctor {address}#m")
        drawn = page.shell.run(f"%agent doctor {address}#m")
        report = page.shell.run("print(report.to_dict())")
    finally:
        page.server.listed = listed
    shown = "".join(str(content["data"]) for cell in (table, drawn) for content in cell.shown)
    assert "does not list m" in shown and "does not list m" in report.text
    for text in (shown, report.text):
        assert TYPED not in text and len(text) < 5_000
        assert not {"\x1b", "\x07", "\x08", "\u202e"} & set(text)
        assert not any(escape in text for escape in ("\\x1b", "\\x07", "\\u202e"))
