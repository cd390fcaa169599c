"""The answer in Markdown: what the tools gave, as a sentence and a table, and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from agentkit.define.planner.talk import Result
from agentkit.define.planner.words import Direction, Prompt, parts, root, roots

SIGNATURE = "— offline model (scripted; no LLM was called)"

GROUPS = ("by", "per", "each", "group", "group_by")
"""Names of parameters that say what a result is grouped by."""

_REGULAR = {"hourly": "hour", "daily": "day", "weekly": "week", "monthly": "month", "yearly": "year", "annual": "year"}
_ROWS = 12
_COLUMNS = 6
_CELL = 60
_TEXT = 600
_STATISTICS = frozenset(map(root, "count mean median std min max sum total".split()))


@dataclass(frozen=True, kw_only=True)
class Pick:
    """The entry of a table that a superlative asks for."""

    key: str
    value: float
    word: str
    direction: Direction


def answer(prompt: Prompt, results: Sequence[Result], *, remarks: Sequence[str] = ()) -> str:
    """The whole reply, signed."""
    blocks = [*remarks, *(block for result in results for block in _blocks(prompt, result))]
    return "\n\n".join([*blocks, f"*{SIGNATURE}*"])


def summary(prompt: Prompt, results: Sequence[Result]) -> str:
    """The sentences without the tables, as plain text."""
    return " ".join(_plain(prompt, result) for result in results)


def _plain(prompt: Prompt, result: Result) -> str:
    lines = [line for line in _headlines(prompt, result) if not line.startswith("From `")]
    text = " ".join(lines).replace("**", "").replace("`", "")
    listed = ", ".join(f"{name} {figure(number)}" for name, number in list(entries(result.value).items())[:_ROWS])
    if listed and not picks(prompt, result.value):
        return f"{text.rstrip(':.')}: {listed}."
    return text if text.endswith(".") else f"{text.rstrip(':')} {_short(json.dumps(result.value))}."


def picks(prompt: Prompt, value: Any) -> list[Pick]:
    """What the superlatives of the prompt pick from a result: keys of a dict of numbers, rows of a list of records."""
    numbers = entries(value)
    if len(numbers) < 2:
        return []
    wanted = {found.direction: found.word for found in prompt.extremes}
    return [_pick(numbers, word, direction) for direction, word in wanted.items()]


def entries(value: Any) -> dict[str, float]:
    """A result as one number per name, empty if it is not that."""
    if isinstance(value, dict) and all(_is_number(item) for item in value.values()) and not _is_statistics(value):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, list) and value and all(isinstance(item, dict) and len(item) >= 2 for item in value):
        label, *others = value[0]
        measure = next((key for key in others if all(_is_number(item.get(key)) for item in value)), None)
        if measure is not None:
            return {str(item.get(label)): item[measure] for item in value}
    return {}


def _is_statistics(value: Mapping[str, Any]) -> bool:
    """Whether the numbers are of different kinds, as a summary's count, mean and maximum are."""
    return len({root(key) for key in value} & _STATISTICS) >= 2


def called(result: Result) -> str:
    """A call as one would type it, in Markdown."""
    text = f"{result.tool}({', '.join(f'{name}={json.dumps(value)}' for name, value in result.args.items())})"
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _pick(numbers: Mapping[str, float], word: str, direction: Direction) -> Pick:
    choose = max if direction == "most" else min
    key = choose(numbers, key=lambda name: numbers[name])
    return Pick(key=key, value=numbers[key], word=word, direction=direction)


def _blocks(prompt: Prompt, result: Result) -> Iterator[str]:
    yield " ".join(_headlines(prompt, result))
    if table := _table(result):
        yield table


def _headlines(prompt: Prompt, result: Result) -> Iterator[str]:
    """One or two sentences that say what came."""
    value = result.value
    code = called(result)
    numbers = entries(value)
    if found := picks(prompt, value):
        yield from (
            f"**{pick.key}** is the {_phrase(prompt, result, pick)}: **{figure(pick.value)}**." for pick in found
        )
        yield f"From {code}:"
    elif isinstance(value, dict) and len(numbers) > 2 and _alike(result):
        most, least = _pick(numbers, "", "most"), _pick(numbers, "", "least")
        yield f"{code}: highest **{most.key}** ({figure(most.value)}), lowest **{least.key}** ({figure(least.value)})."
    elif isinstance(value, dict) and not numbers and (spoken := _spoken_of(prompt, value)):
        yield " ".join(f"**{key}** is **{figure(item)}**." for key, item in spoken.items())
        yield f"From {code}:"
    elif isinstance(value, list):
        yield f"{code} gave **{len(value)}** {'entry' if len(value) == 1 else 'entries'}:"
    elif isinstance(value, dict):
        yield f"{code} gave:"
    elif isinstance(value, str) and (len(value) > _CELL or "\n" in value):
        yield f"{code} gave:\n\n{_quote(value)}"
    else:
        yield f"{code} gave **{figure(value)}**."


def _spoken_of(prompt: Prompt, value: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a record that the prompt names: `max` for `the highest`."""
    return {key: item for key, item in value.items() if roots(str(key)) and roots(str(key)) <= _meant(prompt)}


def _meant(prompt: Prompt) -> frozenset[str]:
    ends = {root("max") if found.direction == "most" else root("min") for found in prompt.extremes}
    return prompt.roots | ends


def _alike(result: Result) -> bool:
    """Whether the numbers may be compared: one per month may, a record of count, mean and max may not."""
    return bool(_label(result)) or len(result.value) > _ROWS


def _phrase(prompt: Prompt, result: Result, pick: Pick) -> str:
    group = _label(result)
    word = "highest" if pick.word in ("most", "top", "max", "maximum", "peak") else pick.word
    word = "lowest" if pick.word in ("least", "bottom", "min", "minimum") else word
    return f"{word} {group}".strip()


def figure(value: Any) -> str:
    """A value short enough to read."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "yes" if value else "no"
        case float() if value != 0 and abs(value) < 1:
            return f"{value:.3g}"
        case float():
            return f"{value:,.2f}".rstrip("0").rstrip(".")
        case int():
            # A year is not 2,012.
            return f"{value:,}" if abs(value) >= 10_000 else str(value)
        case str():
            return _short(value)
        case _:
            return _short(json.dumps(value, ensure_ascii=False))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _CELL else f"{text[: _CELL - 1]}…"


def _cell(value: Any) -> str:
    return figure(value).replace("|", "\\|") if value is not None else ""


def _quote(text: str) -> str:
    # What another offline agent said is signed here once more.
    text = text.removesuffix(f"\n\n*{SIGNATURE}*")
    bounded = text if len(text) <= _TEXT else f"{text[:_TEXT]}… ({len(text):,} characters)"
    return "\n".join(f"> {line}" for line in bounded.splitlines())


def _table(result: Result) -> str:
    value = result.value
    if isinstance(value, dict) and value:
        if all(isinstance(item, dict) for item in value.values()):
            return _grid([{_label(result): key, **item} for key, item in value.items()])
        return _grid([{_label(result): key, _measure(result): item} for key, item in value.items()])
    if isinstance(value, list) and value:
        if all(isinstance(item, dict) for item in value):
            return _grid(value)
        shown = ", ".join(f"`{figure(item)}`" for item in value[:_ROWS])
        return f"{shown} … and {len(value) - _ROWS} more" if len(value) > _ROWS else shown
    return ""


def _label(result: Result) -> str:
    """What a grouped result is grouped by: an argument says it, or the name of the tool."""
    said = next((str(value) for name, value in result.args.items() if name in GROUPS), "")
    return said or next(_named_groups(parts(result.tool)), "")


def _named_groups(words: tuple[str, ...]) -> Iterator[str]:
    """`month` in `monthly_mean` and in `mean_by_month`."""
    yield from (_REGULAR[word] for word in words if word in _REGULAR)
    yield from (after for before, after in pairwise(words) if before in GROUPS)


def _measure(result: Result) -> str:
    """The heading of the numbers: `mean of temp_max`."""
    about = next((str(value) for name, value in result.args.items() if isinstance(value, str) and name != "by"), "")
    return f"{result.tool} of {about}" if about and len(about) <= _CELL else result.tool


def _grid(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = list(dict.fromkeys(key for row in rows for key in row))
    shown, hidden = heads[:_COLUMNS], heads[_COLUMNS:]
    numeric = {head for head in shown if all(_is_number(row.get(head, 0)) for row in rows)}
    lines = [
        f"| {' | '.join(_cell(head) for head in shown)} |",
        f"| {' | '.join('---:' if head in numeric else '---' for head in shown)} |",
        *(f"| {' | '.join(_cell(row.get(head)) for head in shown)} |" for row in rows[:_ROWS]),
    ]
    more = [f"{len(rows) - _ROWS} more rows"] if len(rows) > _ROWS else []
    more += [f"columns not shown: {', '.join(hidden)}"] if hidden else []
    return "\n".join(lines) + (f"\n\n… {'; '.join(more)}" if more else "")
