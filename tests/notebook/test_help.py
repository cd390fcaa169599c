"""The help: every verb once, nothing wider than a notebook, and all of it in the reference."""

from __future__ import annotations

import pytest

from agentkit.notebook import help
from agentkit.notebook.grammar import GROUPS, VERBS


def test_every_verb_stands_in_one_group() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(VERBS)


@pytest.mark.parametrize("text", [help.overview(), *map(help.details, VERBS)])
def test_no_line_is_wrapped_by_the_notebook(text: str) -> None:
    assert max(map(len, text.splitlines())) <= help.WIDTH


def test_an_option_is_never_torn_from_its_value() -> None:
    typed = help.details("build").partition("\n  make")[0]
    assert len(typed.splitlines()) > 1
    assert all(line.count("[") == line.count("]") for line in typed.splitlines())
    assert "  --continue [RUN]  carry on" in help.details("run")
