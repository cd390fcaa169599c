"""The documentation against the code: what can be typed is written down, and what is written down is there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import agentkit
from agentkit.notebook.grammar import VERBS
from agentkit.tools.declaration import Declaration
from tests import reference

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_TYPED = re.compile(r"%agent +([a-z]+)((?: (?![%`|])[^\n`]*)?)")
# They belong to the tests: where a process dies, and what a check of an export writes.
_INNER = {"AGENTKIT_CRASH_AT", "AGENTKIT_STEPS", "AGENTKIT_VENV"}


def test_the_reference_is_what_the_tables_say() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run: python -m tests.reference"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in _LINK.findall(text):
        if target.startswith("http"):
            continue
        file, _, place = target.partition("#")
        there = (page.parent / file) if file else page
        assert there.exists(), f"{page.name}: {target}"
        if place:
            assert place in anchors(there.read_text(encoding="utf-8")), f"{page.name}: {target}"


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to headings."""
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_verb_and_option_that_is_written_down_is_there(page: Path) -> None:
    for verb, rest in _TYPED.findall(page.read_text(encoding="utf-8")):
        assert verb in VERBS, f"{page.name}: %agent {verb}"
        unknown = set(re.findall(r"(?<= --)[a-z][a-z-]*", rest)) - set(VERBS[verb].options)
        assert not unknown, f"{page.name}: %agent {verb}{rest}"


@pytest.mark.parametrize(
    "named", [agentkit.build, agentkit.ask, agentkit.step, agentkit.sandbox, agentkit.session, agentkit.map]
)
def test_every_keyword_of_a_function_is_described(named: Any) -> None:
    (row,) = (
        line for line in python_page().splitlines() if re.match(rf"\| `(await )?agentkit\.{named.__name__}\(", line)
    )
    missing = {name for name in inspect.signature(named).parameters if not re.search(rf"\b{name}\b", row)}
    assert not missing


def test_every_public_name_and_everything_a_tool_declares_is_described() -> None:
    page = python_page()
    assert [name for name in agentkit.__all__ if f"{name}" not in page] == []
    declared = set(Declaration.__dataclass_fields__) - {"outer"}
    assert [name for name in declared if f"`{name}`" not in page] == []


def test_every_variable_of_the_environment_is_described() -> None:
    sources = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "agentkit").rglob("*.py"))
    used = set(re.findall(r"AGENTKIT_[A-Z_]+", sources)) - _INNER
    assert used - set(re.findall(r"AGENTKIT_[A-Z_]+", python_page())) == set()


def python_page() -> str:
    return (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
