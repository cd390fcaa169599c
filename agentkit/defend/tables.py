"""The shape of the file in which budgets are kept, and how its counters are added to."""

from __future__ import annotations

from typing import Final

FORMAT: Final = 1
OWNER: Final = "owner"
"""The process that counted in a row last. A file without this column gets it; whoever does not know it can go on."""
TABLES: Final = """
CREATE TABLE IF NOT EXISTS node (
  id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, limits TEXT NOT NULL DEFAULT '', at_limit TEXT NOT NULL DEFAULT '',
  at REAL NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS spent (
  node INTEGER NOT NULL, bucket TEXT NOT NULL, at REAL NOT NULL,
  usd INTEGER NOT NULL DEFAULT 0, tokens INTEGER NOT NULL DEFAULT 0, requests INTEGER NOT NULL DEFAULT 0,
  held_usd INTEGER NOT NULL DEFAULT 0, held_tokens INTEGER NOT NULL DEFAULT 0, held_requests INTEGER NOT NULL DEFAULT 0,
  owner TEXT NOT NULL DEFAULT '', PRIMARY KEY (node, bucket)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS minute (
  node INTEGER NOT NULL, second INTEGER NOT NULL, tokens INTEGER NOT NULL, PRIMARY KEY (node, second)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS held (
  id INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, at REAL NOT NULL,
  usd INTEGER NOT NULL, tokens INTEGER NOT NULL, requests INTEGER NOT NULL, buckets TEXT NOT NULL
);
"""
HOLD: Final = (
    "INSERT INTO spent (node, bucket, at, held_usd, held_tokens, held_requests, owner) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (node, bucket) DO UPDATE SET at = excluded.at, owner = excluded.owner, "
    "held_usd = held_usd + excluded.held_usd, held_tokens = held_tokens + excluded.held_tokens, "
    "held_requests = held_requests + excluded.held_requests"
)
SPEND: Final = (
    "INSERT INTO spent (node, bucket, at, usd, tokens, requests, owner) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (node, bucket) DO UPDATE SET at = excluded.at, owner = excluded.owner, usd = usd + excluded.usd, "
    "tokens = tokens + excluded.tokens, requests = requests + excluded.requests"
)
