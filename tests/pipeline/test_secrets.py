"""A key in a cell is in no line of an export: hidden where it is only told, refused where the program would hold it."""

from __future__ import annotations

import pytest

from agentkit.errors import UserError
from agentkit.notebook.verbs.export_notebook import LANGUAGE
from agentkit.pipeline.export import program
from agentkit.pipeline.reader import Cell, Notebook
from agentkit.pipeline.settings import Settings

KEY = "sk-0123456789/abcdef+KEY"
BUILD = "%%agent build clerk --tools ask_shop\nYou help."
RUN = "%%agent run clerk --as said\nHow many?"
TOOL = '@agentkit.tool(effects="none")\ndef ask_shop(q: str) -> str:\n    "Ask."\n    return q'


def exported(*cells: str) -> str:
    sources = ["%load_ext agentkit", "import os\nimport agentkit", *cells]
    numbered = tuple(Cell(number=number, source=source) for number, source in enumerate(sources, 1))
    return program(Notebook(name="shop", cells=numbered), LANGUAGE, Settings(target="script")).text((f"said {KEY}",))


def test_a_key_in_a_cell_that_is_left_out_is_not_told() -> None:
    text = exported(f'os.environ["SHOP_API_KEY"] = "{KEY}"', TOOL, BUILD, RUN)
    assert 'cell 3: os.environ["SHOP_API_KEY"] = "<secret:SHOP_API_KEY>" (no result needs it)' in text
    assert "said <secret:SHOP_API_KEY>" in text and KEY not in text


@pytest.mark.parametrize(
    "cell",
    [
        f'os.environ.setdefault("SHOP_API_KEY", "{KEY}")',
        f'os.environ.update({{"SHOP_API_KEY": "{KEY}"}})',
        f'os.environ.update(SHOP_API_KEY="{KEY}")',
    ],
)
def test_a_key_that_a_kept_cell_gives_is_refused(cell: str) -> None:
    with pytest.raises(UserError, match="cell 3: the value of SHOP_API_KEY stands there as it is"):
        exported(cell, TOOL, BUILD, RUN)


@pytest.mark.parametrize(
    ("cell", "named"),
    [
        (TOOL.replace("return q", f'return "{KEY}"'), "cell 4: the value of SHOP_API_KEY stands there as it is"),
        (f'MY_KEY = "{KEY}"\n{TOOL.replace("return q", "return MY_KEY")}', "cell 4: the value of SHOP_API_KEY"),
    ],
)
def test_a_program_that_would_hold_a_key_is_refused(cell: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_API_KEY", KEY)
    with pytest.raises(UserError, match=named):
        exported("x = 1", cell, BUILD, RUN)


def test_a_key_in_the_address_of_a_model_is_refused() -> None:
    build = BUILD.replace("--tools", "--model http://:a-key-0123456789@127.0.0.1:9/v1#m --tools")
    with pytest.raises(UserError, match="cell 4: the key of a server stands there as it is"):
        exported(TOOL, build, RUN)


def test_a_key_that_is_read_from_the_environment_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_API_KEY", KEY)
    text = exported(TOOL.replace("return q", 'return q + os.environ["SHOP_API_KEY"][:0]'), BUILD, RUN)
    assert 'os.environ["SHOP_API_KEY"]' in text and KEY not in text
