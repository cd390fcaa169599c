"""One JupyterLab for these tests and a Chromium for each file; a folder and a notebook for each test.

The browser ends with its file: a running playwright keeps an event loop in this thread, where other tests start theirs.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.browser import lab

_REASON = "no Chromium here (Debian: apt install chromium): these tests drive a real browser"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # In CI they are never skipped: a missing browser fails them.
    if lab.CHROMIUM is not None or os.environ.get("CI"):
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=_REASON))


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lab.Server]:
    with lab.server(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with lab.browser() as running:
        yield running


@pytest.fixture(scope="module")
def window(served: lab.Server, chromium: Any) -> Iterator[lab.Window]:
    shown = lab.Window(chromium, served)
    yield shown
    shown.close()


_numbers = itertools.count(1)
_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[_failed] = report.failed
    return report


@pytest.fixture
def opened(request: pytest.FixtureRequest, served: lab.Server, window: lab.Window) -> Iterator[lab.Opener]:
    """Opens a notebook with these cells in the place of the one before; its journal is its own."""

    def open_with(sources: Sequence[str]) -> lab.Notebook:
        window.clear()
        return window.open(lab.write(served.folder / f"asked{next(_numbers)}.ipynb", sources))

    yield open_with
    if request.node.stash[_failed]:
        window.close()
    else:
        window.clear()
