"""What many runs add up to, computed in the database: no run of a long history is read into Python for a sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentkit.journal.queries import RecordSource
from agentkit.journal.records import ASKED, CONTROL_ERROR, STALE
from agentkit.journal.settlements import WAITING

OFFLINE = "offline"
"""What the name of a model begins with that costs nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """Sums over steps: tokens and `spent` are of live steps only, what replay avoided is `saved`.

    `unpriced` counts finished live model requests without a known price, `saved_unpriced` replayed ones; neither is
    ever counted as 0 dollars. `estimated` counts live requests whose server did not say how many tokens it counted,
    `offline` counts the live model requests that the offline model answered.
    """

    steps: int = 0
    live: int = 0
    replayed: int = 0
    unfinished: int = 0
    in_doubt: int = 0
    failed: int = 0
    requests: int = 0
    offline: int = 0
    tools: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    saved_tokens: int = 0
    saved_seconds: float = 0.0
    spent: float = 0.0
    saved: float = 0.0
    unpriced: int = 0
    saved_unpriced: int = 0
    paid_twice: int = 0
    estimated: int = 0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


# The same states as the fold of a trace gives (observe/trace.py); a test holds the two together.
_USED = f"""
used AS (
  SELECT tree.root, use.run, use.ord, use.replayed, step.kind, step.name, step.error, step.twice,
    CASE WHEN NOT use.replayed AND use.attempt < step.attempt THEN 'cancelled' ELSE step.status END AS status,
    NOT use.replayed AND coalesce(use.attempt < step.attempt, 0) AS overtaken,
    step.input_tokens IS NOT NULL AND step.output_tokens IS NOT NULL AND (use.replayed OR step.kind = 'model') AS used,
    step.input_tokens, step.output_tokens, CASE WHEN abs(step.cost) < 1e308 THEN step.cost END AS cost,
    step.ended - step.started AS took,
    EXISTS (SELECT 1 FROM unsure WHERE unsure.step = step.id AND unsure.tokens) AS estimated
  FROM tree JOIN use ON use.run = tree.id JOIN step ON step.id = use.step
),
stood AS (
  SELECT *, used AND NOT overtaken AS counts,
    CASE
      WHEN status = 'cancelled' AND kind IN ({", ".join(f"'{kind}'" for kind in sorted(ASKED))}) AND error = '{WAITING}'
        THEN 'waiting'
      WHEN status = 'failed' AND error LIKE '{CONTROL_ERROR}{STALE}%' THEN 'stale'
      WHEN status <> 'started' THEN status
      WHEN kind IN ({", ".join(f"'{kind}'" for kind in sorted(ASKED))}) THEN 'waiting'
      WHEN (SELECT json_extract(run.data, '$.status') = 'running' AND alive(run.owner) FROM run WHERE id = used.run)
        THEN 'running'
      ELSE 'in doubt'
    END AS state,
    replayed AND EXISTS (
      SELECT 1 FROM run AS inside
      WHERE inside.parent = used.run AND json_extract(inside.data, '$.parent_ord') = used.ord
    ) AS entered
  FROM used
)
"""
_SUMS: Mapping[str, str] = {
    "steps": "count(*)",
    "live": "sum(NOT replayed)",
    "replayed": "sum(replayed)",
    "unfinished": "sum(state IN ('running', 'waiting', 'in doubt'))",
    "in_doubt": "sum(state = 'in doubt')",
    "failed": "sum(state = 'failed')",
    "requests": "sum(NOT replayed AND kind = 'model')",
    "offline": f"sum(NOT replayed AND kind = 'model' AND name LIKE '{OFFLINE}%')",
    "tools": "sum(NOT replayed AND kind = 'tool')",
    "input_tokens": "sum(CASE WHEN NOT replayed AND counts THEN input_tokens END)",
    "output_tokens": "sum(CASE WHEN NOT replayed AND counts THEN output_tokens END)",
    "saved_tokens": "sum(CASE WHEN replayed AND NOT entered AND counts THEN input_tokens + output_tokens END)",
    "saved_seconds": "total(CASE WHEN replayed AND NOT entered THEN took END)",
    "spent": "total(CASE WHEN NOT replayed AND counts THEN cost END)",
    "saved": "total(CASE WHEN replayed AND NOT entered AND counts THEN cost END)",
    "unpriced": "sum(NOT replayed AND status = 'done' AND (cost IS NULL OR NOT counts) AND (kind = 'model' OR counts))",
    "saved_unpriced": "sum(replayed AND NOT entered AND status = 'done' AND (cost IS NULL OR NOT counts) "
    "AND (kind = 'model' OR counts))",
    "paid_twice": "sum(twice AND state <> 'running')",
    "estimated": "sum(NOT replayed AND counts AND estimated)",
}
_COLUMNS = ", ".join(f"coalesce({how}, 0)" for how in _SUMS.values())
_CHOSEN = "(?1 IS NULL OR agent = ?1) AND (?2 IS NULL OR label = ?2) AND (?3 IS NULL OR id = ?3)"
# A run inside a chosen one is counted once, chosen itself or not.
_OF_ALL = f"""
WITH RECURSIVE tree (root, id) AS (
  SELECT '', id FROM run WHERE {_CHOSEN}
  UNION SELECT '', run.id FROM tree JOIN run ON run.parent = tree.id
), {_USED} SELECT {_COLUMNS} FROM stood
"""
_OF_EACH = f"""
WITH RECURSIVE tree (root, id) AS (
  SELECT value, value FROM json_each(?)
  UNION SELECT tree.root, run.id FROM tree JOIN run ON run.parent = tree.id
), {_USED} SELECT root, {_COLUMNS} FROM stood GROUP BY root
"""


def of_all(source: RecordSource, *, agent: str | None, label: str | None, run: str | None) -> Totals:
    """The sums over every run of this agent and notebook, or over one run, with the runs inside them."""
    _know_who_lives(source)
    return _totals(source.connection.execute(_OF_ALL, (agent, label, run)).fetchone())


def of_each(source: RecordSource, runs: str) -> dict[str, Totals]:
    """The sums over each of these runs (a JSON list of ids) with the runs inside it."""
    _know_who_lives(source)
    return {values[0]: _totals(values[1:]) for values in source.connection.execute(_OF_EACH, (runs,))}


def _know_who_lives(source: RecordSource) -> None:
    source.connection.create_function("alive", 1, source.alive)


def _totals(values: Sequence[Any]) -> Totals:
    return Totals(**dict(zip(_SUMS, values, strict=True)))
