"""Secrets of the environment, kept out of every record and put back when one is replayed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus

_SECRET_NAME = re.compile(
    r"(^|_)(API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|KEY|KEY_ID|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|DSN)(_|$)"
    r"|(PASSWORD|SECRET|TOKEN|APIKEY)$",
    re.IGNORECASE,
)
_SHORTEST = 8
_PLACEHOLDER = re.compile(r"<secret:([^<>:]+)(:url|:literal)?>")


class Redactor:
    """Replaces the values of secret environment variables by `<secret:NAME>`, and back.

    What is scrubbed once is restored once. A text that already held the placeholder of a secret of this environment
    is kept apart as `<secret:NAME:literal>`: a model cannot obtain a secret by writing its placeholder.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets: dict[str, str] = {}
        self._forms: dict[str, str] = {}
        self._signs: tuple[str, ...] = ()
        self.learn(secrets.items())

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], names: Iterable[str] = ()) -> Redactor:
        """The secrets of `environ`: variables named like one, and those in `names`."""
        return cls(dict(secrets_of(environ, names)))

    def learn(self, secrets: Iterable[tuple[str, str]]) -> None:
        """Know these secrets too. A name that is known stands for its newest value; the older one stays a secret."""
        given = {name: value for name, value in sorted(secrets) if len(value.strip()) >= _SHORTEST}
        if given.items() <= self._secrets.items() and self._signs:
            return
        forms = dict(self._forms)
        for name, value in given.items():
            forms |= _spellings(name, value)
            forms |= {f"<secret:{name}>": f"<secret:{name}:literal>"}
        # Longest first: a secret that contains another must not be left half in the clear.
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        # Other threads scrub meanwhile: what is looked for comes last.
        self._secrets = {**self._secrets, **given}
        self._forms = forms
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))
        self._signs = ("<secret:", *(form for form in longest_first if not form.startswith("<secret:")))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._secrets)

    @property
    def secrets(self) -> Mapping[str, str]:
        return self._secrets

    def scrub(self, text: str) -> str:
        """`text` without secrets, as they are or escaped for JSON or a URL."""
        # Looking for each is several times cheaper than the pattern, and nearly every text holds none.
        for sign in self._signs if self._forms else ():
            if sign in text:
                break
        else:
            return text
        return self._pattern.sub(lambda found: self._forms[found.group()], text)

    def scrub_json(self, value: Any) -> Any:
        """A JSON value without secrets, in its keys too."""
        return _map_strings(value, self.scrub) if self._forms else value

    def restore(self, value: Any) -> tuple[Any, tuple[str, ...]]:
        """`value` with its secrets put back, and the names of those that are not in the environment."""
        missing: dict[str, None] = {}

        def put_back(found: re.Match[str]) -> str:
            name, form = found.groups()
            if form == ":literal":
                return f"<secret:{name}>"
            if name not in self._secrets:
                missing[name] = None
                return found.group()
            return quote(self._secrets[name], safe="") if form == ":url" else self._secrets[name]

        restored = _map_strings(value, lambda text: _PLACEHOLDER.sub(put_back, text) if "<secret:" in text else text)
        return restored, tuple(missing)


def secrets_of(environ: Mapping[str, str], names: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
    """The variables that are named like a secret, and those in `names`."""
    chosen = set(names)
    return ((name, value) for name, value in environ.items() if name in chosen or _named_like_one(name))


@lru_cache(maxsize=4096)
def _named_like_one(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _spellings(name: str, secret: str) -> dict[str, str]:
    """How the secret is written in URLs, in JSON (also twice) and in plain text, each with its placeholder."""
    encoded = (quote(secret, safe=""), quote(secret), quote_plus(secret))
    forms = {form: f"<secret:{name}:url>" for form in encoded if form != secret}
    for ascii_only in (True, False):
        once = json.dumps(secret, ensure_ascii=ascii_only)[1:-1]
        twice = json.dumps(once, ensure_ascii=ascii_only)[1:-1]
        forms |= dict.fromkeys((once, twice), f"<secret:{name}>")
    return forms | dict.fromkeys((secret, secret.strip()), f"<secret:{name}>")


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_strings(item, change) for item in value]
    return value
