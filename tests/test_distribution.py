"""What the source distribution holds: all that a clone has for a person, and nothing of the machines that test it."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    (made,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("sdist")), versions=["standard"])
    with tarfile.open(made) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def test_it_holds_what_the_readme_names(held: set[str]) -> None:
    named = {"run", "environment.yml", "README.md", "CHANGELOG.md", "LICENSE", "docs/reference.md", "pyproject.toml"}
    assert named <= held
    assert {"notebooks/01_first_agent.ipynb", "agentkit/notebook/ask.js", "tests/test_distribution.py"} <= held


def test_it_holds_nothing_else(held: set[str]) -> None:
    tops = {name.partition("/")[0] for name in held}
    folders = {"agentkit", "docs", "notebooks", "tests"}
    files = {
        "run",
        "environment.yml",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "pyproject.toml",
        "PKG-INFO",
        ".gitignore",
    }
    assert tops <= folders | files
