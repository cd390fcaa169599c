"""What secrets of well-known services look like: where in a text one stands, and of which kind it is.

The facts are those that detect-secrets and gitleaks publish, in our own words: detect-secrets imports an HTTP client to
ask each service whether a key is valid, and works on lines of files. A kind is here only where its form alone tells it
from ordinary text.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

_WORD = r"[A-Za-z0-9_-]"


@dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of secret: `signs`, one of which stands in every text that holds one, and its form.

    The group `secret` of the form is what is hidden; `of` is public and tells one from another where the secret itself
    is too short to be hashed safely.
    """

    kind: str
    signs: tuple[str, ...]
    form: re.Pattern[str]


@dataclass(frozen=True, kw_only=True)
class SecretMatch:
    """A secret in a text: its place, its kind with a digest, and itself."""

    start: int
    end: int
    name: str
    value: str


def _token(kind: str, form: str, *signs: str, ends: str = _WORD) -> Format:
    """A token that stands by itself."""
    whole = rf"(?<![A-Za-z0-9_])(?P<secret>{form})(?!{ends})"
    return Format(kind=kind, signs=signs, form=re.compile(whole))


FORMATS = (
    _token(
        "aws-access-key",
        r"(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[0-9A-Z]{16}",
        *("A3T", "ABIA", "ACCA", "AKIA", "ASIA"),
    ),
    Format(
        kind="aws-secret-key",
        signs=("ecret",),
        form=re.compile(
            r"(?i:aws|secret)[A-Za-z_]{0,12}(?i:secret|access)[A-Za-z_]{0,4}(?i:key)[\"'\\\s]{0,4}(?:[:=]>?|,)[\"'\\\s]{0,4}"
            r"(?P<secret>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"
        ),
    ),
    _token("google-api-key", r"AIza[A-Za-z0-9_-]{35}", "AIza"),
    _token("google-oauth-token", r"ya29\.[A-Za-z0-9_.-]{30,}", "ya29."),
    _token("google-client-secret", r"GOCSPX-[A-Za-z0-9_-]{28}", "GOCSPX-"),
    Format(
        kind="azure-key",
        signs=("AccountKey=", "SharedAccessKey="),
        form=re.compile(r"(?:Account|SharedAccess)Key=(?P<secret>[A-Za-z0-9+/]{42,86}={1,2})"),
    ),
    Format(
        kind="azure-signature",
        signs=("sig=",),
        form=re.compile(r"[?&;]sig=(?P<secret>[A-Za-z0-9%+/_-]{43,}(?:%3D|=){0,2})"),
    ),
    _token("github-token", r"gh[pousr]_[A-Za-z0-9]{36,255}", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    _token("github-token", r"github_pat_[A-Za-z0-9_]{60,255}", "github_pat_"),
    _token(
        "gitlab-token",
        rf"(?:glpat|gldt|glft|glsoat|glrt|glcbt|glptt|glagent|gloas|glimt){_WORD}{{0,3}}-{_WORD}{{20,1024}}",
        *("glpat", "gldt", "glft", "glsoat", "glrt", "glcbt", "glptt", "glagent", "gloas", "glimt"),
    ),
    _token("slack-token", r"xox[abeoprs]-(?:\d+-)*[A-Za-z0-9-]{10,}", "xox"),
    _token("slack-token", r"xapp-\d-[A-Z0-9]+-\d+-[a-z0-9]{20,}", "xapp-"),
    Format(
        kind="webhook",
        signs=("hooks.slack.com/", "/api/webhooks/", "webhook.office.com/"),
        form=re.compile(
            r"https://(?:hooks\.slack\.com/(?:services|workflows|triggers)|(?:\w+\.)?discord(?:app)?\.com/api/webhooks"
            r"|[\w.-]*webhook\.office\.com/webhookb2)/(?P<secret>[A-Za-z0-9_@/.-]{20,})"
        ),
    ),
    _token("stripe-key", r"(?:[rs]k_(?:live|test)|whsec)_[A-Za-z0-9]{20,247}", "k_live_", "k_test_", "whsec_"),
    _token("openai-key", r"sk-(?:[a-z]+-)*[A-Za-z0-9_-]*T3BlbkFJ[A-Za-z0-9_-]{20,}", "T3BlbkFJ"),
    _token("anthropic-key", rf"sk-ant-[a-z]+\d\d-{_WORD}{{80,}}", "sk-ant-"),
    _token("api-key", rf"sk-(?:proj-|or-v1-|svcacct-)?(?=[A-Za-z_-]*\d)(?=[\d_-]*[A-Za-z]){_WORD}{{32,}}", "sk-"),
    _token("huggingface-token", r"(?:hf|api_org)_[A-Za-z]{34}", "hf_", "api_org_"),
    _token("groq-key", r"gsk_[A-Za-z0-9]{52}", "gsk_"),
    _token("xai-key", r"xai-[A-Za-z0-9]{80}", "xai-"),
    _token("replicate-token", r"r8_[A-Za-z0-9]{37}", "r8_"),
    _token("perplexity-key", r"pplx-[A-Za-z0-9]{48}", "pplx-"),
    _token("pinecone-key", r"pcsk_[A-Za-z0-9]{5,6}_[A-Za-z0-9]{50,}", "pcsk_"),
    _token("langsmith-key", r"lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}", "lsv2_"),
    _token("databricks-token", r"dapi[0-9a-f]{32}(?:-\d)?", "dapi"),
    _token("npm-token", r"npm_[A-Za-z0-9]{36}", "npm_"),
    _token("pypi-token", r"pypi-AgE[A-Za-z0-9_-]{50,}", "pypi-AgE"),
    _token("sendgrid-key", rf"SG\.{_WORD}{{20,24}}\.{_WORD}{{39,50}}", "SG."),
    _token("twilio-key", r"SK[0-9a-f]{32}", "SK"),
    _token("shopify-token", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}", "shpat_", "shpca_", "shppa_", "shpss_"),
    _token("square-token", rf"sq0(?:atp|csp|idp)-{_WORD}{{22,43}}", "sq0"),
    _token("telegram-token", rf"\d{{8,10}}:AA{_WORD}{{33}}", ":AA"),
    _token("digitalocean-token", r"do[opr]_v1_[0-9a-f]{64}", "dop_v1_", "doo_v1_", "dor_v1_"),
    _token("vault-token", rf"hv[bsr]\.{_WORD}{{24,300}}", "hvs.", "hvb.", "hvr."),
    _token("doppler-token", r"dp\.(?:pt|st|ct|sa|scim|audit)\.(?:[a-z0-9_-]{2,35}\.)?[A-Za-z0-9]{40,44}", "dp."),
    _token("linear-key", r"lin_(?:api|oauth)_[A-Za-z0-9]{40,64}", "lin_"),
    _token("atlassian-token", r"ATATT3[A-Za-z0-9_=-]{100,250}", "ATATT3"),
    _token("new-relic-key", r"NRAK-[A-Z0-9]{27}", "NRAK-"),
    _token("tailscale-key", r"tskey-[a-z]+-[A-Za-z0-9]{8,}-[A-Za-z0-9]{16,}", "tskey-"),
    _token("mailgun-key", r"key-[0-9a-f]{32}", "key-"),
    _token("age-key", r"AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}", "AGE-SECRET-KEY-1"),
    _token("jwt", r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}={0,2}", "eyJ"),
    Format(
        kind="private-key",
        signs=("PRIVATE KEY",),
        form=re.compile(
            r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?P<secret>(?:[A-Za-z0-9+/=:,. \-\t]|\\+[nr]|[\r\n])"
            r"{40,}?)(?=-----END |(?![A-Za-z0-9+/=:,. \-\t\\\r\n])|\Z)"
        ),
    ),
    Format(
        kind="authorization",
        signs=("uthorization", "UTHORIZATION"),
        form=re.compile(
            r"(?i:authorization)[\"'\\\]\s]{0,4}[:=,][\"'\\\s]{0,4}(?:(?i:bearer|basic|token|apikey|bot)\s+)"
            r"(?P<secret>[A-Za-z0-9._~+/:-]{16,}={0,2})"
        ),
    ),
    Format(
        kind="url-password",
        signs=("://",),
        form=re.compile(
            r"(?P<of>[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s:/?#@\"'<>\\{}()\[\]]{0,64}):"
            r"(?P<secret>[^\s/?#@\"'<>\\{}()\[\]]{3,256})(?=@[A-Za-z0-9\[])"
        ),
    ),
)

_SIGNS = tuple(dict.fromkeys(sign for each in FORMATS for sign in each.signs))
_BY_SIGN = {sign: [each for each in FORMATS if sign in each.signs] for sign in _SIGNS}
# These stand apart from what is hidden; any other sign is a part of a long word.
_APART = ("ecret", "PRIVATE KEY", "uthorization", "UTHORIZATION", "://")
_SEPARATORS = "-_.:/="
_WITHIN = {
    separator: tuple(
        (sign.encode(), sign)
        for sign in _SIGNS
        if sign not in _APART and next((each for each in _SEPARATORS if each in sign), "").encode() == separator
    )
    for separator in (b"", *(each.encode() for each in _SEPARATORS))
}
"""The signs by the first of these characters that is in them."""
# What else a secret is made of stands in one run of these characters, and is at least so long.
_RUN = b"x" * 15
_MASK = bytes(
    ord("x") if code >= 128 or chr(code).isalnum() or chr(code) in "_-.:+/=%@~" else ord(" ") for code in range(256)
)
# Documentation writes keys that are none, and templates name what is to be filled in.
_NONE = re.compile(
    r"example|(.)\1{9}|^(?:password|passwd|pass|pwd|secret|token|key|xxx+|\*+|\.\.\.|your\W?\w*)$", re.IGNORECASE
)
_ENCODED = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{24,8192}(?![A-Za-z0-9+/_-])={0,2}")
_ENCODED_BYTES = re.compile(_ENCODED.pattern.encode())


def find_secrets(text: str) -> list[SecretMatch]:
    """Return the secrets in `text`, from left to right, none within another."""
    # Nearly every text is words, and no secret is a short one: looking at the long ones is what makes this cheap.
    encoded = text.encode(errors="surrogatepass")
    mask = encoded.translate(_MASK)
    if _RUN not in mask and "://" not in text and "PRIVATE KEY" not in text:
        return []
    runs = _runs(encoded, mask)
    long = b"\n".join(runs)
    signs = [sign for sign in _APART if sign in text]
    for separator, known in _WITHIN.items():
        if separator in long:
            signs += [sign for of_sign, sign in known if of_sign in long]
    forms = dict.fromkeys(each for sign in signs for each in _BY_SIGN[sign])
    found = [one for each in forms for one in _of_format(each, text)]
    if any(
        _secret_within(match[0].decode()) for run in runs if len(run) >= 24 for match in _ENCODED_BYTES.finditer(run)
    ):
        found += _find_base64(text)
    if not found:
        return found
    apart: list[SecretMatch] = []
    for one in sorted(found, key=lambda one: (one.start, -one.end)):
        if not apart or one.start >= apart[-1].end:
            apart.append(one)
    return apart


def _runs(encoded: bytes, mask: bytes) -> list[bytes]:
    """The parts of `encoded` that may hold a secret."""
    runs, end = [], 0
    while (start := mask.find(_RUN, end)) >= 0:
        end = mask.find(b" ", start)
        end = len(mask) if end < 0 else end
        runs.append(encoded[start:end])
    return runs


def _of_format(each: Format, text: str) -> Iterator[SecretMatch]:
    for match in each.form.finditer(text):
        value = match["secret"]
        if _NONE.search(value) is None:
            # A password may be guessed from its hash; whose it is is public.
            public = match.groupdict().get("of")
            start, end = match.span("secret")
            yield SecretMatch(start=start, end=end, name=f"{each.kind}-{_digest(public or value)}", value=value)


def _digest(value: str) -> str:
    # In JSON a key of several lines is written with escapes: one secret has one name.
    plain = re.sub(r"\\+[nr]|\s", "", value)
    return hashlib.sha256(plain.encode(errors="surrogatepass")).hexdigest()[:8]


def _find_base64(text: str) -> Iterator[SecretMatch]:
    """Base64 of a text that holds a secret. Pictures and archives are longer than what is looked at, or no text."""
    for match in _ENCODED.finditer(text):
        if (name := _secret_within(match[0])) is not None:
            yield SecretMatch(start=match.start(), end=match.end(), name=name, value=match[0])


@lru_cache(maxsize=1024)
def _secret_within(run: str) -> str | None:
    padded = run.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        inside = base64.b64decode(padded + "=" * (-len(padded) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        return None
    for sign in _SIGNS:
        if sign in inside:
            for each in _BY_SIGN[sign]:
                for _ in _of_format(each, inside):
                    return f"base64-of-{each.kind}-{_digest(run)}"
    return None
