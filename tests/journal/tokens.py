"""Secrets of every form that is known, none of them anybody's: made anew from pieces, so that no file holds one."""

from __future__ import annotations

import base64
import json
import random
import string

_CHOICE = random.Random(7)
LETTERS = string.ascii_letters + string.digits


def made(count: int, alphabet: str = LETTERS) -> str:
    # A digit and a letter of each case, as every generator of tokens gives them sooner or later.
    head = [char for char in "a7Q" if char in alphabet]
    return "".join([*head, *(_CHOICE.choice(alphabet) for _ in range(count - len(head)))])


def _segment(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


HEX = string.digits + "abcdef"
UPPER = string.ascii_uppercase + string.digits
PEM = "\n".join(
    ["-----BEGIN RSA " + "PRIVATE KEY-----", *(made(64) for _ in range(4)), "-----END RSA " + "PRIVATE KEY-----"]
)
JWT = ".".join((_segment({"alg": "HS256", "typ": "JWT"}), _segment({"sub": "42", "name": "Ada"}), made(43)))

SECRETS = {
    "aws-access-key": "AK" + "IA" + made(16, UPPER),
    "google-api-key": "AI" + "za" + made(35),
    "google-oauth-token": "ya" + "29." + made(60),
    "google-client-secret": "GOC" + "SPX-" + made(28),
    "github-token": "gh" + "p_" + made(36),
    "github-token (fine-grained)": "github" + "_pat_" + made(22) + "_" + made(59),
    "gitlab-token": "gl" + "pat-" + made(20),
    "slack-token": "xo" + "xb-" + f"{made(12, string.digits)}-{made(12, string.digits)}-{made(24)}",
    "stripe-key": "sk" + "_live_" + made(24),
    "openai-key": "sk" + "-proj-" + made(40) + "T3Blbk" + "FJ" + made(40),
    "anthropic-key": "sk" + "-ant-api03-" + made(95),
    "api-key": "sk" + "-" + made(48),
    "huggingface-token": "h" + "f_" + made(34, string.ascii_letters),
    "groq-key": "gs" + "k_" + made(52),
    "replicate-token": "r" + "8_" + made(37),
    "databricks-token": "da" + "pi" + made(32, HEX),
    "npm-token": "np" + "m_" + made(36),
    "pypi-token": "py" + "pi-AgE" + made(80),
    "sendgrid-key": "S" + "G." + made(22) + "." + made(43),
    "twilio-key": "S" + "K" + made(32, HEX),
    "shopify-token": "shp" + "at_" + made(32, HEX),
    "telegram-token": made(10, string.digits) + ":A" + "A" + made(33),
    "digitalocean-token": "do" + "p_v1_" + made(64, HEX),
    "vault-token": "hv" + "s." + made(90),
    "linear-key": "lin" + "_api_" + made(40),
    "xai-key": "xa" + "i-" + made(80),
    "perplexity-key": "pp" + "lx-" + made(48),
    "pinecone-key": "pc" + "sk_" + made(6) + "_" + made(60),
    "langsmith-key": "lsv" + "2_pt_" + made(32, HEX) + "_" + made(10, HEX),
    "square-token": "sq" + "0atp-" + made(22),
    "doppler-token": "d" + "p.pt." + made(43),
    "atlassian-token": "AT" + "ATT3" + made(180),
    "new-relic-key": "NR" + "AK-" + made(27, UPPER),
    "tailscale-key": "ts" + "key-auth-" + made(12) + "-" + made(32),
    "mailgun-key": "ke" + "y-" + made(32, HEX),
    "age-key": "AGE-SECRET" + "-KEY-1" + made(58, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"),
    "jwt": JWT,
    "private-key": PEM,
}
"""Each stands for itself in a text."""

HIDDEN = made(24)
WITHIN = {
    "url-password": f"postgresql://ada:{HIDDEN}@db.internal:5432/sales",
    "authorization": f"Authorization: Bearer {HIDDEN}",
    "authorization (JSON)": json.dumps({"Authorization": f"Basic {HIDDEN}=="}),
    "azure-key": f"AccountName=a;AccountKey={HIDDEN}{made(62)}==;EndpointSuffix=core",
    "azure-signature": f"https://a.blob/b?sv=2024&sig={HIDDEN}{made(24)}%3D",
    "webhook": f"https://hooks.slack.com/services/T{made(8, UPPER)}/B{made(8, UPPER)}/{HIDDEN}",
    "webhook (discord)": f"https://discord.com/api/webhooks/1234567890/{HIDDEN}{made(40)}",
    "aws-secret-key": f"aws_secret_access_key = {HIDDEN}{made(16)}",
}
"""A part of each, HIDDEN, is the secret."""
