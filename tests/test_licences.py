"""The licences of everything that an installation brings: each known, none asking anything of a user's own code."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

EXTRAS = frozenset({"notebook", "lab", "mcp", "flyte", "parquet"})
PERMISSIVE = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|MPL|Mozilla|Unlicense|Zlib|CC0|0BSD|CNRI", re.IGNORECASE
)
ASKS_MORE = re.compile(r"\bA?GPL|General Public|SSPL|Commons Clause|BUSL|Elastic", re.IGNORECASE)
READ_BY_HAND = {
    "flyte": "Apache-2.0, by the LICENSE of its repository; its metadata names none",
    "asyncssh": "EPL-2.0 OR GPL-2.0-or-later: the first is chosen; only with the extra flyte",
}


def brought() -> dict[str, Distribution]:
    """What jupyter-agentkit and its extras require, and what that requires, as installed."""
    found: dict[str, Distribution] = {}
    asked: dict[str, set[str]] = {}
    waiting = [("jupyter-agentkit", set(EXTRAS))]
    while waiting:
        name, extras = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in asked and extras <= asked[key]:
            continue
        try:
            found[key] = distribution(name)
        except PackageNotFoundError:
            continue
        asked[key] = asked.get(key, set()) | extras
        for line in found[key].requires or ():
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
                waiting.append((needed.name, set(needed.extras)))
    return found


def licence(package: Distribution) -> str:
    stated, text = (next(iter(package.metadata.get_all(name) or ()), "") for name in ("License-Expression", "License"))
    classified = [one for one in package.metadata.get_all("Classifier") or () if one.startswith("License")]
    return stated or "; ".join(classified) or text.partition("\n")[0]


def test_every_licence_is_known_and_asks_nothing_of_a_users_code() -> None:
    packages = brought()
    assert {"pydantic-ai-slim", "markdown-it-py", "jupyterlab", "flyte", "mcp"} <= set(packages)
    licences = {name: licence(package) for name, package in packages.items() if name not in READ_BY_HAND}
    unknown = {name: text for name, text in licences.items() if not PERMISSIVE.search(text)}
    asking = {name: text for name, text in licences.items() if ASKS_MORE.search(text) and " OR " not in text}
    assert unknown == {} and asking == {}


if __name__ == "__main__":
    for name, package in sorted(brought().items()):
        print(f"{name} {package.version}: {READ_BY_HAND.get(name) or licence(package)}")
