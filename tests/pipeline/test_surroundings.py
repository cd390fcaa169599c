"""What a notebook changes around itself before a run that needs it is refused, with that cell named."""

from __future__ import annotations

import pytest

from agentkit.errors import UserError
from agentkit.notebook.verbs.export_notebook import LANGUAGE
from agentkit.pipeline.export import program
from agentkit.pipeline.reader import Cell, Notebook
from agentkit.pipeline.settings import Settings

READS = (
    '@agentkit.tool(effects="none")\ndef size(name: str) -> int:\n    """Of a file."""\n'
    "    return len(open(name).read())"
)
PLAIN = '@agentkit.tool(effects="none")\ndef size(name: str) -> int:\n    """Of a name."""\n    return len(name)'
REGION = (
    '@agentkit.tool(effects="none")\ndef size(name: str) -> int:\n    """Of a region."""\n'
    '    return len(os.environ["REGION"] + name)'
)
BUILD = "%%agent build reader --tools size\nYou measure."
RUN = "%%agent run reader --as answer\nHow big is it?"

REFUSED = {
    "%cd": (["%cd data", READS, BUILD, RUN], "cell 1 changes the folder (%cd data), and cell 2 works with files"),
    "cd after the tool": ([READS, BUILD, "%cd data", RUN], "cell 3 changes the folder"),
    "pushd": (["%pushd data", READS, BUILD, RUN], "cell 1 changes the folder"),
    "os.chdir": (["import os\nos.chdir('data')", READS, BUILD, RUN], "cell 1 changes the folder (os.chdir('data'))"),
    "chdir": (["from os import chdir", "chdir('data')", READS, BUILD, RUN], "cell 2 changes the folder"),
    "%cd before a table": (
        [
            "import pandas as pd",
            "%cd data",
            "frame = pd.read_csv('a.csv')",
            PLAIN,
            BUILD,
            f"{RUN} {{{{ len(frame) }}}}",
        ],
        "cell 2 changes the folder (%cd data), and cell 3 works with files",
    ),
    "%env": (
        ["import os", "%env REGION=eu", REGION, BUILD, RUN],
        "cell 2 sets REGION, which cell 3 needs",
    ),
    "%set_env": (["import os", "%set_env REGION eu", REGION, BUILD, RUN], "cell 2 sets REGION"),
    "a key of the provider": (["%env OPENAI_API_KEY=abc", PLAIN, BUILD, RUN], "cell 1 sets OPENAI_API_KEY"),
    "__file__": (["here = __file__", PLAIN, BUILD, f"{RUN} {{{{ here }}}}"], "cell 1 uses __file__"),
    "__main__": (
        ["import __main__\nword = __main__.word", PLAIN, BUILD, f"{RUN} {{{{ word }}}}"],
        "cell 1 uses __main__",
    ),
    "as a program": (
        [PLAIN, BUILD, "if __name__ == '__main__':\n    answer = await reader.run('how big?')"],
        "cell 3 uses __main__",
    ),
}
ACCEPTED = {
    "a folder that nothing needs": ["%cd data", PLAIN, BUILD, RUN],
    "a folder after all runs": [READS, BUILD, RUN, "%cd data"],
    "a variable that nothing needs": ["%env REGION=eu", PLAIN, BUILD, RUN],
    "a variable that is shown": ["import os", "%env REGION", REGION, BUILD, RUN],
}


def exported(sources: list[str]) -> str:
    cells = tuple(Cell(number=n, source=source) for n, source in enumerate(["import agentkit", *sources]))
    return program(Notebook(name="shop", cells=cells), LANGUAGE, Settings(target="script")).text()


@pytest.mark.parametrize(("sources", "said"), REFUSED.values(), ids=list(REFUSED))
def test_a_run_that_needs_it_is_refused_with_the_cell_that_changed_it(sources: list[str], said: str) -> None:
    with pytest.raises(UserError) as told:
        exported(sources)
    assert said in str(told.value) and "\n" not in str(told.value)
    assert "abc" not in str(told.value)


@pytest.mark.parametrize("sources", ACCEPTED.values(), ids=list(ACCEPTED))
def test_what_no_run_needs_is_left_out(sources: list[str]) -> None:
    assert "async def main" in exported(sources)
