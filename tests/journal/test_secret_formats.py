"""What has the form of a secret reaches no record, comes back while it can, and ordinary text is left alone."""

from __future__ import annotations

import base64
import json
import random
import uuid
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.journal import secret_formats
from agentkit.journal.redaction import Redactor
from agentkit.journal.secret_formats import FORMATS, find_secrets
from tests.journal.prompts import MANY, prompts
from tests.journal.tokens import HIDDEN, PEM, SECRETS, WITHIN

KIND = {name: name.partition(" ")[0] for name in (*SECRETS, *WITHIN)}
AROUND = ("{}", "use {} for it", '{{"key": "{}"}}', "export TOKEN={}\nls", "k='{}';", "({})", "a, {}.")


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("around", AROUND)
def test_a_secret_is_known_by_its_form(name: str, around: str) -> None:
    secret = SECRETS[name]
    text = around.format(json.dumps(secret)[1:-1] if around.startswith('{{"') else secret)
    redactor = Redactor({})
    scrubbed = redactor.scrub_json(text)
    hidden = secret.splitlines()[1] if "\n" in secret else secret
    assert hidden not in scrubbed and f"<secret:{KIND[name]}-" in scrubbed
    assert redactor.restore(scrubbed) == (text, ())


@pytest.mark.parametrize("name", WITHIN)
def test_of_an_address_or_a_header_only_the_secret_is_hidden(name: str) -> None:
    redactor = Redactor({})
    scrubbed = redactor.scrub(WITHIN[name])
    assert HIDDEN not in scrubbed and f"<secret:{KIND[name]}-" in scrubbed
    assert scrubbed[:12] == WITHIN[name][:12]
    assert redactor.restore(scrubbed) == (WITHIN[name], ())


@pytest.mark.parametrize("name", [name for name in SECRETS if name != "private-key"])
@pytest.mark.parametrize("before", ["", "x:", "it:", "user:"])
def test_base64_of_a_secret_is_known(name: str, before: str) -> None:
    encoded = base64.b64encode(f"{before}{SECRETS[name]}".encode()).decode()
    redactor = Redactor({})
    scrubbed = redactor.scrub(f"data: {encoded}\n")
    assert encoded.rstrip("=") not in scrubbed and "<secret:base64-of-" in scrubbed
    assert redactor.restore(scrubbed) == (f"data: {encoded}\n", ())


@pytest.mark.parametrize("before", ["", "u:", "user:", "a longer head:"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_of_a_secret_of_the_environment_is_known_wherever_it_stands(before: str, encode: object) -> None:
    secret = "?>~~ a pass phrase ~~<?"
    assert callable(encode)
    text = f"Basic {encode(f'{before}{secret} and more'.encode()).decode()}"
    redactor = Redactor({"MY_PASS": secret})
    scrubbed = redactor.scrub(text)
    assert "<secret:MY_PASS:base64" in scrubbed and redactor.restore(scrubbed) == (text, ())
    shown = base64.b64decode(scrubbed.partition(" ")[2].partition("<")[0] + "==", validate=False)
    assert secret[4:].encode() not in shown


def test_a_key_of_several_lines_comes_back_as_it_stood() -> None:
    for value in (PEM, f"key:\n{PEM}\n", json.dumps({"key": PEM})):
        redactor = Redactor({})
        document = json.dumps({"of": value})
        assert json.loads(redactor.scrub(document)) == redactor.scrub_json({"of": value})
        assert PEM.splitlines()[2] not in redactor.scrub(document)
        assert redactor.restore(json.loads(redactor.scrub(document))) == ({"of": value}, ())
        assert redactor.restore(redactor.scrub_json({"of": value})) == ({"of": value}, ())


def test_the_name_of_a_secret_is_the_same_in_every_process_and_tells_two_apart() -> None:
    token, other = SECRETS["github-token"], SECRETS["github-token (fine-grained)"]
    assert Redactor({}).scrub(f"a {token}") == Redactor({"B_KEY": "12345678"}).scrub(f"a {token}")
    assert Redactor({}).scrub(token) != Redactor({}).scrub(other)


def test_a_password_is_not_hashed() -> None:
    urls = [f"postgresql://ada:{password}@db/sales" for password in (HIDDEN, f"{HIDDEN}2")]
    redactor = Redactor({})
    (once, twice) = map(redactor.scrub, urls)
    assert once == twice
    # Which one was meant cannot be told: a run does not go on with either.
    restored, missing = redactor.restore(once)
    assert restored == once and len(missing) == 1


def test_what_this_process_has_not_met_is_named_as_missing() -> None:
    scrubbed = Redactor({}).scrub(f"a {SECRETS['jwt']}")
    restored, missing = Redactor({}).restore(scrubbed)
    assert restored == scrubbed and [name.startswith("jwt-") for name in missing] == [True]
    assert Redactor({}).scrub(scrubbed) == scrubbed


def test_a_model_that_writes_the_placeholder_is_not_given_the_secret() -> None:
    redactor = Redactor({})
    placeholder = redactor.scrub(SECRETS["jwt"])
    recorded = redactor.scrub_json({"args": f"send {placeholder}"})
    assert redactor.restore(recorded) == ({"args": f"send {placeholder}"}, ())


def test_scrubbing_what_was_scrubbed_changes_nothing_but_new_secrets() -> None:
    redactor = Redactor({"MY_KEY": "0123456789abcdef"})
    scrubbed = redactor.scrub(f"0123456789abcdef {SECRETS['jwt']}")
    assert redactor.scrub_again(scrubbed) == scrubbed
    assert redactor.scrub_again(f"{scrubbed} 0123456789abcdef") == f"{scrubbed} <secret:MY_KEY>"


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        *((name, True) for name in ("GITHUB_PAT", "DB_PWD", "MYSQL_PWD", "SMTP_PASS", "DBPASS", "BASIC_AUTH", "JWT")),
        *((name, True) for name in ("SESSION_COOKIE", "BEARER", "MY_BEARER", "SLACK_WEBHOOK", "SLACK_WEBHOOK_URL")),
        *((name, False) for name in ("PWD", "OLDPWD", "SSH_AUTH_SOCK", "PATH", "AUTHOR", "XAUTHORITY", "COMPATIBLE")),
    ],
)
def test_more_names_are_those_of_secrets(name: str, taken: bool) -> None:
    assert (Redactor.from_environ({name: "0123456789abcdef"}).names == (name,)) is taken


def test_of_an_address_in_the_environment_the_password_is_a_secret() -> None:
    password = "s3cret/with:signs"
    redactor = Redactor.from_environ({"DATABASE_URL": f"postgresql://ada:{quote(password, safe='')}@db/sales"})
    assert redactor.scrub(f"it is {password}") == "it is <secret:DATABASE_URL>"
    assert redactor.scrub("see postgresql://db/sales") == "see postgresql://db/sales"


def test_fewer_than_one_ordinary_prompt_in_a_thousand_is_touched() -> None:
    touched = [prompt for prompt in prompts() if find_secrets(prompt)]
    print(f"{len(touched)} of {MANY:,} ordinary prompts")
    assert len(touched) < MANY / 1_000, touched[:20]


def test_identities_digests_and_pictures_are_no_secrets() -> None:
    choice = random.Random(3)
    ordinary = [str(uuid.UUID(int=choice.getrandbits(128))) for _ in range(500)]
    ordinary += [choice.randbytes(32).hex() for _ in range(500)]
    ordinary += [f"data:image/png;base64,{base64.b64encode(choice.randbytes(600)).decode()}" for _ in range(500)]
    ordinary += [
        "https://user@example.org/a:b@c",
        "ssh://git@host:22/x",
        "sk-learn-is-not-a-key-but-a-library-of-models",
    ]
    ordinary += [
        "Authorization: Bearer <token>",
        "postgres://user:password@host/db",
        "AKIAIOSFODNN7EXAMPLE",
        "http://a:b/@x",
    ]
    assert [text for text in ordinary if find_secrets(text)] == []


def test_every_form_is_tried_here() -> None:
    assert {each.kind for each in FORMATS} == set(KIND.values())


def test_hostile_text_takes_no_longer_than_its_length() -> None:
    for text in (
        "://" + "a:" * 50_000,
        "eyJ" * 30_000,
        "-----BEGIN PRIVATE KEY-----" + "A" * 100_000,
        "glpat-" * 20_000,
    ):
        find_secrets(text)


PIECES = (
    *SECRETS.values(), *WITHIN.values(), *(sign for each in FORMATS for sign in each.signs),
    " ", "\n", '"', "\\n", ",", "é", "\u3000",
    "https://", "user:", "@host", "Authorization: Bearer ", "a word ", "x" * 14,
    base64.b64encode(b"of ordinary words").decode(), base64.b64encode(SECRETS["npm-token"].encode()).decode(),
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_what_is_passed_over_quickly_holds_no_form_of_a_secret(text: str) -> None:
    """The quick look for long runs and signs loses nothing that trying every form on the whole text would find."""
    tried = [found for each in FORMATS for found in secret_formats._of_format(each, text)]
    tried += secret_formats._find_base64(text)
    ends, apart = 0, []
    for one in sorted(tried, key=lambda one: (one.start, -one.end)):
        if one.start >= ends:
            apart.append(one)
            ends = one.end
    assert [(one.start, one.end, one.name) for one in find_secrets(text)] == [
        (one.start, one.end, one.name) for one in apart
    ]
