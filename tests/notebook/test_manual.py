"""The help: every verb once, nothing wider than a notebook, and all of it in the reference."""

from __future__ import annotations

import pytest

from agentkit.notebook import manual
from agentkit.notebook.grammar import GROUPS, VERBS


def test_every_verb_stands_in_one_group() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(VERBS)


@pytest.mark.parametrize("text", [manual.overview(), *map(manual.details, VERBS)])
def test_no_line_is_wrapped_by_the_notebook(text: str) -> None:
    assert max(map(len, text.splitlines())) <= manual.WIDTH


def test_an_option_is_never_torn_from_its_value() -> None:
    typed = manual.details("build").partition("\n  make")[0]
    assert len(typed.splitlines()) > 1
    assert all(line.count("[") == line.count("]") for line in typed.splitlines())
    assert "  --continue [RUN]  carry on" in manual.details("run")
