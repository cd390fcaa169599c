"""Secrets of the environment reach no record, and come back when one is replayed."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, quote_plus, unquote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agentkit.journal.redaction import Redactor

SECRET = "sk-0123456789abcdef"

secrets = st.text(st.characters(exclude_categories=["Cs"]), min_size=8, max_size=20).filter(
    lambda text: len(text.strip()) >= 8 and "<" not in text and "secret" not in text
)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("OPENAI_API_KEY", True),
        ("HF_TOKEN", True),
        ("GITHUB_TOKEN_READ", True),
        ("DB_PASSWORD", True),
        ("PGPASSWORD", True),
        ("CLIENT_SECRET", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("SENTRY_DSN", True),
        ("HOME", False),
        ("KEYBOARD", False),
        ("TOKENIZERS_PARALLELISM", False),
        ("PYTHONPATH", False),
    ],
)
def test_variables_named_like_secrets_are_taken(name: str, taken: bool) -> None:
    assert (Redactor.from_environ({name: SECRET}).names == (name,)) is taken


def test_other_variables_can_be_named_and_short_values_are_no_secrets() -> None:
    assert Redactor.from_environ({"MINE": SECRET}, ["MINE"]).names == ("MINE",)
    assert Redactor.from_environ({"MY_API_KEY": "short"}).names == ()


@given(secrets, st.text(st.characters(exclude_categories=["Cs"])))
def test_no_spelling_of_a_secret_is_left(secret: str, around: str) -> None:
    assume(secret not in around)
    redactor = Redactor({"MY_KEY": secret})
    for text in (
        secret,
        json.dumps({"k": secret}),
        json.dumps({"k": secret}, ensure_ascii=False),
        json.dumps(json.dumps({"k": secret})),
        f"https://x.test/?k={quote(secret, safe='')}&q={quote_plus(secret)}",
    ):
        scrubbed = redactor.scrub(f"{around} {text}")
        assert "<secret:MY_KEY" in scrubbed
        for spelling in (secret, json.dumps(secret)[1:-1], quote(secret, safe="")):
            assert spelling not in scrubbed.removeprefix(around)


@given(secrets, values)
def test_what_was_scrubbed_comes_back(secret: str, value: Any) -> None:
    redactor = Redactor({"MY_KEY": secret})
    whole = {"of": value, secret: [f"a {secret} b", "<secret:MY_KEY>", "<secret:MY_KEY>"]}
    scrubbed = redactor.scrub_json(whole)
    assert redactor.restore(scrubbed) == (whole, ())
    assert redactor.restore(json.loads(json.dumps(scrubbed))) == (whole, ())


@given(secrets, values)
def test_scrubbing_the_text_of_a_document_scrubs_the_document(secret: str, value: Any) -> None:
    redactor = Redactor({"MY_KEY": secret})
    whole = {"of": value, "key": f"a {secret} b"}
    restored, missing = redactor.restore(json.loads(redactor.scrub(json.dumps(whole))))
    assert restored["key"] == whole["key"]
    assert missing == ()


def test_a_url_gets_its_encoded_secret_back() -> None:
    secret = "a/b+c&d=e%f"
    redactor = Redactor({"MY_KEY": secret})
    url = f"https://x.test/?k={quote(secret, safe='')}"
    restored, _ = redactor.restore(redactor.scrub(url))
    assert restored == url
    assert unquote(restored).endswith(secret)


def test_an_absent_secret_is_named_and_its_placeholder_stays() -> None:
    scrubbed = Redactor({"MY_KEY": SECRET}).scrub_json({"k": [SECRET]})
    assert Redactor({}).restore(scrubbed) == (scrubbed, ("MY_KEY",))
    # A reader without the secret computes the keys that were recorded with it.
    assert Redactor({}).scrub_json(scrubbed) == scrubbed


def test_a_model_that_writes_a_placeholder_is_not_given_the_secret() -> None:
    redactor = Redactor({"MY_KEY": SECRET})
    recorded = redactor.scrub_json({"args": "send <secret:MY_KEY>"})
    assert redactor.restore(recorded) == ({"args": "send <secret:MY_KEY>"}, ())


def test_of_two_secrets_one_within_the_other_the_longer_is_taken() -> None:
    redactor = Redactor({"A_KEY": SECRET, "B_KEY": f"{SECRET}-and-more"})
    assert redactor.scrub(f"x {SECRET}-and-more y {SECRET}") == "x <secret:B_KEY> y <secret:A_KEY>"
