"""What the program needs to be installed: pinned as it is here, our own package never by a bare name."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions

from agentkit.pipeline.cells import Item

OWN = "jupyter-agentkit"


@dataclass(frozen=True, kw_only=True)
class TaskImage:
    """`packages` are pinned requirements; `own` a direct reference to our package, None where it is a local copy."""

    python: tuple[int, int]
    packages: tuple[str, ...]
    own: str | None
    local: tuple[str, ...] = ()


def image_of(items: Iterable[Item], *, python: tuple[int, int], models: Iterable[str] = ()) -> TaskImage:
    """The image for what `items` import, and for the runtime they stand on."""
    modules = {module for item in items if item.node is not None for module in _imports(item.node)}
    known = packages_by_module()
    names = {name for module in modules for name in known.get(module, ())[:1]} - {OWN}
    local = tuple(sorted(module for module in modules if module not in known and not _standard(module)))
    runtime = {"pydantic-ai-slim", "pydantic-monty", "pandas", "opentelemetry-sdk"}
    extras = {"pydantic-ai-slim": sorted({"openai", "retries", "spec"} | _providers(models))}
    packages = tuple(sorted(filter(None, (_pin(name, extras.get(name, [])) for name in names | runtime))))
    return TaskImage(python=python, packages=packages, own=_own(), local=local)


@lru_cache(maxsize=1)
def packages_by_module() -> Mapping[str, list[str]]:
    """By module, the packages it comes from; looked up once, for it takes a while."""
    return packages_distributions()


def _imports(node: ast.AST) -> Iterable[str]:
    for part in ast.walk(node):
        match part:
            case ast.Import(names=aliases):
                yield from (alias.name.partition(".")[0] for alias in aliases)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.partition(".")[0]


def _standard(module: str) -> bool:
    return module in sys.stdlib_module_names


def _providers(models: Iterable[str]) -> set[str]:
    known = {"anthropic": "anthropic", "google-gla": "google", "google-vertex": "google", "google": "google"}
    return {known[name] for model in models if (name := model.partition(":")[0].strip()) in known}


def _pin(name: str, extras: list[str]) -> str | None:
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return None
    reference = _direct(found)
    extra = f"[{','.join(extras)}]" if extras else ""
    return f"{name}{extra} @ {reference}" if reference else f"{name}{extra}=={found.version}"


def _own() -> str | None:
    try:
        reference = _direct(distribution(OWN))
    except PackageNotFoundError:
        return None
    return f"{OWN} @ {reference}" if reference else None


def _direct(found: Distribution) -> str | None:
    """Where it was installed from, if that place is one that others can reach and that cannot change."""
    text = found.read_text("direct_url.json")
    if text is None:
        return None
    given = json.loads(text)
    if (vcs := given.get("vcs_info")) is not None:
        return f"{vcs['vcs']}+{given['url']}@{vcs['commit_id']}"
    archive = given.get("archive_info") or {}
    digest = (archive.get("hashes") or {}).get("sha256") or str(archive.get("hash", "")).removeprefix("sha256=")
    if digest and not given["url"].startswith("file:"):
        return f"{given['url']}#sha256={digest}"
    return None
