"""One JupyterLab and one Chromium for each module of browser tests; a folder, a notebook and a page for each test.

They end with their module: a running playwright keeps an event loop in this thread, where other tests start theirs.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
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


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lab.Server]:
    with lab.server(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with lab.browser() as running:
        yield running


_numbers = itertools.count(1)


@pytest.fixture
def opened(served: lab.Server, chromium: Any) -> Iterator[lab.Opener]:
    """Opens a notebook with these cells; its journal is its own."""
    pages = []

    def open_with(sources: Sequence[str]) -> lab.Notebook:
        number = next(_numbers)
        path = lab.write(served.folder / f"asked{number}.ipynb", sources)
        context = chromium.new_context(viewport={"width": 1200, "height": 1400})
        pages.append(context)
        return lab.Notebook(context.new_page(), served, path)

    yield open_with
    for context in pages:
        context.close()
