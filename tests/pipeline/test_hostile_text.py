"""Prompts and instructions full of quotes, braces and newlines stay text in the program that an export writes."""

from __future__ import annotations

import ast
from typing import Literal

import pytest

from agentkit.notebook.verbs.export_notebook import LANGUAGE
from agentkit.pipeline.export import program
from agentkit.pipeline.reader import Cell, Notebook
from agentkit.pipeline.settings import Settings

MARK = "os.system"
HOSTILE = [
    '"""\nimport os; os.system("x")\n"""',
    "'''\nimport os; os.system('x')\n'''",
    "\\",
    'ends in a quote and a backslash \\"',
    '"); import os; os.system("x"); ("',
    "{__import__('os').system('x')} {0} {}",
    "%(x)s %s %",
    "\\N{DIGIT ONE} \\x41 \\u0041 \\",
    "a\r\n\x0b\x0c\x1c\u2028import os; os.system('x')",
    "# comment\nimport os\nos.system('x')",
    '\\""" + __import__("os").system("x") + r"""',
]


@pytest.mark.parametrize("target", ["script", "flyte"])
@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_leaves_its_quotes(target: Literal["script", "flyte"], text: str) -> None:
    sources = (
        "%load_ext agentkit",
        "import agentkit",
        f'@agentkit.tool(effects="none")\ndef look(q: str) -> str:\n    "Look."\n    return {text!r}[:0] + q',
        f"%%agent build clerk --tools look\nYou help. {text.replace('{', '{{{{').replace('}', '}}}}')}",
        f"%%agent run clerk --as answer\nSay {text.replace('{', '{{{{').replace('}', '}}}}')} now.",
    )
    cells = tuple(Cell(number=number, source=source) for number, source in enumerate(sources, 1))
    written = program(Notebook(name='sh"op\n', cells=cells), LANGUAGE, Settings(target=target)).text((text,))
    tree = ast.parse(written)
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not {"os.system", "__import__"} & set(calls) and "__import__('os').system" not in calls
    assert not [
        node for node in ast.walk(tree) if isinstance(node, ast.Import) and "os" in [n.name for n in node.names]
    ]
    words = "".join(str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant))
    assert "You help." in words and "Say " in words
