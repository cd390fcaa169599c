"""How cells are rewritten, and waiting where awaiting is impossible."""

from __future__ import annotations

import ast
import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.errors import Interrupted
from agentkit.notebook.cell_transform import run_blocking, transform
from agentkit.notebook.output import set_cell_depth


def rewritten(code: str) -> str:
    return "".join(transform(code.splitlines(keepends=True)))


def test_a_cell_becomes_an_awaited_call_with_its_text_as_typed() -> None:
    assert rewritten('%%agent run a --as x\nWhat\'s "up"?\n\\n {y}\n') == (
        "await get_ipython().agentkit.cell('run a --as x', 'What\\'s \"up\"?\\n\\\\n {y}\\n')\n"
    )


@pytest.mark.parametrize(
    ("code", "becomes"),
    [
        ("%agent runs\n", "await get_ipython().agentkit.line('runs')\n"),
        ("%agent\n", "await get_ipython().agentkit.line('')\n"),
        ("x = %agent runs\n", "x = await get_ipython().agentkit.value('runs')\n"),
        ("a, b[0] = %agent runs\n", "a, b[0] = await get_ipython().agentkit.value('runs')\n"),
        ("%agent run a What's up?\n", 'await get_ipython().agentkit.line("run a What\'s up?")\n'),
        ("if x:\n    %agent runs\n", "if x:\n    await get_ipython().agentkit.line('runs')\n"),
        (
            "def f():\n    if x:\n        %agent runs\n",
            "def f():\n    if x:\n        get_ipython().agentkit.blocking_line('runs')\n",
        ),
        ("async def f():\n    %agent runs\n", "async def f():\n    await get_ipython().agentkit.line('runs')\n"),
        ("def f():\n    pass\n%agent runs\n", "def f():\n    pass\nawait get_ipython().agentkit.line('runs')\n"),
        ("%agent run a \\\n  b\n", "await get_ipython().agentkit.line('run a   b')\n"),
        ("!echo it's (\n%agent runs\n", "!echo it's (\nawait get_ipython().agentkit.line('runs')\n"),
        ("x = '(' # ' [\n%agent runs\n", "x = '(' # ' [\nawait get_ipython().agentkit.line('runs')\n"),
    ],
)
def test_a_line_becomes_a_call(code: str, becomes: str) -> None:
    assert rewritten(code) == becomes


@pytest.mark.parametrize(
    "code",
    [
        's = """\n%agent runs\n"""\n',
        "x = [\n%agent\n]\n",
        "%%time\n%agent runs\n",
        "%%agents x\ny\n",
        "%agent?\n",
        "%%agent?\n",
        "%agents\n",
        "x = 5\n",
    ],
)
def test_what_is_not_ours_stays_as_it_is(code: str) -> None:
    assert rewritten(code) == code


def test_inside_another_magic_the_call_waits() -> None:
    set_cell_depth(1)
    try:
        assert rewritten("%agent runs\n") == "get_ipython().agentkit.blocking_line('runs')\n"
        assert rewritten("%%agent run a\nb\n") == "%%agent run a\nb\n"
    finally:
        set_cell_depth(0)


@given(st.text(), st.text())
def test_whatever_is_typed_reaches_the_call_unchanged(line: str, body: str) -> None:
    line = "".join(line.split("\n")[:1]).strip().replace("\r", "")
    code = f"%%agent {line}\n{body}"
    lines = code.split("\n")
    (call,) = transform([f"{text}\n" for text in lines[:-1]] + [lines[-1]])
    if "\n" not in line and line == " ".join(line.splitlines()):
        tree = ast.parse(call.removeprefix("await "), mode="eval").body
        assert isinstance(tree, ast.Call)
        assert [ast.literal_eval(arg) for arg in tree.args] == [line, body]


def test_waiting_gives_the_result_or_the_error() -> None:
    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    async def fail() -> None:
        raise ValueError("no")

    assert run_blocking(double(4)) == 8
    with pytest.raises(ValueError, match="no"):
        run_blocking(fail())
    assert run_blocking(double(5)) == 10


def test_waiting_works_where_a_loop_is_running_and_looks_up_meanwhile() -> None:
    looks: list[str] = []

    async def outer() -> str:
        return run_blocking(inner(), meanwhile=lambda: looks.append(threading.current_thread().name))

    async def inner() -> str:
        await asyncio.sleep(0.35)
        return threading.current_thread().name

    assert asyncio.run(outer()) == "agentkit-loop"
    assert looks and set(looks) == {threading.current_thread().name}


def test_a_cancelled_wait_is_an_interruption_and_the_loop_lives_on() -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    async def fine() -> int:
        return 1

    with pytest.raises(Interrupted):
        run_blocking(give_up())
    assert run_blocking(fine()) == 1
