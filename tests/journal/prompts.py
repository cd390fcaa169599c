"""Ten thousand ordinary prompts, equal on equal packages: paragraphs of their documentation, tables and code."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

PACKAGES = "pandas pydantic_ai openai IPython httpx2 jupyter_server vega_datasets".split()
"""Documentation of data, of models, of servers and of keys; tables as JSON and CSV; and code."""

MANY = 10_000
_SHORTEST, _LONGEST = 40, 4_000


def prompts(count: int = MANY) -> list[str]:
    found = list(dict.fromkeys(_paragraphs()))
    assert len(found) >= count, f"only {len(found)} paragraphs are installed"
    return random.Random(0).sample(found, count)


def _paragraphs() -> Iterator[str]:
    for file in _files():
        text = file.read_text(encoding="utf-8", errors="replace")
        for body in _docstrings(text) if file.suffix == ".py" else [text]:
            yield from (part for part in re.split(r"\n\s*\n", body) if _SHORTEST <= len(part) <= _LONGEST)
        if file.suffix in {".json", ".csv"}:
            yield from (text[at : at + 1_000] for at in range(0, min(len(text), 40_000), 1_000))
        if file.suffix == ".py":
            yield from (part for part in text.split("\n\n\n")[:2] if _SHORTEST <= len(part) <= _LONGEST)


def _files() -> list[Path]:
    site = Path(sysconfig.get_paths()["purelib"])
    own = Path(__file__).parents[2]
    folders = [*(site / name for name in PACKAGES), own / "docs"]
    suffixes = {".py", ".md", ".rst", ".txt", ".json", ".csv"}
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.suffix in suffixes]
    return [file for file in files if file.is_file() and "tests" not in file.parts]


def _docstrings(source: str) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
        except SyntaxError:
            return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef | ast.Module):
            yield ast.get_docstring(node) or ""
