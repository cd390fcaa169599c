"""Secrets, kept out of every record and put back when one is replayed: those of the environment and those whose form
tells what they are."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from agentkit.events import Event, Run, Step
from agentkit.journal.secret_formats import find_secrets

_SECRET_NAME = re.compile(
    r"(^|_)(API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|KEY|KEY_ID|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|DSN"
    r"|PAT|PWD|PASS|AUTH|COOKIE|BEARER|JWT|WEBHOOK|CREDS|SIGNATURE)(_|$)"
    r"|(PASSWORD|SECRET|TOKEN|APIKEY|PASSWD|PASS|PWD|JWT|COOKIE|WEBHOOK)$",
    re.IGNORECASE,
)
# Where a shell stands and where an agent listens are no secrets.
_NO_SECRET = frozenset({"PWD", "OLDPWD", "SSH_AUTH_SOCK", "COMPASS", "BYPASS"})
_PASSWORD_IN_URL = re.compile(r"\A[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#]*?:([^\s/?#]+)@")
_SHORTEST = 8
_PLACEHOLDER = re.compile(r"<secret:([^<>:]+)(:url|:literal|:json|:base64[0-2]|:base64url[0-2])?>")
_TEXTS = ("prompt", "output", "error", "request", "result", "shown", "waiting", "label", "caller", "notes", "unchecked")
_TEXTS_OF = {kind: tuple(each.name for each in fields(kind) if each.name in _TEXTS) for kind in (Run, Step)}
"""What of an event was written by anybody else than agentkit."""
_REMEMBERED = 10_000
"""Secrets of the texts that one process hides, kept in memory; the oldest is forgotten first."""


class Redactor:
    """Replaces secrets by `<secret:NAME>`, and back: the values of secret environment variables, and what has the form
    of a secret (`secret_formats`), which is put back for as long as this process has met it.

    What is scrubbed once is restored once. A text that already held the placeholder of a secret of this environment
    is kept apart as `<secret:NAME:literal>`: a model cannot obtain a secret by writing its placeholder.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets: dict[str, str] = {}
        self._forms: dict[str, str] = {}
        self._signs: tuple[str, ...] = ()
        self._found: dict[str, str | None] = {}
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
        return self._remove_matches(self._remove_known(text), level=1)

    def scrub_again(self, text: str) -> str:
        """`text` that was scrubbed before, without secrets that are known only now; placeholders stay what they are."""
        if "<secret:" not in text:
            return self.scrub(text)
        pieces, position = [], 0
        for placeholder in _PLACEHOLDER.finditer(text):
            pieces += [self.scrub(text[position : placeholder.start()]), placeholder[0]]
            position = placeholder.end()
        return "".join([*pieces, self.scrub(text[position:])])

    def scrub_json_again(self, value: Any) -> Any:
        """A JSON value that was scrubbed before, without secrets that are known only now."""
        return _map_strings(value, self.scrub_again)

    def scrub_event(self, event: Event) -> Event:
        """An event of a record, without secrets that are known only now."""
        now: dict[str, Any] = {}
        for name in _TEXTS_OF[type(event)]:
            value = getattr(event, name)
            if not value:
                continue
            if isinstance(value, tuple):
                now[name] = tuple(map(self.scrub_again, value))
            elif len(value) >= _SHORTEST and (text := self.scrub_again(value)) != value:
                now[name] = text
        return replace(event, **now) if now else event

    def clean(self, text: str) -> bool:
        """Whether `text`, JSON or not, holds nothing that is to be hidden, and nothing that looks hidden."""
        return self._remove_known(text) == text and not find_secrets(text) and "<secret:" not in text

    def scrub_json(self, value: Any) -> Any:
        """A JSON value without secrets, in its keys too."""
        return _map_strings(value, lambda text: self._remove_matches(self._remove_known(text), level=0))

    def _remove_known(self, text: str) -> str:
        # Looking for each is several times cheaper than the pattern, and nearly every text holds none.
        for sign in self._signs if self._forms else ():
            if sign in text:
                break
        else:
            return text
        return self._pattern.sub(lambda found: self._forms[found.group()], text)

    def _remove_matches(self, text: str, *, level: int) -> str:
        """`text` without what has the form of a secret; `level` is how often it is escaped where it stands."""
        if self._found and "<secret:" in text:
            text = _PLACEHOLDER.sub(self._literal, text)
        pieces, position = [], 0
        for one in find_secrets(text):
            deep = _escapes(one.value) > level
            pieces += [text[position : one.start], f"<secret:{one.name}{':json' if deep else ''}>"]
            position = one.end
            self._remember(one.name, _unescape(one.value))
        return "".join([*pieces, text[position:]]) if pieces else text

    def _literal(self, placeholder: re.Match[str]) -> str:
        name, form = placeholder.groups()
        return f"<secret:{name}:literal>" if name in self._found and form is None else placeholder[0]

    def _remember(self, name: str, value: str) -> None:
        if self._found.setdefault(name, value) != value:
            # Which of the two a record means cannot be told any more: neither is given out.
            self._found[name] = None
        if len(self._found) > _REMEMBERED:
            self._found.pop(next(iter(self._found)), None)

    def restore(self, value: Any) -> tuple[Any, tuple[str, ...]]:
        """`value` with its secrets put back, and the names of those that are not in the environment."""
        missing: dict[str, None] = {}

        def put_back(found: re.Match[str]) -> str:
            name, form = found.groups()
            if form == ":literal":
                return f"<secret:{name}>"
            value = self._secrets.get(name) or self._found.get(name)
            if value is None:
                missing[name] = None
                return found.group()
            return _format_secret(value, form)

        restored = _map_strings(value, lambda text: _PLACEHOLDER.sub(put_back, text) if "<secret:" in text else text)
        return restored, tuple(missing)


def secrets_of(environ: Mapping[str, str], names: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
    """The variables that are named like a secret, and those in `names`; of an address, the password in it."""
    chosen = set(names)
    for name, value in environ.items():
        if name in chosen or is_secret_name(name):
            yield name, value
        elif "://" in value and (address := _PASSWORD_IN_URL.match(value)) is not None:
            yield name, unquote(address[1])


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether a variable of that name holds a secret."""
    return name not in _NO_SECRET and _SECRET_NAME.search(name) is not None


def _spellings(name: str, secret: str) -> dict[str, str]:
    """How the secret is written in URLs, in JSON (also twice) and in plain text, each with its placeholder."""
    encoded = (quote(secret, safe=""), quote(secret), quote_plus(secret))
    forms = {form: f"<secret:{name}:url>" for form in encoded if form != secret}
    for ascii_only in (True, False):
        once = json.dumps(secret, ensure_ascii=ascii_only)[1:-1]
        twice = json.dumps(once, ensure_ascii=ascii_only)[1:-1]
        forms |= dict.fromkeys((once, twice), f"<secret:{name}>")
    for form in _BASE64_FORMS:
        forms.setdefault(_format_secret(secret, form), f"<secret:{name}{form}>")
    return forms | dict.fromkeys((secret, secret.strip()), f"<secret:{name}>")


_BASE64_FORMS = tuple(f":{alphabet}{place}" for alphabet in ("base64", "base64url") for place in range(3))


def _format_secret(secret: str, form: str | None) -> str:
    """The secret as the placeholder says that it stood there."""
    match form:
        case ":url":
            return quote(secret, safe="")
        case ":json":
            return json.dumps(secret)[1:-1]
        case str() if form.startswith(":base64"):
            return _within_base64(secret, place=int(form[-1]), url="url" in form)
        case _:
            return secret


def _within_base64(secret: str, *, place: int, url: bool) -> str:
    """What base64 makes of the secret behind `place` other bytes, without the characters that its neighbours decide."""
    content = b"\0" * place + secret.encode(errors="surrogatepass")
    encoded = (base64.urlsafe_b64encode if url else base64.b64encode)(content).decode()
    first = (0, 2, 3)[place]
    last = len(content) * 8 // 6
    return encoded[first:last]


def _escapes(secret: str) -> int:
    """How often a secret of several lines is escaped: not at all, as in JSON, or as in JSON within JSON."""
    return 2 if "\\\\n" in secret else 1 if "\\n" in secret else 0


def _unescape(secret: str) -> str:
    return re.sub(r"\\+([nr])", lambda found: {"n": "\n", "r": "\r"}[found[1]], secret)


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_strings(item, change) for item in value]
    return value
